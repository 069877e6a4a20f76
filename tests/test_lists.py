"""What lists hold: their best items by a full sort, and figures worked by hand."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from twotower.data.columns import Ragged, offsets_of
from twotower.learning import evaluation, lists
from twotower.learning.evaluation import Cases
from twotower.learning.lists import commonest, described, looked_at, top


def asked(q, excluded=None):
    rows = np.arange(q)
    return Cases(rows, rows, Ragged(np.zeros(q, np.int64), np.arange(q + 1)), excluded)


@pytest.mark.parametrize("n", [3, 10, 60])
def test_lists_are_those_of_a_full_sort(n):
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (20, n)).astype(np.float32)  # full of ties
    before = scores.copy()
    out = [generator.permutation(n)[: generator.integers(n)] for _ in range(20)]
    which = np.array([0, 3, 4, 19])
    excluded = Ragged(np.concatenate(out), offsets_of([len(each) for each in out]))
    found = top(lambda block: scores[block], asked(20, excluded), which, n)
    for row, case in zip(found, which, strict=True):
        # Item 0 is the one asked for, so it stays.
        left = [item for item in np.argsort(-scores[case], kind="stable") if item == 0 or item not in out[case]][:10]
        assert row.tolist() == left + [-1] * (10 - len(left))
    assert (scores == before).all()  # they are the scorer's own
    scores.flags.writeable = False
    assert (top(lambda block: scores[block], asked(20, excluded), which, n) == found).all()


def test_lists_of_many_blocks_in_threads(monkeypatch):
    generator = np.random.default_rng(0)
    scores = generator.random((100, 40)).astype(np.float32)
    out = [generator.permutation(40)[: generator.integers(40)] for _ in range(100)]
    excluded = Ragged(np.concatenate(out), offsets_of([len(each) for each in out]))
    whole = top(lambda block: scores[block], asked(100, excluded), np.arange(100), 40)
    monkeypatch.setattr(evaluation, "SCORES_AT_ONCE", 120)
    with threadpool_limits(3, user_api="blas"):
        assert top(lambda block: scores[block], asked(100, excluded), np.arange(100), 40).tolist() == whole.tolist()


def test_the_figures_of_lists():
    found = np.array([[0, 1], [0, 2], [0, -1]])
    matches = np.array([6, 2, 0, 0])
    vectors = np.array([[1, 0], [0, 2], [3, 3], [1, 1]], np.float32)
    told = described(found, np.array([1, 1, 2]), matches, vectors)
    assert told.coverage == 3 / 4
    assert told.lift == pytest.approx(((6 + 2 + 6 + 0 + 6) / 5) / (4 / 3))
    assert told.novelty == pytest.approx(-(3 * np.log2(7 / 12) + np.log2(3 / 12) + np.log2(1 / 12)) / 5)
    assert told.likeness == pytest.approx((0 + np.sqrt(0.5)) / 2)  # of the lists of two
    assert commonest(found) == [(0, 3), (1, 1), (2, 1)]
    assert described(np.full((2, 3), -1), np.array([0]), matches, vectors) == (0.0, 0.0, 0.0, None)


def test_fewer_lists_of_a_large_catalogue(monkeypatch):
    assert len(looked_at(asked(5000), 1000, 0)) == 2000
    assert looked_at(asked(7), 1000, 0).tolist() == list(range(7))
    monkeypatch.setattr(lists, "SCORED", 1 << 20)
    assert len(looked_at(asked(5000), 4096, 0)) == 256
    assert len(looked_at(asked(5000), 1 << 30, 0)) == 100
    assert np.unique(looked_at(asked(5000), 4096, 1)).tolist() == looked_at(asked(5000), 4096, 1).tolist()
