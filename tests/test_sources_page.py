"""Every example of docs/sources.md runs, in the order of the page and in one folder."""

import re
import tomllib
from pathlib import Path

import pytest

from twotower.data.sources.databases import SqlOptions
from twotower.data.sources.formats import READERS

PAGE = (Path(__file__).parents[1] / "docs" / "sources.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run(tmp_path, monkeypatch):
    pytest.importorskip("duckdb")
    pytest.importorskip("scipy")
    monkeypatch.chdir(tmp_path)
    names = {}
    assert len(blocks("python")) >= 4
    for number, block in enumerate(blocks("python"), 1):
        exec(compile(block, f"docs/sources.md, example {number}", "exec"), names)


def test_the_queries_of_the_page_are_options():
    queries = [value for block in blocks("toml") for value in tomllib.loads(block)["data"].values() if isinstance(value, dict)]
    assert len(queries) >= 2
    for query in queries:
        SqlOptions(**query).check()


def test_every_format_is_on_the_page():
    assert [kind for kind in READERS if f"`{kind}`" not in PAGE] == []
