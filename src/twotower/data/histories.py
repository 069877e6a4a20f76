"""Histories: what each history key touched before a pair, sliced from the log itself, which is never copied for it.

The log holds what `pairs.repeats` left of it: where times cut histories, every event, or the first of those that repeat. With
times, a history ends before the first event that is not earlier than the pair, so ties are never seen. Without them it is all that
the key touched in the parts of the log that may be known, but for what the view itself is asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, Ragged, lengths_of, offsets_of, ragged_rows, spans
from twotower.data.prepared import Log
from twotower.search.vectors import Vectors

SPAN = 1 << 36  # moments of a log: its pairs, at most


class Histories(NamedTuple):
    """The events that histories may show, by key and then by time."""

    events: Ragged  # int64 item rows of each history key
    order: Array | None  # int64, as the values of events: key and moment in one, in rising order; None where the log has no times
    last: int  # how many items of a history are read
    repeats: int = 1  # how often a key has one item, at most

    def cuts(self, keys: Array, moments: Array | None) -> Array:
        """How many events [n] of these keys [n] come before these moments [n]; all of them where there are no times."""
        if self.order is None or moments is None:
            return np.asarray(lengths_of(self.events)[keys])
        return np.asarray(np.searchsorted(self.order, keys * SPAN + moments) - self.events.offsets[keys])

    def of(self, keys: Array, cuts: Array, asked: Ragged | None = None) -> Ragged:
        """The last items before each cut, oldest first: item rows for n views. asked: items [n] left out where there are no times."""
        starts = self.events.offsets[keys]
        if self.order is not None or asked is None:
            lengths = np.minimum(cuts, self.last)
            return Ragged(self.events.values[spans(starts + cuts - lengths, lengths)], offsets_of(lengths))
        # Without times a history may hold what is asked for: some more is read, and that left out.
        lengths = np.minimum(cuts, self.last + self.repeats * lengths_of(asked))
        wide = Ragged(self.events.values[spans(starts + cuts - lengths, lengths)], offsets_of(lengths))
        span = 1 + max(int(wide.values.max(initial=0)), int(asked.values.max(initial=0)))
        others = ~np.isin(ragged_rows(wide) * span + wide.values, ragged_rows(asked) * span + asked.values)
        kept = Ragged(wide.values[others], offsets_of(np.bincount(ragged_rows(wide)[others], minlength=len(keys))))
        lengths = np.minimum(lengths_of(kept), self.last)
        return Ragged(kept.values[spans(kept.offsets[1:] - lengths, lengths)], offsets_of(lengths))

    def windows(self, keys: Array, cuts: Array) -> tuple[Ragged, Array, Array]:
        """Histories as beginnings of longer rows that views share: (item rows of each window, the window [n], its length for the view [n]).

        A key's events are cut in windows of `last`, each half a window behind the one before, so that every view sees at least
        half as much as it would alone.
        """
        stride, numbers = self._windows(cuts)
        span = 1 + int(numbers.max(initial=0))
        which, window_of = np.unique(keys * span + numbers, return_inverse=True)
        starts = which % span * stride
        lengths = np.zeros(len(which), np.int64)
        np.maximum.at(lengths, window_of, cuts - numbers * stride)
        first = self.events.offsets[which // span] + starts
        return Ragged(self.events.values[spans(first, lengths)], offsets_of(lengths)), window_of, cuts - numbers * stride

    def groups(self, keys: Array, cuts: Array) -> Array:
        """For each of n pairs the number of the window that it would be read in: pairs of one window cost one row."""
        _, numbers = self._windows(cuts)
        return np.unique(keys * (1 + int(numbers.max(initial=0))) + numbers, return_inverse=True)[1]

    def _windows(self, cuts: Array) -> tuple[int, Array]:
        """(how far windows lie apart, the number int64 [n] of the first one that reaches each cut)."""
        stride = max(1, self.last // 2)
        return stride, np.maximum(0, -(-(cuts - self.last) // stride))


def histories(log: Log, which: Array, last: int) -> Histories:
    """The histories of a log, of the pairs [n] that may be known and are matches."""
    assert log.history_keys is not None
    keys = int(log.history_keys.max(initial=-1)) + 1
    shown = np.flatnonzero(which & (log.labels > 0))
    # The log stands in order of time, so a stable sort by key keeps that.
    order = shown[np.argsort(log.history_keys[shown], kind="stable")]
    events = Ragged(np.asarray(log.item_rows[order]), offsets_of(np.bincount(log.history_keys[shown], minlength=keys)))
    if log.moments is None:
        return Histories(events, None, last, _most_repeated(events))
    return Histories(events, np.asarray(log.history_keys[order] * SPAN + log.moments[order]), last)


def _most_repeated(events: Ragged) -> int:
    """How often one item stands in one row, at most; 1 where there is none."""
    pairs = np.sort(ragged_rows(events) * (1 + int(events.values.max(initial=0))) + events.values)
    ends = np.append(np.flatnonzero(pairs[1:] != pairs[:-1]), len(pairs) - 1)
    return int(np.diff(ends, prepend=-1).max(initial=1))


def stand_in(found: Ragged, stand_ins: Array | Vectors) -> Ragged:
    """Histories of item rows as what the query tower reads: the code [items] or vector [items, d] that stands for each item.

    An item whose vector is zero says nothing and is left out, so that no row of zeros stands between others.
    """
    values = np.asarray(stand_ins[found.values])
    if values.ndim == 1:
        return Ragged(values, found.offsets)
    said = values.any(axis=1)
    return Ragged(values[said], offsets_of(np.bincount(ragged_rows(found)[said], minlength=len(found.offsets) - 1)))
