"""The report of a run: one page that says what the run's own files say."""

import html
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import twotower as tt
from conftest import WORLD_CONFIG
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


def test_commands_can_be_copied_where_a_path_has_spaces(world_folder, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world_folder, "my run")
    assert typed("report", "my run", "-o", "run.md")[0] == 0
    assert "twotower train 'my run/config.toml' -o runs/again" in (tmp_path / "run.md").read_text(encoding="utf-8")
    pq.write_table(pq.read_table("my run/rankings.parquet").select(["query", "item"]), "pairs.parquet")
    code, out, err = typed("init", "pairs.parquet", "-o", "my shop.toml")
    assert code == 0 and "twotower check 'my shop.toml', and" in err and "twotower train 'my shop.toml'" in out
    assert typed("refresh", "my run", "--remove", "1000")[0] == 0
    assert "Undo it: twotower rollback 'my run' --to 2" in typed("rollback", "my run")[2]


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


def test_thresholds_are_told_with_what_they_do_not_say(world_run, typed, tmp_path):
    assert typed("report", world_run.folder, "-o", tmp_path / "run.html")[0] == 0
    assert typed("report", world_run.folder, "-o", tmp_path / "run.md")[0] == 0
    page, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("run.html", "run.md"))
    for written in (page, text):
        assert "When to answer nothing" in written and "how often a query without one would be turned away is not known" in written
        assert "How many first results are right, by the share of queries that are answered" in written
    for row in world_run.metrics["fits"]["reached"]:
        told = ("-", "-") if row["threshold"] is None else (f"{row['threshold']:.4g}", f"{row['coverage']:.1%}")
        there = ("-", "-") if row["tried"] is None else (f"{row['tried']['coverage']:.1%}", f"{row['tried']['precision']:.1%}")
        assert f"| {row['wanted']:.0%} | {told[0]} | {told[1]} | {there[0]} | {there[1]} |" in text


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
    metrics = {name: part for name, part in world_run.metrics.items() if name not in ("slices", "lists", "calibration", "fits")}
    (tmp_path / "before/metrics.json").write_text(json.dumps(metrics))
    code, _, err = typed("report", tmp_path / "before")
    assert code == 0, err
    page = (tmp_path / "before/report.html").read_text(encoding="utf-8")
    assert "How good it is" in page and "What people are shown" not in page and "Where it does well" not in page
    assert "When to answer nothing" not in page


def test_the_map_holds_the_items_and_says_how_faithful_it_is(world_run, typed, tmp_path):
    laid, space = account_of(world_run.folder).laid, world_run.metrics["space"]
    assert len(laid.points) == len(set(laid.points)) == 36
    for name, group in zip(laid.names, laid.groups.of, strict=True):
        row = int(name.split(" - ")[0]) - 1000
        assert name == f"{1000 + row} - tovar{row // 3} vid{row % 3} (k{row % 2})" and laid.groups.names[group] == f"k{row % 2}"
    # By another road: the cosines of the vectors, and the places on paper.
    retriever, k = world_run.retriever, 10
    order = [int(name.split(" - ")[0]) - 1000 for name in laid.names]
    vectors = retriever.vectors[order] / np.linalg.norm(retriever.vectors[order], axis=1, keepdims=True)
    near = np.argsort(-(vectors @ vectors.T - 9 * np.eye(36)), axis=1)[:, :k]
    places = np.array(laid.points)
    there = np.argsort(np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(36), axis=1)[:, :k]
    assert laid.kept == pytest.approx(np.mean([len(set(a) & set(b)) / k for a, b in zip(near, there, strict=True)]), abs=0.01)
    assert laid.kept > laid.by_lot + 0.1 and laid.by_lot == pytest.approx(10 / 35)
    kinds = np.array(order) % 2
    assert space["alike"] == pytest.approx(float((kinds[near] == kinds[:, None]).mean()), abs=1e-6)
    assert (space["by"], space["items"], space["nearest"]) == ("kind", 36, 10) and space["chance"] == pytest.approx(17 / 35)
    assert typed("report", world_run.folder, "-o", tmp_path / "run.html")[0] == 0
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.count('class="at"') == 36 and "Distances between groups mean nothing" in page
    assert f"space {laid.kept:.0%} are among its ten nearest here, where by lot it would be 29%" in page
    assert typed("report", world_run.folder, "-o", tmp_path / "run.md")[0] == 0
    assert f"| k0 | 18 | {laid.groups.each[laid.groups.names.index('k0')][0]:.0%} | 49% |" in (tmp_path / "run.md").read_text(encoding="utf-8")
    card = (world_run.folder / "bundle/model/card.md").read_text(encoding="utf-8")
    assert f"10 nearest items {space['alike']:.0%} are of its kind; by lot it would be 49%" in card


def test_a_report_says_what_was_found_in_the_data(world_run, typed, tmp_path):
    found = world_run.findings
    assert found and {"severity", "title", "advice", "code"} <= found[0].keys()
    for suffix in ("html", "md"):
        assert typed("report", world_run.folder, "-o", tmp_path / f"run.{suffix}")[0] == 0
    page, text = ((tmp_path / f"run.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "md"))
    counts = [(sum(each["severity"] == tone for each in found), tone) for tone in ("warning", "note")]
    for each in found:
        assert html.escape(each["title"]) in page and html.escape(each["advice"]) in page
    for count, tone in counts:
        assert not count or f"{count} {tone}{'' if count == 1 else 's'}" in text.split("## What was found in the data")[1]
    shutil.copytree(world_run.folder, tmp_path / "before")  # of a run that kept none
    (tmp_path / "before/findings.json").unlink()
    assert typed("report", tmp_path / "before")[0] == 0
    assert "What was found in the data" not in (tmp_path / "before/report.html").read_text(encoding="utf-8")
    (tmp_path / "before/findings.json").write_text("[]")
    assert typed("report", tmp_path / "before")[0] == 0
    assert "Nothing that stands against training on them, at a first look" in (tmp_path / "before/report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shorter(world, tmp_path_factory):
    """A run on the same pairs that learns less, and reads no id."""
    item = WORLD_CONFIG["item"] | {"features": WORLD_CONFIG["item"]["features"][1:]}
    config = WORLD_CONFIG | {"item": item, "train": WORLD_CONFIG["train"] | {"epochs": 1}, "search": {"mode": "vectors"}}
    return tt.train(*world, config=config, output=tmp_path_factory.mktemp("shorter") / "run")


def test_other_runs_stand_beside(world_run, shorter, typed, tmp_path):
    code, _, err = typed("report", world_run.folder, "-o", tmp_path / "run.md", "--against", shorter.folder, "--against", world_run.folder)
    assert code == 0, err
    text = (tmp_path / "run.md").read_text(encoding="utf-8").split("## Beside other runs")[1].split("\n## ")[0].replace("\\", "")
    test = tt.compare(world_run.folder, shorter.folder).tests["mrr"]
    here, there = (run.metrics["model"]["mrr"]["value"] for run in (world_run, shorter))
    assert f"| mrr | {here:.3f} | {there:.3f} | {test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}] |" in text
    assert 0 < test.p_value < 0.05 and here > there
    # Two tests in one table: the smaller p counts twice (Holm).
    assert f"| {min(1.0, 2 * float(test.p_value)):.4f} |" in text and "all of these runs taken together" in text
    assert f"| mrr | {here:.3f} | {here:.3f} | +0.000" in text
    assert "| train.epochs | 6 | 1 | 6 |" in text and "| item.name (id) | yes | - | yes |" in text
    assert "item.name (id).dropout" not in text and "train.seed" not in text
    assert typed("report", world_run.folder, "-o", tmp_path / "run.html", "--against", world_run.folder)[0] == 0
    assert "Their configs say the same." in (tmp_path / "run.html").read_text(encoding="utf-8")
    assert typed("report", world_run.folder, "-o", tmp_path / "alone.md")[0] == 0
    assert "Beside other runs" not in (tmp_path / "alone.md").read_text(encoding="utf-8")


def test_what_cannot_stand_beside_is_refused(world_run, typed, tmp_path):
    code, _, err = typed("report", world_run.folder, "-o", tmp_path / "run.md", "--against", tmp_path / "nothing")
    assert code == 2 and "nothing is no finished run" in err and not (tmp_path / "run.md").exists()
    (tmp_path / "tuning.json").write_text("{}")
    code, _, err = typed("report", tmp_path, "--against", world_run.folder)
    assert code == 2 and "leave out --against and --forecast" in err


def test_a_forecast_of_the_same_data_is_told_in_the_report(world_run, typed, tmp_path):
    point = {"value": 0.5, "low": 0.4, "high": 0.6}
    curve = {"sound": True, "here": point, "smallest": 20, "largest": 200, "off": 1.0, "at": {"2": {"value": 0.7, "low": 0.65, "high": 0.75}}}
    curve |= {"ceiling": {"value": 0.9, "low": 0.8, "high": 0.95}, "points": [{"size": 100, "value": 0.4}, {"size": 200, "value": 0.5}]}
    now = {"value": 0.5, "pairs": 300, "queries": 200, "items": 30, "rankings": 40, "seeds": 3}
    told = {"metric": "mrr", "budget": "20m", "target": None, "now": now, "axes": {"queries": curve}}
    told |= {"remedies": [], "slices": [], "suspects": None, "trainings": []}
    (tmp_path / "forecast.json").write_text(json.dumps(told))
    prepared = json.loads((world_run.folder / "prepared.json").read_text())["folder"]
    (tmp_path / "data.json").write_text(json.dumps({"prepared": prepared}))
    assert typed("report", world_run.folder, "-o", tmp_path / "run.md", "--forecast", tmp_path)[0] == 0
    text = (tmp_path / "run.md").read_text(encoding="utf-8")
    assert "## Whether more data would help" in text and "Twice the queries would bring mrr from 0.500 to 0.700" in text
    (tmp_path / "data.json").write_text(json.dumps({"prepared": "another"}))
    code, _, err = typed("report", world_run.folder, "-o", tmp_path / "other.md", "--forecast", tmp_path)
    assert code == 2 and "of other data" in err and "twotower forecast" in err and not (tmp_path / "other.md").exists()
    code, _, err = typed("report", world_run.folder, "-o", tmp_path / "other.md", "--forecast", tmp_path / "nothing")
    assert code == 2 and "forecast.json is missing" in err


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
