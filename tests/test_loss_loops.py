"""Every loss with every option that it reads: equal to loops over pairs and their negatives in float64, and numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from test_blockwise import CHOICES, batch_of
from twotower.data.batches import complete, draft
from twotower.data.columns import ragged
from twotower.data.prepared import Log
from twotower.model import blockwise
from twotower.model.blockwise import loss_of
from twotower.model.losses import LOSSES
from twotower.model.options import READERS_OF_LOSSES, LossOptions
from twotower.model.relations import relation

CPU = torch.device("cpu")
OPTIONS = [LossOptions(loss=loss) for loss in LOSSES]
OPTIONS += [LossOptions(loss=loss, **{name: CHOICES[name]}) for name, losses in READERS_OF_LOSSES.items() if name != "symmetric" for loss in losses]
OPTIONS += [LossOptions(positives=meaning, smoothing=smoothing) for meaning in ("among", "graded", "together") for smoothing in (0.0, 0.3)]
OPTIONS += [LossOptions(positives="graded", correct_positive=False), LossOptions(loss="bilateral", smoothing=0.2, positive_temperature=0.5)]
OPTIONS += [LossOptions(loss=loss, smoothing=0.2, correction=False) for loss in ("bilateral", "sigmoid")]


def graded_batch(seed=0):
    """Matches of three grades, several of one view and of one grade among them."""
    batch = batch_of(seed)
    grades = np.random.default_rng(seed).integers(1, 4, len(batch.positives.positions)).astype(np.float32)
    return batch._replace(positives=batch.positives._replace(grades=grades))


def negatives_of(batch, view):
    """The candidates that are negatives of a view: not known to match its key, and there for all or for it."""
    mask, own = batch.mask_rows[view], batch.negatives
    known = set(batch.masks.values[batch.masks.offsets[mask] : batch.masks.offsets[mask + 1]].tolist())
    theirs = set(own.values[own.offsets[view] : own.offsets[view + 1]].tolist())
    return [c for c in range(len(batch.item_rows)) if c not in known and (c in theirs or not batch.alone[c])]


def log_sum(values):
    return torch.logsumexp(torch.stack(list(values)), 0) if len(values) else torch.tensor(-math.inf, dtype=torch.float64)


def log_s(x):
    return -torch.log1p(torch.exp(-x))


def by_loops(logits, batch, o):
    """The loss [p] of each pair, one after another."""
    found, positives = [], batch.positives
    for view in range(len(batch.query_rows)):
        pairs = range(positives.offsets[view], positives.offsets[view + 1])
        there, own = negatives_of(batch, view), batch.negatives
        theirs = own.values[own.offsets[view] : own.offsets[view + 1]].tolist()  # there for certain: nothing corrects them
        chance = [0.0 if batch.alone[c] or c in theirs else float(batch.log_prob[c]) for c in there] if o.correction else [0.0] * len(there)
        raw = [logits[view, c] for c in there]
        corrected = [n - q for n, q in zip(raw, chance, strict=True)]
        counts = [math.exp(-q) for q in chance]
        plain = [logits[view, positives.positions[p]] for p in pairs]
        off = [float(batch.log_prob[positives.positions[p]]) if o.correction and o.correct_positive else 0.0 for p in pairs]
        owns = [one - q for one, q in zip(plain, off, strict=True)]
        grades = [positives.grades[p] for p in pairs]
        labelled = [logits[view, c] for c in theirs]
        for n in range(len(pairs)):
            found.append(one_pair(n, plain, owns, grades, raw, corrected, counts, labelled, o))
    return torch.stack(found)


def one_pair(n, plain, owns, grades, raw, corrected, counts, labelled, o):
    own, e, total = plain[n], o.smoothing, sum(counts)
    zero = own * 0

    def mean(of):
        return sum((w * of(one) for w, one in zip(counts, raw, strict=True)), zero) / max(total, 1e-12)

    def judged(logits, weights, bias):
        return sum((-w * ((1 - e) * log_s(-(one + bias)) + e * log_s(one + bias)) for w, one in zip(weights, logits, strict=True)), zero)

    if o.loss == "softmax":
        lower = [one for one, grade in zip(owns, grades, strict=True) if grade < grades[n]]
        above = log_sum(owns) if o.positives == "together" else owns[n]
        below = {"apart": [owns[n]], "among": owns, "together": owns, "graded": [owns[n], *lower]}[o.positives]
        loss = log_sum([*corrected, *below]) - above
        return loss + e * (owns[n] - sum(corrected) / len(corrected)) if corrected else loss
    if o.loss == "bilateral":
        t = o.positive_temperature
        share = t * (log_sum([one / t for one in owns]) - math.log(len(owns)))
        return (1 - e) * (log_sum(corrected) - share) + e * (log_sum(corrected) - sum(corrected) / len(corrected)) if corrected else zero
    if o.loss == "sigmoid":
        bias = -math.log(max(total, 1.0))
        return -(1 - e) * log_s(own + bias) - e * log_s(-own - bias) + judged(raw, counts, bias)
    if o.loss == "pointwise":
        return -(1 - e) * log_s(own) - e * log_s(-own) + judged(labelled, [1.0] * len(labelled), 0.0) / len(owns)
    if o.loss == "bpr":
        return mean(lambda one: -log_s(own - one))
    if o.loss == "bpr_max":
        return log_sum(corrected) - log_sum([c + log_s(own - one) for c, one in zip(corrected, raw, strict=True)]) if raw else zero
    if o.loss == "hinge":
        return mean(lambda one: torch.relu(o.margin - own + one))
    if o.loss == "triplet":
        return torch.relu(o.margin - own + max(raw)) if raw else zero
    return 1 - own + o.negative_weight * mean(lambda one: torch.relu(one - o.margin))


@pytest.mark.parametrize("cells", [30, 1 << 19])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_equals_loops_over_pairs_and_autograd(options, cells, monkeypatch):
    """In blocks of a few views and in one."""
    monkeypatch.setitem(blockwise.CELLS, "cpu", cells)
    monkeypatch.setattr(blockwise, "ROWS", 1)
    batch = graded_batch()
    weights = torch.as_tensor(batch.positives.weights).double()
    raw = options.loss in ("hinge", "triplet", "cosine_contrastive")
    generator = torch.Generator().manual_seed(1)
    made = [torch.nn.functional.normalize(torch.randn(n, 6, generator=generator), dim=1) for n in (len(batch.query_rows), len(batch.item_rows))]
    given = [one.requires_grad_() for one in (*made, torch.tensor(1.7))]
    wide = [one.detach().double().requires_grad_() for one in given]
    each = by_loops((wide[0] * (1.0 if raw else wide[2].exp())) @ wide[1].T, batch, options)
    expected = (each * weights).sum() / weights.sum()
    expected.backward()
    found = loss_of(*given, batch, options)
    found.mean.backward()
    torch.testing.assert_close(found.each.double(), each.detach(), rtol=1e-5, atol=1e-5)
    assert found.mean.item() == pytest.approx(expected.item(), rel=1e-5)
    for one, other in zip(given, wide, strict=True):
        wanted = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close((torch.zeros_like(one) if one.grad is None else one.grad).double(), wanted, rtol=2e-5, atol=2e-6)


# --- two views and three candidates, by hand


def small(second=True):
    """The first view matches candidates 0, of grade 2, and 1, of grade 1; the second matches 1 and knows 0, which is masked."""
    log = Log(np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([0, 1, 1]), np.ones(3, np.float32), np.array([2, 1, 1], np.float32))
    return complete(draft(log, np.arange(3)), np.arange(3), np.log(np.array([0.5, 1, 0.25], np.float32)), ragged([[0, 1], [0, 1]]))


LN = math.log
# The e^logits are 4, 2, 1 and 3, 2, 6, so that of the first view the one negative has 1 part, of the second 6; corrected, 4 and 24.
BY_HAND = {
    LossOptions(correction=False): [LN(5 / 4), LN(3 / 2), LN(8 / 2)],
    LossOptions(correct_positive=False): [LN(8 / 4), LN(6 / 2), LN(26 / 2)],
    LossOptions(): [LN(12 / 8), LN(6 / 2), LN(26 / 2)],  # the first positive, there in every second batch, has 8 parts too
    LossOptions(correction=False, positives="among"): [LN(7 / 4), LN(7 / 2), LN(8 / 2)],
    LossOptions(correction=False, positives="graded"): [LN(7 / 4), LN(3 / 2), LN(8 / 2)],
    LossOptions(correction=False, positives="together"): [LN(7 / 6), LN(7 / 6), LN(8 / 2)],
    LossOptions(correction=False, smoothing=0.5): [LN(5 / 4) + LN(4) / 2, LN(3 / 2) + LN(2) / 2, LN(8 / 2) + LN(2 / 6) / 2],
    LossOptions(loss="bilateral", correction=False): [LN(1 / 3), LN(1 / 3), LN(6 / 2)],
    LossOptions(loss="bilateral", correction=False, positive_temperature=0.5): [-LN((16 + 4) / 2) / 2, -LN((16 + 4) / 2) / 2, LN(3)],
    LossOptions(loss="bilateral", correction=False, smoothing=0.5): [LN(1 / 3) / 2, LN(1 / 3) / 2, LN(3) / 2],
    LossOptions(loss="sigmoid", correction=False): [LN(5 / 4) + LN(2), LN(3 / 2) + LN(2), LN(3 / 2) + LN(7)],
    LossOptions(loss="sigmoid"): [LN(2) + 4 * LN(5 / 4), LN(6 / 2) + 4 * LN(5 / 4), LN(6 / 2) + 4 * LN(10 / 4)],  # bias -ln 4: 1/4, 6/4
    LossOptions(loss="bpr", correction=False): [LN(5 / 4), LN(3 / 2), LN(8 / 2)],
    LossOptions(loss="bpr_max", correction=False): [LN(5 / 4), LN(3 / 2), LN(8 / 2)],
    LossOptions(loss="hinge", margin=2.0): [2 - LN(4), 2 - LN(2), 2 + LN(3)],
    LossOptions(loss="triplet", margin=2.0): [2 - LN(4), 2 - LN(2), 2 + LN(3)],
    LossOptions(loss="cosine_contrastive", margin=-1.0, negative_weight=2.0): [1 - LN(4) + 2, 1 - LN(2) + 2, 1 - LN(2) + 2 * (LN(6) + 1)],
    LossOptions(loss="pointwise"): [LN(5 / 4), LN(3 / 2), LN(3 / 2)],
    LossOptions(loss="pointwise", smoothing=0.5): [LN(5 / 4) + LN(4) / 2, LN(3 / 2) + LN(2) / 2, LN(3 / 2) + LN(2) / 2],
}


@pytest.mark.parametrize("options", BY_HAND, ids=str)
def test_numbers_worked_by_hand(options):
    logits = torch.tensor([[4.0, 2, 1], [3, 2, 6]]).log()
    found = LOSSES[options.loss](logits, relation(small(), CPU), options)
    assert found.tolist() == pytest.approx(BY_HAND[options], abs=1e-5)


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("options", BY_HAND, ids=str)
def test_what_is_masked_has_a_gradient_of_exactly_nothing(options, value):
    """The second view knows candidate 0: whatever its logit, nothing changes, in the plain loss and in a step."""
    told = []
    for put in (0.0, value):
        logits = torch.tensor([[4.0, 2, 1], [3, 2, 6]]).log()
        logits[1, 0] = put
        related = relation(small(), CPU)
        given = logits.clone().requires_grad_()
        losses = LOSSES[options.loss](given, related, options)
        losses.sum().backward()
        each, gradient = blockwise._step(logits.clone(), related, torch.ones(3), options)
        assert given.grad[1, 0] == 0 == gradient[1, 0]
        torch.testing.assert_close(gradient, given.grad)
        told.append((losses.detach(), given.grad, each, gradient))
    torch.testing.assert_close(told[0], told[1], rtol=0, atol=0)


def test_each_loss_has_a_number_by_hand():
    assert {options.loss for options in BY_HAND} == set(LOSSES)


@pytest.mark.parametrize("loss", ["softmax", "bilateral", "sigmoid", "bpr", "cosine_contrastive"])
def test_a_view_without_negatives_has_finite_gradients(loss):
    for positives in ("apart", "graded", "among", "together") if loss == "softmax" else ("apart",):
        log = Log(np.zeros(2, np.int64), np.zeros(2, np.int64), np.array([0, 1]), np.ones(2, np.float32), np.array([2, 1], np.float32))
        batch = complete(draft(log, np.arange(2)), np.arange(2), np.zeros(2, np.float32), ragged([[0, 1]]))
        for smoothing in (0.0, 0.2) if loss in READERS_OF_LOSSES["smoothing"] else (0.0,):
            options = LossOptions(loss=loss, positives=positives, smoothing=smoothing)
            each, gradient = blockwise._step(torch.tensor([[0.5, 2.0]]), relation(batch, CPU), torch.ones(2), options)
            assert torch.isfinite(each).all() and torch.isfinite(gradient).all()


def test_a_better_match_is_lifted_above_a_lesser_one_by_order_and_not_by_weight():
    """`graded` pushes a lesser match down for the sake of a better one; weights alone never do."""
    related = relation(small(), CPU)
    factors = torch.tensor([1.0, 0.0, 0.0])  # of the better match alone
    found = [blockwise._step(torch.zeros(2, 3), related, factors, LossOptions(positives=meaning))[1][0] for meaning in ("graded", "apart")]
    assert found[0][0] < 0 < found[0][1] and found[1][0] < 0 == found[1][1]
