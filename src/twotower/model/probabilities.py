"""With what probability an item is among the shared candidates: by a formula where one is exact, by how often it is met where none is.

Batches of an epoch share its pairs out without replacement. Of n of N pairs, none is one of the k that name an item with probability
C(N - k, n) / C(N, n). The pairs of some batches in a row are such a draw too, so that what a memory of them adds is known as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array

NEAR = 16  # how near to certain an integral no longer stands for a sum
RATE = 0.02  # of a moving average: it forgets after some fifty meetings


def log_absent(counts: Array, pairs: float, drawn: float) -> Array:
    """The log [n] of C(N - k, m) / C(N, m): none of the k pairs [n] of an item is among m of all N; none of the three need be whole.

    It is the sum of log(1 - k / j) over the m numbers j up to N, as an integral with its first correction (Euler and Maclaurin): right to
    six digits for any log, where differences of log-gammas lose them all. Only where k is nearly all that is left out, those serve.
    """
    k, drawn = np.asarray(counts, np.float64), min(drawn, pairs)
    low = pairs - drawn + 0.5
    common = k < low - NEAR
    total = _integral(np.where(common, k, 0.0), low, pairs + 0.5)
    if not common.all():
        total[~common] = _gammas(k[~common], pairs, drawn)
    return total


def _integral(k: Array, low: float, high: float) -> Array:
    """The integral of log(1 - k / x) from low to high, less a 24th of what its slope changes."""
    upper, lower = np.log1p(-k / high), np.log1p(-k / low)
    total = (high - k) * upper - (low - k) * lower - k * np.log1p((high - low) / low)
    return np.asarray(total - (k / (high * (high - k)) - k / (low * (low - k))) / 24)


def _gammas(k: Array, pairs: float, drawn: float) -> Array:
    from scipy.special import gammaln

    left = pairs - drawn - k
    certain = left <= -1 + 1e-9  # more pairs than are left out
    rest = np.where(certain, 0.0, left)
    total = gammaln(pairs - k + 1) - gammaln(rest + 1) + gammaln(pairs - drawn + 1) - gammaln(pairs + 1)
    return np.where(certain | ((left < 0) & (k > 0)), -np.inf, total)


def log_present(absent: Array) -> Array:
    """The log [n] of the probability of being there, from that of being absent."""
    with np.errstate(divide="ignore"):
        return np.log(-np.expm1(absent)).astype(np.float32)


class Counts(NamedTuple):
    """In how many pieces the pairs of each item are dealt to batches."""

    pairs: int
    units: float  # in how many the whole log is: its groups, or its pairs where each goes its own way
    pieces: Array  # float64 [items]  groups that hold a pair of the item
    spread: Array  # float64 [items]  summed over groups, how many places lie between its pairs of one

    def absent(self, item_rows: Array, drawn: int) -> Array:
        """The log [n] of the probability that so many pairs in a row, in the order of an epoch, name none of these items.

        Exact where pairs go their own way. Groups are dealt like pairs, a batch being so many of them on average; and one whose pairs of
        the item lie s places apart is met by batches from s more beginnings than one pair.
        """
        pieces = self.pieces[item_rows] + self.spread[item_rows] / max(1, drawn)
        return log_absent(pieces, self.units, drawn * self.units / max(1, self.pairs))


def counts_of(item_rows: Array, n_items: int, groups: Array | None, keys: Array | None, parts: int, batch_size: int) -> Counts:
    """The counts of a training log with these items [n], one a pair.

    groups [n]: pairs of one stay together, in the order of the log. Where there are none, parts: those of a key [n] are dealt to so many
    groups, anew in each epoch, and r of them fall into parts x (1 - (1 - 1/parts)^r) of those on average.
    """
    n, nothing = len(item_rows), np.zeros(n_items)
    if groups is not None:
        place = np.empty(n, np.int64)
        place[np.argsort(groups, kind="stable")] = np.arange(n)
        order = np.lexsort((place, item_rows, groups))
        same = (np.diff(groups[order]) == 0) & (np.diff(item_rows[order]) == 0)
        gaps = np.minimum(np.diff(place[order]), batch_size)[same]
        first = order[np.concatenate([np.ones(min(1, n), bool), ~same])]
        spread = np.bincount(item_rows[order[1:]][same], weights=gaps, minlength=n_items)
        return Counts(n, len(np.unique(groups)), np.bincount(item_rows[first], minlength=n_items).astype(np.float64), spread)
    if parts and keys is not None:
        both, repeats = np.unique(np.asarray(keys, np.int64) * n_items + item_rows, return_counts=True)
        pieces = np.bincount(both % n_items, weights=_filled(repeats, parts), minlength=n_items)
        return Counts(n, float(_filled(np.unique(keys, return_counts=True)[1], parts).sum()), pieces, nothing)
    return Counts(n, n, np.bincount(item_rows, minlength=n_items).astype(np.float64), nothing)


def _filled(pairs: Array, parts: int) -> Array:
    """How many of so many parts are not empty, on average, when these pairs [n] are dealt to them."""
    return np.asarray(parts * (1 - (1 - 1 / parts) ** pairs))


class Span(NamedTuple):
    """Batches in a row whose candidates are scored at once: the newest, and those that a memory keeps."""

    pairs: tuple[int, ...]  # of each epoch that they reach into
    batches: int


def span(epoch: int, number: int, before: int, pairs: int, batch_size: int) -> Span:
    """The span of a batch by its epoch and number, with so many batches before it, where an epoch has so many pairs."""
    batches = -(-pairs // batch_size)
    newest = epoch * batches + number
    oldest = max(0, newest - before)
    parts = []
    for one in range(oldest // batches, epoch + 1):
        first, last = max(oldest - one * batches, 0), min(newest - one * batches, batches - 1)
        parts.append(min(pairs, (last + 1) * batch_size) - first * batch_size)
    return Span(tuple(parts), newest - oldest + 1)


# --- met while streaming ------------------------------------------------------------------------------------------


class Meetings(NamedTuple):
    """When each item [items] was last met and how long that takes on average, in batches (Yi et al. 2019, algorithm 1).

    An item is in a batch with a probability of one over its interval. Rows are known, so that no two items share a place and the paper's
    hashing is not needed. What a memory of the last t batches adds follows from the same renewals: of every interval an item is there for
    the first t + 1 batches.
    """

    met: Array  # int64, -1 before the first time
    interval: Array  # float64
    present: Array  # float64  of these batches how many it is there

    def log_prob(self, item_rows: Array) -> Array:
        """The log float32 [n] of the probability of each of these items to be there; -inf for one that never is."""
        with np.errstate(divide="ignore"):
            return np.log(np.minimum(self.present[item_rows] / self.interval[item_rows], 1.0)).astype(np.float32)

    def note(self, item_rows: Array, now: int, kept: int) -> None:
        """In place: these items [n] were met in the batch numbered so; kept: batches that a memory holds."""
        again = item_rows[self.met[item_rows] >= 0]
        passed = now - self.met[again]
        self.interval[again] += RATE * (passed - self.interval[again])
        self.present[again] += RATE * (np.minimum(passed, kept + 1) - self.present[again])
        self.met[item_rows] = now


def meetings(batch: Array, there: Array) -> Meetings:
    """Before the first batch: what a formula says of being in a batch, and of being there at all, as logs [items]."""
    interval = np.exp(-batch.astype(np.float64))
    with np.errstate(invalid="ignore"):
        present = np.where(np.isfinite(interval), np.exp(there.astype(np.float64)) * interval, 0.0)
    return Meetings(np.full(len(batch), -1), interval, present)
