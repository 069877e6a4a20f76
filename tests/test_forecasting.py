"""Forecasts: what is said follows from what was trained, nothing is said where the fit is bad, and the test pairs stay closed."""

import json
import re

import numpy as np
import pytest

import twotower as tt
from conftest import WORLD_CONFIG, planted_world
from twotower.app.reports.documents import Paragraph, Section, Statement, Table
from twotower.app.reports.forecasted import forecasted
from twotower.config import from_values
from twotower.errors import BundleError, ConfigError, DataError, OutputError
from twotower.learning.statistics import holm
from twotower.runs import forecasting
from twotower.runs.progress import Progress
from twotower.runs.remedies import changed_by, remedies_of
from twotower.runs.run import Stopped
from twotower.runs.trials import Tried

CONFIG = WORLD_CONFIG | {"train": {"epochs": 2, "batch_size": 64, "correction": False}, "machine": {"threads": 1}}


@pytest.fixture(scope="module")
def larger():
    return planted_world(queries=900)


@pytest.fixture(scope="module")
def found(larger, tmp_path_factory):
    return tt.forecast(*larger, config=CONFIG, budget="3m", target=0.9, output=tmp_path_factory.mktemp("forecast") / "f")


def test_every_training_is_what_it_says(found, larger):
    result = found.result
    whole = [done for done in result["trainings"] if done["work"]["share"] == 1 and done["work"]["axis"] == "queries" and not done["work"]["remedy"]]
    assert [done["work"]["seed"] for done in whole] == [0, 1, 2]
    assert result["now"]["value"] == pytest.approx(np.mean([done["value"] for done in whole]))
    run = tt.train(*larger, config=CONFIG | {"search": {"mode": "vectors"}}, output=found.folder.parent / "run")
    lines = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert max(line["mrr"] for line in lines) == pytest.approx(whole[0]["value"], abs=0.02)
    first = [done for done in result["trainings"] if done["work"]["axis"] == "queries" and done["work"]["seed"] == 0 and not done["work"]["remedy"]]
    sizes, values = ([done[what] for done in first] for what in ("size", "value"))
    assert sizes == sorted(sizes) and sizes[-1] == result["now"]["queries"] and 14 < sizes[-1] / sizes[0] < 18
    assert values[-1] > values[0] + 0.2
    remedies = {row["name"] for row in result["remedies"]}
    assert {"vectors twice as wide", "twice the epochs", "dropout"} <= remedies
    for row in result["remedies"]:
        with_it = [done["value"] for done in result["trainings"] if done["work"]["remedy"] == row["name"]]
        beside = [done["value"] for done in whole if done["work"]["seed"] < len(with_it)]
        assert row["difference"] == pytest.approx(np.mean(with_it) - np.mean(beside), abs=1e-6) and row["low"] <= row["difference"] <= row["high"]


class Quick:
    epochs, epoch_seconds, catalogue_seconds = 1, 1.0, 0.0


def test_the_test_pairs_stay_closed(larger, tmp_path, monkeypatch):
    """With other test pairs every training comes to the same."""
    monkeypatch.setattr(forecasting, "probe", lambda *given: Quick())  # however fast the machine is, there is time for one curve
    pairs = larger[0]
    part = ["test" if n % 6 == 0 else "validation" if n % 6 == 1 else "train" for n in range(pairs.num_rows)]
    results = []
    for name, answer in (("one", 1000), ("other", 1001)):
        things = [answer if p == "test" else thing for p, thing in zip(part, pairs.column("thing").to_pylist(), strict=True)]
        table = pairs.set_column(1, "thing", [things]).append_column("part", [part])
        given = CONFIG | {"split": {"by": "column", "column": "part"}}
        done = tt.forecast(table, larger[1], config=given, budget="10s", output=tmp_path / name).result
        results.append([{k: v for k, v in training.items() if k not in ("seconds", "key")} for training in done["trainings"]][:5])
    assert results[0] == results[1] and len(results[0]) == 5


def test_report_and_verb(found, typed, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    assert typed("report", found.folder, "-o", tmp_path / "f.html")[0] == 0
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert "Whether more data would help" in page and "What pays most now" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?http|<script", page)
    assert typed("report", found.folder, "-o", tmp_path / "f.md")[0] == 0


# --- planted growth: what is said is known ------------------------------------------------------------------------


def planted(monkeypatch, grow, noise=0.001, remedy=None):
    """Trainings that come to a function of their queries, whatever they are."""
    generator = np.random.default_rng(0)

    def fitted(shop, prepared, chosen, queries, stop, look=None):
        pairs = int((prepared.parts == 0).sum())
        value = grow(pairs) + noise * generator.standard_normal()
        if remedy is not None and chosen.model.dimensions == 64:
            value += remedy
        return None, value, Tried(value, 1, 0.01, True)

    def values(model, data, chosen):
        spread = np.where(np.arange(100) % 2, 0.01, -0.01)
        return np.full(100, data) + spread, np.arange(100), np.arange(100) % 36

    monkeypatch.setattr(forecasting, "fitted", fitted)
    monkeypatch.setattr(forecasting, "_values", values)
    monkeypatch.setattr(forecasting._Bench, "_suspects", lambda self: dict.fromkeys(("rows", "instead"), np.empty(0, np.int64)))


def saturating(pairs, ceiling=0.8, lack=0.3, rate=0.25, largest=630):
    return ceiling - lack * (pairs / largest) ** -rate


def said(result):
    """Every sentence of the document, and its verdict."""
    document = forecasted(result, "runs/f")

    def walk(parts):
        for part in parts:
            if isinstance(part, Section):
                yield part.title
                yield from walk(part.parts)
            elif isinstance(part, Paragraph):
                yield part.text
            elif isinstance(part, Statement):
                yield part.title
            elif isinstance(part, Table):
                yield part.caption
                yield from (" ".join(row) for row in part.rows)

    return document.verdict, list(walk(document.parts))


def forecast_of(larger, folder, **more):
    return tt.forecast(*larger, config=CONFIG, budget="10m", output=folder, **more).result


def test_what_pays_most_is_named(larger, tmp_path, monkeypatch):
    planted(monkeypatch, saturating, remedy=0.001)
    result = forecast_of(larger, tmp_path / "a")
    curve = result["axes"]["queries"]
    assert curve["sound"] and curve["at"]["2"]["value"] == pytest.approx(saturating(1260), abs=0.01)
    assert curve["ceiling"]["value"] == pytest.approx(0.8, abs=0.05)
    verdict, lines = said(result)
    assert "Twice the queries would bring" in verdict and "nothing else that was tried brings as much" in verdict
    assert any(line.startswith("10 times as many") and "stretched far" in line for line in lines)
    assert not any(line.startswith("2 times as many") and "stretched far" in line for line in lines)
    planted(monkeypatch, saturating, remedy=0.15)
    verdict, lines = said(forecast_of(larger, tmp_path / "b"))
    assert "vectors twice as wide brings more, +0.15" in verdict


def test_the_verdict_says_no_more_than_was_found(larger, tmp_path, monkeypatch):
    """A remedy that looks better than twice the data, unsurely, is not denied; nor is a target that may still be reached."""
    planted(monkeypatch, saturating)
    result = forecast_of(larger, tmp_path / "f", target=0.97)
    curve = result["axes"]["queries"]
    unsure = [row | {"difference": 0.2, "low": -0.1, "high": 0.5} for row in result["remedies"]]
    assert "nothing else that was tried is surely better" in said(result | {"remedies": unsure})[0]
    # Nor what is the best of many, each of which luck might make as good one time in twenty.
    lucky = [row | {"difference": 0.2, "low": 0.01, "high": 0.5, "holm": 0.2} for row in result["remedies"]]
    assert "nothing else that was tried is surely better" in said(result | {"remedies": lucky})[0]
    assert [row["holm"] for row in result["remedies"]] == holm(np.array([row["p_value"] for row in result["remedies"]])).tolist()
    assert "nothing" not in said(result | {"remedies": []})[0]
    assert any("is out of reach with" in line for line in said(result)[1])
    wide = result | {"axes": {"queries": curve | {"ceiling": curve["ceiling"] | {"high": 0.99}}}}
    assert any("is more likely out of reach than not" in line for line in said(wide)[1])


def test_what_was_stopped_says_by_which_command_it_goes_on(typed, tmp_path, monkeypatch):
    """The same as was given: with another budget or target it would be another forecast."""

    def stopped(**given):
        raise Stopped("stopped; something is kept. Go on with --resume and the same config.")

    for verb in ("forecast", "tune"):
        monkeypatch.setattr(f"twotower.runs.{verb}", stopped)
    (tmp_path / "c.toml").write_text("")
    config, folder = tmp_path / "c.toml", tmp_path / "f"
    for verb, more in (("forecast", ["--budget", "9m", "--target", 0.6]), ("tune", ["--budget", "9m", "--trials", 5])):
        code, _, err = typed(verb, config, "-o", folder, *more, "--set", "train.epochs=3")
        words = " ".join(map(str, [verb, config, "-o", folder, *more, "--set", "train.epochs=3", "--resume"]))
        assert code == 130 and words in " ".join(err.split())


def test_a_target_is_a_size_or_out_of_reach(larger, tmp_path, monkeypatch):
    planted(monkeypatch, saturating, noise=0.0005)
    wanted = forecast_of(larger, tmp_path / "near", target=round(float(saturating(1500)), 3))
    needed = wanted["axes"]["queries"]["needed"]
    assert needed["value"] == pytest.approx(1500, rel=0.15) and needed["low"] < needed["value"] < needed["high"]
    assert any("times as many as now" in line and "takes about" in line for line in said(wanted)[1])
    far = forecast_of(larger, tmp_path / "far", target=0.97)
    assert far["axes"]["queries"]["needed"] is None and any("out of reach with this model" in line for line in said(far)[1])
    there = forecast_of(larger, tmp_path / "there", target=0.3)
    assert any("is reached with the data that there are" in line for line in said(there)[1])


def test_where_the_fit_is_bad_nothing_is_said_of_more(larger, tmp_path, monkeypatch):
    planted(monkeypatch, lambda pairs: 0.5 - 0.1 * (-1) ** round(np.log2(630 / pairs)))
    result = forecast_of(larger, tmp_path / "f", target=0.9)
    assert not result["axes"]["queries"]["sound"] and "at" not in result["axes"]["queries"]
    verdict, lines = said(result)
    assert "nothing is said of more" in verdict and not any("times as many" in line or "takes about" in line for line in lines)


def test_more_queries_against_more_pairs(tmp_path, monkeypatch):
    """Logs of people with several pairs each are thinned out too."""
    generator = np.random.default_rng(0)
    rows = [{"u": f"u{n}", "i": f"i{item}"} for n in range(200) for item in generator.choice(60, 8, replace=False)]
    config = {
        "query": {"key": "u", "features": [{"column": "u", "type": "id"}]},
        "item": {"id": "i", "features": [{"column": "i", "type": "id"}]},
        "split": {"by": "random", "test": 0.1, "validation": 0.3},
        "train": {"epochs": 1, "batch_size": 64},
        "machine": {"threads": 1},
    }
    planted(monkeypatch, lambda pairs: saturating(pairs, largest=960))
    result = tt.forecast(rows, config=config, budget="10m", output=tmp_path / "f").result
    assert set(result["axes"]) == {"queries", "pairs", "items"} and result["axes"]["items"]["points"]
    assert any(line.startswith("More ") and "pay more than more" in line for line in said(result)[1])


# --- going on, and what is refused --------------------------------------------------------------------------------


def test_a_forecast_that_was_stopped_goes_on(larger, tmp_path, monkeypatch):
    planted(monkeypatch, saturating)
    told = []

    class Enough(Exception):
        pass

    def kill(line):
        told.append(line)
        if len(told) == 6:
            raise Enough

    with pytest.raises(Enough):
        forecast_of(larger, tmp_path / "f", progress=Progress(note=kill))
    with open(tmp_path / "f" / "trainings.jsonl", "a", encoding="utf-8") as file:
        file.write('{"work": ["que')
    with pytest.raises(OutputError, match="--resume"):
        forecast_of(larger, tmp_path / "f")
    with pytest.raises(ConfigError, match="another config"):
        forecast_of(larger, tmp_path / "f", resume=True, settings=["train.epochs=5"])
    with pytest.raises(BundleError, match=r"data .* have changed"):
        forecast_of((larger[0].slice(5), larger[1]), tmp_path / "f", resume=True)
    before = (tmp_path / "f" / "trainings.jsonl").read_text().splitlines()[:5]
    result = forecast_of(larger, tmp_path / "f", resume=True)
    assert (tmp_path / "f" / "trainings.jsonl").read_text().splitlines()[:5] == before
    works = [tuple(done["work"].values()) for done in result["trainings"]]
    assert len(works) == len(set(works)) > 15
    monkeypatch.setattr(forecasting, "fitted", lambda *given: (None, None, Tried(0.0, 0, 0.0, False)))
    with pytest.raises(Stopped, match="--resume"):
        forecast_of(larger, tmp_path / "g")


def test_a_remedy_that_cannot_be_trained_is_told_and_the_rest_goes_on(larger, tmp_path, monkeypatch):
    planted(monkeypatch, saturating)
    plain, told = forecasting.fitted, []

    def fitted(shop, prepared, chosen, *more):
        if chosen.model.dimensions == 64:
            raise DataError("the loss is no number")
        return plain(shop, prepared, chosen, *more)

    monkeypatch.setattr(forecasting, "fitted", fitted)
    result = forecast_of(larger, tmp_path / "f", progress=Progress(note=told.append))
    assert any("vectors twice as wide: cannot be trained: the loss is no number" in line for line in told)
    assert {row["name"] for row in result["remedies"]} >= {"dropout", "twice the epochs"} and "vectors twice as wide" not in json.dumps(
        result["remedies"]
    )

    def never(*given):
        raise DataError("the loss is no number")

    monkeypatch.setattr(forecasting, "fitted", never)
    with pytest.raises(DataError, match="no number"):
        forecast_of(larger, tmp_path / "g")


class Slow:
    epochs, epoch_seconds, catalogue_seconds = 2, 300.0, 0.0


def test_what_cannot_be_forecast_is_refused(larger, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="span of time"):
        tt.forecast(*larger, config=CONFIG, budget="soon", output=tmp_path / "f")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        tt.forecast(*larger, config=CONFIG, target=60, output=tmp_path / "f")
    few = planted_world(queries=60)
    with pytest.raises(DataError, match="too little to train"):
        tt.forecast(*few, config=CONFIG, output=tmp_path / "f")
    monkeypatch.setattr(forecasting, "probe", lambda *given: Slow())
    with pytest.raises(ConfigError, match=r"one curve takes 5 trainings, about 20 min.*--budget 4\dm"):
        tt.forecast(*larger, config=CONFIG, budget="10m", output=tmp_path / "f")
    assert not (tmp_path / "f").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="torchrun"):
        tt.forecast(*larger, config=CONFIG, output=tmp_path / "f")


def test_an_encoder_stands_beside_the_words():
    chosen = from_values(CONFIG)
    with_it = changed_by(chosen, {"pretrained": "shipped"})
    assert [(f.column, f.type) for f in with_it.query.features] == [("asked", "text"), ("asked", "pretrained")]
    assert [f.type for f in with_it.item.features] == ["id", "text", "category", "pretrained"]
    assert "a pretrained encoder beside the words" not in dict(remedies_of(with_it))
