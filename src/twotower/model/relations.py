"""How the views of a batch and its candidates are related, as tensors that can be cut into blocks of views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.data.batches import Batch
from twotower.data.columns import Array, Ragged, offsets_of, ragged_rows, take_ragged


class Relation(NamedTuple):
    """b views and c candidates. Views come in the order of their masks, positives and own negatives in the order of their views."""

    views: Tensor  # int64 [p]  the view of each positive pair
    positions: Tensor  # int64 [p]  and its candidate
    weights: Tensor  # float32 [p]
    offsets: Array  # int64 [b + 1]  where the positives of a view begin
    masks: Tensor  # int64 [k, 2]  (mask, candidate) that are no negatives: the known matches of a key, positives among them
    mask_offsets: Array  # int64 [m + 1]
    mask_rows: Tensor  # int64 [b]  which mask is the view's, in rising order
    first_mask: Array  # int64 [b]  the same, on the CPU
    own: Tensor  # int64 [r, 2]  (view, candidate) of negatives that are its own
    own_offsets: Array  # int64 [b + 1]
    alone: Tensor | None  # bool [c]  candidates that are no negatives but those in `own`, if there are any
    log_prob: Tensor  # float32 [c]
    grades: Tensor  # float32 [p]  how right each positive is

    def block(self, start: int, end: int) -> Relation:
        """The same for the views from start to before end, counted from there."""
        if start == 0 and end == len(self.offsets) - 1:
            return self
        pairs = slice(int(self.offsets[start]), int(self.offsets[end]))
        low, high = (int(self.first_mask[start]), int(self.first_mask[end - 1]) + 1) if end > start else (0, 0)
        masks = slice(int(self.mask_offsets[low]), int(self.mask_offsets[high]))
        own = slice(int(self.own_offsets[start]), int(self.own_offsets[end]))
        return Relation(
            views=self.views[pairs] - start,
            positions=self.positions[pairs],
            weights=self.weights[pairs],
            offsets=self.offsets[start : end + 1] - pairs.start,
            masks=self.masks[masks] - self.masks.new_tensor([low, 0]),
            mask_offsets=self.mask_offsets[low : high + 1] - masks.start,
            mask_rows=self.mask_rows[start:end] - low,
            first_mask=self.first_mask[start:end] - low,
            own=self.own[own] - self.own.new_tensor([start, 0]),
            own_offsets=self.own_offsets[start : end + 1] - own.start,
            alone=self.alone,
            log_prob=self.log_prob,
            grades=self.grades[pairs],
        )

    def negatives_(self, logits: Tensor, cells: Tensor) -> Tensor:
        """Logits [b, c] as they are, in place, but minus infinity where a candidate is no negative of the view.

        cells: the logits [r] of the views' own negatives.
        """
        if self.alone is not None:
            logits.masked_fill_(self.alone, -torch.inf)
        if len(cells):
            logits[self.own[:, 0], self.own[:, 1]] = cells
        if len(self.mask_offsets) - 1 == len(self.mask_rows):  # a mask a view: nothing is repeated
            logits[self.masks[:, 0], self.masks[:, 1]] = -torch.inf
            return logits
        masks = torch.zeros(len(self.mask_offsets) - 1, logits.shape[1], dtype=torch.bool, device=logits.device)
        masks[self.masks[:, 0], self.masks[:, 1]] = True
        return logits.masked_fill_(masks[self.mask_rows], -torch.inf)


def relation(batch: Batch, device: torch.device) -> Relation:
    """The relation of a batch: its views to its candidates."""
    return _relation(
        Ragged(batch.positives.positions, batch.positives.offsets),
        batch.positives.weights,
        batch.positives.grades,
        batch.masks,
        batch.mask_rows,
        batch.negatives,
        batch.alone if batch.alone.any() else None,
        batch.log_prob,
        device,
    )


class Turned(NamedTuple):
    """The relation of items to queries."""

    items: Tensor  # int64 [a]  the candidates that are positives, in rising order: what is scored against all views
    related: Relation


def turned(batch: Batch, device: torch.device) -> Turned:
    """The relation of the batch's positive candidates to its views: whom an item is for. Known matches are no negatives here either."""
    b = len(batch.query_rows)
    positions = batch.positives.positions
    items, which = np.unique(positions, return_inverse=True)
    order = np.argsort(which, kind="stable")
    views = ragged_rows(Ragged(positions, batch.positives.offsets))[order]
    known = take_ragged(batch.masks, batch.mask_rows)
    place = np.searchsorted(items, known.values)
    here = items[np.minimum(place, len(items) - 1)] == known.values
    item, view = place[here], ragged_rows(known)[here]
    by_item = np.argsort(item, kind="stable")
    nobody = Ragged(np.empty(0, np.int64), np.zeros(len(items) + 1, np.int64))
    related = _relation(
        Ragged(views, offsets_of(np.bincount(which, minlength=len(items)))),
        batch.positives.weights[order],
        batch.positives.grades[order],
        Ragged(view[by_item], offsets_of(np.bincount(item, minlength=len(items)))),
        np.arange(len(items)),
        nobody,
        None,
        np.zeros(b, np.float32),
        device,
    )
    return Turned(torch.as_tensor(items).to(device), related)


def _relation(
    positives: Ragged,
    weights: Array,
    grades: Array,
    masks: Ragged,
    mask_rows: Array,
    own: Ragged,
    alone: Array | None,
    log_prob: Array,
    device: torch.device,
) -> Relation:
    def cells(column: Ragged) -> Tensor:
        return torch.as_tensor(np.stack([ragged_rows(column), column.values], axis=1)).to(device)

    return Relation(
        views=torch.as_tensor(ragged_rows(positives)).to(device),
        positions=torch.as_tensor(positives.values).to(device),
        weights=torch.as_tensor(weights).to(device),
        offsets=positives.offsets,
        masks=cells(masks),
        mask_offsets=masks.offsets,
        mask_rows=torch.as_tensor(mask_rows).to(device),
        first_mask=mask_rows,
        own=cells(own),
        own_offsets=own.offsets,
        alone=None if alone is None else torch.as_tensor(alone).to(device),
        log_prob=torch.as_tensor(log_prob).to(device),
        grades=torch.as_tensor(grades).to(device),
    )
