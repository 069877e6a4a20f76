"""Planted worlds that only one thing can solve - a history, a label, a table of queries, a body of one's own - from rows to look-up."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import twotower as tt
from twotower.app import bulk
from twotower.bundle.golden import golden_of
from twotower.bundle.loading import check_golden, verify
from twotower.config import from_values, to_toml
from twotower.data.histories import Histories
from twotower.data.preparation import prepare
from twotower.data.prepared import open_prepared
from twotower.data.sources import open_source
from twotower.data.splits import TEST, TRAIN
from twotower.errors import BundleError, ConfigError, DataError
from twotower.exports.formats import export
from twotower.files import read_json
from twotower.learning import training
from twotower.learning.evaluation import cases
from twotower.learning.views import before, reading
from twotower.model.towers import build
from twotower.runs.exported import encode_queries
from twotower.runs.progress import Progress
from twotower.runs.run import Stopped

ITEMS = 12
NEXT = (np.arange(ITEMS) + 5) % ITEMS  # what follows each item: nobody comes back within twelve steps
HOUR = 3600


def walks(people=150, steps=6, seed=0):
    """Everybody begins somewhere and then goes where the last item leads."""
    generator = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        item, start = int(generator.integers(ITEMS)), int(generator.integers(1000)) * HOUR
        for step in range(steps):
            rows.append({"user": f"u{person}", "item": f"i{item}", "at": start + step * HOUR})
            item = int(NEXT[item])
    return rows


def config_of(history, **blocks):
    return {
        "pairs": {"time": "at", "repeats": "keep"},
        "query": {"key": "user", "features": [{"type": "history", "last": 1, "dropout": 0.0, **history}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "last", "test": 1, "validation": 1},
        "model": {"dimensions": 16},
        "train": {"epochs": 12, "batch_size": 64, "learning_rate": 0.02, "patience": 0},
        "evaluate": {"metrics": ["hit@1", "mrr"]},
    } | blocks


def learnt(rows, config, folder):
    """(hit@1 on the validation pairs, the loss of each epoch) of a model trained without an export."""
    chosen = from_values(config)
    prepared = prepare(open_source(rows), None, chosen.schema, chosen.split, folder)
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    model = build(prepared.encoder, chosen.model, chosen.train.seed)
    state, losses = training.start(model, data, chosen.train), []
    training.fit(state, data, chosen.train, chosen.evaluate, report=lambda e: losses.append(e.loss) if isinstance(e, training.Step) else None)
    return training.validate(model, data, chosen.evaluate)[0]["hit@1"], np.mean(np.reshape(losses, (chosen.train.epochs, -1)), axis=1)


# --- histories ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", ["tower", "ids"])
@pytest.mark.parametrize(("pool", "last"), [("mean", 1), ("recency", 2), ("attention", 3), ("transformer", 3)])
def test_what_came_before_tells_what_comes_next(tmp_path, pool, last, items):
    config = config_of({"pool": pool, "last": last, "items": items, "layers": 1})
    if pool == "transformer":
        config["train"] |= {"epochs": 30}
    assert learnt(walks(), config, tmp_path)[0] > 0.9 > 0.3


@pytest.mark.parametrize(("pool", "items"), [("recency", "ids"), ("attention", "tower"), ("transformer", "ids")])
def test_half_precision_tells_it_too(tmp_path, pool, items):
    config = config_of({"pool": pool, "last": 2, "items": items, "layers": 1})
    config["train"] |= {"epochs": 30 if pool == "transformer" else 12, "precision": "bfloat16"}
    assert learnt(walks(), config, tmp_path)[0] > 0.9


def test_an_ordered_log_needs_no_times(tmp_path):
    rows = [{name: row[name] for name in ("user", "item")} for row in sorted(walks(), key=lambda row: row["at"])]
    config = config_of({"pool": "recency", "last": 2}, pairs={"ordered": True, "repeats": "keep"})
    assert learnt(rows, config, tmp_path)[0] > 0.9


def test_without_times_the_rest_of_a_log_tells(tmp_path):
    """Everybody likes the four items of one of three groups; who likes three of them likes the fourth."""
    generator = np.random.default_rng(0)
    rows = [{"user": f"u{n}", "item": f"i{4 * (n % 3) + k}"} for n in range(150) for k in generator.permutation(4)]
    config = config_of(
        {"last": 10},
        pairs={},
        split={"by": "random", "test": 0.1, "validation": 0.15},
        train={"epochs": 20, "batch_size": 64, "learning_rate": 0.02, "patience": 0},
    )
    assert learnt(rows, config, tmp_path)[0] > 0.8 > 3 / 12


@pytest.mark.parametrize("pool", ["recency", "transformer"])
def test_neither_the_target_nor_what_came_with_it_is_seen(tmp_path, monkeypatch, pool):
    """Items come in twos at one moment, and one moment says nothing of the next: who saw ties, or the target, would know it all."""
    generator = np.random.default_rng(1)
    rows = []
    for person in range(200):
        for moment in range(4):
            one = int(generator.integers(ITEMS))
            rows += [{"user": f"u{person}", "item": f"i{each}", "at": moment * HOUR} for each in (one, one + ITEMS)]
    split = {"by": "random", "test": 0.1, "validation": 0.15, "seed": 3}
    config = config_of({"pool": pool, "last": 4, "layers": 1}, split=split)
    config["train"] |= {"epochs": 5, "patience": 0}
    found, losses = learnt(rows, config, tmp_path)
    assert found < 0.2
    assert losses[-1] > 2.3  # there is nothing to learn, and by chance it is the log of some twenty
    honest = Histories.cuts
    monkeypatch.setattr(Histories, "cuts", lambda self, keys, moments: honest(self, keys, moments + 1))
    leaked, lower = learnt(rows, config, tmp_path)
    assert leaked > found + 0.15 or lower[-1] < 0.8 * losses[-1], (leaked, found, lower[-1], losses[-1])  # so the world would have told


@pytest.fixture(scope="module")
def rows():
    return walks()


@pytest.fixture(scope="module")
def reader(rows, tmp_path_factory):
    """A finished run that knows people by their history alone."""
    return tt.train(rows, config=config_of({"pool": "recency", "last": 2}), output=tmp_path_factory.mktemp("reader") / "run", progress=Progress())


def after(item):
    return f"i{NEXT[item]}"


def new(ids, *known):
    """The best of the items found that is not known already."""
    return next(item for item in ids if item not in known)


def test_somebody_never_seen_is_known_by_their_history_at_once(reader):
    retriever = reader.retriever
    assert reader.metrics["model"]["hit@1"]["value"] > 0.9
    found = retriever.search(history=[[f"i{n}"] for n in range(ITEMS)], k=3)
    assert found.ids.shape == (ITEMS, 3)
    assert np.mean([new(row, f"i{n}") == after(n) for n, row in enumerate(found.ids)]) > 0.9
    one = retriever.search(history=["i3"], k=3)
    assert one.ids.shape == (3,)
    longer = retriever.search(history=["i3", f"i{NEXT[3]}"], k=3)
    assert new(one.ids, "i3") == after(3)
    assert new(longer.ids, "i3", f"i{NEXT[3]}") == after(NEXT[3])  # the new event counts
    for same in (retriever.search({"history": ["i3"]}, k=3).ids, retriever.search([{"history": ["i3"]}], k=3).ids[0]):
        assert same.tolist() == one.ids.tolist()
    # An id that is not known still takes one of the two places that are read.
    assert retriever.search(history=["i3", "never heard of"], k=3).ids.tolist() == one.ids.tolist()
    assert retriever.search(history=["never heard of"], k=2).ids.tolist() == [None, None]
    for nothing in ([], [[]], [["i3"], []]):
        with pytest.raises(DataError, match="empty"):
            retriever.search(history=nothing)
    with pytest.raises(ConfigError, match="a history"):
        retriever.search()
    with pytest.raises(DataError, match="all that this model reads"):
        retriever.search({"user": "u3"})


def test_both_roads_of_a_history_give_one_vector(reader, rows):
    """What training slices from its log, and the same ids at look-up."""
    chosen = from_values(config_of({"pool": "recency", "last": 2}))
    place = reader.folder.parent / "prepared"
    prepared = open_prepared(next(path for path in place.iterdir() if (path / "log").is_dir()))
    seen = before(prepared, TEST, reading(prepared.encoder, prepared.columns["item"]))
    asked = cases(prepared.part(TEST), None, "pair", seen)
    sliced = encode_queries(
        reader.folder / "bundle" / "model", prepared, prepared.columns["query"], asked, seen, np.array(reader.retriever.vectors), chosen
    )
    ids, targets = prepared.items.column("_id").to_pylist(), {}
    for row in rows:
        targets.setdefault(row["user"], []).append((row["at"], row["item"]))
    paths = {tuple(item for _, item in sorted(path)) for path in targets.values()}  # a walk is known by its last item
    histories = [next(list(path[:-1]) for path in paths if path[-1] == ids[item]) for item in asked.relevant.values]
    assert reader.retriever.embed_queries(history=histories) == pytest.approx(sliced, abs=1e-5)
    assert len({tuple(each) for each in histories}) > 5


def test_golden_queries_of_histories_are_kept_and_tried(reader, tmp_path):
    verify(reader.folder)
    golden = json.loads((reader.folder / "bundle/model/golden.json").read_text())
    assert len(golden) == 8 and all(len(kept["query"]["history"]) == 2 for kept in golden)
    copied = Path(shutil.copytree(reader.folder / "bundle", tmp_path / "bundle"))
    golden[0]["query"]["history"] = golden[0]["query"]["history"][::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower.bundle.loading.verify_files", lambda place: None)
        patch.setattr("twotower.files.read_json", lambda path: golden if path.name == "golden.json" else read_json(path))
        with pytest.raises(BundleError, match="otherwise"):
            verify(copied)


@pytest.mark.parametrize("items", ["tower", "ids"])
def test_golden_histories_are_read_as_when_they_were_made_whatever_became_of_the_items(rows, tmp_path, items):
    short = {"epochs": 2, "batch_size": 64, "patience": 0}
    config = config_of({"pool": "recency", "last": 2, "items": items}, train=short, search={"vectors": "int8"})
    config["item"]["features"].append({"column": "title", "type": "text"})
    catalogue = [{"item": f"i{n}", "title": f"word{n}"} for n in range(ITEMS)]
    run = tt.train(rows, catalogue, config=config, output=tmp_path / "run", progress=Progress())
    model = run.folder / "bundle" / "model"
    assert (model / "golden-items.npy").exists() == (items == "tower")
    told = json.loads((model / "golden.json").read_text())[0]["query"]["history"]
    others = [{"item": f"j{n}", "title": f"word{n}"} for n in range(ITEMS)]
    others += [row | {"title": "otherwise"} for row in catalogue if row["item"] != told[0]]
    run.retriever.refresh(others, yes=True)
    assert told[0] not in run.retriever.items["_id"].to_pylist()
    export(run.retriever, "query-encoder", tmp_path / "encoder")
    tt.compact(run.folder, keep=1)
    for place in (run.folder, tmp_path / "encoder"):
        verify(place)
    tt.publish(run.folder, tmp_path / "served")
    # It can still fail.
    golden = json.loads((model / "golden.json").read_text())
    golden[0]["query"]["history"] = golden[0]["query"]["history"][::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twotower.files.read_json", lambda path: golden if path.name == "golden.json" else read_json(path))
        with pytest.raises(BundleError, match="otherwise"):
            check_golden(tt.load(run.folder))


def test_a_model_without_the_items_of_its_golden_histories_is_tried_by_the_catalogue_as_it_was(reader, tmp_path):
    folder = Path(shutil.copytree(reader.folder / "bundle", tmp_path / "bundle"))
    (folder / "model" / "golden-items.npy").unlink()
    first = replace(reader.retriever.bundle, folder=folder)
    golden, memory = golden_of(first)
    assert memory is None and len(golden) == 8
    assert golden_of(replace(first, catalogue=first.catalogue | {"parent": "000001"})) == ([], None)


def test_a_run_of_histories_is_measured_and_compared(reader, tmp_path):
    new = [{"user": f"v{n}", "history": [f"i{n}"], "item": after(n)} for n in range(ITEMS)]
    evaluated, asked = tt.evaluate(reader.retriever, [*new, {"user": "w", "history": [], "item": "i1"}])
    assert evaluated.figures["hit@1"].value > 0.9
    assert asked.dropped["without_query"] == 1
    with pytest.raises(DataError, match="history"):
        tt.evaluate(reader.retriever, [{"user": "v", "item": "i1"}])
    table = pq.read_table(reader.folder / "rankings.parquet")
    assert len(table) == reader.metrics["evaluation"]["rankings"] == 150
    compared = tt.compare(reader.folder, reader.folder)
    assert compared.rankings == 150 and all(test.difference == 0 for test in compared.tests.values())
    assert {"popularity", "item_knn", "ease"} == set(reader.metrics["baselines"])
    assert reader.metrics["baselines"]["popularity"]["hit@1"]["value"] < 0.4


def test_the_command_line_takes_histories(reader, typed, tmp_path):
    code, out, _ = typed("search", reader.folder, "--history", "i10, i3", "-k", 3, "--json")
    assert code == 0 and new([row["id"] for row in json.loads(out)], "i10", "i3") == after(3)
    asked = tmp_path / "asked.parquet"
    pq.write_table(pa.table({"history": [["i3"], [], None, ["i4"]], "item": [after(3), "i1", "i1", "i99"], "user": list("abcd")}), asked)
    assert typed("search", reader.folder, "--queries", asked, "-k", 2, "-o", tmp_path / "found.parquet")[0] == 0
    found = pq.read_table(tmp_path / "found.parquet").column("ids").to_pylist()
    assert [new(found[0], "i3"), *found[1:3], new(found[3], "i4")] == [after(3), [], [], after(4)]
    assert typed("embed", reader.folder, asked, "--side", "query", "-o", tmp_path / "v.parquet")[0] == 0
    column = pq.read_table(tmp_path / "v.parquet").column("vector")
    assert pa.types.is_list(column.type)  # of a fixed size, many readers would fail on its null
    vectors = column.to_pylist()
    assert vectors[1] is None and vectors[0] == pytest.approx(reader.retriever.embed_queries(history=["i3"])[0], abs=1e-5)
    code, out, _ = typed("score", reader.folder, "--pairs", asked)
    scores = [json.loads(line)["score"] for line in out.splitlines()]
    assert code == 0 and scores[0] > 0 and scores[1:] == [None] * 3
    code, out, _ = typed("evaluate", reader.folder, "--pairs", asked, "--json")
    assert code == 0 and json.loads(out)["model"]["hit@1"]["value"] == 1
    assert typed("info", reader.folder, "--verify")[0] == 0


def test_histories_that_are_cut_wrongly_are_counted(reader, typed, tmp_path):
    """A list between commas or spaces is one id, which no catalogue holds."""
    asked = tmp_path / "asked.csv"
    asked.write_text(f'user,history,item\na,"i3,i4",i1\nb,i3 i4,i1\nc,i3|zz,{after(3)}\nd,i4,{after(4)}\n')
    said = r"lacks 3 of the ids in \"history\", such as 'i3,i4', 'i3 i4', 'zz'.*2 rows name nothing else.*13\|14.*\[\"13\", \"14\"\]"
    for verb in (
        ("search", reader.folder, "--queries", asked, "-o", tmp_path / "found.parquet"),
        ("embed", reader.folder, asked, "--side", "query", "-o", tmp_path / "v.parquet"),
        ("score", reader.folder, "--pairs", asked),
        ("evaluate", reader.folder, "--pairs", asked),
    ):
        code, _, err = typed(*verb)
        assert code == 0 and re.search(said, err), err
    asked.write_text(f"user,history,item\na,i3|i4,{after(4)}\n")
    assert "lacks" not in typed("score", reader.folder, "--pairs", asked)[2]


def test_a_history_that_cannot_be_read_is_told_by_its_row_in_the_file(reader, typed, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS", 2)
    asked = tmp_path / "asked.csv"
    asked.write_text("history\ni3\ni4\ni5\n[i3\n")
    code, _, err = typed("search", reader.folder, "--queries", asked, "-o", tmp_path / "found.parquet")
    assert code == 2 and "asked.csv" in err and "row 4 '[i3'" in err and list(tmp_path.iterdir()) == [asked]


def test_a_file_without_histories_is_told_how_they_are_written(reader, typed, tmp_path):
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("user,item\nann,i1\n")
    for verb in (("evaluate", reader.folder, "--pairs", lacking), ("score", reader.folder, "--pairs", lacking)):
        code, _, err = typed(*verb)
        ids = re.search(r"oldest first, as (i\d+)\|(i\d+) or as JSON, \[\"\1\", \"\2\"\]", err)
        assert code == 2 and ids and err.endswith(f"Under user,item,history a row is then like ann,i1,{ids[1]}|{ids[2]}\n"), err


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "RUN"),
        ("search", "RUN", "some words"),
        ("search", "RUN", "history=i3"),
        ("search", "RUN", "contry=DE", "--history", "i3,nothing"),
        ("search", "RUN", "--history", ""),
        ("search", "RUN", "--history", "i3", "--queries", "x.parquet", "-o", "y.parquet"),
        ("search", "RUN", "--queries", "LACKING", "-o", "y.parquet"),
        ("embed", "RUN", "LACKING", "--side", "query", "-o", "y.parquet"),
        ("score", "RUN", "--pairs", "LACKING"),
        ("evaluate", "RUN", "--pairs", "LACKING"),
    ],
    ids=" ".join,
)
def test_a_wrong_question_gets_one_clear_line(reader, typed, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lacking.csv").write_text("user,item\na,i1\n")
    code, out, err = typed(*({"RUN": reader.folder, "LACKING": "lacking.csv"}.get(word, word) for word in arguments))
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.startswith("twotower: ") and err.count("\n") == 1


# --- labels -------------------------------------------------------------------------------------------------------


def shades():
    """Of each topic the dark items are never taken, and only the log of refusals says so."""
    generator = np.random.default_rng(0)
    items = [{"sku": f"t{topic}s{shade}", "topic": f"t{topic}", "shade": f"s{shade}"} for topic in range(6) for shade in range(4)]
    pairs = []
    for n in range(360):
        topic = n % 6
        pairs.append({"who": f"w{n}", "wants": f"t{topic}", "sku": f"t{topic}s{generator.integers(2)}", "stars": 1})
        pairs.append({"who": f"w{n}", "wants": f"t{topic}", "sku": f"t{topic}s{2 + generator.integers(2)}", "stars": 0})
    config = {
        "pairs": {"label": "stars"},
        "query": {"key": "who", "features": [{"column": "wants", "type": "category"}]},
        "item": {"id": "sku", "features": [{"column": "topic", "type": "category"}, {"column": "shade", "type": "category"}]},
        "model": {"dimensions": 16},
        "train": {"epochs": 8, "batch_size": 64, "patience": 0},
    }
    return pairs, items, config


def scores_of(pairs, items, config, folder, wanted):
    """The similarity [wanted, items] of a model trained without an export."""
    chosen = from_values(config)
    prepared = prepare(open_source(pairs), open_source(items), chosen.schema, chosen.split, folder)
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    model = build(prepared.encoder, chosen.model, 0)
    training.fit(training.start(model, data, chosen.train), data, chosen.train, chosen.evaluate)
    queries = model.encode("query", prepared.encoder.encode("query", wanted)).numpy()
    return queries @ model.encode("item", prepared.encoder.encode("item", items)).numpy().T


def test_what_is_refused_is_pushed_down_and_only_labels_tell(tmp_path):
    pairs, items, config = shades()
    wanted = [{"wants": f"t{topic}"} for topic in range(6)]
    told, silent = (
        scores_of(pairs, items, config | {"train": config["train"] | {"non_matches": most}}, tmp_path, wanted).reshape(6, 6, 4) for most in (4, 0)
    )
    own = np.arange(6)
    margin = {name: (scores[own, own, :2].mean(1) - scores[own, own, 2:].mean(1)) for name, scores in (("told", told), ("silent", silent))}
    assert (margin["told"] > 0.15).all()
    assert (told[own, own, :2].min(1) > told[own, own, 2:].max(1)).all()
    assert margin["told"].mean() > margin["silent"].mean() + 0.1


@pytest.mark.parametrize("better", [0, 1])
def test_a_better_match_weighs_more(tmp_path, better):
    rows = [{"who": f"w{n}", "wants": f"t{n % 8}", "sku": f"t{n % 8}s{n // 8 % 2}", "stars": 5 if n // 8 % 2 == better else 1} for n in range(320)]
    config = {
        "pairs": {"label": "stars"},
        "query": {"key": "who", "features": [{"column": "wants", "type": "category"}]},
        "item": {"id": "sku", "features": [{"column": "sku", "type": "id"}]},
        "model": {"dimensions": 16, "learn_temperature": False, "temperature": 0.3},
        "train": {"epochs": 20, "batch_size": 64, "patience": 0, "correction": False},
    }
    items = [{"sku": f"t{topic}s{shade}"} for topic in range(8) for shade in range(2)]
    scores = scores_of(rows, items, config, tmp_path, [{"wants": f"t{topic}"} for topic in range(8)]).reshape(8, 8, 2)
    own = scores[np.arange(8), np.arange(8)]
    assert (own[:, better] > own[:, 1 - better]).all()


# --- a table of queries -------------------------------------------------------------------------------------------


def test_what_a_table_says_of_a_query_is_all_that_tells(tmp_path):
    """Users are held out as a whole: their town, which only the table of users knows, decides what they like."""
    users = [{"user": n, "town": f"town {n % 5}"} for n in range(200)]
    rows = [{"member": n, "item": f"i{n % 5}{k}"} for n in range(200) for k in range(3)] + [{"member": 999, "item": "i00"}]
    config = {
        "pairs": {"query": "member"},
        "query": {"id": "user", "features": [{"column": "town", "type": "category"}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "cold_queries", "test": 0.2, "validation": 0.2},
        "model": {"dimensions": 16},
        "train": {"epochs": 5, "batch_size": 64},
    }
    run = tt.train(rows, queries=users, config=config, output=tmp_path / "run", progress=Progress())
    assert run.metrics["model"]["hit@1"]["value"] > 0.9
    assert run.metrics["data"]["pairs_read"] - run.metrics["data"]["pairs"] == 1  # of somebody whom the table lacks
    assert set(run.retriever.search({"town": "town 3"}, k=3).ids) == {"i30", "i31", "i32"}


# --- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["time", "cold_items", "files"])
def test_every_way_to_split_goes_from_a_config_to_figures(tmp_path, by):
    generator = np.random.default_rng(0)
    rows = [
        {"asked": f"word{n % 20} n{n}", "title": f"name{n % 20} colour{n % 3}", "at": 1_700_000_000 + int(generator.integers(40)) * 86_400}
        for n in range(400)
    ]
    split = {"time": {"test": "5d", "validation": "5d"}, "cold_items": {"test": 0.2, "validation": 0.2}, "files": {}}[by]
    config = {
        "data": {"pairs": "pairs.parquet"} | ({"test": "test.parquet"} if by == "files" else {}),
        "pairs": {"time": "at"},
        "query": {"features": [{"column": "asked", "type": "text", "buckets": 4096}]},
        "item": {"features": [{"column": "title", "type": "text", "buckets": 4096}]},
        "split": {"by": by, **split},
        "model": {"dimensions": 8},
        "train": {"epochs": 1, "batch_size": 64},
        "evaluate": {"baselines": ["popularity"]},
    }
    given = rows[:350] if by == "files" else rows
    pq.write_table(pa.Table.from_pylist(given), tmp_path / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist(rows[350:]), tmp_path / "test.parquet")
    (tmp_path / "x.toml").write_text(to_toml(from_values(config)))
    run = tt.train(config=tmp_path / "x.toml", output=tmp_path / "run", progress=Progress())
    told = run.metrics["data"]["split"]
    assert told["by"] == by and told["test"] > 10 and told["validation"] > 10
    prepared = open_prepared(next(path for path in (tmp_path / "prepared").iterdir() if (path / "log").is_dir()))
    train, test = prepared.part(TRAIN), prepared.part(TEST)
    if by == "time":
        last = max(row["at"] for row in rows)
        assert told["test"] == sum(row["at"] >= last - 5 * 86_400 for row in rows)
    if by == "cold_items":
        assert not set(train.item_rows.tolist()) & set(test.item_rows.tolist())
    if by == "files":
        assert told["test"] == 50


# --- bodies -------------------------------------------------------------------------------------------------------


class Weighed(nn.Module):
    """Parts [n, f, d] -> [n, d], by weights that are learned."""

    def __init__(self, features, dimensions):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(features))
        self.turn = nn.Linear(dimensions, dimensions)

    def forward(self, parts):
        mixed = (parts * self.weights[None, :, None]).sum(1)
        return mixed + torch.tanh(self.turn(mixed))


def test_a_body_of_ones_own_is_trained_resumed_and_shipped(world, tmp_path):
    from conftest import WORLD_CONFIG

    config = {**WORLD_CONFIG, "model": {"dimensions": 16, "body": "custom"}, "train": {**WORLD_CONFIG["train"], "epochs": 4}}
    bodies = {"query": Weighed, "item": Weighed}
    with pytest.raises(ConfigError, match="only Python can pass"):
        tt.train(*world, config=config, output=tmp_path / "run", progress=Progress())
    with pytest.raises(ConfigError, match="wanted are query and item"):
        tt.train(*world, config=config, bodies={"query": Weighed}, output=tmp_path / "run", progress=Progress())
    with pytest.raises(ConfigError, match="would not use them"):
        tt.train(*world, config=WORLD_CONFIG, bodies=bodies, output=tmp_path / "run", progress=Progress())
    shared = {**config, "model": {"dimensions": 16, "body": "custom", "shared_body": True}}
    with pytest.raises(ConfigError, match="passed for query"):
        tt.train(*world, config=shared, bodies=bodies, output=tmp_path / "run", progress=Progress())
    assert not (tmp_path / "run").exists()
    seen = []

    def stop(event):
        seen.append(event)
        if len(seen) == 3:
            os.kill(os.getpid(), 2)

    with pytest.raises(Stopped):
        tt.train(*world, config=config, bodies=bodies, output=tmp_path / "run", progress=Progress(training=stop))
    with pytest.raises(ConfigError, match="only Python can pass"):
        tt.train(*world, config=config, output=tmp_path / "run", resume=True, progress=Progress())
    told = []
    run = tt.train(*world, config=config, bodies=bodies, output=tmp_path / "run", resume=True, progress=Progress(training=told.append))
    assert told[0].step == 4
    assert run.metrics["modes"]["vectors"]["mrr"]["value"] > 0.7
    code = (
        f"import sys, twotower; r = twotower.load({str(run.folder)!r}); "
        "print(r.search('subject3 sort1', k=1, mode='vectors').ids[0]); assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(tt.__file__).parents[1])}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(run.retriever.search("subject3 sort1", k=1, mode="vectors").ids[0])


@pytest.mark.parametrize("body", [lambda features: nn.Identity(), lambda features, dimensions: nn.Identity(), lambda features, dimensions: 3])
def test_a_body_that_cannot_work_is_refused(world, tmp_path, body):
    from conftest import WORLD_CONFIG

    config = {**WORLD_CONFIG, "model": {"dimensions": 16, "body": "custom"}}
    with pytest.raises(ConfigError, match="custom body"):
        tt.train(*world, config=config, bodies={"query": body, "item": body}, output=tmp_path / "run", progress=Progress())
    assert not (tmp_path / "run").exists()


# --- queries of databases -----------------------------------------------------------------------------------------


def test_a_query_in_a_config_is_trained_on_and_resumed(world, tmp_path, typed, monkeypatch):
    pytest.importorskip("duckdb")
    pq.write_table(world[0], tmp_path / "log.parquet")
    pq.write_table(world[1], tmp_path / "things.parquet")
    (tmp_path / "x.toml").write_text(
        """
version = 1
[data]
pairs = { sql = "SELECT asked, thing FROM 'log.parquet' ORDER BY asked" }
items = "things.parquet"
[pairs]
item = "thing"
[query]
features = [ { column = "asked", type = "text", buckets = 4096 } ]
[item]
id = "name"
features = [ { column = "title", type = "text", buckets = 4096 } ]
[model]
dimensions = 4
[train]
epochs = 2
batch_size = 64
"""
    )
    seen = []

    def stop(event):
        seen.append(event)
        os.kill(os.getpid(), 2) if len(seen) == 2 else None

    with pytest.raises(Stopped):
        tt.train(config=tmp_path / "x.toml", output=tmp_path / "run", progress=Progress(training=stop))
    monkeypatch.chdir("/")
    run = tt.train(output=tmp_path / "run", resume=True, progress=Progress())  # from its own config, wherever one stands
    assert run.metrics["data"]["pairs_read"] == 400
    assert "SELECT" in (run.folder / "config.toml").read_text()
    assert "SELECT" not in (run.folder / "bundle/model/config.toml").read_text()
    fewer = ["train", tmp_path / "x.toml", "-o", tmp_path / "few", "--dry-run", "--json", "--set"]
    code, out, _ = typed(*fewer, "data.pairs.sql=SELECT asked, thing FROM 'log.parquet' LIMIT 300")
    assert code == 0 and json.loads(out)["pairs"] == 240
    code, out, err = typed(*fewer, "data.pairs.pasword=hunter2")
    assert code == 2 and "pasword" in err and "hunter2" not in err + out
    code, out, err = typed(*fewer, "data.pairs.sql=DROP TABLE x")
    assert code == 2 and out == "" and "SELECT" in err and "Traceback" not in err


# --- estimates ----------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(world, tmp_path, monkeypatch):
    from test_cli import CONFIG

    pq.write_table(world[0], tmp_path / "pairs.parquet")
    pq.write_table(world[1], tmp_path / "things.parquet")
    (tmp_path / "x.toml").write_text(CONFIG.replace("pairs.csv", "pairs.parquet"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dry_run_says_what_it_would_take_and_trains_nothing(desk, typed):
    code, out, _ = typed("train", "x.toml", "-o", "run", "--dry-run", "--json", "--set", "model.dimensions=32")
    assert code == 0 and not (desk / "run").exists()
    told = json.loads(out)
    assert (told["pairs"], told["queries"], told["items"], told["batches"], told["epochs"]) == (320, 400, 36, 5, 1)
    assert told["epoch_seconds"] == pytest.approx(5 * told["step_seconds"])
    assert 0 < told["step_seconds"] < 1 and 0 < told["catalogue_seconds"] < 5
    rows = sum(told["tables"].values()) / (4 * 32)
    assert rows == int(rows) and 100 < rows <= 2 * 4096
    assert told["memory"] > 2 * sum(told["tables"].values())
    assert told["prepared_bytes"] == sum(path.stat().st_size for path in (desk / "prepared").rglob("*") if path.is_file())
    # What is prepared is found again, and the bundle is about as large as was said.
    before = sorted(path.name for path in (desk / "prepared").iterdir())
    assert typed("train", "x.toml", "-o", "run", "--set", "model.dimensions=32")[0] == 0
    assert sorted(path.name for path in (desk / "prepared").iterdir()) == before
    weights = (desk / "run/bundle/model/weights.safetensors").stat().st_size
    assert weights == pytest.approx(sum(told["tables"].values()) + told["parameters"], rel=0.05)
    assert told["run_bytes"] > 2 * weights
    assert typed("train", "x.toml", "-o", "run", "--dry-run")[0] == 0


def test_a_dry_run_names_what_it_leaves_out(desk, typed):
    plain = typed("train", "x.toml", "--dry-run")
    code, out, _ = typed("train", "x.toml", "--dry-run", "--set", "train.mined=2")
    assert plain[0] == code == 0
    assert "mining hard negatives" in out and "mining" not in plain[1]


def test_what_cannot_fit_is_refused_before_training(desk, typed, monkeypatch):
    monkeypatch.setattr("twotower.runs.estimates.available_memory", lambda: 50 << 20)
    code, out, err = typed("train", "x.toml", "-o", "run", "--set", "model.dimensions=8192")
    assert code == 2 and out == "" and "Traceback" not in err
    assert "GB are free" in err and "dimensions" in err and "buckets" in err
    assert not (desk / "run").exists()
    assert typed("train", "x.toml", "-o", "run")[0] == 0


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--dry-run", "--resume", "-o", "run"), "--dry-run"),
        (("--dry-run", "--overwrite"), "--dry-run"),
        (("--set", "model.body=custom", "-o", "run"), "only Python can pass"),
        (("--set", "model.body=mpl", "-o", "run"), "none of"),
        (("--set", "train.non_matches=-1", "-o", "run"), "non_matches"),
        (("--set", "train.query_rate=0", "-o", "run"), "query_rate"),
        (("--set", "train.pretrained_learning_rate=0.1", "-o", "run"), "tune"),
        (("--set", "pairs.label=stars", "-o", "run"), "stars"),
        (("--set", "split.by=time", "-o", "run"), "time"),
        (("--set", "split.by=files", "-o", "run"), "test"),
        (("--set", "data.queries=nowhere.csv", "-o", "run"), "nowhere.csv"),
        (("--set", "query.features=[{ type = 'history' }]", "-o", "run"), "whose"),
        (("--set", "query.features=[{ type = 'history', pool = 'attention' }]", "--set", "query.key=asked", "-o", "run"), "times"),
        (("--set", "query.features=[{ type = 'history', items = 'ids' }]", "--set", "query.key=asked", "-o", "run"), "ids"),
        (("--set", "evaluate.baselines=['knn']", "-o", "run"), "item_knn"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else each,
)
def test_every_mistake_in_a_config_is_one_clear_error(desk, typed, arguments, said):
    code, out, err = typed("train", "x.toml", *arguments)
    assert code == 2 and out == "" and "Traceback" not in err
    assert said in err.partition("twotower: ")[2]
    assert not (desk / "run").exists() or not any((desk / "run").iterdir())


def test_data_that_cannot_work_stop_a_run_before_it_begins(desk, typed):
    pq.write_table(pa.table({"asked": [f"words n{n}" for n in range(50)], "thing": [1000] * 50}), desk / "pairs.parquet")
    code, out, err = typed("train", "x.toml", "-o", "run")
    assert code == 2 and out == "" and "Traceback" not in err
    assert err.count("twotower: ") == 1 and "item" in err.partition("twotower: ")[2]
    assert not (desk / "run").exists()
    typed("check", "x.toml")
    assert typed("check", "x.toml")[0] == 3  # the same finding
