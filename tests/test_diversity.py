"""Results that differ from each other: against the definition, said again in plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError
from twotower.search.diversity import candidates, diversified, mmr
from twotower.search.index import Exact


def planted(seed, m, d=5):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(m, d)).astype(np.float32)
    vectors[generator.random(m) < 0.2] = 0  # what the model knows nothing of
    return np.sort(generator.normal(size=m))[::-1].astype(np.float32), vectors


def by_the_paper(scores, vectors, k, diversity):
    """Carbonell and Goldstein's greedy choice, with cosines, pair by pair."""

    def cosine(a, b):
        lengths = float(np.linalg.norm(a.astype(np.float64))), float(np.linalg.norm(b.astype(np.float64)))
        return float(a.astype(np.float64) @ b.astype(np.float64)) / (lengths[0] * lengths[1]) if min(lengths) else 0.0

    chosen = []
    for _ in range(min(k, len(scores))):
        worth = {
            n: (1 - diversity) * float(scores[n]) / abs(float(scores[0]))
            - (diversity * max(cosine(vectors[n], vectors[c]) for c in chosen) if chosen else 0)
            for n in range(len(scores))
            if n not in chosen
        }
        chosen.append(max(worth, key=lambda n: (round(worth[n], 12), -n)))
    return chosen


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(1, 12), st.floats(0.01, 1))
def test_the_order_is_that_of_the_paper(seed, m, k, diversity):
    scores, vectors = planted(seed, m)
    assert mmr(scores, vectors, k, diversity).tolist() == by_the_paper(scores, vectors, k, diversity)


def test_a_copy_of_the_first_waits_behind_what_is_new():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    scores = np.array([1.0, 0.99, 0.6], np.float32)
    assert mmr(scores, vectors, 3, 0.1).tolist() == [0, 1, 2]
    assert mmr(scores, vectors, 3, 0.5).tolist() == [0, 2, 1]
    assert mmr(100 * scores, 7 * vectors, 3, 0.5).tolist() == [0, 2, 1]  # whatever the scale


def test_hardly_any_diversity_changes_nothing():
    scores, vectors = planted(1, 40)
    assert mmr(scores, vectors, 40, 1e-9).tolist() == list(range(40))


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 15), st.integers(1, 4), st.floats(0.05, 1))
def test_pages_go_on_where_the_last_one_ended(seed, k, pages, diversity):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(300, 4)).astype(np.float32)
    queries = generator.normal(size=(2, 4)).astype(np.float32)
    seen = np.empty((2, 0), np.int64)
    for page in range(pages):
        skip = page * k
        hits = Exact(vectors).search(queries, candidates(k, skip))
        rows = diversified(hits, vectors, k, skip, diversity).rows
        assert rows.shape == (2, skip + k)
        assert rows[:, :skip].tolist() == seen.tolist()
        seen = rows
    assert all(len(set(row)) == len(row) for row in seen.tolist())


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 15), st.sampled_from([0.9, 0.3, 0.02]), st.floats(0.05, 1))
def test_pages_of_what_fits_go_on_too_wherever_it_stands_among_the_hits(seed, k, share, diversity):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(300, 4)).astype(np.float32)
    queries, allowed = generator.normal(size=(2, 4)).astype(np.float32), generator.random(300) < share
    seen = np.empty((2, 0), np.int64)
    for skip in range(0, 4 * k, k):
        hits = Exact(vectors).search(queries, candidates(k, skip))
        rows = diversified(hits, vectors, k, skip, diversity, allowed[hits.rows] & (hits.rows >= 0)).rows
        assert rows[:, :skip].tolist() == seen.tolist()
        for told, near in zip(rows.tolist(), hits.rows.tolist(), strict=True):
            found = [row for row in told if row >= 0]
            fitting = [row for row in near if row >= 0 and allowed[row]]
            assert len(set(found)) == len(found) and {*found} <= {*fitting}
            assert -1 not in told[skip:] or {*fitting} <= {*found}  # a page is short only where nothing is left for it
        seen = rows


def test_what_does_not_fit_is_never_taken():
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    hits = Exact(vectors).search(vectors[:2], 30)
    fits = hits.scores > 0.5
    found = diversified(hits, vectors, 30, 0, 0.7, fits)
    for n in range(2):
        assert sorted(found.rows[n][found.rows[n] >= 0]) == sorted(hits.rows[n][fits[n]])
        there = found.rows[n] >= 0
        assert found.scores[n][there] == pytest.approx(vectors[found.rows[n][there]] @ vectors[n], abs=1e-5)


@pytest.mark.parametrize("diversity", [0, -0.1, 1.1, float("nan"), "0.3", True])
def test_a_diversity_that_is_none(diversity):
    with pytest.raises(ConfigError, match="above 0 and up to 1"):
        mmr(np.ones(2, np.float32), np.ones((2, 2), np.float32), 1, diversity)
