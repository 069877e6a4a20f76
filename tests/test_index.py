"""What holds of every index, by full sorts and plain products; and of exact search whatever the blocks, ties, filters and storage."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError, DataError
from twotower.search.index import INDEXES, Exact, approximate, best_of_each, exact
from twotower.search.vectors import stored

# Whole numbers, so that products are exact in any order of summation and equal scores really tie.
WHOLE = st.integers(-2, 2)


def by_full_sort(vectors, queries, k, allow=None):
    """Rows and scores by sorting everything: the plain second implementation."""
    rows, scores = [], []
    for query in queries.tolist():
        products = [sum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors.tolist()]
        scored = [(-score, row) for row, score in enumerate(products)]
        kept = sorted(pair for pair in scored if allow is None or allow[pair[1]])[:k]
        kept += [(np.inf, -1)] * (k - len(kept))
        rows.append([row for _, row in kept])
        scores.append([-score for score, _ in kept])
    return np.array(rows), np.array(scores)


N = 6000  # enough for every kind to be built


def clustered(n, d=16):
    """Vectors of length 1 about 20 centres; of more the first are the same."""
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(20, d))
    vectors = np.array([centres[generator.integers(20)] + 0.3 * generator.normal(size=d) for _ in range(n)]).reshape(n, d)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=sorted(INDEXES))
def make(request):
    return INDEXES[request.param]


@pytest.fixture(params=sorted(INDEXES), scope="module")
def large(request):
    return INDEXES[request.param](clustered(N))


@settings(max_examples=150)
@given(data=st.data())
def test_equals_a_full_sort_whatever_the_blocks(data):
    n, d, q = data.draw(st.integers(0, 25)), data.draw(st.integers(1, 3)), data.draw(st.integers(0, 5))
    numbers = data.draw(st.lists(WHOLE, min_size=(n + q) * d, max_size=(n + q) * d))
    both = np.array(numbers, np.float32).reshape(n + q, d)
    flags = data.draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    allow = None if flags is None else np.array(flags, bool)
    k = data.draw(st.integers(1, 30))
    index = Exact(both[:n], item_block=data.draw(st.integers(1, 30)), score_block=data.draw(st.integers(1, 60)))
    hits = index.search(both[n:], k, allow)
    rows, scores = by_full_sort(both[:n], both[n:], k, allow)
    assert hits.rows.dtype == np.int64 and hits.scores.dtype == np.float32
    np.testing.assert_array_equal(hits.rows, rows.reshape(q, k))
    np.testing.assert_array_equal(hits.scores, scores.reshape(q, k))


def test_a_hit_worked_by_hand(make):
    vectors = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    hits = make(vectors).search(np.array([[2, 1]], np.float32), 5)
    assert hits.rows.tolist() == [[0, 2, 1, 3, -1]]
    assert hits.scores.tolist() == [[2, 2, 1, -2, -np.inf]]


def test_ties_across_the_last_place_go_to_the_lower_rows():
    hits = Exact(np.ones((1000, 4), np.float32)).search(np.ones((3, 4), np.float32), 7)
    assert hits.rows.tolist() == [list(range(7))] * 3


def test_a_large_search_over_blocks_equals_one_block():
    generator = np.random.default_rng(0)
    vectors = generator.integers(-9, 10, (5000, 8)).astype(np.float32)
    queries = generator.integers(-9, 10, (40, 8)).astype(np.float32)
    whole = Exact(vectors).search(queries, 50)
    parts = Exact(vectors, item_block=617, score_block=4000).search(queries, 50)
    np.testing.assert_array_equal(whole.rows, parts.rows)
    np.testing.assert_array_equal(whole.scores, parts.scores)
    np.testing.assert_array_equal(whole.rows, by_full_sort(vectors, queries, 50)[0])


def test_vectors_may_be_memory_mapped_and_of_half_precision(make, tmp_path):
    vectors = np.random.default_rng(0).integers(-3, 4, (50, 4)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    queries = vectors[:2].astype(np.float32)
    mapped = make(np.load(tmp_path / "vectors.npy", mmap_mode="r")).search(queries, 3)
    assert mapped.scores.dtype == np.float32
    np.testing.assert_array_equal(mapped.scores, by_full_sort(vectors, queries, 3)[1])


def test_what_cannot_be_meant_raises(make):
    index = make(np.ones((3, 2), np.float32))
    with pytest.raises(ConfigError, match="at least 1"):
        index.search(np.ones((1, 2), np.float32), 0)
    with pytest.raises(DataError, match="2 dimensions"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(DataError, match=r"bool \[3\]"):
        index.search(np.ones((1, 2), np.float32), 1, np.array([0, 1, 1]))
    with pytest.raises(DataError, match="not numbers"):
        index.search(np.array([[np.nan, 0]], np.float32), 1)
    with pytest.raises(DataError, match="not numbers"):
        make(np.array([[1, 0], [np.nan, 0]], np.float32)).search(np.ones((1, 2), np.float32), 1)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("q", [1, 3, 40])
@pytest.mark.parametrize("share", [1, 0.6, 0.1, 0.001, 0])
def test_stored_vectors_are_searched_as_what_they_are_read_as(kind, q, share, monkeypatch):
    """Few queries and many, by one thread and by several, masked and gathered."""
    monkeypatch.setattr(exact, "ALONE", 1000)
    monkeypatch.setattr(exact, "CACHED", 100 * 16)
    monkeypatch.setattr(exact.os, "sched_getaffinity", lambda _: range(3))
    generator = np.random.default_rng(q)
    vectors = stored(clustered(4000), kind)
    queries, allow = clustered(4000 + q)[4000:], generator.random(4000) < share
    index = Exact(vectors, item_block=700, score_block=7000)
    hits = index.search(queries, 12, None if share == 1 else allow)
    products = np.asarray(queries, np.float64) @ np.asarray(vectors, np.float64).T
    products[:, ~allow] = -np.inf
    wanted = -np.sort(-products, axis=1)[:, :12]
    np.testing.assert_allclose(hits.scores, wanted, atol=1e-5)
    present = hits.rows >= 0
    np.testing.assert_array_equal(present, wanted > -np.inf)
    np.testing.assert_allclose(np.take_along_axis(products, hits.rows, axis=1)[present], wanted[present], atol=1e-5)


def test_few_allowed_rows_are_read_alone():
    """What is not allowed is not even looked at: a mask that keeps little costs little."""
    vectors = np.full((1000, 4), np.nan, np.float32)
    vectors[[3, 500]] = [[1, 0, 0, 0], [2, 0, 0, 0]]
    allow = np.isfinite(vectors[:, 0])
    for q in (1, 9):
        hits = Exact(vectors).search(np.ones((q, 4), np.float32), 3, allow)
        assert hits.rows.tolist() == [[500, 3, -1]] * q and hits.scores.tolist() == [[2, 1, -np.inf]] * q


def test_searches_at_once_do_not_disturb_each_other(large):
    queries = clustered(8032)[8000:]
    masks = [None, np.arange(N) % 3 > 0, np.arange(N) % 50 == 0]
    alone = [large.search(queries[at : at + 4], 10, masks[at % 3]) for at in range(28)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for found, wanted in zip(pool.map(lambda at: large.search(queries[at : at + 4], 10, masks[at % 3]), range(28)), alone, strict=True):
                np.testing.assert_array_equal(found.rows, wanted.rows)
                np.testing.assert_array_equal(found.scores, wanted.scores)


def test_of_many_vectors_nearly_all_near_ones_are_found_and_scored_exactly(large):
    vectors, queries = clustered(N), clustered(N + 100)[N:]
    hits, products = large.search(queries, 10), queries @ vectors.T
    best = np.argsort(-products, axis=1, kind="stable")[:, :10]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(hits.rows, best, strict=True)]) > 0.95
    np.testing.assert_allclose(hits.scores, np.take_along_axis(products, hits.rows, axis=1), atol=1e-5)
    assert (np.diff(hits.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01, 0.001, 0])
@pytest.mark.parametrize("gathered", [True, False])
def test_it_keeps_to_what_is_allowed(large, share, gathered, monkeypatch):
    """Also where the index itself has to look for it, and finds less than is there."""
    if not gathered:
        monkeypatch.setattr(approximate, "SCORED", 0)
    vectors, queries = clustered(N), clustered(N + 30)[N:]
    allow = np.random.default_rng(5).random(N) < share
    hits = large.search(queries, 20, allow)
    there = min(20, int(allow.sum()))
    assert (hits.rows[:, :there] >= 0).all() and (hits.rows[:, there:] == -1).all() and np.isneginf(hits.scores[:, there:]).all()
    assert allow[hits.rows[:, :there]].all()
    assert all(len(set(rows)) == there for rows in hits.rows[:, :there].tolist())
    products = np.where(allow, queries @ vectors.T, -np.inf)
    best = np.argsort(-products, axis=1, kind="stable")[:, :there]
    assert not there or np.mean([len(set(a) & set(b)) / there for a, b in zip(hits.rows, best, strict=True)]) > 0.9


def test_of_equal_scores_the_lower_row_comes_first(make):
    """Whole numbers, so that many scores are equal, to the last bit."""
    vectors = np.random.default_rng(2).integers(-1, 2, (2000, 8)).astype(np.float32)
    hits = make(vectors).search(vectors[:20], 30)
    told = [list(zip((-scores).tolist(), rows.tolist(), strict=True)) for scores, rows in zip(hits.scores, hits.rows, strict=True)]
    assert told == [sorted(each) for each in told] and sum(len(set(scores)) < 20 for scores in hits.scores.tolist()) > 10


def test_more_hits_than_vectors_are_pads(large):
    hits = large.search(clustered(2), N + 5)
    assert (hits.rows[:, N:] == -1).all() and np.isneginf(hits.scores[:, N:]).all()
    assert [sorted(rows) for rows in hits.rows[:, :N].tolist()] == [list(range(N))] * 2


@pytest.mark.parametrize("n", [0, 1, 5, 1025])
def test_few_vectors_or_none(make, n):
    vectors, queries = clustered(n), clustered(1030)[1025:]
    hits, wanted = make(vectors).search(queries, 3), Exact(vectors).search(queries, 3)
    if n < 1025:
        np.testing.assert_array_equal(hits.rows, wanted.rows)
    assert ((hits.rows >= 0).sum(axis=1) == min(n, 3)).all()
    assert make(vectors).search(queries[:0], 3).rows.shape == (0, 3)


@pytest.mark.parametrize(("q", "n", "k"), [(700, 6000, 5), (3, 40_000, 20), (40, 50, 60), (9, 1000, 20), (5, 0, 3), (0, 100, 3)])
@pytest.mark.parametrize("levels", [7, 1_000_000])
def test_the_best_of_each_row_are_those_of_a_full_sort(q, n, k, levels):
    """Grouped and not, by one thread and by several, with ties everywhere, some scores that are none, and floors."""
    generator = np.random.default_rng(n + k)
    scores = generator.integers(0, levels, (q, n)).astype(np.float32)
    scores[generator.random((q, n)) < 0.1] = -np.inf
    floor = np.where(generator.random(q) < 0.5, -np.inf, np.quantile(scores, 0.8) if scores.size else 0).astype(np.float32)
    found = best_of_each(scores, k, floor)
    for row, hits, values, least in zip(scores, found.rows, found.scores, floor, strict=True):
        wanted = [at for at in np.argsort(-row, kind="stable") if row[at] > least][:k]
        assert hits.tolist() == wanted + [-1] * (k - len(wanted))
        assert values.tolist() == [row[at] for at in wanted] + [-np.inf] * (k - len(wanted))
