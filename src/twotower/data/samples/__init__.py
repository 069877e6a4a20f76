"""Real data that ship with the package, each in a folder of its own with its licence and its config.

To add one: a folder, a function that reads it, and its entry in `SAMPLES`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from twotower.data.values import rows_to_table
from twotower.errors import ConfigError, choices

FOLDER = Path(__file__).parent


class Stranger(NamedTuple):
    """A question in words of people who did not write the data, and the items that would satisfy them."""

    query: str
    accepted: tuple[str, ...]


class Sample(NamedTuple):
    """A data set ready to train on."""

    name: str
    about: str
    pairs: pa.Table
    items: pa.Table
    config: Path
    shown: tuple[str, ...]  # columns of an answer, the first as its title
    strangers: tuple[Stranger, ...]
    histories: tuple[tuple[Any, ...], ...]  # item ids, oldest first: what somebody who is not in the data may have touched
    licence: str


def load_sample(name: str) -> Sample:
    """A sample by name. Raises ConfigError for one that does not ship."""
    if name not in SAMPLES:
        raise ConfigError(f'there is no sample "{name}"; {choices(SAMPLES, name)}')
    return SAMPLES[name]()


def _lines(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode("utf-8").splitlines()]


def _tldr() -> Sample:
    folder = FOLDER / "tldr"
    held_out = set((folder / "test_ids.txt").read_text(encoding="utf-8").split())
    pairs = [row | {"split": "test" if row["id"] in held_out else "train"} for row in _lines(folder / "pairs.jsonl.gz")]
    examples: dict[str, str] = {}
    for row in pairs:
        if row["split"] == "train":  # shown beside a result, so nothing of the test may be in it
            examples.setdefault(row["page"], row["code"])
    pages = [row | {"example": examples.get(row["id"])} for row in _lines(folder / "pages.jsonl.gz")]
    strangers = [Stranger(row["query"], tuple(row["pages"])) for row in _lines(folder / "strangers.jsonl")]
    return Sample(
        name="tldr",
        about="a task in plain words -> the page of the shell command that does it",
        pairs=rows_to_table(pairs),
        items=rows_to_table(pages),
        config=folder / "config.toml",
        shown=("command", "description", "example"),
        strangers=tuple(strangers),
        histories=(),
        licence="tldr-pages team and contributors, CC BY 4.0",
    )


def _goodbooks() -> Sample:
    folder = FOLDER / "goodbooks"
    return Sample(
        name="goodbooks",
        about="the books that a reader rated so far -> the next ones",
        pairs=_csv(folder / "ratings.csv.gz"),
        items=_csv(folder / "books.csv.gz"),
        config=folder / "config.toml",
        shown=("title", "authors", "year"),
        strangers=(),
        histories=((9, 26, 21), (19, 155, 161), (13, 14, 46)),
        licence="goodbooks-10k, CC BY-SA 4.0",
    )


def _csv(path: Path) -> pa.Table:
    from pyarrow import csv

    return csv.read_csv(pa.BufferReader(gzip.decompress(path.read_bytes())))


SAMPLES: dict[str, Callable[[], Sample]] = {"tldr": _tldr, "goodbooks": _goodbooks}
