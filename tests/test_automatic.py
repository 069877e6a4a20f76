"""Choosing an index: exact where that is enough, else the least that reaches what is asked for, told on queries that chose nothing."""

import numpy as np
import pytest

from tests.test_index import clustered
from twotower.errors import ConfigError, DataError
from twotower.search.index import Approximate, Exact, automatic, choose
from twotower.search.index.automatic import recall_of
from twotower.search.index.hits import Hits

N = 3000


@pytest.fixture(scope="module")
def world():
    both = np.random.default_rng(1).normal(size=(N + 300, 16)).astype(np.float32)
    return both[:N], both[N:]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Exact search is never fast enough, and whatever is built is faster: what a clock says decides no test."""
    monkeypatch.setattr(automatic, "EXACT_NUMBERS", 0)
    monkeypatch.setattr(automatic, "milliseconds", lambda index, queries: 9.0 if isinstance(index, Exact) else 1.0)


def measured(index, vectors, queries):
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :10]
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(index.search(queries, 10).rows, best, strict=True)])


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("kind", ["ivf", "hnsw", "int8", "pq"])
def test_what_is_asked_for_is_reached_with_little_more(world, recall, kind, monkeypatch):
    vectors, queries = world
    monkeypatch.setattr(automatic, "PREFERRED", (kind,))
    index, chosen = choose(vectors, queries, recall)
    assert isinstance(index, Approximate) and chosen.kind == index.kind == kind and chosen.breadth == index.breadth
    drawn = queries[np.random.default_rng(0).permutation(300)]
    assert measured(index, vectors, drawn[:150]) >= recall
    assert chosen.recall == pytest.approx(measured(index, vectors, drawn[150:])) and chosen.recall > recall - 0.05
    if index.breadth > 2:
        assert measured(index.at(int(index.breadth / 1.5)), vectors, drawn[:150]) < recall
    assert chosen.bytes == index.nbytes > 0 and (chosen.milliseconds, chosen.exact_milliseconds) == (1.0, 9.0)


def test_the_recall_told_is_of_queries_that_chose_nothing(world):
    """Half of the queries are vectors of the catalogue and easy; had they been told too, the recall would be higher."""
    vectors, queries = world
    index, chosen = choose(vectors, queries[:100], 0.9, seed=3)
    drawn = queries[np.random.default_rng(3).permutation(100)]
    assert chosen.recall == pytest.approx(measured(index, vectors, drawn[50:]))
    assert chosen.recall != pytest.approx(measured(index, vectors, drawn[:50]), abs=1e-9)


def test_memory_decides_the_kind(world):
    vectors, queries = world
    needed = {kind: Approximate(vectors, kind).nbytes for kind in ("ivf", "int8", "pq")}
    assert needed["pq"] < needed["int8"] < needed["ivf"]
    for kind, most in needed.items():
        index, chosen = choose(vectors, queries, 0.8, memory=most)
        assert chosen.kind == kind and chosen.bytes <= most
    index, chosen = choose(vectors, queries, 0.8, memory=1000)
    assert isinstance(index, Exact) and chosen.kind == "exact" and "pq takes" in chosen.reason and chosen.recall == 1


def test_exact_is_taken_where_nothing_else_will_do(world, monkeypatch):
    vectors, queries = world
    monkeypatch.setattr(automatic, "recall_of", lambda found, wanted: 0.7)
    assert "hnsw does not reach it" in choose(vectors, queries)[1].reason
    monkeypatch.undo()
    assert "few milliseconds" in choose(vectors, queries)[1].reason
    monkeypatch.setattr(automatic, "EXACT_NUMBERS", 0)
    assert "misses nothing" in choose(vectors, queries, 1)[1].reason
    assert "too few" in choose(vectors, queries[:39])[1].reason
    assert "too few" in choose(vectors, queries[:0])[1].reason
    monkeypatch.setattr(automatic, "milliseconds", lambda index, queries: 1.0 if isinstance(index, Exact) else 2.0)
    index, chosen = choose(vectors, queries)
    assert isinstance(index, Exact) and "exact search 1.0 ms" in chosen.reason and chosen.breadth is None
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert "twotower[ann]" in choose(vectors, queries)[1].reason


def test_a_large_set_gets_no_graph(world, monkeypatch):
    vectors, queries = world
    monkeypatch.setattr(automatic, "PREFERRED", ("hnsw", "ivf"))
    assert choose(vectors, queries)[1].kind == "hnsw"
    monkeypatch.setattr(automatic, "GRAPH_NUMBERS", N * 16 - 1)
    assert choose(vectors, queries)[1].kind == "ivf"


def test_the_same_seed_chooses_the_same(world):
    vectors, queries = world
    chosen = [choose(vectors, queries, seed=4)[1]._replace(seconds=0) for _ in range(2)]
    assert chosen[0] == chosen[1]


def test_recall_counted_by_hand():
    found = Hits(np.array([[1, 2, 3], [4, -1, -1]]), np.zeros((2, 3), np.float32))
    assert recall_of(found, np.array([[3, 1, 7], [4, 5, -1]])) == 3 / 5


def test_what_cannot_be_meant_raises():
    for recall in (0, 1.01, -1):
        with pytest.raises(ConfigError, match="recall"):
            choose(clustered(20), clustered(50), recall)
    with pytest.raises(DataError, match="16 dimensions"):
        choose(clustered(20), clustered(50)[:, :3])
    with pytest.raises(DataError, match="nan"):
        choose(clustered(20), np.full((50, 16), np.nan, np.float32))
