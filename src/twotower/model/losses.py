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
from twotower.data.columns import lengths_of


class Relation(NamedTuple):
    """How the b views of a batch and its c candidates are related, as tensors."""

    views: Tensor  # int64 [p]  the view of each positive pair
    positions: Tensor  # int64 [p]  and its candidate
    weights: Tensor  # float32 [p]
    hidden: Tensor  # int64 [h, 2]  (view, candidate) that are no negatives: positives and masked matches
    log_prob: Tensor  # float32 [c]


def relation(batch: Batch, device: torch.device) -> Relation:
    """The relation of a batch."""
    positives = batch.positives
    views = torch.arange(len(batch.query_rows)).repeat_interleave(torch.as_tensor(positives.offsets).diff())
    masked = torch.arange(len(batch.query_rows)).repeat_interleave(torch.as_tensor(lengths_of(batch.masked)))
    positions = torch.as_tensor(positives.positions)
    hidden = torch.stack([torch.cat([views, masked]), torch.cat([positions, torch.as_tensor(batch.masked.values)])], dim=1)
    parts = (views, positions, torch.as_tensor(positives.weights), hidden, torch.as_tensor(batch.log_prob))
    return Relation(*(part.to(device) for part in parts))


def softmax(logits: Tensor, related: Relation, *, correction: bool, correct_positive: bool) -> Tensor:
    """Softmax cross-entropy of each positive against its view's negatives: [b, c] -> [p].

    A view's other positives and its masked candidates are left out: each positive is scored against non-positives only.
    correction: subtract the log of the probability that a candidate is in the batch, which makes the sum over candidates an
    estimate of the sum over the catalogue (Bengio and Senecal 2008; Yi et al. 2019). correct_positive: subtract it from the
    positive's own logit too, as Yi et al. do; importance sampling does not, since the positive is there for certain.
    """
    corrected = logits - related.log_prob if correction else logits
    own = (corrected if correct_positive else logits)[related.views, related.positions]
    negatives = corrected.index_put((related.hidden[:, 0], related.hidden[:, 1]), logits.new_tensor(-torch.inf))
    others = torch.logsumexp(negatives, dim=1)[related.views]
    # -log(e^own / (e^own + e^others)); a view all of whose candidates are hidden has others = -inf and loss 0.
    return torch.nn.functional.softplus(others - own)


LOSSES: dict[str, Callable[..., Tensor]] = {"softmax": softmax}
