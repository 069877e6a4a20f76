"""Training again: what was known is encoded the same and has the same vectors, rows are matched by what they stand for, resume is exact."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import twotower as tt
from conftest import WORLD_CONFIG, planted_world
from test_features import CASES, counted, learnt, same
from test_training import all_of, assert_same
from twotower.bundle import layout
from twotower.config import from_values
from twotower.data.columns import Ragged, row_count
from twotower.data.features import FEATURES, Number, Pieces, Text, Time, Vector
from twotower.data.hashes import hash_texts
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import BundleError, ConfigError, DataError
from twotower.learning import training
from twotower.learning.inheritance import inherit
from twotower.learning.moving import tables
from twotower.model.layers import text_table
from twotower.model.optimizers import TABLES
from twotower.model.towers import build
from twotower.runs.progress import Progress
from twotower.runs.run import Stopped

# --- states -------------------------------------------------------------------------------------------------------

NEXT = {  # what comes a week later: other values, some of them new, most of the old ones gone
    "id": ["new", "y", "0", "newer", None],
    "category": ["new", "y", "0"],
    "categories": [["new", "y"], ["0"], None],
    "number": [1e9, 7.0, None],
    "time": ["2031-01-01", None],
    "vector": [[9.0, -9.0], [100.0, 0.0]],
    "text": ["a blue coat", "red coat", None],
    "history": [["new", "y"]],
    "pieces": ["unheard words", "red"],
}
WEIGHED = ["new:2|y:1", "0:1"]
STATES = CASES | {"pieces": (Pieces(column="a", vocabulary=64, width=8), ["red shoe", "Red hat!", None, "", "blue"], ["x"])}


def meant(feature, encoded, state):
    """What was encoded, with the known names by their hashes, where they are numbered."""
    if "hashes" not in state:
        return encoded
    values = encoded.values if isinstance(encoded, Ragged) else encoded
    codes = (values[:, 0] if values.ndim == 2 else values).astype(np.int64)
    known = codes >= feature.first_known
    names = np.where(known, state["hashes"][np.where(known, codes - feature.first_known, 0)], codes.astype(np.uint64))
    return [names.tolist(), values[:, 1:].tolist() if values.ndim == 2 else None]


@pytest.mark.parametrize("name", STATES)
def test_what_was_encoded_is_encoded_the_same(name):
    """For every kind of feature, and though most of what it learnt of has left the log."""
    feature, values, _ = STATES[name]
    column = pa.array(values)
    newer = pa.array(WEIGHED if "weighted" in name else NEXT[feature.type])
    old = learnt(feature, column)
    merged = feature.fit([counted(newer)], old)
    assert merged.keys() == old.keys()
    assert all(merged[part].dtype == old[part].dtype for part in old)
    before, after = feature.encode(column, old), feature.encode(column, merged)
    if "hashes" not in old:
        assert same(before, after)
    else:
        # What was unknown may be known now; nothing else changes.
        codes = [np.asarray(one.values if isinstance(one, Ragged) else one) for one in (before, after)]
        codes = [one[:, 0] if one.ndim == 2 else one for one in codes]
        kept = (codes[0] == 0) | (codes[0] >= feature.first_known)
        named = [np.array(meant(feature, one, state)[0]) for one, state in ((before, old), (after, merged))]
        assert kept.any() and np.array_equal(named[0][kept], named[1][kept])
        assert set(old["hashes"]) <= set(merged["hashes"]) and np.all(np.diff(merged["hashes"].astype(float)) > 0)
    assert row_count(feature.encode(newer, merged)) == len(newer)
    # Nothing new changes nothing.
    again = feature.fit([counted(column)], old)
    assert all(np.array_equal(again[part], old[part]) for part in old)


def test_every_kind_of_feature_is_tried_here():
    assert {feature.type for feature, _, _ in STATES.values()} == set(FEATURES) - {"pretrained"}  # which has a test in test_pretrained.py


def test_new_names_are_learnt_and_need_their_minimum():
    feature = CASES["id"][0]
    old = learnt(feature, ["a", "b"])
    assert set(feature.fit([counted(["c", "a"])], old)["hashes"]) == set(hash_texts(["a", "b", "c"]))
    rare = replace(feature, minimum=2)
    assert set(rare.fit([counted(["c", "d", "d"])], old)["hashes"]) == set(hash_texts(["a", "b", "d"]))


def test_statistics_stay():
    assert Number(column="a").fit([counted([100.0])], {"moments": np.array([1.0, 2.0])})["moments"].tolist() == [1.0, 2.0]
    old = learnt(Time(column="a"), ["2024-01-01", "2024-01-03"])
    assert np.array_equal(Time(column="a").fit([counted(["2030-01-01"])], old)["age"], old["age"])


def test_words_keep_their_weight_and_new_ones_get_that_of_their_share():
    """In 4 texts `red` stood twice; in 8 others `coat` stands four times, so it weighs as what stood in 2 of the first 4."""
    feature = Text(column="a", buckets=4096, pairs=False, pieces=())
    old = learnt(feature, ["red hat", "red shoe", "hat", "shoe"])
    merged = feature.fit([counted(["coat", "coat", "coat", "coat", "red", "red", "red", "once"])], old)
    scale = {}
    for name, state in (("old", old), ("merged", merged)):
        table = text_table([(feature, state)], 8)
        words = feature.encode(pa.array(["red", "hat", "shoe", "coat", "once"]), state).values
        scale[name] = table.scale[table.row_of[torch.as_tensor(words.astype(np.int64))].long()].tolist()
    assert scale["merged"][:3] == scale["old"][:3]
    assert scale["old"][3:] == [0.0, 0.0]
    assert scale["merged"][3] == pytest.approx(np.sqrt(np.log(5 / 2.5)))
    assert scale["merged"][4] == pytest.approx(np.sqrt(np.log(5 / 1.5)))


def test_vectors_where_there_were_none_are_refused():
    feature = Vector(column="a")
    nothing = learnt(feature, pa.array([None, None], pa.list_(pa.float32())))
    with pytest.raises(DataError, match="held none"):
        feature.encode(pa.array([[1.0, 2.0]]), feature.fit([counted([[1.0, 2.0]])], nothing))


# --- two weeks of a world with a column of every kind ---------------------------------------------------------------

ITEM_KINDS = {
    "id": {"column": "thing", "type": "id"},
    "id of few": {"column": "thing", "type": "id", "minimum": 3, "buckets": 2, "dropout": 0.3},
    "category": {"column": "shape", "type": "category"},
    "categories": {"column": "tags", "type": "categories", "table": "tags"},
    "number": {"column": "price", "type": "number"},
    "time": {"column": "made", "type": "time"},
    "vector": {"column": "image", "type": "vector", "scale": "standard"},
    "text": {"column": "title", "type": "text", "buckets": 4096},
    "pieces": {"column": "title", "type": "pieces", "vocabulary": 64, "width": 16, "length": 8},
}
USER = {"column": "user", "type": "id"}
QUERY_KINDS = {
    "id": [USER],
    "history": [USER, {"type": "history", "items": "ids", "pool": "attention"}],
    "history by tower": [{"type": "history", "pool": "transformer", "heads": 1, "layers": 1}],
    "text": [{"column": "asked", "type": "text", "buckets": 4096}],
    "tags": [USER, {"column": "wanted", "type": "categories", "table": "tags"}],
}


def week(number):
    """(pairs, items): in the second week some users, items, words and tags are new and some gone, and the order is another."""
    generator = np.random.default_rng(number)
    items = list(generator.permutation(np.arange(0, 16) if number == 0 else np.arange(4, 24)))
    words = ["red", "blue", "green", "grey"][: 3 + number]
    catalogue = {
        "thing": [int(item) for item in items],
        "shape": [f"s{item % (3 + number)}" for item in items],
        "tags": [[f"t{item % 5}", f"t{(item + 1 + number) % 7}"] for item in items],
        "price": [float(item * item) + number for item in items],
        "made": [f"20{20 + number}-01-{item + 1:02d}" for item in items],
        "image": [[float(item), 1.0 + item % 3, -float(item % 4)] for item in items],
        "title": [f"{words[item % len(words)]} thing no{item}" for item in items],
    }
    if number == 1:  # what was there before has not changed
        first = week(0)[1].to_pydict()
        known = {thing: row for row, thing in enumerate(first["thing"])}
        for row, item in enumerate(items):
            for name in catalogue if int(item) in known else ():
                catalogue[name][row] = first[name][known[int(item)]]
    rows = []
    for moment in range(240):
        user = int(generator.integers(0, 12) if number == 0 else generator.integers(6, 20))
        item = items[(user * 3 + int(generator.integers(0, 4))) % len(items)]
        texts = f"user{user} wants {words[item % len(words)]}"
        rows.append({"user": user, "thing": int(item), "asked": texts, "wanted": [f"t{item % 5}"], "moment": number * 1000 + moment})
    return pa.Table.from_pylist(rows), pa.table(catalogue)


def config_of(query, item, **model):
    return from_values(
        {
            "pairs": {"time": "moment", "repeats": "keep"},
            "query": {"key": "user", "features": query},
            "item": {"id": "thing", "features": item},
            "split": {"by": "last"},
            "model": {"dimensions": 8, **model},
            "train": {"epochs": 2, "batch_size": 32, "again": 1.0, "warmup": 0.0},
            "evaluate": {"metrics": ["hit@10"]},
        }
    )


def prepared_week(number, config, cache, last=None):
    pairs, items = week(number)
    return prepare(open_source(pairs, "pairs"), open_source(items, "items"), config.schema, config.split, cache, last=last)


def begun(prepared, config):
    data = training.data_of(prepared, config.train, config.evaluate)
    return training.start(build(prepared.encoder, config.model, config.train.seed), data, config.train), data


def two_weeks(config, cache, train=True):
    """(prepared of week one, its trained state, prepared of week two, a state that inherits, what was inherited)."""
    first = prepared_week(0, config, cache)
    last, data = begun(first, config)
    if train:
        training.fit(last, data, config.train, config.evaluate)
    second = prepared_week(1, config, cache, first.encoder)
    state, _ = begun(second, config)
    return first, last, second, state, inherit(state, second.encoder, last, first.encoder)


def vectors_of(prepared, state, side, rows):
    """What a state's tower makes of raw rows; histories are those of the rows' ids, by the tower's or the table's own."""
    encoded = prepared.encoder.encode(side, rows, strict=False, logged=False)
    for feature in prepared.encoder.features[side]:
        if feature.type == "history":
            named = prepared.encoder.encode("item", week(0)[1].slice(0, 3), strict=False)
            codes = np.tile(named["thing:id"], len(rows))
            offsets = np.arange(len(rows) + 1) * 3
            if feature.items == "ids":
                encoded["history:history"] = Ragged(codes, offsets)
            else:
                made = state.model.encode("item", named).numpy()
                encoded["history:history"] = Ragged(np.tile(made, (len(rows), 1)), offsets)
    return state.model.encode(side, encoded).numpy()


CASES_OF_VECTORS = [(kind, "text") for kind in ITEM_KINDS] + [("id", kind) for kind in QUERY_KINDS if kind != "tags"] + [("categories", "tags")]


@pytest.mark.parametrize("body", ["none", "cross"])
@pytest.mark.parametrize(("item", "query"), CASES_OF_VECTORS)
def test_what_was_known_keeps_its_vectors(tmp_path, item, query, body):
    """Before the first step, for every kind of feature; and training did move them before."""
    features = [ITEM_KINDS[item]] + ([ITEM_KINDS["text"]] if item != "text" else [ITEM_KINDS["id"]])
    config = config_of(QUERY_KINDS[query], features, body=body)
    first, last, second, state, told = two_weeks(config, tmp_path)
    assert told.known > 0 and told.new > 0 and told.moments
    unmoved, _ = begun(first, config)
    asked = week(0)[0].slice(0, 40)
    for side, rows in (("item", week(0)[1]), ("query", asked)):
        before, after = vectors_of(first, last, side, rows), vectors_of(second, state, side, rows)
        np.testing.assert_allclose(after, before, atol=1e-6)
        assert np.abs(before - vectors_of(first, unmoved, side, rows)).max() > 1e-3
    assert state.model.temperature == last.model.temperature != pytest.approx(config.model.temperature, abs=1e-9)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_rows_and_what_is_remembered_of_them_are_matched_by_name(tmp_path, optimizer):
    """New hashes stand between the old ones, so that every row has another number; rates are others, so that groups of weights are."""
    config = config_of(QUERY_KINDS["history"], [ITEM_KINDS["id"], ITEM_KINDS["text"]], body="cross")
    config = replace(config, train=replace(config.train, table_optimizer=optimizer))
    first, last, second, _, _ = two_weeks(config, tmp_path)
    state, _ = begun(second, replace(config, train=replace(config.train, query_rate=0.5, item_rate=2.0)))
    inherit(state, second.encoder, last, first.encoder)
    name = "query.layers.0.table"
    numbers = [one.encoder.states["query"]["user:id"]["hashes"] for one in (first, second)]
    assert numbers[0].tolist() != numbers[1][: len(numbers[0])].tolist()
    old, new = tables(last.model)[name], tables(state.model)[name]
    for row, named in enumerate(numbers[1]):
        place = np.flatnonzero(numbers[0] == named)
        for part, remembered in state.moments[name].items():
            own = remembered[2 + row]
            assert torch.equal(own, last.moments[name][part][2 + int(place[0])] if len(place) else torch.zeros_like(own))
        if len(place):
            assert torch.equal(new.weight[2 + row], old.weight[2 + int(place[0])])
            assert (state.moments[name]["squares"][2 + row] > 0) == (last.moments[name]["squares"][2 + int(place[0])] > 0)
    assert any(moment.any() for moment in state.moments[name].values())
    theirs = dict(last.model.named_parameters())
    carried = 0
    for parameter_name, parameter in state.model.named_parameters():
        for part, remembered in state.optimizer.state.get(parameter, {}).items():
            assert torch.equal(remembered, last.optimizer.state[theirs[parameter_name]][part])
            carried += part == "exp_avg" and bool(remembered.any())
    assert carried > 5


def test_of_sums_that_only_grow_a_tenth_is_carried(tmp_path):
    assert {name: optimizer.kept for name, optimizer in TABLES.items()} == {"adagrad": 0.1, "adam": 1.0}
    config = config_of(QUERY_KINDS["id"], [ITEM_KINDS["id"], ITEM_KINDS["text"]])
    first, last, second, whole, _ = two_weeks(config, tmp_path)
    state, _ = begun(second, config)
    inherit(state, second.encoder, last, first.encoder, 0.1)
    for name, kept in state.moments.items():
        assert torch.allclose(kept["squares"], 0.1 * whole.moments[name]["squares"])
    assert any(kept["squares"].any() for kept in state.moments.values())


def test_another_optimiser_of_tables_begins_anew(tmp_path):
    config = config_of(QUERY_KINDS["id"], [ITEM_KINDS["id"], ITEM_KINDS["text"]])
    first, last, second, _, _ = two_weeks(config, tmp_path)
    state, _ = begun(second, replace(config, train=replace(config.train, table_optimizer="adam")))
    assert not inherit(state, second.encoder, last, first.encoder).moments
    assert not any(part.any() for kept in state.moments.values() for part in kept.values())


def test_a_new_id_starts_from_its_content(tmp_path):
    """As the last model took it: by what is said of it, and as an id that it does not know."""
    for name in ("id", "id of few"):
        config = config_of(QUERY_KINDS["text"], [ITEM_KINDS[name], ITEM_KINDS["text"]])
        first, last, second, state, _ = two_weeks(config, tmp_path)
        titles = week(0)[1]["title"].to_pylist()[:4]
        strangers = pa.table({"thing": [20, 21, 22, 23], "title": titles})
        hashes = [set(one.encoder.states["item"]["thing:id"]["hashes"]) for one in (first, second)]
        assert set(hash_texts(["20", "21", "22", "23"])) <= hashes[1] - hashes[0]
        np.testing.assert_allclose(vectors_of(second, state, "item", strangers), vectors_of(first, last, "item", strangers), atol=1e-6)


def test_models_that_are_built_differently_do_not_fit(tmp_path):
    config = config_of(QUERY_KINDS["id"], [ITEM_KINDS["id"], ITEM_KINDS["text"]])
    first = prepared_week(0, config, tmp_path)
    for other in ({"dimensions": 4}, {"body": "residual"}):
        with pytest.raises(ConfigError, match=r"built differently.*anew"):
            inherit(begun(first, replace(config, model=replace(config.model, **other)))[0], first.encoder, begun(first, config)[0], first.encoder)


def test_a_fixed_temperature_stays_what_it_is(tmp_path):
    config = config_of(QUERY_KINDS["id"], [ITEM_KINDS["id"], ITEM_KINDS["text"]])
    first, last, second, _, _ = two_weeks(config, tmp_path)
    fixed = replace(config, model=replace(config.model, temperature=0.3, learn_temperature=False))
    state, _ = begun(second, fixed)
    inherit(state, second.encoder, last, first.encoder)
    assert state.model.temperature == pytest.approx(0.3)


def test_the_prepared_folder_is_of_the_last_states(tmp_path):
    config = config_of(QUERY_KINDS["id"], [ITEM_KINDS["id"]])
    first = prepared_week(0, config, tmp_path)
    fresh, after = prepared_week(1, config, tmp_path), prepared_week(1, config, tmp_path, first.encoder)
    assert fresh.folder != after.folder == prepared_week(1, config, tmp_path, first.encoder).folder
    assert prepared_week(1, config, tmp_path, fresh.encoder).folder not in (fresh.folder, after.folder)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_world():
    """Next week's log of the planted world: a topic has one more item, whose words are new, and most queries are new."""
    return planted_world(seed=7, queries=300, items_per_topic=3)


@pytest.fixture(scope="module")
def continued(world_folder, second_world, tmp_path_factory):
    """(what it told, the run of next week's log on the world's model)."""
    told = []
    folder = tmp_path_factory.mktemp("again") / "run"
    settings = ["train.again=0.3", "train.epochs=7"]
    run = tt.train(*second_world, config=WORLD_CONFIG, settings=settings, output=folder, last=world_folder, progress=Progress(stage=told.append))
    return told, run


def test_a_run_says_from_which_model_it_was_made(continued, world_folder):
    told, run = continued
    fingerprint = tt.load(world_folder).bundle.fingerprint
    assert run.metrics["training"]["from"] == fingerprint
    assert fingerprint[:16] in (run.folder / "bundle" / "model" / "card.md").read_text()
    assert json.loads((run.folder / "bundle" / "model" / "metrics.json").read_text())["training"]["from"] == fingerprint
    assert layout.describe(run.retriever.bundle)["continues"] == fingerprint[:16]
    assert "continues" not in layout.describe(tt.load(world_folder).bundle)
    line = next(text for text in told if "going on from" in text)
    assert fingerprint[:16] in line and "2 epochs" in line and "new" in line
    assert run.metrics["training"]["steps"] <= 2 * 4
    assert not (run.folder / "last").exists()


def test_training_again_knows_both_weeks(tmp_path):
    """Half of the world's items are in each week's log: after the second, one model finds all of them, and a cold start does not."""
    pairs, items = planted_world(queries=800)
    number = np.array(pairs["thing"].to_pylist()) - 1000
    of_week = [pairs.filter(pa.array(part)) for part in (number % 12 < 8, number % 12 >= 4)]
    config = WORLD_CONFIG | {"train": WORLD_CONFIG["train"] | {"again": 0.5, "epochs": 8}}
    first = tt.train(of_week[0], items, config=config, output=tmp_path / "first")
    again = tt.train(of_week[1], items, config=config, output=tmp_path / "again", last=tmp_path / "first")
    cold = tt.train(of_week[1], items, config=config, output=tmp_path / "cold")
    gone = pairs.filter(pa.array(number % 12 < 4)).slice(0, 100)

    def found(run):
        hits = run.retriever.search(gone.select(["asked"]), k=3, mode="vectors").ids
        return np.mean([int(thing) in row for row, thing in zip(hits.tolist(), gone["thing"].to_pylist(), strict=True)])

    assert again.metrics["model"]["hit@10"]["value"] > 0.9
    assert found(first) > 0.9
    assert found(again) > 0.9 > 0.5 > found(cold)


def test_to_change_nothing_may_be_best(world_folder, world, tmp_path):
    """Steps that ruin what was known leave the last model."""
    run = tt.train(*world, config=WORLD_CONFIG, settings=["train.table_learning_rate=1000.0"], output=tmp_path / "run", last=world_folder)
    assert run.metrics["training"]["best_epoch"] == 0
    assert run.metrics["training"]["steps"] > 0
    np.testing.assert_allclose(run.retriever.vectors, tt.load(world_folder).vectors, atol=1e-6)
    history = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert history[0]["epoch"] == 1


def test_a_bundle_gives_its_weights_alone(world_folder, second_world, tmp_path, no_export):
    told = []
    with pytest.raises(no_export):
        tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", last=world_folder / "bundle", progress=Progress(stage=told.append))
    assert "optimiser begins anew" in next(text for text in told if "going on from" in text)


@pytest.fixture
def no_export(monkeypatch):
    """Breaks off a run where its export would begin; the exception to expect."""

    class BrokenOffError(Exception):
        pass

    def broken(*_):
        raise BrokenOffError

    monkeypatch.setattr("twotower.exports.towers.write_model", broken)
    return BrokenOffError


def test_resume_of_a_run_begun_from_another_is_exact(world_folder, second_world, tmp_path, no_export, monkeypatch):
    """Bit for bit, and without the run that it was begun from: this one is gone, and so are the prepared data."""
    last = tmp_path / "last"
    shutil.copytree(world_folder, last)
    settings = ["train.again=0.5", "train.epochs=6"]

    def run(folder, **given):
        seen = []
        real = training.fit

        def noted(state, *arguments, **named):
            seen.append(state)
            return real(state, *arguments, **named)

        monkeypatch.setattr(training, "fit", noted)
        try:
            with pytest.raises((no_export, Stopped)):
                tt.train(*second_world, config=WORLD_CONFIG, settings=settings, output=tmp_path / folder, **given)
        finally:
            monkeypatch.setattr(training, "fit", real)
        return seen[0]

    straight = run("a/straight", last=last, progress=Progress())
    events = []

    def stop(event):
        events.append(event)
        if len(events) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = run("b/stopped", last=last, progress=Progress(training=stop))
    assert 0 < stopped.step < straight.step
    shutil.rmtree(last)
    shutil.rmtree(tmp_path / "b" / "prepared")
    resumed = run("b/stopped", resume=True, progress=Progress())
    assert_same(straight, resumed)
    assert all_of(resumed)[2][2] > stopped.step


def test_a_run_stopped_before_its_first_step_can_be_resumed(world_folder, second_world, tmp_path, no_export, monkeypatch):
    class KilledError(Exception):
        pass

    def killed(*_, **__):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training, "fit", killed)
        with pytest.raises(KilledError):
            tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", last=world_folder, progress=Progress())
    told = []
    with pytest.raises(no_export):
        tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", resume=True, progress=Progress(training=told.append))
    assert told[0].epoch == 0 and not hasattr(told[0], "step")  # what the last model is worth
    assert told[1].step == 1 and told[1].epochs == 1


def test_resuming_names_the_model_that_it_was_begun_from(world_folder, continued, world, second_world, tmp_path, no_export):
    with pytest.raises(no_export):
        tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", last=world_folder, progress=Progress())
    with pytest.raises(ConfigError, match="begun from another model"):
        tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", last=continued[1].folder, resume=True, progress=Progress())
    with pytest.raises(no_export):
        tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", last=world_folder, resume=True, progress=Progress())
    with pytest.raises(no_export):
        tt.train(*world, config=WORLD_CONFIG, output=tmp_path / "cold", progress=Progress())
    with pytest.raises(ConfigError, match="begun from nothing"):
        tt.train(*world, config=WORLD_CONFIG, output=tmp_path / "cold", last=world_folder, resume=True, progress=Progress())


def test_after_training_again_one_trains_again(continued, second_world, tmp_path, no_export):
    told = []
    with pytest.raises(no_export):
        tt.train(*second_world, config=WORLD_CONFIG, output=tmp_path / "run", last=continued[1].folder, progress=Progress(stage=told.append))
    assert " 0 new" in next(text for text in told if "going on from" in text)  # the same log again


OTHERS = {
    "features": ({"query": {"features": [{"column": "asked", "type": "pieces"}]}}, r"\[query\] features were asked:text and are asked:pieces"),
    "an option of one": (
        {"query": {"features": [{"column": "asked", "type": "text", "buckets": 512}]}},
        r"\[query\] asked:text had buckets = 4096 and has 512",
    ),
    "dimensions": ({"model": {"dimensions": 16}}, r"dimensions was 32 and is 16"),
    "body": ({"model": {"dimensions": 32, "body": "linear"}}, r"body was 'none' and is 'linear'"),
    "similarity": ({"model": {"dimensions": 32, "similarity": "dot"}}, r"similarity was 'cosine' and is 'dot'"),
    "tables": ({"model": {"dimensions": 32, "shared_tables": False}}, r"shared_tables was True and is False"),
    "temperature": ({"model": {"dimensions": 32, "temperature": 0.2}}, r"temperature began at 0.1 and is 0.2"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_kind_of_model_is_refused_with_what_differs(world, world_folder, tmp_path, case):
    other, said = OTHERS[case]
    with pytest.raises(ConfigError, match=said) as error:
        tt.train(*world, config=WORLD_CONFIG | other, output=tmp_path / "run", last=world_folder)
    assert "start anew" in str(error.value) and str(world_folder) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_decides_no_weight_may_differ(second_world, world_folder, tmp_path, no_export):
    query = {"features": [{"column": "asked", "type": "text", "buckets": 4096, "dropout": 0.1}]}
    settings = ["train.batch_size=32", "train.loss=bpr", "train.learning_rate=0.01", "split.test=0.2", "model.feature_dropout=0.1", "train.seed=4"]
    with pytest.raises(no_export):
        tt.train(
            *second_world, config=WORLD_CONFIG | {"query": query}, settings=settings, output=tmp_path / "run", last=world_folder, progress=Progress()
        )


def test_what_cannot_be_gone_on_from_is_said(world, world_folder, tmp_path):
    def refused(last, said, **given):
        with pytest.raises((BundleError, ConfigError), match=said):
            tt.train(*world, config=WORLD_CONFIG, last=last, **({"output": tmp_path / "run"} | given))
        assert not (tmp_path / "run").exists()

    refused(tmp_path / "nowhere", "there is no")
    (tmp_path / "desk").mkdir()
    refused(tmp_path / "desk", "neither a bundle nor a run")
    copy = tmp_path / "copy"
    shutil.copytree(world_folder, copy)
    refused(copy, "cannot be the one to write", output=copy, overwrite=True)
    (copy / "metrics.json").unlink()
    refused(copy, r"did not finish.*--resume")
    shutil.rmtree(copy / "bundle")
    refused(copy, r"did not finish.*--resume")


@pytest.mark.parametrize("name", ["bundle/model/weights.safetensors", "bundle/model/states.safetensors", "checkpoint.safetensors"])
def test_a_damaged_run_is_named(world, world_folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(world_folder, copy)
    path = Path(copy / name)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(BundleError, match=path.name):
        tt.train(*world, config=WORLD_CONFIG, last=copy, output=tmp_path / "run", progress=Progress())
    assert not (tmp_path / "run" / "config.toml").exists()


def test_dry_run_estimates_what_again_takes(world, world_folder, tmp_path):
    given = {"pairs": world[0], "items": world[1], "output": tmp_path / "run"}
    assert tt.runs.estimate(WORLD_CONFIG, last=world_folder, **given).epochs < tt.runs.estimate(WORLD_CONFIG, **given).epochs
