"""The loss in blocks: equal to the plain one, for every loss, however the views are cut."""

import math

import numpy as np
import pytest
import torch

from twotower.data.batches import complete, draft
from twotower.data.columns import ragged
from twotower.data.prepared import Log
from twotower.model import blockwise
from twotower.model.blockwise import loss_of
from twotower.model.losses import LOSSES
from twotower.model.options import READERS_OF_LOSSES, LossOptions
from twotower.model.relations import relation, turned

CHOICES = {
    "correction": False,
    "correct_positive": False,
    "positives": "together",
    "symmetric": True,
    "smoothing": 0.1,
    "margin": 0.1,
    "negative_weight": 3.0,
    "positive_temperature": 2.0,
}
OPTIONS = [LossOptions(loss=loss) for loss in LOSSES]
OPTIONS += [LossOptions(loss=loss, **{name: CHOICES[name]}) for name, losses in READERS_OF_LOSSES.items() for loss in losses]
OPTIONS += [LossOptions(positives="among"), LossOptions(widths=(3, 5)), LossOptions(symmetric=True, widths=(4,), smoothing=0.2)]


def batch_of(seed=0, keys=5, items=14, pairs=24, explicit=True):
    """Views with several matches, keys with several views, candidates that nobody matched, and what some keys turned down."""
    generator = np.random.default_rng(seed)
    known = [np.sort(generator.choice(items - 2, size, replace=False)) for size in generator.integers(1, 6, keys)]
    chosen = generator.integers(0, keys, pairs)
    log = Log(
        chosen * 2 + generator.integers(0, 2, pairs), chosen, np.array([generator.choice(known[k]) for k in chosen]), *np.ones((2, pairs), np.float32)
    )
    log = log._replace(weights=generator.uniform(0.5, 2, pairs).astype(np.float32))
    part = draft(log, np.arange(pairs))
    candidates = np.union1d(part.item_rows, [items - 2, 0])
    log_prob = np.log(generator.uniform(0.05, 0.9, len(candidates))).astype(np.float32)
    refused = ragged([sorted({items - 1, items, int(key)}) if key % 2 else [] for key in part.query_keys]) if explicit else None
    return complete(part, candidates, log_prob, ragged(known), refused)


def vectors_of(batch, d=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1) for n in (len(batch.query_rows), len(batch.item_rows))]
    return [one.requires_grad_() for one in made] + [torch.tensor(1.7, requires_grad=True)]


def plain(queries, items, log_scale, batch, options):
    """The same by one matrix and autograd."""
    raw = options.loss in ("hinge", "triplet", "cosine_contrastive")
    scale = torch.tensor(1.0) if raw else log_scale.exp()
    means = []
    for width in (queries.shape[1], *options.widths):
        q, i = (torch.nn.functional.normalize(one[:, :width], dim=1) if width < queries.shape[1] else one for one in (queries, items))
        directions = [(q, i, relation(batch, torch.device("cpu")))]
        if options.symmetric:
            back = turned(batch, torch.device("cpu"))
            directions.append((i[back.items], q, back.related))
        for one, other, related in directions:
            losses = LOSSES[options.loss]((one * scale) @ other.T, related, options)
            means.append((losses * related.weights).sum() / related.weights.sum())
    return torch.stack(means).mean()


@pytest.mark.parametrize("cells", [1, 40, 1 << 19])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_blocks_equal_the_plain_loss_and_its_gradients(options, cells, monkeypatch):
    monkeypatch.setitem(blockwise.CELLS, "cpu", cells)
    monkeypatch.setattr(blockwise, "ROWS", 1)
    batch = batch_of()
    assert batch.alone.any() and len(batch.query_rows) > len(batch.masks.offsets) - 1
    outcomes = []
    for way in (plain, lambda *given: loss_of(*given).mean):
        vectors = vectors_of(batch)
        loss = way(*vectors, batch, options)
        (3 * loss).backward()
        outcomes.append((loss.detach(), *(one.grad if one.grad is not None else torch.zeros_like(one) for one in vectors)))
    for expected, found in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)
    assert outcomes[0][1].abs().max() > 1e-4


def test_the_loss_of_each_pair_is_told():
    batch = batch_of()
    lost = loss_of(*vectors_of(batch), batch, LossOptions())
    weights = torch.as_tensor(batch.positives.weights)
    assert lost.mean.item() == pytest.approx(((lost.each * weights).sum() / weights.sum()).item(), rel=1e-5) and not lost.each.requires_grad


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_changes_the_loss(options):
    changed = {name: getattr(options, name) for name in CHOICES | {"widths": ()} if getattr(options, name) != getattr(LossOptions, name)}
    if not changed:
        options, changed = LossOptions(), {"loss": options.loss} if options.loss != "softmax" else {"correction": False}
        options = LossOptions(**changed)
    batch = batch_of()
    default = LossOptions(loss=options.loss if "loss" not in changed else "softmax")
    assert loss_of(*vectors_of(batch), batch, options).mean.item() != pytest.approx(loss_of(*vectors_of(batch), batch, default).mean.item(), rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [-40.0, 0.0, 40.0])
def test_a_masked_candidate_counts_for_nothing(loss, value):
    """Whatever its logit, the loss and every gradient stay the same, and its own gradient is 0."""
    batch = batch_of(explicit=False)
    related, options = relation(batch, torch.device("cpu")), LossOptions(loss=loss)
    logits = torch.randn(len(batch.query_rows), len(batch.item_rows), generator=torch.Generator().manual_seed(4))
    masked = torch.zeros_like(logits, dtype=torch.bool)
    for view, mask in enumerate(batch.mask_rows):
        masked[view, batch.masks.values[batch.masks.offsets[mask] : batch.masks.offsets[mask + 1]]] = True
    masked[related.views, related.positions] = False
    assert masked.any()
    told = []
    for put in (0.0, value):
        given = logits.masked_fill(masked, put).requires_grad_()
        losses = LOSSES[loss](given, related, options)
        losses.sum().backward()
        assert (given.grad[masked] == 0).all() and torch.isfinite(losses).all()
        told.append((losses.detach(), given.grad))
    torch.testing.assert_close(*told)


def by_hand(loss, own, negatives, weights, pairs, o):
    """One pair in plain Python. own: its logit; negatives and what each counts; pairs: the logits of all positives of the view."""
    total, exp, log = sum(weights), math.exp, math.log

    def mean(of):
        return sum(w * of(n) for n, w in zip(negatives, weights, strict=True)) / total

    def s(x):
        return 1 / (1 + exp(-x))

    below = sum(w * exp(n) for n, w in zip(negatives, weights, strict=True))
    return {
        "softmax": lambda: -log(exp(own) / (exp(own) + below)),
        "bilateral": lambda: log(below) - o.positive_temperature * log(sum(exp(p / o.positive_temperature) for p in pairs) / len(pairs)),
        "sigmoid": lambda: -log(s(own - log(total))) - sum(w * log(s(-(n - log(total)))) for n, w in zip(negatives, weights, strict=True)),
        "bpr": lambda: mean(lambda n: -log(s(own - n))),
        "bpr_max": lambda: -log(sum(w * exp(n) / below * s(own - n) for n, w in zip(negatives, weights, strict=True))),
        "hinge": lambda: mean(lambda n: max(0.0, o.margin - own + n)),
        "triplet": lambda: max(0.0, o.margin - own + max(negatives)),
        "cosine_contrastive": lambda: 1 - own + o.negative_weight * mean(lambda n: max(0.0, n - o.margin)),
    }[loss]()


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "pointwise"])
def test_each_loss_by_hand(loss, correction):
    if correction and loss == "triplet":
        pytest.skip("the hardest is the hardest, however often it is met")
    options = LossOptions(loss=loss, correction=correction, correct_positive=False, margin=0.3, negative_weight=2.0, positive_temperature=1.5)
    batch = batch_of()
    related = relation(batch, torch.device("cpu"))
    logits = torch.randn(len(batch.query_rows), len(batch.item_rows), generator=torch.Generator().manual_seed(4))
    found = LOSSES[loss](logits, related, options)
    for n, (view, position) in enumerate(zip(related.views.tolist(), related.positions.tolist(), strict=True)):
        mask = batch.mask_rows[view]
        masked = set(batch.masks.values[batch.masks.offsets[mask] : batch.masks.offsets[mask + 1]].tolist())
        own = set(batch.negatives.values[batch.negatives.offsets[view] : batch.negatives.offsets[view + 1]].tolist())
        there = [c for c in range(len(batch.item_rows)) if c not in masked and (c in own or not batch.alone[c])]
        weights = [math.exp(-batch.log_prob[c]) if correction and c not in own else 1.0 for c in there]  # its own are there for certain
        pairs = [logits[view, p].item() for p in related.positions[related.views == view]]
        expected = by_hand(loss, logits[view, position].item(), [logits[view, c].item() for c in there], weights, pairs, options)
        assert found[n].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_pointwise_looks_at_labels_alone():
    batch = batch_of()
    related = relation(batch, torch.device("cpu"))
    logits = torch.randn(len(batch.query_rows), len(batch.item_rows), generator=torch.Generator().manual_seed(4))
    found = LOSSES["pointwise"](logits, related, LossOptions(loss="pointwise"))
    for view in range(len(batch.query_rows)):
        pairs = (related.views == view).nonzero()[:, 0]
        own = batch.negatives.values[batch.negatives.offsets[view] : batch.negatives.offsets[view + 1]]
        expected = sum(math.log1p(math.exp(-logits[view, related.positions[pair]].item())) for pair in pairs)
        expected += sum(math.log1p(math.exp(logits[view, c].item())) for c in own)
        assert found[pairs].sum().item() == pytest.approx(expected, rel=1e-4)


def test_smoothing_and_the_meanings_of_several_positives():
    batch = batch_of()
    related = relation(batch, torch.device("cpu"))
    logits = torch.randn(len(batch.query_rows), len(batch.item_rows), generator=torch.Generator().manual_seed(4))

    def found(**options):
        return LOSSES["softmax"](logits, related, LossOptions(correction=False, **options))

    several = 0
    apart, together, among = found(), found(positives="together"), found(positives="among")
    for view in range(len(batch.query_rows)):
        pairs = (related.views == view).nonzero()[:, 0]
        own = logits[view, related.positions[pairs]]
        below = (apart[pairs].exp() - 1) * own.exp()  # the sum over the negatives
        several += len(pairs) > 1
        torch.testing.assert_close(together[pairs], -(own.exp().sum() / (own.exp().sum() + below)).log())
        torch.testing.assert_close(among[pairs], -(own.exp() / (own.exp().sum() + below)).log())
    assert several > 2
    assert found(smoothing=0.2).mean() > apart.mean()


def test_items_against_queries_leave_out_known_matches():
    """An item is for the queries that it matches; a query whose key knows it otherwise is no negative of it."""
    batch = batch_of(explicit=False)
    back = turned(batch, torch.device("cpu"))
    assert back.items.tolist() == sorted(set(batch.positives.positions.tolist()))
    matches = {
        (int(p), view) for view in range(len(batch.query_rows)) for p in batch.positives.positions[slice(*batch.positives.offsets[view : view + 2])]
    }
    assert {(int(back.items[a]), view) for a, view in zip(back.related.views.tolist(), back.related.positions.tolist(), strict=True)} == matches
    hidden = {(int(back.items[a]), view) for a, view in back.related.masks.tolist()}
    knows = {(int(p), view) for view, mask in enumerate(batch.mask_rows) for p in batch.masks.values[slice(*batch.masks.offsets[mask : mask + 2])]}
    assert hidden == {(item, view) for item, view in knows if item in back.items.tolist()} and hidden > matches


def test_bfloat16_products_are_near():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 instructions")
    batch = batch_of(pairs=300, items=40, keys=40)
    outcomes = []
    for half in (False, True):
        vectors = vectors_of(batch, d=64)
        loss = loss_of(*vectors, batch, LossOptions(), half=half).mean
        loss.backward()
        outcomes.append((loss.item(), vectors[0].grad))
    assert outcomes[1][0] == pytest.approx(outcomes[0][0], rel=0.01)
    assert (outcomes[1][1] - outcomes[0][1]).norm() < 0.02 * outcomes[0][1].norm()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
