"""The softmax loss: against a second implementation by hand, its masks, its weights, its correction."""

import math

import numpy as np
import pytest
import torch

from twotower.data.batches import complete, draft
from twotower.data.columns import offsets_of, ragged
from twotower.data.prepared import Log
from twotower.model import losses
from twotower.model.options import LossOptions
from twotower.model.relations import Relation, relation

INF = math.inf


def softmax(logits, related, **options):
    return losses.softmax(logits, related, LossOptions(**options))


def related(p_views, p_positions, hidden, log_prob, weights=None, own=(), alone=None):
    """The relation of views whose pairs and hidden candidates are given."""
    b = 1 + max(p_views)

    def offsets(of):
        return offsets_of(np.bincount(np.array(of, np.int64), minlength=b))

    def cells(of):
        return torch.tensor(sorted(of), dtype=torch.int64).reshape(-1, 2)

    return Relation(
        views=torch.tensor(p_views),
        positions=torch.tensor(p_positions),
        weights=torch.tensor([1.0] * len(p_views) if weights is None else weights),
        offsets=offsets(p_views),
        masks=cells(hidden),
        mask_offsets=offsets([view for view, _ in hidden]),
        mask_rows=torch.arange(b),
        first_mask=np.arange(b),
        own=cells(own),
        own_offsets=offsets([view for view, _ in own]),
        alone=None if alone is None else torch.tensor(alone),
        log_prob=torch.tensor(log_prob, dtype=torch.float32),
        grades=torch.ones(len(p_views)),
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
    masked = [{candidate for mask, candidate in grouped_relation.masks.tolist() if mask == row} for row in grouped_relation.mask_rows.tolist()]
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


def test_correcting_the_positive_changes_only_the_positive():
    logits = torch.tensor([[0.5, 1.0]])
    relations = related([0], [0], [(0, 0)], [math.log(0.25), math.log(0.5)])
    negatives = math.exp(1.0) / 0.5
    plain = softmax(logits, relations, correction=True, correct_positive=False).item()
    corrected = softmax(logits, relations, correction=True, correct_positive=True).item()
    assert plain == pytest.approx(math.log(1 + negatives / math.exp(0.5)))
    assert corrected == pytest.approx(math.log(1 + negatives / (math.exp(0.5) / 0.25)))
