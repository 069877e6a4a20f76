"""A run from data to a bundle: its files and figures, kinds of data, resuming, refusing, comparing."""

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import twotower as tt
from conftest import WORLD_CONFIG
from twotower.bundle.retriever import SearchOptions
from twotower.data.columns import Ragged
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, OutputError
from twotower.learning.evaluation import Cases, Evaluated
from twotower.learning.options import EvaluateOptions
from twotower.runs.comparing import compare_on, compare_tables, ranking_table
from twotower.runs.measuring import Asked, choose_mode, evaluation_options, facts_of
from twotower.runs.progress import Progress
from twotower.runs.run import Stopped
from twotower.search.lexical import Lexical


@pytest.fixture
def no_export(monkeypatch):
    """Breaks off a run where its export would begin, which takes seconds; the exception to expect."""

    class BrokenOffError(Exception):
        pass

    def broken(*_):
        raise BrokenOffError

    monkeypatch.setattr("twotower.exports.towers.write_model", broken)
    return BrokenOffError


@pytest.fixture
def config():
    from conftest import WORLD_CONFIG

    return WORLD_CONFIG


def test_the_files_of_a_run(world_folder):
    names = sorted(path.name for path in world_folder.iterdir())
    assert names == sorted(
        ["bundle", "checkpoint.safetensors", "config.toml", "findings.json", "history.jsonl", "metrics.json", "prepared.json", "rankings.parquet"]
    )
    assert (world_folder.parent / "prepared").is_dir()


def test_the_layout_of_the_figures(world_run):
    metrics = world_run.metrics
    names = {"hit@1", "hit@10", "ndcg@10", "mrr"}
    for figures in (metrics["model"], *metrics["modes"].values(), *metrics["baselines"].values()):
        assert set(figures) == names
        for figure in figures.values():
            assert set(figure) == {"value", "low", "high"}
            assert 0 <= figure["low"] <= figure["value"] + 1e-9
            assert figure["value"] - 1e-9 <= figure["high"] <= 1 + 1e-9
    assert set(metrics["modes"]) == {"vectors", "words", "hybrid"}
    assert set(metrics["baselines"]) == {"popularity", "bm25", "bm25_queries"} == set(metrics["against"])
    assert metrics["data"]["items"] == metrics["evaluation"]["catalogue"] == 36
    assert metrics["evaluation"]["rankings"] == metrics["data"]["split"]["test"]
    assert metrics["evaluation"]["part"] == "test"
    assert metrics["model"] == metrics["modes"][metrics["search"]["mode"]]


def test_the_world_is_solved_and_the_baselines_are_where_they_should_be(world_run):
    metrics = world_run.metrics
    chance = sum(1 / n for n in range(1, 37)) / 36
    assert metrics["model"]["mrr"]["value"] > 0.95
    assert metrics["modes"]["vectors"]["mrr"]["value"] > 0.9
    assert metrics["baselines"]["bm25"]["mrr"]["value"] == pytest.approx(chance, abs=0.02)  # no word is shared
    assert metrics["baselines"]["popularity"]["mrr"]["value"] < 0.25
    assert metrics["modes"]["words"] == metrics["baselines"]["bm25_queries"]  # the same words
    better = metrics["against"]["popularity"]["mrr"]
    assert better["difference"] > 0.5 and better["p_value"] < 0.01
    for metric in metrics["model"]:
        tests = sorted((tests[metric] for tests in metrics["against"].values()), key=lambda test: test["p_value"])
        raised = np.maximum.accumulate([min(1.0, (len(tests) - n) * test["p_value"]) for n, test in enumerate(tests)])
        assert [test["holm"] for test in tests] == pytest.approx(raised)


def test_the_history_has_a_line_an_epoch(world_folder):
    lines = [json.loads(line) for line in (world_folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[0]["loss"] > lines[-1]["loss"]
    assert {"step", "mrr", "temperature", "seconds"} <= set(lines[0])


def test_a_run_is_opened_again(world_run, world_folder, tmp_path):
    assert tt.open_run(str(world_folder)).metrics == world_run.metrics
    assert "mrr" in repr(world_run)
    with pytest.raises(BundleError):
        tt.open_run(tmp_path)
    with pytest.raises(BundleError, match="there is no"):
        tt.open_run(tmp_path / "nowhere")


# --- kinds of data ------------------------------------------------------------------------------------------------


def test_users_and_items_without_words(tmp_path, monkeypatch, caplog):
    """Data frames with int ids, a schema inferred, a key, the last pairs held out, a folder of its own choosing."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    rows = [(user, 100 + 8 * (user % 4) + n) for user in range(200) for n in generator.permutation(8)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"]).sample(frac=1, random_state=0, ignore_index=True)
    with caplog.at_level(logging.INFO, "twotower"):
        settings = ["split.by=last", "split.test=1", "split.validation=1", "train.epochs=4", "train.batch_size=64", "model.dimensions=16"]
        settings += [
            'evaluate.metrics=["hit@1", "hit@10", "mrr"]',
            "evaluate.select=mrr",
            "evaluate.per=pair",
            'evaluate.baselines=["item_knn", "popularity"]',
        ]
        settings += ["query.key=user_id", "query.features=[{ column = 'user_id', type = 'id' }]"]
        run = tt.train(frame, settings=settings)
    assert run.folder.parent == Path("runs")
    assert str(run.folder) in caplog.text
    metrics = run.metrics
    assert metrics["data"]["split"].items() >= {"by": "last", "train": 1200, "validation": 200, "test": 200}.items()
    assert metrics["search"] == {"mode": "vectors", "words_weight": None, "words_of": None}  # no words, so no weight of them
    assert set(metrics["modes"]) == {"vectors"}
    assert set(metrics["baselines"]) == {"item_knn", "popularity"}
    assert metrics["baselines"]["item_knn"]["hit@1"]["value"] > 0.9  # who shares six items with you has the seventh
    # Seven items of the user's eight are left out, so the eighth is first if the group was learnt: of 25 left, one is right.
    assert metrics["model"]["hit@1"]["value"] > 0.9 > 0.3 > metrics["baselines"]["popularity"]["hit@1"]["value"]
    found = run.retriever.search({"user_id": 3}, k=8)
    assert set(found.ids) == set(range(124, 132))
    assert all(type(item) is int for item in found.ids)
    assert run.retriever.search([{"user_id": 3}, {"user_id": "3"}], k=8).ids.tolist() == [found.ids.tolist()] * 2
    evaluated, asked = tt.evaluate(run.retriever, frame.head(50))
    assert evaluated.figures["hit@10"].value > 0.9
    assert not any(asked.dropped.values())
    with pytest.raises(ConfigError, match="no words"):
        tt.evaluate(run.retriever, frame.head(50), mode="words")


def test_a_query_of_two_columns_ranked_per_query(tmp_path):
    """Who asks and on what: the right item needs both. Paths to files, one of them Arrow; nothing seen is left out."""
    rows = [{"user": f"u{u}", "device": d, "item": f"i{u % 6}{d}"} for u in range(240) for d in ("pc", "tv") for _ in range(2)]
    rows += [{"user": f"u{u}", "device": "pc", "item": f"i{u % 6}x"} for u in range(240)]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    config = {
        "data": {"pairs": str(tmp_path / "pairs.csv")},
        "query": {"features": [{"column": "user", "type": "id"}, {"column": "device", "type": "category"}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "model": {"dimensions": 16},
        "train": {"epochs": 6, "batch_size": 32},
        "evaluate": {"per": "query", "metrics": ["recall@2", "map"], "select": "map", "baselines": []},
    }
    run = tt.train(config=config, output=tmp_path / "run")
    metrics = run.metrics
    assert metrics["model"]["recall@2"]["value"] > 0.5 > 4 * 2 / 18  # of 18 items two are looked at
    assert metrics["evaluation"]["per"] == "query"
    assert metrics["evaluation"]["left_out"] == "nothing is left out"
    assert metrics["baselines"] == {}
    table = pq.read_table(run.folder / "rankings.parquet")
    assert len(table) == metrics["evaluation"]["rankings"]
    assert {"metric recall@2", "metric map"} < set(table.column_names)
    assert run.retriever.search({"user": "u7", "device": "tv"}, k=1).ids.tolist() == ["i1tv"]
    with pytest.raises(DataError, match=r"2 columns.*user=\.\.\. device=\.\.\."):
        run.retriever.search("u7")
    pq.write_table(pa.Table.from_pylist(rows[:40]), tmp_path / "new.parquet")
    evaluated, asked = tt.evaluate(run.retriever, tmp_path / "new.parquet")
    assert len(evaluated.values["map"]) == len(asked.cases.query_rows) == len({(row["user"], row["device"]) for row in rows[:40]})
    again = tt.compare(str(run.folder), run.folder)
    assert again.rankings == metrics["evaluation"]["rankings"]
    assert all(test.difference == 0 for test in again.tests.values())


def test_grades_count_in_ndcg_and_nowhere_else(tmp_path):
    """One model, measured with equal, linear and exponential gains: by the run, and on a file of pairs by its labels."""
    generator = np.random.default_rng(0)
    rows = [
        {"user": f"u{u}", "item": f"i{(u + 3 * n) % 24}", "grade": 1 + (u + n) % 3} for u in range(200) for n in generator.permutation(8)[:5].tolist()
    ]
    config = {
        "pairs": {"label": "grade"},
        "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "model": {"dimensions": 16},
        "train": {"epochs": 3, "batch_size": 64},
        "evaluate": {"per": "query", "metrics": ["recall@5", "ndcg@5"], "select": "recall@5", "baselines": ["popularity"]},
    }
    runs = {
        gain: tt.train(rows, config=config, settings=[f"evaluate.gain={gain}"], output=tmp_path / gain) for gain in ("equal", "label", "exponential")
    }
    for of in ("model", "popularity"):
        told = [run.metrics["model"] if of == "model" else run.metrics["baselines"][of] for run in runs.values()]
        assert len({one["recall@5"]["value"] for one in told}) == 1 and len({one["ndcg@5"]["value"] for one in told}) == 3
    run = runs["label"]
    held = pq.read_table(run.folder / "rankings.parquet")
    evaluated, asked = tt.evaluate(run.retriever, rows)
    assert sorted(set(asked.cases.gains.tolist())) == [1, 2, 3] and len(held) <= len(evaluated.values["ndcg@5"])
    equal, _ = tt.evaluate(run.retriever, [row | {"grade": 1} for row in rows])
    assert (equal.values["recall@5"] == evaluated.values["recall@5"]).all() and (equal.values["ndcg@5"] != evaluated.values["ndcg@5"]).any()
    mixed = [row | {"grade": 40.0 if n == 7 else row["grade"]} for n, row in enumerate(rows)]
    with pytest.raises(DataError, match="go up to 40"):
        tt.evaluate(runs["exponential"].retriever, mixed)


# --- places -------------------------------------------------------------------------------------------------------


def refused(world, config, monkeypatch, error, match, **given):
    """The run is refused before anything is prepared or trained."""
    monkeypatch.setattr("twotower.runs.run.prepare", lambda *a, **k: pytest.fail("it prepared data first"))
    with pytest.raises(error, match=match):
        tt.train(*world, config=config, **given)


def test_a_taken_folder_is_refused_before_training(world, config, monkeypatch, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    refused(world, config, monkeypatch, OutputError, "not empty", output=tmp_path)
    refused(world, config, monkeypatch, OutputError, "not ours", output=tmp_path, overwrite=True)
    assert (tmp_path / "note.txt").read_text() == "mine"
    refused(world, config, monkeypatch, OutputError, "is a file", output=tmp_path / "note.txt")
    refused(world, config, monkeypatch, OutputError, "cannot write", output=tmp_path / "note.txt" / "deeper")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_refused_config_makes_no_folder(world, config, monkeypatch, tmp_path):
    refused(world, config | {"train": {"epoch": 1}}, monkeypatch, ConfigError, "epochs", output=tmp_path / "run")
    refused((None, None), config, monkeypatch, ConfigError, "pairs is missing", output=tmp_path / "run")
    refused((None, None), None, monkeypatch, ConfigError, "nothing to train on", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_data_were_refused_can_be_tried_again(world, config, tmp_path, no_export):
    bad = config | {"item": config["item"] | {"payload": ["colour"]}}
    for _ in range(2):
        with pytest.raises(DataError, match="colour"):
            tt.train(*world, config=bad, output=tmp_path / "run")
    with pytest.raises(no_export):
        tt.train(*world, config=config, settings=["train.epochs=1"], output=tmp_path / "run")


def test_no_cuda_is_said_before_training(world, config, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(world, config | {"machine": {"device": "cuda"}}, monkeypatch, ConfigError, "CUDA", output=tmp_path / "run")


def test_threads_are_those_of_training_and_of_ranking(world, config, tmp_path, no_export):
    before = torch.get_num_threads()
    try:
        with threadpool_limits(1, "blas"):  # puts back what was, after
            with pytest.raises(no_export):
                tt.train(*world, config=config, settings=["train.epochs=1", "machine.threads=3"], output=tmp_path / "run")
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {3}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_broken_off_run_is_continued_by_its_own_config(world, config, tmp_path, no_export, sent):
    """Trained from paths; continued from its folder alone, wherever one stands."""
    pq.write_table(world[0], tmp_path / "pairs.parquet")
    pq.write_table(world[1], tmp_path / "items.parquet")
    output, before = tmp_path / "run", Path.cwd()
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) == 7:
            os.kill(os.getpid(), sent)

    os.chdir(tmp_path)
    try:
        with pytest.raises(Stopped, match="step 6"):  # the first epoch's validation is an event too
            tt.train("pairs.parquet", Path("items.parquet"), config=config, output=output, progress=Progress(training=stop))
    finally:
        os.chdir(before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert json.loads((output / "history.jsonl").read_text())["epoch"] == 1
    with pytest.raises(ConfigError, match=r"\[train\] seed was 0 and is 9"):
        tt.train(config=output / "config.toml", settings=["train.seed=9"], output=output, resume=True)
    told = []
    with pytest.raises(no_export):
        tt.train(output=output, resume=True, progress=Progress(training=told.append))
    assert told[0].step == 7
    lines = [json.loads(line)["epoch"] for line in (output / "history.jsonl").read_text().splitlines()]
    assert lines == list(range(1, len(lines) + 1))
    # Broken off again, now in its export: there is nothing left to train, and the data must still be the same.
    pq.write_table(world[0].slice(1), tmp_path / "pairs.parquet")
    with pytest.raises(BundleError, match=r"data .* changed"):
        tt.train(output=output, resume=True)


def test_there_must_be_something_to_resume(world, config, world_folder, tmp_path):
    with pytest.raises(BundleError, match="no run to resume"):
        tt.train(*world, config=config, output=tmp_path, resume=True)
    with pytest.raises(BundleError, match="finished"):
        tt.train(*world, config=config, output=world_folder, resume=True)


def test_a_half_written_bundle_is_no_hindrance(world, config, world_folder, tmp_path, monkeypatch):
    """Killed after the bundle took its name and before the figures were there."""
    folder = tmp_path / "run"
    shutil.copytree(world_folder, folder)
    shutil.copytree(world_folder.parent / "prepared", tmp_path / "prepared")
    (folder / "metrics.json").unlink()
    told = []
    run = tt.train(*world, config=config, output=folder, resume=True, progress=Progress(training=told.append))
    assert told == []
    expected = json.loads((world_folder / "metrics.json").read_text())
    assert run.metrics == expected
    assert run.retriever.bundle.fingerprint == tt.load(world_folder).bundle.fingerprint  # the same bytes again


def test_a_second_interrupt_breaks_off_at_once():
    code = """
import os, signal
from twotower.runs.signals import interrupts
with interrupts() as asked:
    os.kill(os.getpid(), signal.SIGINT)
    assert asked.is_set()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        raise SystemExit(9)
    except KeyboardInterrupt:
        print("broken off")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "broken off\n"


# --- measuring on new pairs ---------------------------------------------------------------------------------------


def new_pairs():
    rows = [{"asked": f"subject{n // 3} sort{n % 3} fresh{n}", "thing": 1000 + n} for n in range(36)]
    return [*rows, {"asked": "subject1", "thing": 77}, {"asked": " ", "thing": 1000}, {"asked": None, "thing": 77}]


def test_new_pairs_are_ranked_and_what_cannot_be_is_counted(world_run):
    retriever = world_run.retriever
    evaluated, asked = tt.evaluate(retriever, new_pairs())
    assert asked.dropped == {"of_unlisted_event": 0, "without_query": 2, "that_are_no_match": 0, "item_not_in_catalogue": 1, "repeated": 0}
    assert sorted(asked.rows.tolist()) == list(range(36))
    assert len(evaluated.values["mrr"]) == 36
    assert evaluated.figures["mrr"].value > 0.95
    assert asked.items == list(range(1000, 1036))
    words, _ = tt.evaluate(retriever, pd.DataFrame(new_pairs()), mode="vectors")
    assert words.values["mrr"].shape == (36,)
    options = evaluation_options(retriever)
    by_words = tt.evaluate(retriever, new_pairs(), mode="words")
    assert facts_of(retriever, *by_words, options)["search"] == {"mode": "words"}
    assert list(facts_of(retriever, *by_words, options)["modes"]) == ["words"]
    with pytest.raises(ConfigError, match="hybrid"):
        tt.evaluate(retriever, new_pairs(), mode="hybird")
    facts = facts_of(retriever, evaluated, asked, options)
    assert facts["model"]["mrr"]["value"] == pytest.approx(evaluated.values["mrr"].mean())
    assert facts["evaluation"]["rankings"] == 36


def test_the_same_question_in_other_case_shares_its_matches(world_run):
    """As in training: of two right answers to one question, neither counts against the other."""
    pairs = [{"asked": "subject1 sort1", "thing": 1004}, {"asked": "Subject1 SORT1", "thing": 1005}]
    _, asked = tt.evaluate(world_run.retriever, pairs)
    assert len(set(asked.cases.query_keys.tolist())) == 1
    assert [set(asked.cases.excluded.values[a:b].tolist()) for a, b in ((0, 2), (2, 4))] == [{4, 5}] * 2


def test_pairs_of_another_catalogue_are_refused(world_run):
    with pytest.raises(DataError, match="thing"):
        tt.evaluate(world_run.retriever, [{"asked": "subject1", "thing": 5}, {"asked": "subject1", "thing": 6}])
    with pytest.raises(DataError, match="thing"):
        tt.evaluate(world_run.retriever, [{"asked": "subject1", "other": 5}])


@pytest.fixture(scope="module")
def worse(world_folder, tmp_path_factory):
    """The world's bundle with its items' vectors dealt out anew: a model that is wrong."""
    from twotower.bundle.layout import Segment, open_bundle, write_catalogue

    folder = Path(shutil.copytree(world_folder / "bundle", tmp_path_factory.mktemp("worse") / "bundle"))
    bundle = open_bundle(folder)
    vectors = np.array(bundle.segments[0].vectors)[np.random.default_rng(0).permutation(36)]
    write_catalogue(folder, bundle.fingerprint, Segment(vectors, bundle.segments[0].items, None))
    return tt.load(folder)


def test_two_bundles_on_the_same_pairs(world_run, worse):
    options = evaluation_options(world_run.retriever)
    compared = compare_on([worse, world_run.retriever], ("new", "old"), new_pairs(), options)
    assert compared.rankings == 36
    assert compared.worse("mrr")
    assert compared.tests["mrr"].difference < -0.5
    back = compare_on([world_run.retriever, worse], ("old", "new"), new_pairs(), options)
    assert not back.worse("mrr")
    assert back.tests["mrr"].difference == pytest.approx(-compared.tests["mrr"].difference)
    same = compare_on([worse, worse], ("one", "two"), new_pairs(), options)
    assert not same.worse("mrr") and same.tests["mrr"].p_value == 1


def test_two_runs_on_what_both_held_out(world_run, world_folder, tmp_path):
    compared = tt.compare(world_folder, str(world_folder))
    assert compared.rankings == world_run.metrics["evaluation"]["rankings"]
    assert not compared.worse("mrr")
    with pytest.raises(DataError, match="no finished run"):
        tt.compare(world_folder, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    table = pq.read_table(world_folder / "rankings.parquet")
    zeros = {name: np.zeros(len(table)) for name in table.column_names if name.startswith("metric ")}
    kept = {name: table.column(name) for name in ("query", "item", "key")}
    bad = pa.table(kept | zeros).replace_schema_metadata(table.schema.metadata)
    pq.write_table(bad.take(np.random.default_rng(0).permutation(len(table))[:30]), other / "rankings.parquet")
    against = tt.compare(other, world_folder)
    assert against.rankings == 30
    assert against.worse("mrr")
    assert against.figures["mrr"][0] == 0 < against.figures["mrr"][1]
    pq.write_table(bad.slice(0, 1).set_column(0, "query", [['{"asked": "else"}']]), other / "rankings.parquet")
    with pytest.raises(DataError, match="none is in both"):
        tt.compare(other, world_folder)
    pq.write_table(bad.replace_schema_metadata(None), other / "rankings.parquet")
    with pytest.raises(DataError, match="do not say how"):
        tt.compare(other, world_folder)


def test_the_rankings_say_how_they_were_made(world_run, world_folder):
    table = pq.read_table(world_folder / "rankings.parquet")
    told = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert {name: told[name] for name in ("per", "catalogue")} == {"per": "pair", "catalogue": "36"}
    assert told["left_out"] == world_run.metrics["evaluation"]["left_out"]
    assert table.schema.field("key").type == pa.uint64()
    prepared = next(path for path in (world_folder.parent / "prepared").iterdir() if (path / "keys.npy").exists())
    assert set(table.column("key").to_pylist()) <= set(np.load(prepared / "keys.npy").tolist())


def rankings(keys, items, values, **told):
    figures = Evaluated({"mrr": np.array(values)}, {})
    queries = pa.table({"asked": ["the same"] * len(keys)})
    return ranking_table(queries, np.array(keys, np.uint64), items, figures, {"per": "pair", "left_out": "nothing", "catalogue": 9} | told)


def test_one_query_of_two_keys_is_two_rankings():
    compared = compare_tables(("a", "b"), rankings([5, 6], ["x", "x"], [0.1, 0.7]), rankings([6, 5], ["x", "x"], [0.7, 0.1]))
    assert compared.rankings == 2
    assert (compared.tests["mrr"].low, compared.tests["mrr"].high) == (0, 0)  # each met its own
    assert compared.catalogues == (9, 9)


def test_a_ranking_per_query_is_one_by_what_is_right():
    a = rankings([5, 6], [["y", "x"], [2, 10]], [0.1, 0.7], per="query")
    b = rankings([5, 6], [["x", "y"], [2]], [0.1, 0.7], per="query", catalogue=8)
    assert a.column("item").to_pylist()[0] == '["x", "y"]'
    compared = compare_tables(("a", "b"), a, b)
    assert compared.rankings == 1  # the other asks for more here than there
    assert compared.catalogues == (9, 8)
    with pytest.raises(DataError, match="a was measured per query and b per pair"):
        compare_tables(("a", "b"), a, rankings([5], ["x"], [0.1]))


def test_equal_trainings_give_equal_bundles(world, config, world_run, tmp_path):
    again = tt.train(*world, config=config, output=tmp_path / "run")
    assert again.retriever.bundle.fingerprint == world_run.retriever.bundle.fingerprint
    assert again.metrics["training"]["training_seconds"] > 0
    told = json.loads((again.folder / "bundle" / "model" / "metrics.json").read_text())["training"]
    assert told == {name: value for name, value in again.metrics["training"].items() if name != "training_seconds"}


@pytest.fixture(scope="module")
def keyed(world, tmp_path_factory):
    """The world asked by people, in a column of another name, of events that count or do not, over fewer items."""
    pairs, items = world[0].to_pylist(), world[1].slice(0, 30)
    rows = [{"said": row["asked"].upper(), "who": f"p{n % 50}", "what": "buy", "thing": row["thing"]} for n, row in enumerate(pairs)]
    config = {
        "pairs": {"item": "thing", "event": "what", "event_weights": {"buy": 1, "try": 1}},
        "query": {"key": "who", "features": [{"column": "said", "type": "text", "buckets": 4096}]},
        "item": {"id": "name", "features": [{"column": "name", "type": "id"}]},
        "model": {"dimensions": 8},
        "train": {"epochs": 1},
    }
    return tt.train(rows, items, config=config, output=tmp_path_factory.mktemp("keyed") / "run").retriever


def asked_by(*rows):
    return [dict(zip(("said", "who", "what", "thing"), row, strict=True)) for row in rows]


def excluded(asked):
    return [set(asked.cases.excluded.values[a:b].tolist()) for a, b in itertools.pairwise(asked.cases.excluded.offsets)]


def test_pairs_of_nobody_do_not_share_their_matches(keyed):
    rows = asked_by(("one", None, "buy", 1000), ("two", None, "buy", 1001), ("Two", None, "buy", 1002), ("six", "me", "buy", 1003))
    _, asked = tt.evaluate(keyed, [*rows, *asked_by(("ten", "me", "buy", 1004))])
    assert [rows[0] for rows in asked.queries.select(["said"]).to_pydict().values()] == ["one"]
    assert excluded(asked) == [{0}, {1, 2}, {1, 2}, {3, 4}, {3, 4}]


def test_new_pairs_are_counted_as_in_training(keyed):
    rows = asked_by(
        ("one", "me", "buy", 1000), ("one", "me", "see", 1001), ("one", "me", "try", 1000), ("one", "me", None, 1000), ("one", "you", "buy", 1000)
    )
    _, asked = tt.evaluate(keyed, rows)
    assert asked.dropped == {"of_unlisted_event": 2, "without_query": 0, "that_are_no_match": 0, "item_not_in_catalogue": 0, "repeated": 1}
    assert sorted(asked.rows.tolist()) == [0, 4]
    with pytest.raises(DataError, match=r"pairs\.event"):
        tt.evaluate(keyed, pd.DataFrame(rows).drop(columns="what"))


def test_bundles_that_read_other_columns_meet_by_row(keyed, world_run):
    rows = [row | {"said": row["asked"], "who": f"p{n % 7}", "what": "buy" if n else "see"} for n, row in enumerate(new_pairs()[:36])]
    rows = [row | {"asked": f"{row['asked']} indeed"} for row in rows]
    compared = compare_on([world_run.retriever, keyed], ("a", "b"), rows, evaluation_options(world_run.retriever))
    assert compared.rankings == 29  # of 36 rows, six of items that one lacks and one of an event that it does not count
    assert compared.catalogues == (36, 30)
    alone, asked = tt.evaluate(keyed, rows)
    assert compared.figures["mrr"][1] == pytest.approx(alone.values["mrr"].mean())
    assert sorted(asked.rows.tolist()) == list(range(1, 30))


def test_items_without_an_id_are_known_by_their_values(tmp_path):
    """Two columns of text: no more is said, in training or afterwards."""
    pairs = pd.DataFrame([{"question": f"what is n{n} of k{n % 10}", "answer": f"it is k{n % 10}"} for n in range(200)])
    config = {
        "query": {"features": [{"column": "question", "type": "text", "buckets": 4096}]},
        "item": {"features": [{"column": "answer", "type": "text", "buckets": 4096}]},
        "model": {"dimensions": 16},
        "train": {"epochs": 1},
    }
    run = tt.train(pairs, config=config, output=tmp_path / "run")
    new = pd.DataFrame({"question": ["tell me of k3", "tell me of k4", "k5"], "answer": ["it is k3", " it is k4 ", "it is new"]})
    evaluated, asked = tt.evaluate(run.retriever, new)
    assert asked.dropped["item_not_in_catalogue"] == 1
    assert [run.retriever.show([row])[0]["answer"] for row in asked.cases.relevant.values] == ["it is k3", "it is k4"]
    assert evaluated.figures["mrr"].value > 0.5
    with pytest.raises(DataError, match=r"answer.*has no id"):
        tt.evaluate(run.retriever, new.drop(columns="answer"))


# --- options ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory):
    """Measures the world's exported model again under other options, without training or export."""
    from conftest import WORLD_CONFIG
    from twotower import config as configs
    from twotower.data.preparation import prepare
    from twotower.data.sources import open_source
    from twotower.runs import finishing, settings

    def measure(world_run, blocks):
        chosen = configs.from_values(WORLD_CONFIG | blocks)
        chosen = replace(chosen, evaluate=replace(chosen.evaluate, exclude_seen=settings._exclude_seen(chosen)))
        place = world_run.folder.parent / "prepared"
        prepared = prepare(open_source(world[0], "pairs"), open_source(world[1], "items"), chosen.schema, chosen.split, place)
        model = world_run.folder / "bundle" / "model"
        found = finishing._measure(model, prepared, np.asarray(world_run.retriever.vectors), chosen, Progress())
        return json.loads(json.dumps(finishing._metrics(found, prepared, chosen, {}), default=str))

    return measure


@pytest.mark.parametrize(
    "blocks",
    [
        {"evaluate": {"metrics": ["hit@3"]}},
        {"evaluate": {"select": "hit@5"}},
        {"evaluate": {"per": "query"}},
        {"evaluate": {"exclude_seen": False}},
        {"evaluate": {"baselines": ["popularity"]}},
        {"evaluate": {"seed": 7}},
        {"search": {"mode": "words"}},
        {"search": {"mode": "hybrid", "words_weight": 0.9}},
        {"search": {"mode": "words", "words_of": "items"}},
    ],
    ids=str,
)
def test_every_option_of_measuring_has_an_effect(world_run, measured, blocks):
    assert measured(world_run, blocks) != measured(world_run, {})


def test_the_mode_is_the_one_that_was_asked_for(world_run, measured):
    for mode in ("vectors", "words", "hybrid"):
        found = measured(world_run, {"search": {"mode": mode} | ({"words_weight": 0.25} if mode == "hybrid" else {})})
        assert found["search"]["mode"] == mode
        assert found["model"] == found["modes"][mode]
    assert found["search"]["words_weight"] == 0.25


@pytest.mark.parametrize(
    ("items", "queries", "vectors", "chosen"),
    [
        (["red fox", "blue whale"], ["blue", "red"], 0.0, ("words", "items")),  # what led to the items in training is of no use
        (["vulpes", "balaena"], ["red", "blue"], 0.0, ("words", "both")),
        (["vulpes", "balaena"], ["blue", "red"], 1.0, ("vectors", "both")),  # both add nothing, and the first comes next
    ],
)
def test_validation_chooses_by_whose_words_is_searched(items, queries, vectors, chosen):
    """Two questions, each right for one of two items: who ranks both right is chosen, by vectors, by words or by both."""
    right = Cases(np.arange(2), np.arange(2), Ragged(np.arange(2), np.arange(3)), None)
    asked = Asked(right, np.eye(2, dtype=np.float32) * vectors, ["red one", "blue one"])
    indexes = {"both": Lexical.build([f"{item} {query}" for item, query in zip(items, queries, strict=True)]), "items": Lexical.build(items)}
    found = choose_mode(asked, np.eye(2, dtype=np.float32), indexes, SearchOptions(), EvaluateOptions(select="hit@1"))
    assert (found["mode"], found["words_of"]) == chosen


def test_the_words_that_were_chosen_ship(world, tmp_path):
    run = tt.train(*world, config=WORLD_CONFIG | {"search": {"mode": "words", "words_of": "items"}, "train": {"epochs": 1}}, output=tmp_path / "run")
    assert run.metrics["modes"]["words"] == run.metrics["baselines"]["bm25"]
    assert {"tovar0", "vid0"} <= run.retriever.lexical.columns.keys()
    assert not {"subject0", "sort0"} & run.retriever.lexical.columns.keys()


def test_what_is_left_out_is_said(world_run, measured):
    found = measured(world_run, {"evaluate": {"per": "query", "exclude_seen": True}})
    assert found["evaluation"]["left_out"] == "what the key matched in training and validation is left out"


@pytest.mark.parametrize(("query", "on"), [({}, False), ({"key": "user"}, True), ({"id": "user"}, True)], ids=str)
def test_what_was_seen_is_left_out_where_somebody_is_named(query, on):
    from twotower.config import from_values
    from twotower.runs import settings

    features = [{"column": "text", "type": "text"}]
    values = {"query": {"features": features, **query}, "item": {"features": features}, "pairs": {"repeats": "first"}}
    assert settings._exclude_seen(from_values(values | {"evaluate": {"per": "query"}})) is on
    assert settings._exclude_seen(from_values(values)) is True


def test_a_run_takes_seconds(world_run):
    assert world_run.metrics["training"]["training_seconds"] < 5
    assert time.time() - (world_run.folder / "metrics.json").stat().st_mtime < 3600


def test_an_earlier_run_outlives_data_that_are_refused(world, tmp_path):
    config = {**WORLD_CONFIG, "train": {"epochs": 1, "batch_size": 64, "correction": False}, "model": {"dimensions": 8}}
    folder = tmp_path / "run"
    tt.train(*world, config=config, output=folder, progress=Progress())
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(DataError, match="askd"):
        tt.train(world[0].rename_columns(["askd", "thing", "clicks"]), world[1], config=config, output=folder, overwrite=True, progress=Progress())
    assert (folder / "metrics.json").read_bytes() == before


def test_keeping_unlisted_items_needs_a_catalogue(world, tmp_path):
    config = {"query": {"features": [{"column": "asked", "type": "text"}]}, "item": {"id": "thing", "features": [{"column": "thing", "type": "id"}]}}
    with pytest.raises(ConfigError, match="unlisted"):
        tt.train(world[0], config=config | {"item": {**config["item"], "unlisted": "keep"}}, output=tmp_path / "run", progress=Progress())
    assert not (tmp_path / "run").exists()


def test_a_missing_encoder_is_said_before_training(world, tmp_path):
    config = {**WORLD_CONFIG, "evaluate": {"pretrained": str(tmp_path / "nowhere")}}
    with pytest.raises((ConfigError, MissingExtra), match=r"holds no sentence encoder|twotower\[text\]"):
        tt.train(*world, config=config, output=tmp_path / "run", progress=Progress())
    assert not (tmp_path / "run").exists()
