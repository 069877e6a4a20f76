"""What a teacher says of a batch, and how far the student is from it: KL(teacher || student) of each view (Hinton et al. 2015).

A teacher either scores some items of a view, as a cross-encoder or a language model does (`Scores`), or has towers of its own and so a
similarity with every candidate (`Towers`). Both cut into blocks of views like `Relation`, and no b x c logits of a teacher are held.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from twotower.data.batches import Batch
from twotower.data.columns import Array, ragged_rows
from twotower.model.losses import negatives_of, own_of
from twotower.model.options import LossOptions
from twotower.model.relations import Relation


class Lesson(Protocol):
    """What a teacher says of some views."""

    def block(self, start: int, end: int) -> Lesson:
        """The same for the views from start to before end."""
        ...

    def step(self, logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
        """KL(teacher || student) of each view [b], and the gradient [b, c] of its sum times factors [b]. The logits stay as they are."""
        ...


class Scores(NamedTuple):
    """A teacher's scores of the items that stand beside a view in the log: its matches in this batch, its explicit non-matches.

    The two distributions are over these alone (RocketQAv2, Ren et al. 2021); a view with fewer than two of them learns nothing here.
    """

    cells: Tensor  # int64 [s, 2]  (view, candidate), each once, in the order of the views
    scores: Tensor  # float32 [s]
    offsets: Array  # int64 [b + 1]

    def block(self, start: int, end: int) -> Scores:
        chosen = slice(int(self.offsets[start]), int(self.offsets[end]))
        return Scores(self.cells[chosen] - self.cells.new_tensor([start, 0]), self.scores[chosen], self.offsets[start : end + 1] - chosen.start)

    def step(self, logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
        views = self.cells[:, 0]
        student = _log_shares(logits[views, self.cells[:, 1]], views, len(logits))
        taught = _log_shares(self.scores / options.teacher_temperature, views, len(logits))
        apart = torch.zeros_like(factors).index_add(0, views, taught.exp() * (taught - student))
        gradient = torch.zeros_like(logits)
        gradient[views, self.cells[:, 1]] = factors[views] * (student.exp() - taught.exp())
        return apart, gradient


class Towers(NamedTuple):
    """A teacher with towers: its vectors, scaled so that their products are its logits.

    The two distributions are over the positives and negatives of the view; what is masked takes no part on either side. correction: both are
    corrected alike, and so estimate those over the catalogue. A view whose query vector is zero is one of which the teacher knows nothing:
    nothing is learnt of it.
    """

    queries: Tensor  # float32 [b, t]
    items: Tensor  # float32 [c, t]

    def block(self, start: int, end: int) -> Towers:
        return Towers(self.queries[start:end], self.items)

    def step(self, logits: Tensor, related: Relation, factors: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
        student = torch.log_softmax(_every(logits, related, options), dim=1)
        taught = torch.log_softmax(_every(self.queries @ self.items.T / options.teacher_temperature, related, options), dim=1)
        shares, known = taught.exp(), self.queries.any(1)
        apart = (shares * (taught - student).masked_fill_(taught == -torch.inf, 0.0)).sum(1)
        return apart * known, student.exp_().sub_(shares).mul_((factors * known).unsqueeze(1))


def lesson(batch: Batch, device: torch.device) -> Lesson | None:
    """What a teacher says of a batch, if it has one."""
    if batch.scored is not None:
        cells = np.stack([ragged_rows(batch.scored.cells), batch.scored.cells.values], axis=1)
        return Scores(torch.as_tensor(cells).to(device), torch.as_tensor(batch.scored.scores).to(device), batch.scored.cells.offsets)
    if batch.taught is not None:
        return Towers(*(torch.as_tensor(vectors).to(device) for vectors in batch.taught))
    return None


def _every(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """The logits [b, c] of negatives and positives, corrected where that is asked for, -inf for what is neither."""
    every = negatives_of(logits, related, options)
    every[related.views, related.positions] = own_of(logits, related, options)
    return every


def _log_shares(logits: Tensor, views: Tensor, b: int) -> Tensor:
    """The log [s] of the softmax of logits [s] over those of the same view."""
    most = torch.full((b,), -torch.inf, device=logits.device, dtype=logits.dtype).scatter_reduce(0, views, logits, "amax")
    moved = logits - most[views]
    return moved - torch.zeros_like(most).index_add(0, views, moved.exp()).log()[views]
