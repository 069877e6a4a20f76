"""ALS by implicit: that it is least squares, the same by any number of threads, and asked for by name."""

from types import SimpleNamespace

import numpy as np
import pytest

import twotower as tt
from twotower.data.columns import Ragged, ragged
from twotower.data.histories import Histories
from twotower.data.prepared import Log
from twotower.errors import MissingExtra
from twotower.learning import alternating, baselines
from twotower.learning.evaluation import Cases

KEYS, ITEMS = 60, 30


@pytest.fixture
def prepared():
    """Two circles of keys, who match one half of the items each; the last key was never seen."""
    generator = np.random.default_rng(0)
    keys = np.repeat(np.arange(KEYS - 1), 6)
    items = 2 * generator.integers(0, ITEMS // 2, len(keys)) + keys % 2
    ones = np.ones(len(keys), np.float32)
    log = Log(keys, keys, items, ones, ones)
    return SimpleNamespace(part=lambda part: log if part == 0 else None, n_items=ITEMS)


def asked(keys):
    return Cases(keys, keys, Ragged(np.zeros(len(keys), np.int64), np.arange(len(keys) + 1)), None)


def test_keys_get_the_items_of_their_circle_the_same_by_any_threads(prepared, monkeypatch):
    pytest.importorskip("implicit", reason="needs the extra als")
    monkeypatch.setattr(alternating, "FACTORS", 8)
    keys = np.arange(KEYS)
    scores = baselines.baseline("als", prepared, asked(keys))(slice(0, KEYS))
    assert ((scores[:-1].argmax(axis=1) - keys[:-1]) % 2 == 0).all()
    assert not scores[-1].any()  # who is not known has no opinion
    for threads in (1, 2):
        np.testing.assert_array_equal(baselines.baseline("als", prepared, asked(keys), threads)(slice(0, KEYS)), scores)


def test_who_matched_more_since_training_is_worked_out_anew(prepared, monkeypatch):
    """The last key, of which training knows nothing, has matched odd items since; the first one what it had."""
    pytest.importorskip("implicit", reason="needs the extra als")
    monkeypatch.setattr(alternating, "FACTORS", 8)
    log, keys = prepared.part(0), np.array([0, KEYS - 1])
    own = np.unique(log.item_rows[log.query_keys == 0])
    events = ragged([own.tolist(), *([] for _ in range(KEYS - 2)), [1, 3, 5]])
    histories = Histories(events, None, 2)
    cases = asked(keys)._replace(history_keys=keys, cuts=np.array([len(own), 3]), histories=histories, relevant=ragged([[1], [7]]))
    first, last = baselines.baseline("als", prepared, cases)(slice(0, 2))
    np.testing.assert_allclose(first, baselines.baseline("als", prepared, asked(keys))(slice(0, 1))[0], atol=0.05)  # by the items of the last round
    assert last.argmax() % 2 == 1


def test_its_vectors_solve_the_weighted_least_squares(prepared, monkeypatch):
    """A key's vector is (Y'CY + ridge I)^-1 Y'c, Y the items' and C the weights; solved by hand from the items' vectors of many rounds."""
    pytest.importorskip("implicit", reason="needs the extra als")
    monkeypatch.setattr(alternating, "FACTORS", 4)
    monkeypatch.setattr(alternating, "ITERATIONS", 200)
    kept = []
    monkeypatch.setattr(alternating, "dot_scorer", lambda *vectors: kept.extend(vectors))
    alternating.als(prepared, asked(np.arange(KEYS)))
    users, items = (np.asarray(vectors, np.float64) for vectors in kept)
    log = prepared.part(0)
    matches = np.zeros((KEYS, ITEMS))
    matches[log.query_keys, log.item_rows] = 1
    for key in (0, 7):
        weights = 1 + 39 * matches[key]
        wanted = np.linalg.solve((items.T * weights) @ items + 5 * np.eye(4), items.T @ (weights * matches[key]))
        np.testing.assert_allclose(users[key], wanted, atol=1e-3)


def test_its_threads_are_those_of_the_machine(prepared, monkeypatch):
    library = pytest.importorskip("implicit.cpu.als", reason="needs the extra als")
    model, told = library.AlternatingLeastSquares, []
    monkeypatch.setattr(library, "AlternatingLeastSquares", lambda **options: told.append(options["num_threads"]) or model(**options))
    for threads in (None, 2):
        baselines.baseline("als", prepared, asked(np.arange(KEYS)), threads)
    assert told == [1, 2]


def test_where_the_library_is_missing_a_run_says_so_before_it_begins(world, tmp_path, monkeypatch):
    monkeypatch.setattr(alternating, "find_spec", lambda name: None)
    config = {"pairs": {"item": "thing"}, "query": {"features": [{"column": "asked", "type": "text"}]}, "item": {"id": "name"}}
    config["item"]["features"] = [{"column": "name", "type": "id"}]
    config["evaluate"] = {"baselines": ["als"]}
    with pytest.raises(MissingExtra, match=r'"als".*pip install "twotower\[als\]"'):
        tt.train(*world, config=config, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
