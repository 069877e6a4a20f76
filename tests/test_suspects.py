"""Pairs that look wrong: planted ones are found, and nobody is judged by what could not be known."""

import numpy as np
import pyarrow as pa
import pytest

import twotower as tt
from conftest import WORLD_CONFIG, planted_world
from twotower.app.reports.forecasted import forecasted
from twotower.app.reports.markdown import markdown
from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.data.splits import TEST, TRAIN, VALIDATION
from twotower.learning.metrics import Ranks
from twotower.learning.subsets import askers
from twotower.learning.suspects import halves, mended, places, without, worst
from twotower.runs import suspicion
from twotower.runs.progress import Progress
from twotower.runs.remedies import DROPPED, MENDED
from twotower.runs.run import begun_of

CONFIG = WORLD_CONFIG | {"train": {"epochs": 4, "batch_size": 64, "correction": False}, "machine": {"threads": 1}}


def log_of(folder, features):
    rows = [{"u": f"u{n % 30}", "i": f"i{(7 * n) % 40}", "label": int(n % 5 > 0), "words": f"w{n}"} for n in range(400)]
    rows += [{"u": f"single{n}", "i": f"i{n}", "label": 1, "words": "w"} for n in range(20)] + [{"u": "u1", "i": "once", "label": 1, "words": "w"}]
    chosen = from_values(
        {
            "pairs": {"label": "label"},
            "query": {"key": "u", "features": features},
            "item": {"id": "i", "features": [{"column": "i", "type": "id"}]},
            "split": {"by": "random", "test": 0.1, "validation": 0.1},
        }
    )
    return prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, folder)


@pytest.mark.parametrize("feature", [{"column": "u", "type": "id"}, {"column": "words", "type": "text"}], ids=lambda one: one["type"])
def test_halves_learn_from_one_and_judge_the_other(feature, tmp_path):
    prepared = log_of(tmp_path, [feature])
    matches = (prepared.parts == TRAIN) & (prepared.log.labels > 0)
    who, items = askers(prepared), np.asarray(prepared.log.item_rows)
    judged = np.zeros(len(matches), int)
    for half in halves(prepared, 3):
        learnt = (half.parts == TRAIN) & matches
        assert 0.4 < learnt.sum() / matches.sum() < 0.6
        assert (half.parts[(prepared.parts == TRAIN) & ~matches] == TRAIN).all()  # explicit non-matches are in both
        assert (half.parts[prepared.parts != TRAIN] == TEST).all()
        of_each = np.bincount(who[learnt], minlength=who.max() + 1), np.bincount(who[matches], minlength=who.max() + 1)
        assert (np.abs(of_each[0] - of_each[1] / 2) <= 0.5).all()
        held = half.parts == VALIDATION
        judged += held
        known = np.isin(items, items[learnt]) & ((feature["type"] == "text") | np.isin(who, who[learnt]))
        assert (held == (matches & ~learnt & known)).all()
    assert judged.max() == 1 and judged.sum() < matches.sum()  # `once` has a single pair
    assert (without(prepared, np.array([0, 5])).parts != prepared.parts).sum() <= 2


def test_the_worst_come_first_and_only_those_of_the_lower_half():
    ranks = Ranks(np.array([0, 4, 9]), np.array([1, 2, 1]), np.array([0, 1, 2, 3]), np.array([10, 10, 10]))
    np.testing.assert_allclose(places(ranks), [0.1, 0.55, 1.0])
    assert worst(np.array([0.2, 0.6, 0.9, 0.5])).tolist() == [2, 1]


def test_mended_pairs_have_other_items_and_nothing_else(tmp_path):
    prepared = log_of(tmp_path, [{"column": "u", "type": "id"}])
    before = np.array(prepared.log.item_rows)
    found = mended(prepared, np.array([3, 0]), np.array([5, 7]))
    after = np.array(found.log.item_rows)
    assert after[[3, 0]].tolist() == [5, 7] and (np.flatnonzero(after != before) <= 3).all()
    assert (np.array(prepared.log.item_rows) == before).all() and (found.parts == prepared.parts).all()


def test_what_is_ranked_first_instead_is_news_and_the_same_is_asked_afterwards(tmp_path, monkeypatch):
    """Never what the log names for whoever asks, match or not; and mended pairs change no list of candidates by which they are measured."""
    prepared = log_of(tmp_path, [{"column": "u", "type": "id"}])
    query, item = ({"features": [{"column": column, "type": "id"}]} for column in ("u", "i"))
    chosen = from_values({"query": {"key": "u"} | query, "item": {"id": "i"} | item, "evaluate": {"per": "pair"}, "machine": {"threads": 1}})

    def fit(half, config):
        return *begun_of(half, config, None, Progress())[:2], None  # an untrained model finds half of the pairs suspect

    monkeypatch.setattr(suspicion, "enough", lambda subset: True)
    found = suspicion.suspected(prepared, chosen, fit)
    log = prepared.log
    training = prepared.parts == TRAIN
    named = set(zip(log.query_keys[training].tolist(), log.item_rows[training].tolist(), strict=True))
    other = found["instead"] != log.item_rows[found["rows"]]
    assert other.sum() > 15
    assert not named & set(zip(log.query_keys[found["rows"]][other].tolist(), found["instead"][other].tolist(), strict=True))
    changed = mended(prepared, found["rows"], found["instead"])
    as_they_are, afterwards = (begun_of(each, chosen, None, Progress())[1] for each in (prepared, changed))
    asked = suspicion.asked_as(prepared, afterwards, chosen.evaluate, None).validation
    assert asked.excluded.values.tolist() == as_they_are.validation.excluded.values.tolist()
    assert asked.excluded.values.tolist() != afterwards.validation.excluded.values.tolist()


def test_planted_mistakes_are_found_and_leaving_them_out_and_mending_them_is_tried(tmp_path):
    pairs, items = planted_world(queries=1200)
    generator = np.random.default_rng(1)
    part = ["test" if n % 10 == 0 else "validation" if n % 10 == 1 else "train" for n in range(pairs.num_rows)]
    wrong = {n for n in range(pairs.num_rows) if part[n] == "train" and generator.random() < 0.15}
    names = items.column("name").to_pylist()
    things = [names[generator.integers(len(names))] if n in wrong else thing for n, thing in enumerate(pairs.column("thing").to_pylist())]
    table = pairs.set_column(1, "thing", pa.array(things)).append_column("part", [part])
    given = CONFIG | {"split": {"by": "column", "column": "part"}}
    result = tt.forecast(table, items, config=given, budget="3m", output=tmp_path / "f").result
    found = result["suspects"]
    at = {row["asked"]: n for n, row in enumerate(pairs.to_pylist())}
    hits = [at[pair["asked"]] in wrong for pair in found["pairs"]]
    assert np.mean(hits) > 0.9 and 0.25 * len(wrong) < found["count"] < 0.8 * len(wrong)
    for name in (DROPPED, MENDED):
        row = next(row for row in result["remedies"] if row["name"] == name)
        trained = [done["value"] for done in result["trainings"] if done["work"]["remedy"] == name]
        assert row["value"] == pytest.approx(np.mean(trained), abs=1e-6) and row["difference"] > 0
    right = {row["asked"]: row["thing"] for row in pairs.to_pylist()}
    assert np.mean([pair["instead"].startswith(f"{right[pair['asked']]} - ") for pair in found["pairs"]]) > 0.5
    text = markdown(forecasted(result, "f"))
    assert "Pairs that look wrong" in text and f"{found['count']:,} of {found['judged']:,} training pairs" in text
    assert "Without them mrr changes by" in text and "rank first instead mrr changes by" in text
    assert "None of" in markdown(forecasted(result | {"suspects": {"count": 0, "judged": 9, "pairs": []}}, "f"))
    assert "look wrong" not in markdown(forecasted(result | {"suspects": None, "remedies": []}, "f"))
