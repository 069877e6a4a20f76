"""Which items the views of a batch are scored against, and with what probability each was there to be met.

To add a sampler: a function from a draft, a state and a generator to candidates and the next state, and its entry in
`NEGATIVES`. Every candidate carries its `log_prob`, so that the loss can correct for how it came to be there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from twotower.data.batches import BatchDraft
from twotower.data.columns import Array, distinct


class Candidates(NamedTuple):
    """The shared candidates of a batch."""

    item_rows: Array  # int64 [c]  distinct, in rising order
    log_prob: Array  # float32 [c]  log of the probability that this item is among them


class SamplerState(NamedTuple):
    """What the samplers know of the training log."""

    share: Array  # float64 [items]  the share of the training pairs that each item has


def sampler_state(item_rows: Array, n_items: int) -> SamplerState:
    """The state for a training log with these items [n], one a pair."""
    return SamplerState(np.bincount(item_rows, minlength=n_items) / max(1, len(item_rows)))


def in_batch(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> tuple[Candidates, SamplerState]:
    """The items of the batch's own pairs.

    An item with a share s of the log is among n drawn pairs with probability 1 - (1 - s)^n.
    """
    item_rows = distinct(part.item_rows)
    absent = len(part.item_rows) * np.log1p(-np.minimum(state.share[item_rows], 1 - 1e-12))
    return Candidates(item_rows, np.log(-np.expm1(absent)).astype(np.float32)), state


Sampler = Callable[[BatchDraft, SamplerState, np.random.Generator], tuple[Candidates, SamplerState]]
NEGATIVES: dict[str, Sampler] = {"in_batch": in_batch}
