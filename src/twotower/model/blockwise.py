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
from twotower.model.lessons import Lesson, lesson
from twotower.model.losses import LOSSES, SUMMED, Summed, own_negatives, own_of, there
from twotower.model.options import RAW, LossOptions
from twotower.model.relations import Relation, relation, turned

CELLS = {"cpu": 1 << 19, "cuda": 1 << 26}  # logits of a block: what stays in a cache, or fills a card
# With fewer rows than these a matrix product takes up to twice the time, which costs more than a block that leaves the nearest cache.
ROWS, MOST_CELLS = 256, 1 << 23


class Parts(NamedTuple):
    """What the loss and the distance from a teacher count."""

    loss: float
    teacher: float


class Work(NamedTuple):
    """What of a loss is computed in blocks, and how."""

    related: Relation
    weight: Tensor  # []  of the whole batch
    options: LossOptions
    half: bool
    taught: Lesson | None
    parts: Parts


class Lost(NamedTuple):
    """The loss of a batch, and that of each of its pairs without a gradient; of a share, what it adds to the one and its own of the others."""

    mean: Tensor  # []
    each: Tensor  # float32 [p]


class Share(NamedTuple):
    """One of several parts of the views of a batch, whose losses add up to that of the batch."""

    number: int
    of: int  # so many
    start: int  # its first view
    end: int  # the one behind its last


def loss_of(
    queries: Tensor,
    items: Tensor,
    log_scale: Tensor,
    batch: Batch,
    options: LossOptions,
    *,
    unit: bool = True,
    half: bool = False,
    share: Share | None = None,
) -> Lost:
    """The loss of a batch: queries [b, d], items [c, d].

    log_scale: minus the log of the temperature. unit: whether vectors have length 1, and so must their beginnings. half: matrix
    products in bfloat16, where the processor has instructions for them; sums stay float32. share: what of the loss is computed here, if
    not all of it; queries may then be those of its views alone, but for a symmetric loss.
    """
    related, taught = relation(batch, queries.device), lesson(batch, queries.device)
    weight, of_teacher = related.weights.sum(), 0.0 if taught is None else options.teacher_weight
    share = share or Share(0, 1, 0, len(batch.query_rows))
    mine, taught = related.block(share.start, share.end), taught and taught.block(share.start, share.end)
    scale = log_scale.exp() if options.loss not in RAW else torch.ones_like(log_scale)
    losses = []
    for width in (queries.shape[1], *options.widths):
        narrow = [_beginning(vectors, width, unit) for vectors in (queries, items)]
        own = narrow[0] if len(narrow[0]) == share.end - share.start else narrow[0][share.start : share.end]
        # A teacher speaks of queries alone: what is said of items is halved like the loss that it stands beside.
        parts = Parts(1 - of_teacher, 2 * of_teacher if options.symmetric else of_teacher)
        lost = _lost(own, narrow[1], scale, Work(mine, weight, options, half, taught, parts))
        if options.symmetric:
            back = turned(batch, queries.device)
            start, end = (len(back.items) * number // share.of for number in (share.number, share.number + 1))
            some = back.related.block(start, end)
            work = Work(some, weight, options, half, None, parts._replace(teacher=0.0))
            theirs = _lost(narrow[1][back.items[start:end]], narrow[0], scale, work)
            lost = Lost((lost.mean + theirs.mean) / 2, lost.each)
        losses.append(lost)
    return Lost(torch.stack([lost.mean for lost in losses]).mean(), losses[0].each)


def _beginning(vectors: Tensor, width: int, unit: bool) -> Tensor:
    """The first dimensions, as a vector of their own (Matryoshka, Kusupati et al. 2022)."""
    if width == vectors.shape[1]:
        return vectors
    return torch.nn.functional.normalize(vectors[:, :width], dim=1) if unit else vectors[:, :width]


def _lost(queries: Tensor, items: Tensor, scale: Tensor, work: Work) -> Lost:
    return Lost(*_Blockwise.apply(queries, items, scale, work))  # type: ignore[no-untyped-call]


class _Blockwise(torch.autograd.Function):
    """sum(weight x loss) over views in blocks, divided by the weight of the whole batch, with its gradients ready when it returns."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, scale: Tensor, work: Work) -> tuple[Tensor, Tensor]:
        related, taught = work.related, work.taught
        scaled = queries * scale
        factors = related.weights / work.weight.clamp(min=1e-12)
        rows = _rows_of_block(len(items), queries.device)
        each = torch.empty_like(factors)
        for_queries, for_items = torch.empty_like(queries), torch.zeros_like(items)
        with _products(work.half):
            for start in range(0, len(queries), rows):
                end = min(start + rows, len(queries))
                block = related.block(start, end)
                pairs = slice(int(related.offsets[start]), int(related.offsets[end]))
                logits = scaled[start:end] @ items.T
                each[pairs], gradient = _shared_step(logits, block, factors[pairs], work.options, taught and taught.block(start, end), work.parts)
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
        return queries * gradient, items * gradient, scale * gradient, None


def _rows_of_block(candidates: int, device: torch.device) -> int:
    cells, candidates = CELLS.get(device.type, CELLS["cpu"]), max(1, candidates)
    return max(1, cells // candidates, min(ROWS, MOST_CELLS // candidates))


def _shared_step(
    logits: Tensor, related: Relation, factors: Tensor, options: LossOptions, taught: Lesson | None, parts: Parts
) -> tuple[Tensor, Tensor]:
    """`_step` of what the loss and the teacher say together."""
    if taught is None:
        losses, gradient = _step(logits, related, parts.loss * factors, options)
        return parts.loss * losses, gradient
    of_views = torch.zeros(len(logits), device=logits.device, dtype=factors.dtype).index_add(0, related.views, factors)
    apart, gradient = taught.step(logits, related, parts.teacher * of_views, options)
    losses = parts.teacher * apart[related.views]
    if parts.loss > 0:
        own, of_loss = _step(logits, related, parts.loss * factors, options)
        losses, gradient = losses + parts.loss * own, gradient.add_(of_loss)
    return losses, gradient


def _step(logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The loss [p] of each pair of a block, and the gradient [b, c] of their sum times factors [p]. The logits are used up."""
    if options.loss in SUMMED:
        return _summed_step(logits, related, factors, options)
    with torch.enable_grad():
        logits.requires_grad_()
        losses = LOSSES[options.loss](logits, related, options)
        (gradient,) = torch.autograd.grad((losses * factors).sum(), logits)
    return losses.detach(), gradient


def _summed_step(logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The same for a loss of sums over the negatives, in the memory of the logits: autograd sees the sums [b] and positives [p] alone."""
    own = own_of(logits, related, options)
    cells = own_negatives(logits, related)
    if options.correction:
        logits.sub_(related.log_prob)
    negatives = related.negatives_(logits, cells)
    mean, counted = torch.zeros_like(negatives[:, 0]), None
    if options.smoothing:
        counted = there(negatives)
        counted /= counted.sum(1, keepdim=True).clamp(min=1)
        mean = torch.where(counted > 0, negatives, 0.0).mul_(counted).sum(1)
    # torch.softmax computes its exponentials in half the time of exp; the sum follows from the largest of them.
    most = negatives.amax(1)
    shares = torch.softmax(negatives, dim=1, out=negatives if negatives.is_cpu else None)
    nobody = most == -torch.inf
    if nobody.any():
        shares[nobody] = 0.0
    total = torch.where(nobody, most, most - shares.amax(1).log())
    with torch.enable_grad():
        given = [one.requires_grad_() for one in (own, total, mean)]
        losses = SUMMED[options.loss](own, Summed(total, mean), related, options)
        blame = torch.autograd.grad((losses * factors).sum(), given, allow_unused=True)
    assert blame[0] is not None and blame[1] is not None
    shares.mul_(blame[1].unsqueeze(1))
    if counted is not None and blame[2] is not None:
        shares.addcmul_(counted, blame[2].unsqueeze(1))
    shares.index_put_((related.views, related.positions), blame[0], accumulate=True)
    return losses.detach(), shares


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
