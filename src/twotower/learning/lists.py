"""What the lists hold that people are shown, whether right or not: how much of the catalogue, how popular, how alike.

To add a figure: an entry of `Lists`, computed in `described` from the items of the lists alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, Ragged
from twotower.learning.evaluation import Cases, Scorer, in_threads, rows_at_once
from twotower.search.index import best_of_each

K = 10  # items of a list
MOST = 8  # items named
ASKED, FEWEST = 2000, 100  # lists looked at, at most, and at least where the catalogue is large
SCORED = 1 << 28  # scores that all of these lists may take


class Lists(NamedTuple):
    """Figures of a set of lists.

    coverage: the share of the catalogue that is in any of them. lift: how often an item of theirs matched in training, over how often the items
    asked for did, both on average: above 1 what is shown is more popular than what is chosen. novelty: the bits that it takes to name an item of
    theirs by its share of the training matches, on average (Vargas & Castells 2011). likeness: the cosine of two items of one list in the
    model's own space, on average; None for lists of one.
    """

    coverage: float
    lift: float
    novelty: float
    likeness: float | None


def looked_at(asked: Cases, n_items: int, seed: int) -> Array:
    """The positions int64 of the cases whose lists are looked at: 2,000 at most, fewer of a large catalogue."""
    most = min(ASKED, max(FEWEST, SCORED // max(1, n_items)))
    return np.sort(np.random.default_rng(seed).permutation(len(asked.query_rows))[:most])


def top(scorer: Scorer, asked: Cases, which: Array, n_items: int, k: int = K) -> Array:
    """The rows int64 [len(which), k] of the best items of these cases, what their rankings leave out left out here; -1 where there are no more.

    Among equal scores those first in the catalogue.
    """
    found = np.full((len(which), k), -1, np.int64)

    def select(places: Array) -> None:
        first = int(which[places[0]])
        scores = np.require(scorer(slice(first, first + len(places))), np.float32, ["C", "W"])
        if asked.excluded is None:
            found[places] = best_of_each(scores, k).rows
            return
        out, right = (_flat(part, first, len(places), n_items) for part in (asked.excluded, asked.relevant))
        cells = scores.reshape(-1)
        before, wanted = cells[out], cells[right]
        cells[out] = -np.inf
        cells[right] = wanted  # what is asked for stays, also where it is among what is known
        found[places] = best_of_each(scores, k).rows
        cells[out] = before  # they may be the scorer's own

    in_threads(select, list(_runs(which, rows_at_once(n_items))))
    return found


def _flat(items: Ragged, first: int, count: int, n_items: int) -> Array:
    """Where the items of so many cases stand in their scores [count, n_items], as one row after the other."""
    offsets = np.asarray(items.offsets[first : first + count + 1])
    return np.repeat(np.arange(count), np.diff(offsets)) * n_items + items.values[offsets[0] : offsets[-1]]


def _runs(which: Array, most: int) -> Iterator[Array]:
    """The places in `which`, in stretches of cases that follow each other, none longer than `most`."""
    breaks = np.flatnonzero(np.diff(which) != 1) + 1
    for run in np.split(np.arange(len(which)), breaks):
        yield from (run[start : start + most] for start in range(0, len(run), most))


def described(lists: Array, wanted: Array, item_matches: Array, item_vectors: Array) -> Lists:
    """The figures of lists [q, k]. wanted: the items asked for, with repeats. item_matches [n]: in training."""
    shown = lists[lists >= 0]
    if not len(shown):
        return Lists(0.0, 0.0, 0.0, None)
    share = (item_matches + 1) / (item_matches.sum() + len(item_matches))  # one more each, so that what never matched has bits too
    usual = float(item_matches[wanted].mean())
    lift = float(item_matches[shown].mean()) / usual if usual else 0.0
    return Lists(len(np.unique(shown)) / len(item_matches), lift, float(-np.log2(share[shown]).mean()), _likeness(lists, item_vectors))


def _likeness(lists: Array, item_vectors: Array) -> float | None:
    """The mean over lists of the mean cosine of two of their items."""
    means = []
    for rows in lists:
        rows = rows[rows >= 0]
        vectors = np.asarray(item_vectors[rows], np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        n = len(rows)
        if n > 1:
            total = vectors.sum(0)
            means.append((float(total @ total) - float((vectors**2).sum())) / (n * (n - 1)))  # all pairs but an item with itself
    return float(np.mean(means)) if means else None


def commonest(lists: Array) -> list[tuple[int, int]]:
    """The rows of the items that are in the most lists, and in how many: where a few crowd out the rest, they are hubs."""
    rows, counts = np.unique(lists[lists >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST]
    return list(zip(rows[order].tolist(), counts[order].tolist(), strict=True))


def list_facts(
    lists: Mapping[str, Array], model: str, wanted: Array, item_matches: Array, item_vectors: Array, ids: pa.ChunkedArray
) -> dict[str, Any]:
    """What the lists [q, k] of a model and of others hold, in the form of a run's `metrics.json`.

    wanted, item_matches, item_vectors: as for `described`. ids: of the catalogue.
    """
    told = {name: described(found, wanted, item_matches, item_vectors)._asdict() for name, found in lists.items()}
    hubs = [{"item": ids[row].as_py(), "lists": count} for row, count in commonest(lists[model])]
    return {"k": K, "lists": len(lists[model]), "of": told, "commonest": hubs}
