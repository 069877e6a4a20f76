"""Whether newer pairs ask for training again: nothing for a week like launch, a reason for one that is not, and what cannot be said is said."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import twotower as tt
from twotower import files
from twotower.app.reports.drifted import drifted
from twotower.app.reports.markdown import markdown
from twotower.bundle import layout
from twotower.bundle.loading import load
from twotower.data.prepared import ID, open_prepared
from twotower.data.splits import TEST
from twotower.errors import ConfigError, DataError
from twotower.runs.launch import NOTHING

USERS, ITEMS, KINDS = 240, 48, 6
CONFIG = {
    "query": {
        "key": "user",
        "features": [{"column": "user", "type": "id"}, {"column": "country", "type": "category"}, {"column": "age", "type": "number"}],
    },
    "item": {"id": "thing", "features": [{"column": "thing", "type": "id"}, {"column": "kind", "type": "category"}]},
    "split": {"by": "random", "test": 0.25, "validation": 0.1},
    "model": {"dimensions": 16},
    "train": {"epochs": 6, "batch_size": 128},
    "evaluate": {"metrics": ["hit@1", "ndcg@10"], "select": "ndcg@10", "baselines": []},
}


def week(seed, pairs=1500, turned=0, countries=("de", "fr", "it"), new_items=0.0, strangers=0.0):
    """Who takes what: users of a kind mostly take things of that kind. turned: how many kinds further all tastes have moved."""
    generator = np.random.default_rng(seed)
    users = np.minimum(generator.geometric(0.008, pairs) - 1, USERS - 1)
    kinds = np.where(generator.random(pairs) < 0.85, (users + turned) % KINDS, generator.integers(0, KINDS, pairs))
    things = kinds + KINDS * np.minimum(generator.geometric(0.35, pairs) - 1, ITEMS // KINDS - 1)
    named = np.where(generator.random(pairs) < new_items, 900 + things, things)
    who = np.where(generator.random(pairs) < strangers, 9000 + users, users)
    where = np.array(countries)[users % len(countries)]
    return pa.table({"user": who, "country": where, "age": 20.0 + users % 37, "thing": [f"t{thing}" for thing in named]})


CATALOGUE = pa.table({"thing": [f"t{n}" for n in range(ITEMS)], "kind": [f"k{n % KINDS}" for n in range(ITEMS)]})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tt.train(week(0, 4000), CATALOGUE, config=CONFIG, output=tmp_path_factory.mktemp("drift") / "run")


@pytest.fixture(scope="module")
def like(run):
    return tt.drift(run.folder, week(1))


def held_out(run):
    """The pairs of the test part, as a file of new pairs would hold them."""
    prepared = open_prepared(run.folder.parent / "prepared" / files.read_json(run.folder / "prepared.json")["folder"])
    log = prepared.part(TEST)
    ids = prepared.items.column(ID).take(pa.array(log.item_rows))
    table = prepared.queries.take(pa.array(log.query_rows))
    return table.append_column("thing", ids), prepared, log


def without_launch(bundle, place, **metrics):
    """The same bundle as an earlier version would have written it."""
    shutil.copytree(bundle, place)
    told = json.loads((place / "model" / "manifest.json").read_text())
    for name in ("launch.json", "asked.npy", "manifest.json"):
        (place / "model" / name).unlink()
    if metrics:
        own = json.loads((place / "model" / "metrics.json").read_text())
        own["evaluation"] |= metrics
        (place / "model" / "metrics.json").write_text(json.dumps(own))
    facts = {name: told[name] for name in ("dimensions", "similarity", "search", "calibration", "query_text", "schema")}
    segments = layout.open_bundle(bundle).segments
    fingerprint = layout.seal_model(place / "model", **facts)
    shutil.rmtree(place / "catalogue")
    shutil.rmtree(place / "segments")
    layout.write_catalogue(place, fingerprint, segments[0])
    return place


# --- what a bundle keeps ------------------------------------------------------------------------------------------


def test_figures_of_launch_are_those_that_the_bundle_makes_of_the_same_pairs(run):
    table, _, _ = held_out(run)
    launch = files.read_json(run.folder / "bundle" / "model" / "launch.json")
    found, _ = tt.evaluate(run.retriever, table)
    assert set(found.figures) == set(launch["figures"])
    for name, figure in found.figures.items():
        assert launch["figures"][name]["value"] == pytest.approx(float(figure.value), abs=1e-6)
    # What training left out cannot be left out now: the run's own figures are of easier rankings.
    assert run.metrics["model"]["ndcg@10"]["value"] > 1.1 * launch["figures"]["ndcg@10"]["value"]


def test_nothing_has_moved_from_the_very_pairs_of_launch(run):
    told = tt.drift(run.folder, held_out(run)[0])
    assert not told.pays and told.verdict == "keep" and not told.lacking
    assert all(abs(float(each.difference.value)) < 1e-6 for each in told.figures.values())
    items = told.moved.pop(next(n for n, each in enumerate(told.moved) if each.name.startswith("item")))
    assert items.distance == pytest.approx(items.before)
    assert all(each.distance == pytest.approx(0, abs=1e-9) and each.p_value == 1 for each in told.moved) and len(told.moved) == 3
    for rate in told.rates:
        assert float(rate.now.value) == pytest.approx(float(rate.launch.value), abs=1e-9)
    assert float(told.told_apart.value) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("unlisted", ["drop", "keep"])
def test_items_that_the_catalogue_lacks_are_counted_alike(tmp_path, unlisted):
    """Most events are none that is learnt from; of the others a fifth names what the catalogue lacks, then as now (repeats are merged now)."""
    table = week(2, 900, new_items=0.2)
    table = table.append_column("event", pa.array(["buy" if n % 3 == 0 else "look" for n in range(900)]))
    config = CONFIG | {
        "pairs": {"event": "event", "event_weights": {"buy": 1.0}},
        "item": CONFIG["item"] | {"unlisted": unlisted},
        "train": {"epochs": 1, "batch_size": 64},
    }
    run = tt.train(table, CATALOGUE, config=config, output=tmp_path / "run")
    launch = files.read_json(run.folder / "bundle" / "model" / "launch.json")["lacking"]
    (rate,) = [each for each in tt.drift(run.folder, table).rates if "catalogue" in each.name]
    assert float(rate.now.value) == (pytest.approx(launch, abs=0.05) if unlisted == "drop" else 0.0)
    assert (0.15 < launch < 0.25) if unlisted == "drop" else launch == 0


def test_histories_are_measured_alike(tmp_path):
    rows = [{"user": u, "item": f"i{(u + n) % 20}", "at": 10 * n + u % 7} for u in range(60) for n in range(6)]
    config = {
        "pairs": {"time": "at"},
        "query": {"key": "user", "features": [{"type": "history", "last": 4}]},
        "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
        "split": {"by": "last"},
        "model": {"dimensions": 16},
        "train": {"epochs": 2, "batch_size": 64},
        "evaluate": {"baselines": []},
    }
    run = tt.train(rows, config=config, output=tmp_path / "run")
    last = [{"user": u, "item": f"i{(u + 5) % 20}", "history": [f"i{(u + n) % 20}" for n in range(1, 5)]} for u in range(60)]
    told = tt.drift(run.folder, last)
    assert all(abs(float(each.difference.value)) < 1e-6 for each in told.figures.values()) and told.verdict == "keep"
    assert [each.name for each in told.moved if each.name.startswith("query")] == ["query: history:history"]
    assert all(each.distance == pytest.approx(0, abs=1e-9) for each in told.moved if each.before is None)


def test_queries_that_were_asked_are_kept(run):
    table, prepared, _ = held_out(run)
    vectors = files.read_array(run.folder / "bundle" / "model" / "asked.npy")
    launch = files.read_json(run.folder / "bundle" / "model" / "launch.json")
    users = table.group_by(["user", "country", "age"]).aggregate([("thing", "count")])
    assert vectors.dtype == np.float32 and vectors.shape == (users.num_rows, 16)
    own = run.retriever.embed_queries(users.select(["user", "country", "age"]))
    near = vectors @ own.T
    assert near.max(axis=1) == pytest.approx(1, abs=1e-4)
    asked = np.asarray(users.column("thing_count"))[near.argmax(axis=1)]
    assert asked.tolist() == launch["asked"]["weights"] and set(launch["asked"]["keys"]) <= set(prepared.key_names.tolist())


def test_bins_hold_what_was_asked(run):
    table, prepared, log = held_out(run)
    launch = files.read_json(run.folder / "bundle" / "model" / "launch.json")
    country = launch["features"]["country:category"]
    counted = {each["values"].as_py(): each["counts"].as_py() for each in table.column("country").combine_chunks().value_counts()}
    assert dict(zip(country["names"], country["counts"], strict=False)) == counted and sum(country["counts"][3:]) == 0
    ages, age = np.asarray(table.column("age")), launch["features"]["age:number"]
    edges = [-np.inf, *age["edges"], np.inf]
    assert age["counts"] == [float(((ages > low) & (ages <= high)).sum()) for low, high in itertools.pairwise(edges)] + [0.0]
    train = prepared.log.item_rows[prepared.parts == 0]
    ids = np.asarray(prepared.items.column(ID))
    assert launch["items"]["training"][:3] == sorted(np.bincount(train), reverse=True)[:3] and launch["items"]["training"][-1] == 0
    for place, name in enumerate(launch["items"]["ids"]):
        assert launch["items"]["counts"][place] == (ids[log.item_rows] == name).sum()


def test_it_is_the_same_each_time(run, tmp_path):
    again = tt.train(week(0, 4000), CATALOGUE, config=CONFIG, output=tmp_path / "run")
    for name in ("launch.json", "asked.npy"):
        assert (again.folder / "bundle" / "model" / name).read_bytes() == (run.folder / "bundle" / "model" / name).read_bytes()


# --- verdicts -----------------------------------------------------------------------------------------------------


def test_a_week_like_launch_is_no_reason(run, like):
    assert not like.pays and like.verdict == "keep" and like.reasons == []
    cried = [tt.drift(run.retriever, week(seed, 1000)) for seed in range(2, 12)]
    assert sum(each.pays for each in cried) == 0
    assert np.mean([moved.sure for each in cried for moved in each.moved if moved.before is None]) < 0.1
    assert np.mean([float(each.told_apart.low) > 0.5 for each in cried]) < 0.3
    assert "need not pay" in drifted(like).verdict


def test_a_fall_that_is_sure_is_a_reason(run):
    told = tt.drift(run.folder, week(1, turned=2))
    figure = told.figures["ndcg@10"]
    assert told.pays and told.verdict == "train" and figure.fallen and float(figure.difference.high) < 0
    assert "ndcg@10 fell by" in told.reasons[0] and drifted(told).verdict.startswith("Training again pays: ndcg@10 fell")
    # Those who ask are the same; what they take is not.
    assert not any(each.sure for each in told.moved if each.before is None)
    lenient = tt.drift(run.folder, week(1, turned=2), tolerance=0.9)
    assert not lenient.pays and "within the tolerance" in drifted(lenient).verdict


def test_features_that_move_are_told_and_are_no_reason(run):
    told = tt.drift(run.folder, week(1, countries=("de", "de", "de", "fr", "es", "es")))
    moved = {each.name: each for each in told.moved}
    country = moved["query: country:category"]
    assert country.sure and country.distance > country.floor and not moved["query: age:number"].sure
    shares = dict(zip(("de", "fr", "unknown"), (country.then, country.now), strict=False))
    assert shares and country.most in ("de", "fr", "it", "unknown")
    rate = next(each for each in told.rates if each.name == "query: country:category, unknown")
    once = week(1).group_by(["user", "thing"]).aggregate([])
    assert float(rate.now.value) == pytest.approx(np.mean(np.asarray(once.column("user")) % 6 >= 4), abs=1e-9) and float(rate.launch.value) == 0
    assert not told.pays or "fell" in told.reasons[0]
    assert told.moved[0].sure and float(told.told_apart.low) > 0.5


def test_new_items_ask_for_a_refresh_where_content_covers_them(run, tmp_path):
    pairs = week(1, new_items=0.3)
    told = tt.drift(run.folder, pairs)
    lacking = sum(len(name) == 4 for name in pairs.column("thing").to_pylist())
    assert told.dropped["item_not_in_catalogue"] == lacking and told.pairs > told.rankings
    assert told.pays and told.verdict == "refresh" and "refresh" in drifted(told).verdict and "the model does not know" in told.reasons[0]
    figure = told.figures["ndcg@10"]
    assert float(figure.misses.value) == pytest.approx(told.rankings / told.pairs * float(figure.now.value))
    assert not tt.drift(run.folder, pairs, unknown=0.5).pays
    settings = ["item.features=[{column='thing',type='id'}]", "train.epochs=1"]
    ids = tt.train(week(0, 1500), CATALOGUE, config=CONFIG, settings=settings, output=tmp_path / "ids")
    assert tt.drift(ids.folder, pairs).verdict == "train"


def test_people_of_whom_something_is_known_are_not_unknown(run, tmp_path):
    told = tt.drift(run.folder, week(1, strangers=0.4))
    rates = {each.name: each for each in told.rates}
    assert float(rates["query: user:id, unknown"].now.value) > 0.3 and float(rates[NOTHING].now.value) == 0
    settings = ["query.features=[{column='user',type='id'}]", "train.epochs=1"]
    ids = tt.train(week(0, 1500), CATALOGUE, config=CONFIG, settings=settings, output=tmp_path / "ids")
    alone = tt.drift(ids.folder, week(1, strangers=0.4))
    assert alone.verdict == "train" and "does not know the query" in " ".join(alone.reasons)


def test_few_pairs_say_so(run):
    told = tt.drift(run.folder, week(1, 20, turned=2), tolerance=0.3)
    assert not told.pays and told.verdict == "few" and told.told_apart is None and told.keys <= 20
    assert drifted(told).verdict.startswith("Too few to say") and told.needed > 20
    assert tt.drift(run.folder, week(1, 5, turned=2)).verdict == tt.drift(run.folder, week(1, 1)).verdict == "few"


def test_more_pairs_are_asked_for_where_a_week_is_small(run, like):
    small = tt.drift(run.folder, week(1, 300), tolerance=0.2)
    assert small.needed > 0 and "would show such a fall four times in five" in markdown(drifted(small))
    assert tt.drift(run.folder, week(1, 300), tolerance=0.0).needed is None


# --- bundles of before --------------------------------------------------------------------------------------------


def test_a_bundle_of_before_tells_what_it_can(run, tmp_path):
    old = without_launch(run.folder / "bundle", tmp_path / "old")
    told = tt.drift(old, week(1, turned=2))
    assert told.verdict == "unknown" and not told.pays and told.moved == [] and told.told_apart is None
    assert len(told.lacking) == 2 and all("made by an earlier version" in each and "train again to have it" in each for each in told.lacking)
    assert told.figures["ndcg@10"].launch is None and "cannot be said" in drifted(told).verdict
    assert tt.drift(old, week(1, new_items=0.3)).verdict == "refresh"  # needs nothing of launch
    alike = "other known matches of the same key, but not those of training, are left out of a pair's ranking"
    told = tt.drift(without_launch(run.folder / "bundle", tmp_path / "alike", left_out=alike), week(1, turned=2))
    assert told.verdict == "train" and len(told.lacking) == 1


def test_a_bundle_without_figures(run, tmp_path):
    old = without_launch(run.folder / "bundle", tmp_path / "old")
    (old / "model" / "metrics.json").unlink()
    (old / "model" / "manifest.json").unlink()
    told = json.loads((run.folder / "bundle" / "model" / "manifest.json").read_text())
    segments = layout.open_bundle(run.folder / "bundle").segments
    facts = {name: told[name] for name in ("dimensions", "similarity", "search", "calibration", "query_text", "schema")}
    fingerprint = layout.seal_model(old / "model", **facts)
    shutil.rmtree(old / "catalogue")
    shutil.rmtree(old / "segments")
    layout.write_catalogue(old, fingerprint, segments[0])
    told = tt.drift(old, week(1))
    assert told.verdict == "unknown" and "no metrics.json" in told.lacking[0]


def test_stored_bundles_of_past_formats(tmp_path):
    pairs = [{"asked": f"subject{n % 12} sort{n % 3} n{n}", "thing": 1000 + n % 36} for n in range(36)]
    told = tt.drift(Path(__file__).parent / "data" / "bundle-1", pairs)
    assert told.verdict == "unknown" and told.lacking


# --- the verb -----------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    import pyarrow.csv

    def write(table, name="week.csv"):
        pyarrow.csv.write_csv(table, tmp_path / name)
        return tmp_path / name

    return write


def test_the_verb_leaves_with_three_where_it_pays(run, typed, written, tmp_path):
    code, out, _ = typed("drift", run.folder, "--pairs", written(week(1)))
    assert code == 0 and "Does training again pay?" in out and "need not pay" in out and "What has moved" in out
    code, out, _ = typed("drift", run.folder / "bundle", "--pairs", written(week(1, turned=2)), "--json")
    assert code == 3 and json.loads(out)["pays"] and json.loads(out)["figures"]["ndcg@10"]["difference"]["high"] < 0
    for name in ("drift.html", "drift.md"):
        code, out, err = typed("drift", run.folder, "--pairs", written(week(1, turned=2)), "-o", tmp_path / name)
        assert code == 3 and out == "" and "Training again pays" in err and "ndcg@10" in (tmp_path / name).read_text()
    assert typed("drift", run.folder, "--pairs", written(week(1, turned=2)), "--tolerance", "0.9")[0] == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("user,country,age,thing\n", "no rows"),
        ("user,country,thing\n1,de,t1\n", '"age"'),
        ("user,country,age,thing\n1,de,30,x\n2,fr,31,y\n", "names an item of the catalogue"),
        ("user,country,age,thing\n1,de,young,t1\n", "number"),
    ],
)
def test_bad_input_is_one_error(run, typed, tmp_path, content, told):
    (tmp_path / "week.csv").write_text(content)
    code, out, err = typed("drift", run.folder, "--pairs", tmp_path / "week.csv", "-o", tmp_path / "drift.html")
    assert code == 2 and told in err and "Traceback" not in err and out == "" and not (tmp_path / "drift.html").exists()


def test_bad_options_are_refused(run, typed, written, tmp_path):
    for words in (["--tolerance", "5"], ["--unknown", "-1"], ["-o", tmp_path / "drift.pdf"]):
        code, _, err = typed("drift", run.folder, "--pairs", written(week(1, 100)), *words)
        assert code == 2 and "Traceback" not in err
    with pytest.raises(ConfigError, match="tolerance"):
        tt.drift(run.folder, week(1, 100), tolerance=float("nan"))
    with pytest.raises(DataError, match="names an item"):
        tt.drift(run.folder, week(1, 100).set_column(3, "thing", pa.array(["x"] * 100)))


def test_it_needs_no_torch(run, written):
    program = (
        "import sys\nfor name in ('torch', 'duckdb', 'onnx', 'onnxscript'): sys.modules[name] = None\n"
        f"import twotower as tt\ntold = tt.drift({str(run.folder / 'bundle')!r}, {str(written(week(1, turned=2)))!r})\nprint(told.pays)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split() == ["True"]


def test_a_retriever_may_be_passed(run):
    assert tt.drift(load(run.folder), week(1, 400)).verdict == tt.drift(run.folder, week(1, 400)).verdict
