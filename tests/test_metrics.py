"""Metrics: against trec_eval over all orders of tied items, against fractions, and by hand."""

from fractions import Fraction
from itertools import permutations, product
from math import comb, fsum, log2

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError
from twotower.learning.metrics import METRICS, Ranks, parse

NAMES = ["hit", "map", "mrr", "ndcg", "precision", "recall"]


def ranks_of(queries):
    """Ranks of (scores, relevant items) a query, by counting."""
    above, tied = [], []
    for scores, relevant in queries:
        above += [sum(other > scores[item] for other in scores) for item in relevant]
        tied += [sum(other == scores[item] for other in scores) for item in relevant]
    offsets = np.cumsum([0] + [len(relevant) for _, relevant in queries])
    return Ranks(np.array(above), np.array(tied), offsets, np.array([len(scores) for scores, _ in queries]))


def orders(scores):
    """Every order of the items by falling score, each order of tied ones in turn."""
    distinct = sorted(set(scores), reverse=True)
    groups = [[item for item, other in enumerate(scores) if other == score] for score in distinct]
    for parts in product(*(permutations(group) for group in groups)):
        yield [item for part in parts for item in part]


def trec_eval(queries, cutoffs):
    """The mean of every metric of trec_eval over all orders: {metric: [q]}."""
    runs, qrels, owner = {}, {}, {}
    for query, (scores, relevant) in enumerate(queries):
        for number, order in enumerate(orders(scores)):
            name = f"{query}.{number}"
            runs[name] = {f"d{item}": float(len(order) - place) for place, item in enumerate(order)}
            qrels[name] = {f"d{item}": 1 for item in relevant}
            owner[name] = query
    cut = ",".join(map(str, cutoffs))
    measures = {f"{name}.{cut}" for name in ("success", "recall", "P", "map_cut", "ndcg_cut")} | {
        "map",
        "ndcg",
        "recip_rank",
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(runs)
    columns = {"map": "map", "ndcg": "ndcg", "mrr": "recip_rank"}
    for k in cutoffs:
        columns |= {f"hit@{k}": f"success_{k}", f"recall@{k}": f"recall_{k}", f"precision@{k}": f"P_{k}"}
        columns |= {f"map@{k}": f"map_cut_{k}", f"ndcg@{k}": f"ndcg_cut_{k}"}
    numbers = np.array([owner[name] for name in found])
    counts = np.bincount(numbers)
    means = {ours: np.bincount(numbers, [values[theirs] for values in found.values()]) / counts for ours, theirs in columns.items()}
    reciprocal = np.array([values["recip_rank"] for values in found.values()])
    for k in cutoffs:
        means[f"mrr@{k}"] = np.bincount(numbers, np.where(reciprocal >= 1 / k, reciprocal, 0)) / counts
    return means


def graded(queries):
    """The expectation of trec_eval's graded ndcg@3 over all orders; queries: (scores, {item: grade})."""
    found = []
    for scores, grades in queries:
        qrel = {f"d{item}": grade for item, grade in grades.items()}
        runs = {str(n): {f"d{item}": float(-place) for place, item in enumerate(order)} for n, order in enumerate(orders(scores))}
        measured = pytrec_eval.RelevanceEvaluator(dict.fromkeys(runs, qrel), {"ndcg_cut.3", "ndcg"}).evaluate(runs)
        found.append([np.mean([values[name] for values in measured.values()]) for name in ("ndcg_cut_3", "ndcg")])
    return np.array(found).T


def ours(metric, ranks):
    name, k = parse(metric)
    return METRICS[name](ranks, k)


def test_every_metric_equals_trec_eval_averaged_over_the_orders_of_ties():
    generator = np.random.default_rng(0)
    queries = []
    for _ in range(2000):
        n = int(generator.integers(1, 7))
        scores = generator.integers(0, generator.integers(1, 9), n).tolist()
        relevant = generator.permutation(n)[: generator.integers(1, n + 1)].tolist()
        queries.append((scores, relevant))
    ranks, oracle = ranks_of(queries), trec_eval(queries, (1, 2, 3, 5, 10))
    assert {metric.partition("@")[0] for metric in oracle} == set(NAMES) == set(METRICS)
    for metric, expected in oracle.items():
        found = ours(metric, ranks)
        assert found.dtype == np.float64 and found.shape == (2000,)
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=metric)


def test_longer_rankings_without_ties_equal_trec_eval():
    generator = np.random.default_rng(1)
    queries = [(generator.permutation(60).tolist(), generator.permutation(60)[: 1 + i % 20].tolist()) for i in range(100)]
    ranks = ranks_of(queries)
    for metric, expected in trec_eval(queries, (1, 10, 50, 100)).items():
        np.testing.assert_allclose(ours(metric, ranks), expected, atol=1e-9, err_msg=metric)


def test_graded_ndcg_equals_trec_eval_averaged_over_the_orders_of_ties():
    generator = np.random.default_rng(2)
    queries = []
    for _ in range(500):
        n = int(generator.integers(1, 7))
        scores = generator.integers(0, generator.integers(1, 9), n).tolist()
        relevant = generator.permutation(n)[: generator.integers(1, n + 1)].tolist()
        queries.append((scores, {item: int(generator.integers(1, 5)) for item in relevant}))
    ranks = ranks_of([(scores, list(grades)) for scores, grades in queries])
    ranks = ranks._replace(gains=np.array([float(grade) for _, grades in queries for grade in grades.values()]))
    cut, whole = graded(queries)
    np.testing.assert_allclose(ours("ndcg@3", ranks), cut, atol=1e-9)
    np.testing.assert_allclose(ours("ndcg", ranks), whole, atol=1e-9)
    assert np.abs(ours("ndcg@3", ranks._replace(gains=None)) - cut).max() > 0.05
    np.testing.assert_allclose(ours("ndcg@3", ranks._replace(gains=np.full(len(ranks.above), 7.0))), ours("ndcg@3", ranks._replace(gains=None)))


def test_numbers_worked_by_hand():
    # Relevant items at rank 2 and, tied with one other, at rank 4 or 5; six candidates.
    ranks = ranks_of([([9, 8, 7, 6, 6, 1], [1, 3])])
    expected = {
        "hit@1": 0,
        "hit@2": 1,
        "recall@4": 0.75,
        "precision@4": 1.5 / 4,
        "mrr": 1 / 2,
        "mrr@1": 0,
        "map": (1 / 2 + (2 / 4 + 2 / 5) / 2) / 2,
        "ndcg@4": (1 / log2(3) + 0.5 / log2(5)) / (1 + 1 / log2(3)),
    }
    for metric, value in expected.items():
        np.testing.assert_allclose(ours(metric, ranks), [value], rtol=1e-12, err_msg=metric)


def test_a_scorer_without_an_opinion_gets_what_chance_gets():
    n, r, k = 1000, 3, 10
    ranks = Ranks(np.zeros(r, int), np.full(r, n), np.array([0, r]), np.array([n]))
    assert ours("recall@10", ranks)[0] == pytest.approx(k / n)
    assert ours("precision@10", ranks)[0] == pytest.approx(r / n)
    assert ours("hit@10", ranks)[0] == pytest.approx(1 - comb(n - r, k) / comb(n, k))
    shuffled = [min(np.random.default_rng(seed).permutation(n)[:r]) + 1 for seed in range(3000)]
    assert ours("mrr", ranks)[0] == pytest.approx(np.mean(1 / np.array(shuffled)), rel=0.15)


tie = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2000), st.none() | st.integers(1, 2500))


@settings(max_examples=300)
@given(tie)
def test_one_large_tie_equals_sums_over_positions(drawn):
    tied, relevant, above, k = max(drawn[:2]), min(drawn[:2]), *drawn[2:]
    ranks = Ranks(np.full(relevant, above), np.full(relevant, tied), np.array([0, relevant]), np.array([above + tied]))
    limit = above + tied if k is None else k
    first = average = Fraction(0)
    for r in range(1, tied + 1):
        if above + r <= limit:
            first += Fraction(comb(tied - r, relevant - 1), comb(tied, relevant) * (above + r))
            so_far = 1 + (Fraction((r - 1) * (relevant - 1), tied - 1) if tied > 1 else 0)
            average += Fraction(relevant, tied) * so_far / (above + r) / relevant
    np.testing.assert_allclose(METRICS["mrr"](ranks, k), [float(first)], rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(METRICS["map"](ranks, k), [float(average)], rtol=1e-11, atol=1e-14)
    slots = min(max(limit - above, 0), tied)
    none = Fraction(comb(tied - relevant, slots), comb(tied, slots))
    np.testing.assert_allclose(METRICS["hit"](ranks, limit), [float(1 - none)], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("above", "tied"), [(0, 1_000_000), (250, 10), (255, 1), (256, 7), (999_990, 10), (0, 257)])
def test_one_relevant_item_in_a_long_tie(above, tied):
    ranks = Ranks(np.array([above]), np.array([tied]), np.array([0, 1]), np.array([above + tied]))
    expected = fsum(1 / rank for rank in range(above + 1, above + tied + 1)) / tied
    for metric in ("mrr", "map"):
        np.testing.assert_allclose(METRICS[metric](ranks, None), [expected], rtol=1e-11)


def test_the_value_of_an_untied_item_is_exact():
    above = np.arange(5000)
    ranks = Ranks(above, np.ones(5000, int), np.arange(5001), np.full(5000, 5000))
    assert (METRICS["mrr"](ranks, None) == 1 / (above + 1)).all()
    assert (METRICS["map"](ranks, None) == 1 / (above + 1)).all()


small = st.integers(2, 12).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 4), min_size=n, max_size=n), st.sets(st.integers(0, n - 1), min_size=1))
)


@settings(max_examples=200)
@given(small, st.integers(1, 14), st.sampled_from(NAMES))
def test_what_holds_for_every_metric(query, k, name):
    scores, relevant = query[0], sorted(query[1])
    value = METRICS[name](ranks_of([(scores, relevant)]), k)[0]
    assert -1e-12 <= value <= 1 + 1e-12
    # The order of the items and any rising change of the scores are no matter.
    turned = [len(scores) - 1 - item for item in relevant]
    assert METRICS[name](ranks_of([([score * 7 + 3 for score in scores[::-1]], turned)]), k)[0] == pytest.approx(value)
    # Lifting the lowest relevant item above all else never harms.
    lifted = list(scores)
    lifted[min(relevant, key=lambda item: scores[item])] = 99
    assert METRICS[name](ranks_of([(lifted, relevant)]), k)[0] >= value - 1e-12
    # A value is of its query alone.
    both = METRICS[name](ranks_of([([1, 2, 2], [2, 0]), (scores, relevant), ([5], [0])]), k)
    assert both[1] == pytest.approx(value) and both.shape == (3,)


def test_no_queries_give_no_values():
    nothing = Ranks(np.zeros(0, int), np.zeros(0, int), np.zeros(1, int), np.zeros(0, int))
    for name in NAMES:
        assert METRICS[name](nothing, 10).shape == (0,)


def test_names():
    assert parse("ndcg@10") == ("ndcg", 10)
    assert parse("mrr") == ("mrr", None) and parse("map@5") == ("map", 5)
    for wrong in ("nDCG@10", "recal@5", "", "@5"):
        with pytest.raises(ConfigError, match="recall"):
            parse(wrong)
    for wrong in ("recall", "hit@", "hit@0", "hit@-1", "ndcg@ten", "ndcg@1.5", "mrr@", "precision@²"):
        with pytest.raises(ConfigError, match="cutoff"):
            parse(wrong)
    with pytest.raises(ConfigError, match="cutoff"):
        METRICS["recall"](ranks_of([([1], [0])]), None)
