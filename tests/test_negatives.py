"""The candidates of a batch: who is among them, with what probability, and that correcting for it gives the sum over the catalogue."""

import math

import numpy as np
import pytest
import torch

from twotower.data.batches import BatchDraft, complete
from twotower.data.columns import ragged
from twotower.model.losses import LOSSES, softmax
from twotower.model.negatives import NEGATIVES, sampler_state
from twotower.model.options import LossOptions, NegativesOptions
from twotower.model.relations import relation

SHARES = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01, 0.0])  # nobody chose the last
LOG = np.repeat(np.arange(7), (SHARES * 100).astype(int))
OPTIONS = [
    NegativesOptions(),
    NegativesOptions(negatives="drawn", draws=5),
    NegativesOptions(negatives="drawn", draws=5, power=1.0),
    NegativesOptions(negatives="drawn", draws=5, power=0.5),
    NegativesOptions(negatives="mixed", draws=5, power=0.5),
    NegativesOptions(negatives="full"),
]
PAIRS = 8


def batch_of_pairs(n, generator):
    """A batch of n pairs of as many queries, dealt from the log as an epoch deals them: without replacement."""
    items = np.sort(generator.choice(LOG, n, replace=False))
    return BatchDraft(np.arange(n), np.arange(n), None, None, items, np.arange(n + 1), np.arange(n), np.ones(n, np.float32))


def absent(options):
    """The probability of each item to be no shared candidate, from the definition."""
    chance = np.where(SHARES > 0, np.where(SHARES > 0, SHARES, 1) ** options.power, 0)
    batch = np.array([math.comb(100 - k, PAIRS) / math.comb(100, PAIRS) for k in np.bincount(LOG, minlength=7).tolist()])
    draws = (1 - chance / chance.sum()) ** options.draws
    return {"in_batch": batch, "drawn": draws, "mixed": batch * draws, "full": 1.0 * (SHARES == 0)}[options.negatives]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_log_prob_is_the_chance_of_being_met(options):
    state, generator, batches = sampler_state(LOG, 7, options), np.random.default_rng(0), 10_000
    met, told = np.zeros(7), np.zeros(7)
    for _ in range(batches):
        part = batch_of_pairs(PAIRS, generator)
        found = NEGATIVES[options.negatives](part, state, generator)
        assert (np.diff(found.item_rows) > 0).all() and set(part.item_rows) <= set(found.item_rows)
        met[found.item_rows[~found.alone]] += 1
        told[found.item_rows] = np.exp(found.log_prob)
    assert told == pytest.approx(1 - absent(options), abs=1e-6)
    assert met / batches == pytest.approx(1 - absent(options), abs=0.02)
    assert met[6] == 0  # what no pair names is not drawn


def test_what_is_drawn_is_a_function_of_the_generator():
    for options in OPTIONS:
        state = sampler_state(LOG, 7, options)
        part = batch_of_pairs(3, np.random.default_rng(5))
        once, again = (NEGATIVES[options.negatives](part, state, np.random.default_rng(1)) for _ in range(2))
        assert all((a == b).all() for a, b in zip(once, again, strict=True))


def test_a_match_that_was_not_drawn_is_nobodys_negative():
    options = NegativesOptions(negatives="drawn", draws=1)
    state, generator = sampler_state(LOG, 7, options), np.random.default_rng(2)
    part = batch_of_pairs(4, generator)
    found = NEGATIVES["drawn"](part, state, generator)
    assert found.alone.sum() == len(found.item_rows) - 1
    batch = complete(part, found.item_rows, found.log_prob, ragged([[int(i)] for i in part.item_rows]), None, found.alone)
    logits = torch.zeros(4, len(found.item_rows), requires_grad=True)
    softmax(logits, relation(batch, torch.device("cpu")), LossOptions(correction=False)).sum().backward()
    for view, item in enumerate(part.item_rows):
        touched = set(found.item_rows[logits.grad[view].nonzero()[:, 0].numpy()])
        shared = set(found.item_rows[~found.alone])
        assert touched == ({item} | shared if item not in shared else set())


def test_explicit_non_matches_beside_draws():
    """What one turned down and another matched stays there for certain for the one, and is not drawn for the rest."""
    generator = np.random.default_rng(2)
    part = batch_of_pairs(4, generator)
    items = np.unique(part.item_rows)
    alone = np.ones(len(items), bool)
    refused = ragged([[int(items[0])] if item != items[0] else [6] for item in part.item_rows])
    batch = complete(part, items, np.full(len(items), -3.0, np.float32), ragged([[int(i)] for i in part.item_rows]), refused, alone)
    assert batch.alone.all() and batch.item_rows.tolist() == [*items.tolist(), 6]
    losses = softmax(torch.zeros(4, len(batch.item_rows)), relation(batch, torch.device("cpu")), LossOptions(correct_positive=False))
    assert losses.tolist() == pytest.approx([math.log(2)] * 4)


def corrected_sum(options, sign):
    """The mean over batches of the corrected sum of candidates, its error, and the sum over the catalogue that it estimates."""
    state = sampler_state(LOG, 7, options)
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1, -1.0, 2.0, 9.0]])
    generator = np.random.default_rng(3)
    sums = []
    for _ in range(8_000):
        found = NEGATIVES[options.negatives](batch_of_pairs(PAIRS, generator), state, generator)
        shared = found.item_rows[~found.alone]
        # A positive of logit 0 beside the candidates: exp(loss) - 1 is the sum over the candidates that the loss has seen.
        asked = BatchDraft(*np.zeros((2, 1), np.int64), None, None, np.array([7]), np.array([0, 1]), np.array([0]), np.ones(1, np.float32))
        log_prob = np.append(sign * found.log_prob[~found.alone], 0.0).astype(np.float32)
        batch = complete(asked, np.append(shared, 7), log_prob, ragged([[7]]))
        row = torch.cat([logits[:, shared], torch.zeros(1, 1)], dim=1)
        loss = softmax(row, relation(batch, torch.device("cpu")), LossOptions(correct_positive=False))
        sums.append(math.expm1(loss.item()))
    return float(np.mean(sums)), float(np.std(sums)) / math.sqrt(len(sums)), float(logits[:, :6].exp().sum())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_correction_is_unbiased_against_the_whole_catalogue(options):
    mean, error, whole = corrected_sum(options, 1)
    assert abs(mean - whole) < 4 * error + 1e-4
    assert error < 0.05 * whole
    if options.negatives != "full":
        mean, error, _ = corrected_sum(options, -1)  # the sign that others shipped
        assert abs(mean - whole) > 20 * error


def test_more_draws_come_nearer_to_the_full_loss():
    """The loss converges to that of the full catalogue as candidates grow (Bengio and Senecal 2008)."""
    generator, logits = np.random.default_rng(1), torch.tensor([[0.3, -0.2, 1.0, 0.1, -1.0, 2.0]])
    part = BatchDraft(*np.zeros((2, 1), np.int64), None, None, np.array([0]), np.array([0, 1]), np.array([0]), np.ones(1, np.float32))

    def loss(options):
        found = NEGATIVES[options.negatives](part, sampler_state(LOG, 7, options), generator)
        batch = complete(part, found.item_rows, found.log_prob, ragged([[0]]), None, found.alone)
        return softmax(logits[:, found.item_rows], relation(batch, torch.device("cpu")), LossOptions(correct_positive=False)).item()

    whole = loss(NegativesOptions(negatives="full"))
    away = [np.mean([abs(loss(NegativesOptions(negatives="drawn", draws=n)) - whole) for _ in range(300)]) for n in (1, 4, 16, 64)]
    assert away == sorted(away, reverse=True) and away[-1] < 0.01 < 0.3 < away[0]


CORRECTED = ["softmax", "bilateral", "sigmoid", "bpr", "bpr_max", "hinge", "cosine_contrastive"]


@pytest.mark.parametrize("loss", CORRECTED)
def test_each_corrected_loss_converges_to_that_of_the_whole_catalogue(loss):
    """As draws grow, though what is popular is drawn more often and likes the view better; with the wrong sign it is far from it."""
    generator = np.random.default_rng(1)
    log = np.repeat(np.arange(80), (600 / (3 + np.arange(80))).astype(int))
    logits = torch.linspace(1.5, -1.5, 80).unsqueeze(0)
    part = BatchDraft(*np.zeros((2, 1), np.int64), None, None, np.array([40]), np.array([0, 1]), np.array([0]), np.ones(1, np.float32))
    margin = {"hinge": 1.0, "cosine_contrastive": -1.5}.get(loss, 0.5)
    options = LossOptions(loss=loss, margin=margin, **({"correct_positive": False} if loss in ("softmax", "bilateral") else {}))

    def found(negatives, sign=1.0):
        candidates = NEGATIVES[negatives.negatives](part, sampler_state(log, 80, negatives), generator)
        batch = complete(part, candidates.item_rows, (sign * candidates.log_prob).astype(np.float32), ragged([[40]]), None, candidates.alone)
        return LOSSES[loss](logits[:, candidates.item_rows], relation(batch, torch.device("cpu")), options).item()

    def drawn(draws, sign=1.0):
        return np.array([found(NegativesOptions(negatives="drawn", draws=draws, power=1.0), sign) - whole for _ in range(60)])

    whole = found(NegativesOptions(negatives="full"))
    right = {draws: drawn(draws) for draws in (10, 60, 400, 4000)}
    away = [np.abs(part).mean() for part in right.values()]
    assert away == sorted(away, reverse=True) and away[-1] < 0.02 * away[0] + 1e-5
    assert abs(drawn(60, -1.0).mean()) > 3 * abs(right[60].mean()) + 0.05
