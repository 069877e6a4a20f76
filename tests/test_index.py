"""Exact search: against a full sort, whatever the blocks, ties and filters."""

import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError, DataError, MissingExtra
from twotower.search.index import INDEXES, Exact, Hnsw, best_of_each

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


@pytest.fixture(params=sorted(INDEXES))
def make(request):
    return INDEXES[request.param]


@settings(max_examples=150, deadline=None)
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


def test_one_query_is_quick(make):
    generator = np.random.default_rng(0)
    index = make(generator.normal(size=(7424, 128)).astype(np.float32))
    query = generator.normal(size=(1, 128)).astype(np.float32)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        index.search(query, 10)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02  # a generous guard against something quadratic; it takes some 0.1 ms


# --- approximate


def clustered(n: int, d: int = 16) -> np.ndarray:
    """Vectors of length 1 about 20 centres."""
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(20, d))[generator.integers(20, size=n)] + 0.3 * generator.normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_graph_finds_nearly_what_exact_search_finds():
    vectors, queries = clustered(3000), clustered(3100)[3000:]
    exact, near = Exact(vectors).search(queries, 10), Hnsw(vectors).search(queries, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.rows, near.rows, strict=True)])
    assert recall > 0.95
    assert (np.diff(near.scores, axis=1) <= 0).all()
    np.testing.assert_allclose(near.scores, np.einsum("qd,qkd->qk", queries, vectors[near.rows]), atol=1e-5)


def test_a_graph_keeps_to_what_is_allowed_and_pads():
    vectors = clustered(50)
    allow = np.arange(50) % 10 == 0
    hits = Hnsw(vectors).search(vectors[:4], 60, allow=allow)
    assert hits.rows.shape == (4, 60)
    assert all(set(rows[rows >= 0]) == {0, 10, 20, 30, 40} for rows in hits.rows)
    assert np.isneginf(hits.scores[hits.rows < 0]).all()
    with pytest.raises(ConfigError):
        Hnsw(vectors).search(vectors[:1], 0)
    with pytest.raises(DataError):
        Hnsw(vectors).search(vectors[:1, :3], 1)
    assert Hnsw(vectors[:0]).search(vectors[:2], 3).rows.tolist() == [[-1] * 3] * 2


def test_a_graph_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"twotower\[ann\]"):
        Hnsw(clustered(5))


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
