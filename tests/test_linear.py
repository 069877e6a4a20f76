"""Closed forms: each equals its definition, worked out another way."""

from types import SimpleNamespace

import numpy as np
import pytest

from twotower.data.columns import Ragged, ragged
from twotower.data.histories import SPAN, Histories
from twotower.data.prepared import Log
from twotower.learning import linear
from twotower.learning.evaluation import Cases

ITEMS, KEYS = 9, 40


@pytest.fixture
def log():
    generator = np.random.default_rng(0)
    keys, items = np.repeat(np.arange(KEYS), 4), generator.integers(0, ITEMS - 1, KEYS * 4)  # the last item is never matched
    labels = np.ones(len(keys), np.float32)
    labels[::11] = 0
    return Log(keys, keys, items, labels, labels)


@pytest.fixture
def prepared(log):
    return SimpleNamespace(part=lambda part: log if part == 0 else None, n_items=ITEMS)


@pytest.fixture
def matrix(log):
    dense = np.zeros((KEYS, ITEMS))
    matched = log.labels > 0
    dense[log.query_keys[matched], log.item_rows[matched]] = 1
    return dense


def asked(keys):
    return Cases(keys, keys, Ragged(np.zeros(len(keys), np.int64), np.arange(len(keys) + 1)), None)


def test_ease_is_ridge_regression_of_each_item_on_the_others(prepared, matrix, monkeypatch):
    monkeypatch.setattr(linear, "RIDGE", 3.0)
    weights = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = np.delete(np.arange(ITEMS), item)
        known = matrix[:, others]
        weights[others, item] = np.linalg.solve(known.T @ known + 3.0 * np.eye(ITEMS - 1), known.T @ matrix[:, item])
    keys = np.array([3, 0, 17])
    np.testing.assert_allclose(linear.ease(prepared, asked(keys))(slice(0, 3)), matrix[keys] @ weights, atol=1e-5)


def test_who_asks_is_known_by_all_that_a_history_may_show(prepared, matrix):
    """The model reads two items of each history, which holds matches that training does not; the baseline is told all of them, once each."""
    histories = Histories(ragged([[0, 1, 2, 2], [3], [4, 5], []]), np.array([0, 3, 5, 9, SPAN, 2 * SPAN, 2 * SPAN + 7]), 2)
    keys, cuts = np.array([0, 0, 2, 3]), np.array([2, 4, 1, 0])
    cases = asked(keys)._replace(history_keys=keys, cuts=cuts, histories=histories)
    wanted = np.zeros((4, ITEMS))
    wanted[0, [0, 1]] = wanted[1, [0, 1, 2]] = wanted[2, 4] = 1
    known = linear.known_of(prepared, cases)
    np.testing.assert_array_equal(known.rows().toarray(), wanted)
    np.testing.assert_array_equal(known.rows(slice(1, 3)).toarray(), wanted[1:3])
    np.testing.assert_array_equal(known.matches.toarray(), matrix[: known.matches.shape[0]])  # what is learnt is of training alone
    every = linear.ease(prepared, asked(np.arange(KEYS)))(slice(0, KEYS))
    weights = np.linalg.lstsq(matrix, every, rcond=None)[0]
    np.testing.assert_allclose(linear.ease(prepared, cases)(slice(0, 4)), wanted @ weights, atol=1e-3)
    timeless = cases._replace(histories=histories._replace(order=None, repeats=2), cuts=np.array([4, 4, 2, 0]), relevant=ragged([[2], [1], [5], [0]]))
    wanted[:] = 0
    wanted[0, [0, 1]] = wanted[1, [0, 2]] = wanted[2, 4] = 1  # but for what is asked
    np.testing.assert_array_equal(linear.known_of(prepared, timeless).rows().toarray(), wanted)


def test_low_rank_ease_with_all_directions_is_ease(prepared, monkeypatch):
    monkeypatch.setattr(linear, "RIDGE", 3.0)
    monkeypatch.setattr(linear, "RIDGE_LOW_RANK", 3.0)
    keys = np.arange(KEYS)
    wanted = linear.ease(prepared, asked(keys))(slice(0, KEYS))
    monkeypatch.setattr(linear, "MOST_DENSE", ITEMS - 1)
    np.testing.assert_allclose(linear.ease_low_rank(prepared, asked(keys))(slice(0, KEYS)), wanted, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_low_rank_ease_is_ease_of_the_strongest_directions_with_the_diagonal_kept(prepared, matrix, monkeypatch, rank):
    monkeypatch.setattr(linear, "RANK", rank)
    monkeypatch.setattr(linear, "RIDGE_LOW_RANK", 3.0)
    monkeypatch.setattr(linear, "MOST_DENSE", ITEMS - 1)
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    gram = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    np.fill_diagonal(gram, matrix.sum(0))
    inverse = np.linalg.inv(gram + 3.0 * np.eye(ITEMS))
    weights = np.eye(ITEMS) - inverse / np.diag(inverse)
    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-12)
    keys = np.array([3, 0, 17])
    np.testing.assert_allclose(linear.ease_low_rank(prepared, asked(keys))(slice(0, 3)), matrix[keys] @ weights, atol=1e-4)


def test_gf_cf_is_the_sum_of_its_two_filters(prepared, matrix, monkeypatch):
    monkeypatch.setattr(linear, "SMOOTH", 3)
    rows, columns = matrix.sum(1), matrix.sum(0)
    by_row, by_column = (np.divide(1, np.sqrt(total), out=np.zeros_like(total), where=total > 0) for total in (rows, columns))
    norm = by_row[:, None] * matrix * by_column
    smooth = np.linalg.svd(norm)[2][:3].T
    keys = np.arange(KEYS)
    wanted = matrix @ norm.T @ norm + 0.3 * (matrix * by_column) @ smooth @ smooth.T * np.sqrt(columns)
    np.testing.assert_allclose(linear.gf_cf(prepared, asked(keys))(slice(0, KEYS)), wanted, atol=1e-4)


def test_item_knn_adds_up_cosines(prepared, matrix):
    lengths = np.maximum(np.sqrt(matrix.sum(0)), 1e-12)
    cosines = (matrix.T @ matrix) / lengths / lengths[:, None]
    np.fill_diagonal(cosines, 0)
    np.testing.assert_allclose(linear.item_knn(prepared, asked(np.arange(5)))(slice(0, 5)), matrix[:5] @ cosines, atol=1e-5)


@pytest.mark.parametrize("model", [linear.item_knn, linear.ease, linear.gf_cf])
def test_closed_forms_need_keys_that_training_knows(prepared, model):
    assert model(prepared, asked(np.arange(KEYS, KEYS + 30))) is None
    scores = model(prepared, asked(np.array([KEYS + 5, 1])))(slice(0, 2))
    assert not scores[0].any() and scores[1].any()  # who is not known has no opinion


def test_ease_leaves_large_catalogues_alone(prepared, monkeypatch):
    monkeypatch.setattr(linear, "MOST_DENSE", ITEMS - 1)
    assert linear.ease(prepared, asked(np.arange(3))) is None
    assert linear.ease_low_rank(prepared, asked(np.arange(3))) is not None


def test_low_rank_ease_takes_what_is_too_large_for_ease_alone(prepared, monkeypatch):
    assert linear.ease_low_rank(prepared, asked(np.arange(3))) is None
    monkeypatch.setattr(linear, "MOST_DENSE", ITEMS - 1)
    monkeypatch.setattr(linear, "MOST_LOW_RANK", ITEMS + KEYS - 1)
    assert linear.ease_low_rank(prepared, asked(np.arange(3))) is None
    assert linear.ease_low_rank(prepared, asked(np.arange(KEYS, KEYS + 30))) is None
