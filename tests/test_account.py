"""The report of a run: one page that says what the run's own files say."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import twotower as tt
from twotower.app.reporting import account_of


def test_a_report_says_what_the_run_came_to(world_run, typed, tmp_path):
    code, out, err = typed("report", world_run.folder, "-o", tmp_path / "run.html")
    assert code == 0 and out == "" and "run.html" in err
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    metrics = world_run.metrics
    for figures in (metrics["model"], *metrics["baselines"].values()):
        assert f"{figures['mrr']['value']:.3f} [{figures['mrr']['low']:.3f}, {figures['mrr']['high']:.3f}]" in page
    assert "its best baseline" in page
    assert "item: how often it matched" in page and "mrr on validation pairs, by epoch" in page
    assert "buckets = 4096" in page  # the config
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?http|<script|@import|url\(", page)  # opens from the disk, without a network
    assert len(page) < 3_000_000
    assert typed("report", world_run.folder, "-o", tmp_path / "run.md")[0] == 0
    assert "## Where it does well and where not" in (tmp_path / "run.md").read_text(encoding="utf-8")


def test_the_worst_and_the_best_are_those_of_the_rankings(world_run):
    told = account_of(world_run.folder)
    rankings = pq.read_table(world_run.folder / "rankings.parquet")
    values = np.sort(rankings.column("metric mrr").to_numpy())
    assert [each.value for each in told.worst] == pytest.approx(values[:8].tolist())
    assert [each.value for each in told.best] == pytest.approx(values[::-1][:8].tolist())
    asked = {json.loads(text)["asked"]: item for text, item in zip(*(rankings.column(n).to_pylist() for n in ("query", "item")), strict=True)}
    for each in (*told.worst, *told.best):
        assert each.wanted.split(" - ")[0] == asked[each.query]
        ids = world_run.retriever.search(each.query, k=3).ids
        assert [name.split(" - ")[0] for name in each.found] == [str(name) for name in ids]


def test_what_is_shown_is_what_searches_find(world_run):
    rankings = pq.read_table(world_run.folder / "rankings.parquet")
    questions = [json.loads(text)["asked"] for text in rankings.column("query").to_pylist()]
    found = [str(name) for question in questions for name in world_run.retriever.search(question, k=10).ids]
    lists = world_run.metrics["lists"]
    assert set(lists["of"]) == {"model", *world_run.metrics["baselines"]} and (lists["k"], lists["lists"]) == (10, len(questions))
    assert lists["of"]["model"]["coverage"] == pytest.approx(len(set(found)) / 36)
    assert lists["of"]["popularity"]["coverage"] == pytest.approx(10 / 36)
    assert lists["of"]["popularity"]["lift"] > max(1.2, lists["of"]["model"]["lift"])
    for name, count in account_of(world_run.folder).commonest:
        assert found.count(name.split(" - ")[0]) == count


def test_queries_with_several_right_items_and_histories_are_told(typed, tmp_path):
    pairs = [{"user": u, "item": f"i{(u + step) % 12}"} for u in range(60) for step in range(6)]
    config = {
        "pairs": {"ordered": True},
        "query": {"key": "user", "features": [{"type": "history", "last": 5}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "last"},
        "model": {"dimensions": 8},
        "train": {"epochs": 1},
        "evaluate": {"per": "query"},
    }
    run = tt.train(pairs, config=config, output=tmp_path / "run")
    told = account_of(run.folder)
    assert not any(each.found for each in told.worst)  # what they were asked with is not kept
    assert told.commonest
    assert all(each.wanted.startswith("i") for each in told.worst)
    assert typed("report", run.folder)[0] == 0
    assert (run.folder / "report.html").exists()


def test_a_run_that_tells_no_slices_and_no_lists_is_reported_without(world_run, typed, tmp_path):
    shutil.copytree(world_run.folder, tmp_path / "before")
    metrics = {name: part for name, part in world_run.metrics.items() if name not in ("slices", "lists", "calibration")}
    (tmp_path / "before/metrics.json").write_text(json.dumps(metrics))
    code, _, err = typed("report", tmp_path / "before")
    assert code == 0, err
    page = (tmp_path / "before/report.html").read_text(encoding="utf-8")
    assert "How good it is" in page and "What people are shown" not in page and "Where it does well" not in page


def test_what_cannot_be_told_is_refused(world_run, typed, tmp_path):
    code, _, err = typed("report", world_run.folder, "-o", tmp_path / "run.pdf")
    assert code == 2 and ".html" in err and not (tmp_path / "run.pdf").exists()
    code, _, err = typed("report", world_run.folder / "bundle", "-o", tmp_path / "x.html")
    assert code == 2 and "no finished run" in err
    code, _, err = typed("report", tmp_path / "nothing")
    assert code == 2 and "Traceback" not in err
    shutil.copytree(world_run.folder, tmp_path / "part")
    (tmp_path / "part/rankings.parquet").unlink()
    code, _, err = typed("report", tmp_path / "part")
    assert code == 2 and "rankings.parquet" in err and not (tmp_path / "part/report.html").exists()


def test_a_notebook_shows_the_figures(world_run):
    shown, metrics = world_run._repr_html_(), world_run.metrics
    for row in (metrics["model"], *metrics["baselines"].values()):
        assert f"{row['mrr']['value']:.3f} [{row['mrr']['low']:.3f}, {row['mrr']['high']:.3f}]" in shown
    assert shown.count("<tr>") == 1 + 2 + len(metrics["baselines"]) and f"it searches by {metrics['search']['mode']}" in shown
