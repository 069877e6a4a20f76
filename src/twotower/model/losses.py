"""Losses: pure functions of logits, with no model inside.

To add one: a function of the same form and its entry in `LOSSES`. Each returns one loss per positive pair [p]; the loop
takes sum(weight x loss) / sum(weight).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from twotower.data.batches import Batch
from twotower.data.columns import lengths_of, ragged_rows


class Relation(NamedTuple):
    """How the b views of a batch and its c candidates are related, as tensors."""

    views: Tensor  # int64 [p]  the view of each positive pair
    positions: Tensor  # int64 [p]  and its candidate
    weights: Tensor  # float32 [p]
    masks: Tensor  # bool [m, c]  candidates that are no negatives: the known matches of a key
    mask_rows: Tensor  # int64 [b]  which of these is the view's
    own: Tensor  # int64 [r, 2]  (view, candidate) of negatives that are its own
    alone: Tensor | None  # bool [c]  candidates that are somebody's own negatives only, if there are any
    log_prob: Tensor  # float32 [c]


def relation(batch: Batch, device: torch.device) -> Relation:
    """The relation of a batch."""
    positives = batch.positives
    b = torch.arange(len(batch.query_rows))
    views = b.repeat_interleave(torch.as_tensor(positives.offsets).diff())
    owners = b.repeat_interleave(torch.as_tensor(lengths_of(batch.negatives)))
    positions = torch.as_tensor(positives.positions)
    masks = torch.zeros(len(batch.masks.offsets) - 1, len(batch.item_rows), dtype=torch.bool, device=device)
    masks[torch.as_tensor(ragged_rows(batch.masks)).to(device), torch.as_tensor(batch.masks.values).to(device)] = True
    own = torch.stack([owners, torch.as_tensor(batch.negatives.values)], dim=1)
    alone = torch.as_tensor(batch.alone).to(device) if batch.alone.any() else None
    return Relation(
        views=views.to(device),
        positions=positions.to(device),
        weights=torch.as_tensor(positives.weights).to(device),
        masks=masks,
        mask_rows=torch.as_tensor(batch.mask_rows).to(device),
        own=own.to(device),
        alone=alone,
        log_prob=torch.as_tensor(batch.log_prob).to(device),
    )


def softmax(logits: Tensor, related: Relation, *, correction: bool, correct_positive: bool) -> Tensor:
    """Softmax cross-entropy of each positive against its view's negatives: [b, c] -> [p].

    The known matches of a view's key are left out, its other positives among them: each positive is scored against the rest.
    correction: subtract the log of the probability that a candidate is in the batch, which makes the sum over candidates an
    estimate of the sum over the catalogue (Bengio and Senecal 2008; Yi et al. 2019). correct_positive: subtract it from the
    positive's own logit too, as Yi et al. do; importance sampling does not, since the positive is there for certain.
    """
    corrected = logits - related.log_prob if correction else logits
    own = (corrected if correct_positive else logits)[related.views, related.positions]
    negatives = corrected
    if related.alone is not None:  # somebody's own negatives are nobody else's
        mine = (related.own[:, 0], related.own[:, 1])
        negatives = negatives.masked_fill(related.alone, -torch.inf).index_put(mine, corrected[mine])
    negatives = negatives.masked_fill(related.masks[related.mask_rows], -torch.inf)
    others = torch.logsumexp(negatives, dim=1)[related.views]
    # -log(e^own / (e^own + e^others)); a view all of whose candidates are masked has others = -inf and loss 0.
    return torch.nn.functional.softplus(others - own)


LOSSES: dict[str, Callable[..., Tensor]] = {"softmax": softmax}
