"""The loss of a batch computed some views at a time: memory grows with b + c, not with b x c.

The gradient of a block of logits is made as soon as its loss is, turned into gradients of the vectors, and let go. No logit is
computed twice, and none leaves the processor's cache: three matrix products are most of the work (compare the chunked losses of Hsu et
al. 2024 and the recomputation of Chen et al. 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twotower.data.batches import Batch
from twotower.model.losses import LOSSES, own_negatives, own_of
from twotower.model.options import RAW, LossOptions
from twotower.model.relations import Relation, relation, turned

CELLS = {"cpu": 1 << 19, "cuda": 1 << 26}  # logits of a block: what stays in a cache, or fills a card


class Lost(NamedTuple):
    """The loss of a batch, and that of each of its pairs without a gradient."""

    mean: Tensor  # []
    each: Tensor  # float32 [p]


def loss_of(queries: Tensor, items: Tensor, log_scale: Tensor, batch: Batch, options: LossOptions, *, unit: bool = True, half: bool = False) -> Lost:
    """The loss of a batch: queries [b, d], items [c, d].

    log_scale: minus the log of the temperature. unit: whether vectors have length 1, and so must their beginnings. half: matrix
    products in bfloat16, where the processor has instructions for them; sums stay float32.
    """
    related = relation(batch, queries.device)
    scale = log_scale.exp() if options.loss not in RAW else torch.ones_like(log_scale)
    losses = []
    for width in (queries.shape[1], *options.widths):
        narrow = [_beginning(vectors, width, unit) for vectors in (queries, items)]
        lost = _lost(narrow[0], narrow[1], scale, related, options, half)
        if options.symmetric:
            back = turned(batch, queries.device)
            lost = Lost((lost.mean + _lost(narrow[1][back.items], narrow[0], scale, back.related, options, half).mean) / 2, lost.each)
        losses.append(lost)
    return Lost(torch.stack([lost.mean for lost in losses]).mean(), losses[0].each)


def _beginning(vectors: Tensor, width: int, unit: bool) -> Tensor:
    """The first dimensions, as a vector of their own (Matryoshka, Kusupati et al. 2022)."""
    if width == vectors.shape[1]:
        return vectors
    return torch.nn.functional.normalize(vectors[:, :width], dim=1) if unit else vectors[:, :width]


def _lost(queries: Tensor, items: Tensor, scale: Tensor, related: Relation, options: LossOptions, half: bool) -> Lost:
    mean, each = _Blockwise.apply(queries, items, scale, related, options, half)  # type: ignore[no-untyped-call]
    return Lost(mean, each)


class _Blockwise(torch.autograd.Function):
    """sum(weight x loss) / sum(weight) over views in blocks, with its gradients ready when it returns."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, items: Tensor, scale: Tensor, related: Relation, options: LossOptions, half: bool
    ) -> tuple[Tensor, Tensor]:
        scaled = queries * scale
        factors = related.weights / related.weights.sum().clamp(min=1e-12)
        rows = max(1, CELLS.get(queries.device.type, CELLS["cpu"]) // max(1, len(items)))
        each = torch.empty_like(factors)
        for_queries, for_items = torch.empty_like(queries), torch.zeros_like(items)
        with _products(half):
            for start in range(0, len(queries), rows):
                end = min(start + rows, len(queries))
                block = related.block(start, end)
                pairs = slice(int(related.offsets[start]), int(related.offsets[end]))
                logits = scaled[start:end] @ items.T
                each[pairs], gradient = _step(logits, block, factors[pairs], options)
                for_queries[start:end] = gradient @ items
                for_items.addmm_(gradient.T, scaled[start:end])
        # The scale multiplies the queries, so that its gradient is theirs along them.
        for_scale = (for_queries * queries).sum()
        ctx.save_for_backward(for_queries.mul_(scale), for_items, for_scale)
        ctx.mark_non_differentiable(each)
        return (each * factors).sum(), each

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        queries, items, scale = ctx.saved_tensors
        return queries * gradient, items * gradient, scale * gradient, None, None, None


def _step(logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The loss [p] of each pair of a block, and the gradient [b, c] of their sum times factors [p]."""
    if options.loss == "softmax" and options.positives == "apart" and not options.smoothing:
        return _softmax_step(logits, related, factors, options)
    with torch.enable_grad():
        logits.requires_grad_()
        losses = LOSSES[options.loss](logits, related, options)
        (gradient,) = torch.autograd.grad((losses * factors).sum(), logits)
    return losses.detach(), gradient


def _softmax_step(logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The same as the gradient of `losses.softmax`, in the memory of the logits."""
    own = own_of(logits, related, options)
    cells = own_negatives(logits, related, options.correction)
    if options.correction:
        logits.sub_(related.log_prob)
    negatives = related.negatives_(logits, cells)
    # torch.softmax computes its exponentials in half the time of exp; the sum follows from the largest of them.
    most = negatives.amax(1)
    shares = torch.softmax(negatives, dim=1)
    nobody = most == -torch.inf
    if nobody.any():
        shares[nobody] = 0.0
    others = torch.where(nobody, most, most - shares.amax(1).log())
    difference = others[related.views] - own
    blame = factors * torch.sigmoid(difference)
    shares.mul_(torch.zeros_like(others).index_add(0, related.views, blame).unsqueeze(1))
    shares.index_put_((related.views, related.positions), -blame, accumulate=True)
    return torch.nn.functional.softplus(difference), shares


@contextmanager
def _products(half: bool) -> Iterator[None]:
    """Let the processor multiply float32 matrices by its bfloat16 instructions."""
    if not half:
        yield
        return
    settings: tuple[Any, ...] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting, kind in zip(settings, ("bf16", "tf32"), strict=True):
            setting.fp32_precision = kind
        yield
    finally:
        for setting, kind in zip(settings, before, strict=True):
            setting.fp32_precision = kind
