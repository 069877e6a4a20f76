"""Ranks in the whole catalogue: against a loop over sets, whatever the blocks and the threads."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from twotower.data.columns import Ragged
from twotower.errors import ConfigError, DataError
from twotower.learning import evaluation
from twotower.learning.evaluation import dot_scorer, in_threads, rank
from twotower.learning.metrics import METRICS


def lists(rows):
    values = [item for row in rows for item in row]
    return Ragged(np.array(values, np.int64), np.cumsum([0] + [len(row) for row in rows]))


def by_loops(scores, relevant, excluded, per):
    """above, tied, offsets and candidates, one comparison at a time."""
    above, tied, offsets, candidates = [], [], [0], []
    for row, wanted, unwanted in zip(scores.tolist(), relevant, excluded, strict=True):
        for item in wanted:
            left_out = set(unwanted) - set(wanted)
            if per == "pair":
                left_out |= set(wanted) - {item}
            pool = [other for other in range(len(row)) if other not in left_out]
            above.append(sum(row[other] > row[item] for other in pool))
            tied.append(sum(row[other] == row[item] for other in pool))
            if per == "pair":
                candidates.append(len(pool))
                offsets.append(len(above))
        if per == "query":
            candidates.append(len(row) - len(set(unwanted) - set(wanted)))
            offsets.append(len(above))
    return above, tied, offsets, candidates


@st.composite
def worlds(draw):
    """Scores full of ties, with relevant and excluded items that overlap."""
    q, n, per = draw(st.integers(1, 6)), draw(st.integers(1, 30)), draw(st.sampled_from(["pair", "query"]))
    # -inf and 0 are scores like others.
    score = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])
    scores = np.array(draw(st.lists(score, min_size=q * n, max_size=q * n)), np.float32).reshape(q, n)
    items = st.integers(0, n - 1)
    some = st.lists(items, min_size=1, max_size=n, unique=True) if per == "query" else st.lists(items, max_size=n)
    relevant = [draw(some) for _ in range(q)]  # a pair may have been logged twice
    excluded = [draw(st.lists(items, max_size=n)) for _ in range(q)]
    return scores, relevant, excluded, per, draw(st.none() | st.integers(1, 7))


def test_a_ranking_alone_knows_no_grades():
    assert rank(lambda rows: np.zeros((1, 2), np.float32), lists([[1]]), n_items=2).gains is None


@settings(max_examples=300)
@given(worlds())
def test_equals_loops_over_sets(world):
    scores, relevant, excluded, per, block = world
    options = {"per": per, "n_items": scores.shape[1], "block": block}
    ranks = rank(lambda rows: scores[rows], lists(relevant), lists(excluded), **options)
    for found, expected in zip(ranks[:4], by_loops(scores, relevant, excluded, per), strict=True):
        assert found.dtype == np.int64
        assert found.tolist() == expected


def test_a_large_world_with_few_and_many_relevant_items_equals_loops():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 40, (30, 300)).astype(np.float32)
    relevant = [generator.permutation(300)[: 1 + 2 * query].tolist() for query in range(30)]
    excluded = [generator.integers(0, 300, 50).tolist() for _ in range(30)]
    for per in ("pair", "query"):
        ranks = rank(lambda rows: scores[rows], lists(relevant), lists(excluded), per=per, n_items=300, block=4)
        for found, expected in zip(ranks[:4], by_loops(scores, relevant, excluded, per), strict=True):
            assert found.tolist() == expected


def test_a_world_worked_by_hand():
    scores = np.array([[5, 4, 4, 3, 9]], np.float32)
    relevant, excluded = lists([[1, 3]]), lists([[4, 3, 4]])  # 3 is both: relevant
    whole = rank(lambda rows: scores[rows], relevant, excluded, per="query", n_items=5)
    assert [array.tolist() for array in whole[:4]] == [[1, 3], [2, 1], [0, 2], [4]]
    pairs = rank(lambda rows: scores[rows], relevant, excluded, per="pair", n_items=5)
    assert [array.tolist() for array in pairs[:4]] == [[1, 2], [2, 1], [0, 1, 2], [3, 3]]
    seen = rank(lambda rows: scores[rows], relevant, per="query", n_items=5)
    assert seen.above.tolist() == [2, 4] and seen.n_candidates.tolist() == [5]


def test_pairs_of_one_relevant_item_each_equal_queries():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 9, (20, 50)).astype(np.float32)
    relevant = lists(generator.integers(0, 50, (20, 1)).tolist())
    by_pair = rank(lambda rows: scores[rows], relevant, per="pair", n_items=50)
    by_query = rank(lambda rows: scores[rows], relevant, per="query", n_items=50)
    for one, other in zip(by_pair[:4], by_query[:4], strict=True):
        assert one.tolist() == other.tolist()


def test_vectors_find_themselves():
    vectors = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ranks = rank(dot_scorer(vectors, vectors.astype(np.float16)), lists([[row] for row in range(200)]), n_items=200)
    assert (METRICS["hit"](ranks, 1) == 1).all()


def test_one_opinion_for_all_may_be_a_read_only_view():
    popularity = np.array([3, 1, 2], np.float32)
    ranks = rank(
        lambda rows: np.broadcast_to(popularity, (rows.stop - rows.start, 3)),
        lists([[0], [1], [2]]),
        lists([[], [0], [0]]),
        n_items=3,
        block=2,
    )
    assert ranks.above.tolist() == [0, 1, 0]


def test_the_scorer_is_asked_in_blocks_and_its_scores_are_left_alone():
    asked = []
    scores = np.random.default_rng(0).random((10, 7)).astype(np.float32)
    before = scores.copy()

    def scorer(rows):
        asked.append((rows.start, rows.stop))
        return scores[rows]

    rank(scorer, lists([[0]] * 10), lists([[1, 2]] * 10), n_items=7, block=4)
    assert sorted(asked) == [(0, 4), (4, 8), (8, 10)]
    assert (scores == before).all()


def products():
    """How many threads a product may take now; libraries that came after may bring a BLAS of their own."""
    return max(pool["num_threads"] for pool in evaluation._pools().info())


def test_as_many_parts_at_once_as_a_product_has_threads_and_each_multiplies_by_itself():
    together, seen = threading.Barrier(2, timeout=30), set()

    def work(part):
        together.wait()  # goes on only when another part is at it
        seen.add((part, threading.get_ident(), products()))

    with threadpool_limits(2, user_api="blas"):
        in_threads(work, range(4))
        assert products() == 2
        in_threads(lambda part: seen.add((part, threading.get_ident(), products())), [9])  # one part keeps all of them
    assert {part for part, _, _ in seen} == {0, 1, 2, 3, 9}
    assert {(part == 9, threads) for part, _, threads in seen} == {(False, 1), (True, 2)}
    assert len({thread for part, thread, _ in seen if part != 9}) == 2


def test_what_fails_in_a_thread_is_said_and_leaves_products_as_they_were():
    tried = []

    def work(part):
        tried.append(part)
        if part in (1, 2):
            raise DataError(f"part {part}")

    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            with pytest.raises(DataError, match="part 1"):
                in_threads(work, range(1000))
            assert products() == threads
    assert len(tried) < 1000


@pytest.mark.parametrize("per", ["pair", "query"])
def test_threads_change_no_rank(per):
    generator = np.random.default_rng(0)
    queries, items = (generator.integers(-2, 3, (n, 8)).astype(np.float32) for n in (100, 60))  # exact products, full of ties
    relevant = lists([generator.choice(60, 3, replace=False).tolist() for _ in range(100)])
    excluded = lists([generator.choice(60, 9, replace=False).tolist() for _ in range(100)])
    found = []
    for threads in (1, 3):
        with threadpool_limits(threads, user_api="blas"):
            found.append(rank(dot_scorer(queries, items), relevant, excluded, per=per, n_items=60, block=7))
    for one, other in zip(*(ranks[:4] for ranks in found), strict=True):
        assert one.tolist() == other.tolist()


def test_what_cannot_be_ranked_raises():
    scores = np.ones((2, 3), np.float32)
    broken = scores.copy()
    broken[1, 2] = np.nan

    def of(matrix):
        return lambda rows: matrix[rows]

    good = lists([[0], [1]])
    with pytest.raises(DataError, match="query row 1 for item row 2 is not a number"):
        rank(of(broken), good, n_items=3)
    with pytest.raises(DataError, match="query row 1 for item row 2 is not a number"):
        rank(of(broken), good, n_items=3, block=1)
    with pytest.raises(DataError, match=r"\(2, 3\) for 2 queries and 4 items"):
        rank(of(scores), good, n_items=4)
    with pytest.raises(DataError, match="query row 1 has no relevant item"):
        rank(of(scores), lists([[0], []]), per="query", n_items=3)
    with pytest.raises(DataError, match="more than once"):
        rank(of(scores), lists([[0], [1, 1]]), per="query", n_items=3)
    for outside in (-1, 3):
        with pytest.raises(DataError, match="outside the rows 0 to 2"):
            rank(of(scores), lists([[0], [outside]]), n_items=3)
        with pytest.raises(DataError, match="excluded items outside"):
            rank(of(scores), good, lists([[outside], []]), n_items=3)
    with pytest.raises(DataError, match="2 queries came with exclusions for 1"):
        rank(of(scores), good, lists([[0]]), n_items=3)
    with pytest.raises(ConfigError, match="per"):
        rank(of(scores), good, per="user", n_items=3)
    with pytest.raises(ConfigError, match="block"):
        rank(of(scores), good, n_items=3, block=0)
