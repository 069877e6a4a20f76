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
from twotower.model.probabilities import Counts, Span, counts_of, log_present


class Candidates(NamedTuple):
    """The candidates of a batch."""

    item_rows: Array  # int64 [c]  distinct, in rising order, the matches of the batch among them
    log_prob: Array  # float32 [c]  log of the probability that this item is among the shared candidates
    alone: Array  # bool [c]  matches that are not among them: nobody's negatives


class SamplerState(NamedTuple):
    """What the samplers know of the training log."""

    counts: Counts  # of the pairs of each item, as batches meet them
    trained: Array  # int64 [t]  the items that have any, in rising order
    chance: Array  # float64 [t]  of each of these, that it is the one that is drawn
    below: Array  # float64 [t]  the sum of the chances up to here
    draws: int


def sampler_state(
    item_rows: Array,
    n_items: int,
    options: NegativesOptions,
    *,
    groups: Array | None = None,
    keys: Array | None = None,
    parts: int = 0,
    batch_size: int = 1,
) -> SamplerState:
    """The state for a training log with these items [n], one a pair; the rest says how an epoch orders them (`Epochs`)."""
    share = np.bincount(item_rows, minlength=n_items) / max(1, len(item_rows))
    trained = np.flatnonzero(share)
    powers = share[trained] ** options.power
    chance = powers / max(powers.sum(), 1e-300)
    counts = counts_of(item_rows, n_items, groups, keys, parts, batch_size)
    return SamplerState(counts, trained, chance, np.cumsum(chance), options.draws)


def in_batch(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """The items of the batch's own pairs.

    One that k of all N pairs name is among n of them with probability 1 - C(N - k, n) / C(N, n).
    """
    item_rows = distinct(part.item_rows)
    return Candidates(item_rows, log_prob("in_batch", state, item_rows, _one(part)), np.zeros(len(item_rows), bool))


def drawn(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """Draws from the catalogue, uniform where the power is 0, as popular as in the log where it is 1 (Mikolov et al. 2013 took 0.75).

    The matches of the batch stand beside them, each for its own views alone. Draws are with replacement and an item is scored once:
    one with a chance q is among n draws with probability 1 - (1 - q)^n.
    """
    found = _draw(state, generator)
    item_rows = united(part.item_rows, found)
    return Candidates(item_rows, log_prob("drawn", state, item_rows, _one(part)), places(found, item_rows) < 0)


def mixed(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """The items of the batch and draws from the catalogue beside them (mixed negative sampling, Yang et al. 2020)."""
    item_rows = united(part.item_rows, _draw(state, generator))
    return Candidates(item_rows, log_prob("mixed", state, item_rows, _one(part)), np.zeros(len(item_rows), bool))


def full(part: BatchDraft, state: SamplerState, generator: np.random.Generator) -> Candidates:
    """All items that training pairs name, each there for certain: nothing is left to correct."""
    return Candidates(state.trained, np.zeros(len(state.trained), np.float32), np.zeros(len(state.trained), bool))


def _draw(state: SamplerState, generator: np.random.Generator) -> Array:
    """Distinct items in rising order."""
    places = np.searchsorted(state.below, generator.random(state.draws) * state.below[-1], side="right")
    return state.trained[distinct(np.minimum(places, len(state.trained) - 1))]


def _one(part: BatchDraft) -> Span:
    return Span((len(part.item_rows),), 1)


def log_prob(negatives: str, state: SamplerState, item_rows: Array, over: Span) -> Array:
    """The log float32 [n] of the probability of these items to be a shared candidate of any of some batches in a row.

    Epochs are dealt and draws are made independently of each other, so that the probabilities of being absent multiply.
    """
    return log_present(np.asarray(sum(absent(state, item_rows, over) for absent in ABSENT[negatives])))


def _unmatched(state: SamplerState, item_rows: Array, over: Span) -> Array:
    """The log [n] of the probability that no pair of these batches names an item."""
    return np.asarray(sum(state.counts.absent(item_rows, pairs) for pairs in over.pairs))


def _undrawn(state: SamplerState, item_rows: Array, over: Span) -> Array:
    """The log [n] of the probability that an item is not drawn beside these batches."""
    place = np.minimum(np.searchsorted(state.trained, item_rows), len(state.trained) - 1)
    chance = np.where(state.trained[place] == item_rows, state.chance[place], 0.0)
    return np.asarray(over.batches * state.draws * np.log1p(-np.minimum(chance, 1 - 1e-12)))


ABSENT = {"in_batch": (_unmatched,), "drawn": (_undrawn,), "mixed": (_unmatched, _undrawn)}
Sampler = Callable[[BatchDraft, SamplerState, np.random.Generator], Candidates]
NEGATIVES: dict[str, Sampler] = {"in_batch": in_batch, "drawn": drawn, "mixed": mixed, "full": full}
