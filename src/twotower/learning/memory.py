"""A memory of item vectors: candidates of the batches before, which cost no encoding (XBM, Wang et al. 2020).

It holds the shared candidates of the last so many batches, each item once, as it was when it was last encoded. Which items these are
is known without their vectors, so that the reader keeps a list beside and makes masks, positions and probabilities ready; only the
vectors wait for the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.data.batches import places
from twotower.data.columns import Array
from twotower.learning.options import TrainOptions
from twotower.model.options import brought


class Entries(NamedTuple):
    """The items that are remembered."""

    item_rows: Array  # int64 [m]  distinct
    met: Array  # int64 [m]  the batch in which each was last met, counted from the first of the training


class Recall(NamedTuple):
    """What a step does with the memory."""

    kept: Tensor  # int64 [k]  places of the entries that stay
    added: Tensor  # int64 [a]  rows of the encoded items that join, after those
    entries: Entries  # afterwards


@dataclass(frozen=True)
class Memory:
    """Item vectors of earlier batches, constants to the loss."""

    entries: Entries
    vectors: Tensor  # float32 [m, d]

    def after(self, recall: Recall, items: Tensor) -> Memory:
        """The memory after a step that encoded these items [n, d]."""
        kept, added = recall.kept.to(items.device), recall.added.to(items.device)
        return Memory(recall.entries, torch.cat([self.vectors[kept], items.detach()[added]]))


def memory(dimensions: int, device: torch.device) -> Memory:
    """One that holds nothing yet."""
    return Memory(Entries(*np.empty((2, 0), np.int64)), torch.empty(0, dimensions, device=device))


def kept_batches(options: TrainOptions) -> int:
    """Of how many batches a memory of so many vectors holds all candidates. Fixed, so that the probabilities are exact."""
    return options.memory // brought(options, options.batch_size) if options.memory else 0


def recall(entries: Entries, met: Array, encoded: Array, now: int, batches: int) -> Recall:
    """The shared candidates met [s] of this batch join, what was last met before the last so many batches leaves.

    encoded: the items [n] that the step encodes, in rising order, those that were met among them.
    """
    again = np.isin(entries.item_rows, met, assume_unique=True)
    kept = np.flatnonzero(~again & (entries.met > now - batches))
    after = Entries(np.concatenate([entries.item_rows[kept], met]), np.concatenate([entries.met[kept], np.full(len(met), now)]))
    return Recall(torch.as_tensor(kept), torch.as_tensor(places(encoded, met)), after)


def standing(entries: Entries, encoded: Array, candidates: Array) -> Array:
    """Where candidates [c] stand among the encoded items [n] and the remembered ones behind them; as encoded where they are both."""
    found = places(encoded, candidates)
    missing = np.flatnonzero(found < 0)
    order = np.argsort(entries.item_rows)
    found[missing] = len(encoded) + order[np.searchsorted(entries.item_rows[order], candidates[missing])]
    return found
