"""The loss: against a second implementation by hand, its masks, its weights, its sampling correction."""

import math

import numpy as np
import pytest
import torch

from twotower.data.batches import BatchDraft, complete, draft
from twotower.data.columns import ragged
from twotower.data.prepared import Log
from twotower.model.losses import Relation, relation, softmax
from twotower.model.negatives import in_batch, sampler_state

INF = math.inf


def related(p_views, p_positions, hidden, log_prob, weights=None, own=(), alone=None):
    masks = torch.zeros(1 + max(p_views), len(log_prob), dtype=torch.bool)
    for view, candidate in hidden:
        masks[view, candidate] = True
    weights = [1.0] * len(p_views) if weights is None else weights
    return Relation(
        views=torch.tensor(p_views),
        positions=torch.tensor(p_positions),
        weights=torch.tensor(weights),
        masks=masks,
        mask_rows=torch.arange(len(masks)),
        own=torch.tensor(own, dtype=torch.int64).reshape(-1, 2),
        alone=None if alone is None else torch.tensor(alone),
        log_prob=torch.tensor(log_prob, dtype=torch.float32),
    )


def by_hand(logits, views, positions, hidden, log_prob, correction, correct_positive):
    """Plain Python: -log of the positive's share among itself and the candidates that are not hidden."""
    losses = []
    for view, position in zip(views, positions, strict=True):
        own = logits[view][position] - (log_prob[position] if correction and correct_positive else 0)
        total = math.exp(own)
        for candidate in range(len(logits[view])):
            if (view, candidate) not in hidden:
                total += math.exp(logits[view][candidate] - (log_prob[candidate] if correction else 0))
        losses.append(-math.log(math.exp(own) / total))
    return losses


@pytest.mark.parametrize(("correction", "correct_positive"), [(False, False), (False, True), (True, False), (True, True)])
def test_softmax_equals_a_sum_by_hand(correction, correct_positive):
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(3, 5)).tolist()
    log_prob = np.log(generator.uniform(0.1, 1, 5)).tolist()
    views, positions = [0, 0, 1, 2], [1, 3, 0, 4]
    hidden = [(0, 1), (0, 3), (1, 0), (2, 4), (2, 2)]
    found = softmax(torch.tensor(logits), related(views, positions, hidden, log_prob), correction=correction, correct_positive=correct_positive)
    assert found.tolist() == pytest.approx(by_hand(logits, views, positions, hidden, log_prob, correction, correct_positive), abs=1e-5)


def test_a_number_worked_by_hand():
    # The positive has 3 of 3 + 1 + 2 = 6 parts.
    logits = torch.tensor([[3.0, 1.0, 2.0]]).log()
    found = softmax(logits, related([0], [0], [(0, 0)], [0.0, 0.0, 0.0]), correction=False, correct_positive=False)
    assert found.item() == pytest.approx(math.log(2))
    # Met in one batch of two, the third stands for 2 like itself: 3 of 3 + 1 + 4.
    found = softmax(logits, related([0], [0], [(0, 0)], [0.0, 0.0, math.log(0.5)]), correction=True, correct_positive=False)
    assert found.item() == pytest.approx(math.log(8 / 3))


@pytest.mark.parametrize("value", [0.0, 50.0, 1e4])
def test_a_masked_candidate_has_probability_zero(value):
    logits = torch.tensor([[1.0, value, 0.5]], requires_grad=True)
    loss = softmax(logits, related([0], [0], [(0, 0), (0, 1)], [0.0] * 3), correction=False, correct_positive=False)
    loss.sum().backward()
    assert logits.grad[0, 1] == 0
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)), abs=1e-6)
    # The gradient of a candidate that is not masked is its probability.
    assert logits.grad[0, 2].item() == pytest.approx(math.exp(0.5) / (math.exp(1) + math.exp(0.5)), abs=1e-6)


def test_a_view_whose_candidates_are_all_hidden_is_finite():
    logits = torch.tensor([[1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    loss = softmax(logits, related([0, 1], [0, 0], [(0, 0), (0, 1), (1, 0)], [0.0, 0.0]), correction=True, correct_positive=True)
    (loss * torch.tensor([1.0, 1.0])).sum().backward()
    assert loss[0] == 0
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].tolist() == [0.0, 0.0]
    assert logits.grad[1].abs().min() > 0


def test_large_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    loss = softmax(logits, related([0, 1], [0, 0], [(0, 0), (1, 0)], [0.0] * 3), correction=False, correct_positive=False)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 2e4])
    assert torch.isfinite(logits.grad).all()


def of_pairs(pairs, known, items, rejected=None):
    """A batch of (query row, key, item, weight), in one part, and its relation; rejected: the items of each key that it turned down."""
    rows, keys, item_rows, weights = (np.array(column) for column in zip(*pairs, strict=True))
    log = Log(rows, keys, item_rows, weights.astype(np.float32), np.ones(len(pairs), np.float32))
    part = draft(log, np.arange(len(pairs)))
    refused = None if rejected is None else ragged([rejected.get(int(key), []) for key in part.query_keys])
    batch = complete(part, np.array(items), np.zeros(len(items), np.float32), known, refused)
    return batch, relation(batch, torch.device("cpu"))


@pytest.mark.parametrize("rejected", [None, {0: [6, 2], 1: [5]}])
def test_grouped_equals_ungrouped(rejected):
    """Pairs of one query row, as one view or as a view each with the same masks: the same loss, the same gradients."""
    known = ragged([[0, 1, 4], [2]])
    pairs = [(0, 0, 0, 1.0), (0, 0, 1, 2.0), (5, 1, 2, 1.0)]
    items = [0, 1, 2, 3, 4]
    vectors = torch.randn(6, 4, generator=torch.manual_seed(0))
    candidates = torch.randn(7, 4, generator=torch.manual_seed(1))
    outcomes = []
    grouped, grouped_relation = of_pairs(pairs, known, items, rejected)
    assert len(grouped.query_rows) == 2
    apart = [of_pairs([pair], known, items, rejected) for pair in pairs]
    for parts in ([(grouped, grouped_relation)], apart):
        q, c = vectors.clone().requires_grad_(), candidates.clone().requires_grad_()
        total = weight = torch.tensor(0.0)
        for batch, relations in parts:
            losses = softmax(q[batch.query_rows] @ c[batch.item_rows].T, relations, correction=False, correct_positive=False)
            total = total + (losses * relations.weights).sum()
            weight = weight + relations.weights.sum()
        (total / weight).backward()
        outcomes.append((total / weight, q.grad, c.grad))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other)
    # Item 4 is a known match of key 0 alone: masked for the first view, a negative of the second.
    masked = [set(row.nonzero()[:, 0].tolist()) for row in grouped_relation.masks[grouped_relation.mask_rows]]
    assert masked == [{0, 1, 4}, {2}]


@pytest.mark.parametrize("value", [0.0, 50.0, 1e4])
def test_what_one_view_turned_down_has_probability_zero_for_the_others(value):
    """Items 5 and 6 are there as what somebody turned down; item 1, turned down too, is there for all."""
    known = ragged([[0], [1], [2]])
    pairs = [(0, 0, 0, 1.0), (1, 1, 1, 1.0), (2, 2, 2, 1.0)]
    batch, relations = of_pairs(pairs, known, [0, 1, 2], {0: [6, 1], 1: [5]})
    assert batch.item_rows.tolist() == [0, 1, 2, 5, 6]
    assert batch.alone.tolist() == [False, False, False, True, True]
    logits = torch.tensor([[1.0, 0.5, 0.2, value, 0.3], [0.1, 1.0, 0.4, 0.6, value], [0.2, 0.3, 1.0, value, value]], requires_grad=True)
    loss = softmax(logits, relations, correction=False, correct_positive=False)
    loss.sum().backward()
    own = [[1, 2, 4], [0, 2, 3], [0, 1]]  # the negatives of each view
    for view, others in enumerate(own):
        total = sum(math.exp(logits[view, n].item()) for n in others)
        positive = math.exp(logits[view, view].item())
        assert loss[view].item() == pytest.approx(math.log((positive + total) / positive), abs=1e-5)
        for n in set(range(5)) - {view}:
            share = math.exp(logits[view, n].item()) / (positive + total) if n in others else 0.0
            assert logits.grad[view, n].item() == (0.0 if n not in others else pytest.approx(share, abs=1e-6))


def test_what_was_turned_down_and_chosen_stays_a_match():
    known = ragged([[0, 1], [2]])
    batch, relations = of_pairs([(0, 0, 0, 1.0), (1, 1, 2, 1.0)], known, [0, 1, 2], {0: [0, 1]})
    logits = torch.tensor([[1.0, 5.0, 0.5], [0.0, 0.0, 0.0]], requires_grad=True)
    softmax(logits, relations, correction=False, correct_positive=False).sum().backward()
    assert not batch.alone.any()
    assert logits.grad[0, 1] == 0  # a known match of the key, whatever it said another time
    assert logits.grad[0, 0] < 0 < logits.grad[0, 2]


def test_what_was_turned_down_is_there_for_certain():
    """No correction makes more of it than it is."""
    relations = related([0], [0], [(0, 0)], [math.log(0.5), 0.0], own=[(0, 1)], alone=[False, True])
    logits = torch.tensor([[1.0, 0.5]])
    found = softmax(logits, relations, correction=True, correct_positive=False).item()
    assert found == pytest.approx(math.log(1 + math.exp(0.5 - 1.0)))


def test_a_weight_of_two_is_the_pair_twice():
    logits = torch.randn(2, 3, generator=torch.manual_seed(2))
    once = related([0, 1], [0, 1], [(0, 0), (1, 1)], [0.0] * 3, [2.0, 1.0])
    twice = related([0, 0, 1], [0, 0, 1], [(0, 0), (1, 1)], [0.0] * 3)
    mean = [(softmax(logits, r, correction=False, correct_positive=False) * r.weights).sum() / r.weights.sum() for r in (once, twice)]
    torch.testing.assert_close(*mean)


SHARES = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])


def drawn(n, generator):
    """A batch of n pairs whose items come with these shares."""
    items = np.sort(generator.choice(len(SHARES), n, p=SHARES))
    return BatchDraft(np.arange(n), np.arange(n), None, None, items, np.arange(n + 1), np.arange(n), np.ones(n, np.float32))


def test_log_prob_is_the_chance_of_being_met():
    state = sampler_state(np.repeat(np.arange(6), (SHARES * 100).astype(int)), 6)
    n, batches = 8, 20_000
    generator = np.random.default_rng(0)
    met, told = np.zeros(6), np.zeros(6)
    for _ in range(batches):
        found, state = in_batch(drawn(n, generator), state, generator)
        met[found.item_rows] += 1
        told[found.item_rows] = np.exp(found.log_prob)
    assert told == pytest.approx(1 - (1 - SHARES) ** n, abs=1e-6)
    assert met / batches == pytest.approx(told, abs=0.015)


def test_a_smaller_batch_meets_fewer():
    state = sampler_state(np.repeat(np.arange(6), (SHARES * 100).astype(int)), 6)
    generator = np.random.default_rng(0)
    few, _ = in_batch(drawn(1, generator), state, generator)
    assert np.exp(few.log_prob) == pytest.approx(SHARES[few.item_rows])


def corrected_sum(sign):
    """The mean over batches of the corrected sum of candidates, and the sum over the catalogue that it estimates."""
    state = sampler_state(np.repeat(np.arange(6), (SHARES * 100).astype(int)), 6)
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1, -1.0, 2.0]])
    generator = np.random.default_rng(3)
    sums = []
    for _ in range(20_000):
        found, state = in_batch(drawn(8, generator), state, generator)
        # A positive of logit 0 beside the candidates: exp(loss) - 1 is the sum over the candidates that the loss has seen.
        asked = torch.cat([logits[:, found.item_rows], torch.zeros(1, 1)], dim=1)
        place = len(found.item_rows)
        relations = related([0], [place], [(0, place)], [*(sign * found.log_prob).tolist(), 0.0])
        loss = softmax(asked, relations, correction=True, correct_positive=False)
        sums.append(math.expm1(loss.item()))
    return float(np.mean(sums)), float(np.std(sums)) / math.sqrt(len(sums)), float(logits.exp().sum())


def test_the_correction_is_unbiased_against_the_whole_catalogue():
    mean, error, whole = corrected_sum(1)
    assert abs(mean - whole) < 4 * error
    assert error < 0.05 * whole
    mean, error, _ = corrected_sum(-1)  # the sign that others shipped
    assert abs(mean - whole) > 20 * error


def test_correcting_the_positive_changes_only_the_positive():
    logits = torch.tensor([[0.5, 1.0]])
    relations = related([0], [0], [(0, 0)], [math.log(0.25), math.log(0.5)])
    negatives = math.exp(1.0) / 0.5
    plain = softmax(logits, relations, correction=True, correct_positive=False).item()
    corrected = softmax(logits, relations, correction=True, correct_positive=True).item()
    assert plain == pytest.approx(math.log(1 + negatives / math.exp(0.5)))
    assert corrected == pytest.approx(math.log(1 + negatives / (math.exp(0.5) / 0.25)))
