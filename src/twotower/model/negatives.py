"""Which items the views of a batch are scored against, and with what probability each was there to be met.

To add a sampler: a function from a draft, a state and a generator to candidates, and its entry in `NEGATIVES`. Every candidate carries
its `log_prob`, so that the loss can correct for how it came to be there. Only items that training pairs name are drawn: of the others
nothing is known, and they may be the ones that a measure of cold items holds out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from twotower.data.batches import BatchDraft, places, united
from twotower.data.columns import Array, distinct
from twotower.model.options import NegativesOptions


class Candidates(NamedTuple):
    """The candidates of a batch."""

    item_rows: Array  # int64 [c]  distinct, in rising order, the matches of the batch among them
    log_prob: Array  # float32 [c]  log of the probability that this item is among the shared candidates
    alone: Array  # bool [c]  matches that are not among them: nobody's negatives


class SamplerState(NamedTuple):
    """What the samplers know of the training log."""

    share: Array  # float64 [items]  the share of the training pairs that each item has
    trained: Array  # int64 [t]  the items that have any, in rising order
    chance: Array  # float64 [t]  of each of these, that it is the one that is drawn
    below: Array  # float64 [t]  the sum of the chances up to here
    draws: int


def sampler_state(item_rows: Array, n_items: int, options: NegativesOptions) -> SamplerState:
    """The state for a training log with these items [n], one a pair."""
    share = np.bincount(item_rows, minlength=n_items) / max(1, len(item_rows))
    trained = np.flatnonzero(share)
    powers = share[trained] ** options.power
    chance = powers / max(powers.sum(), 1e-300)
    return SamplerState(share, trained, chance, np.cumsum(chance), options.draws)


def in_batch(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """The items of the batch's own pairs.

    An item with a share s of the log is among n drawn pairs with probability 1 - (1 - s)^n.
    """
    item_rows = distinct(part.item_rows)
    return Candidates(item_rows, _log_prob(_absent(part, state, item_rows)), np.zeros(len(item_rows), bool))


def drawn(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """Draws from the catalogue, uniform where the power is 0, as popular as in the log where it is 1 (Mikolov et al. 2013 took 0.75).

    The matches of the batch stand beside them, each for its own views alone. Draws are with replacement and an item is scored once:
    one with a chance q is among n draws with probability 1 - (1 - q)^n.
    """
    found = _draw(state, generator)
    item_rows = united(part.item_rows, found)
    return Candidates(item_rows, _log_prob(_undrawn(state, item_rows)), places(found, item_rows) < 0)


def mixed(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """The items of the batch and draws from the catalogue beside them (mixed negative sampling, Yang et al. 2020)."""
    item_rows = united(part.item_rows, _draw(state, generator))
    return Candidates(item_rows, _log_prob(_absent(part, state, item_rows) + _undrawn(state, item_rows)), np.zeros(len(item_rows), bool))


def full(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """All items that training pairs name, each there for certain: nothing is left to correct."""
    return Candidates(state.trained, np.zeros(len(state.trained), np.float32), np.zeros(len(state.trained), bool))


def _draw(state: SamplerState, generator: np.random.Generator) -> Array:
    """Distinct items in rising order."""
    places = np.searchsorted(state.below, generator.random(state.draws) * state.below[-1], side="right")
    return state.trained[distinct(np.minimum(places, len(state.trained) - 1))]


def _absent(part: BatchDraft, state: SamplerState, item_rows: Array) -> Array:
    """The log [c] of the probability that an item is in none of the batch's pairs."""
    return np.asarray(len(part.item_rows) * np.log1p(-np.minimum(state.share[item_rows], 1 - 1e-12)))


def _undrawn(state: SamplerState, item_rows: Array) -> Array:
    """The log [c] of the probability that an item is not drawn."""
    chance = state.chance[np.searchsorted(state.trained, item_rows)]
    return np.asarray(state.draws * np.log1p(-np.minimum(chance, 1 - 1e-12)))


def _log_prob(absent: Array) -> Array:
    """The log [c] of the probability of being there, from that of being absent."""
    return np.log(-np.expm1(absent)).astype(np.float32)


Sampler = Callable[[BatchDraft, SamplerState, np.random.Generator], Candidates]
NEGATIVES: dict[str, Sampler] = {"in_batch": in_batch, "drawn": drawn, "mixed": mixed, "full": full}
