"""What a search gives back: the items found with their scores, and what is shown of them."""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower.bundle.catalogue import Catalogue
from twotower.bundle.narrowing import Narrowing, Where, allowed, check_k, check_skip
from twotower.data.columns import Array
from twotower.errors import ConfigError
from twotower.search.diversity import check_diversity, diversified
from twotower.search.index import Hits, similarities


class Found(NamedTuple):
    """Items found, best first: [k] for one query, [q, k] for several."""

    ids: Array  # object, None past the end of the catalogue
    scores: Array  # float32, raw similarity; -inf past the end
    rows: Array  # int64, rows of the catalogue; -1 past the end


def check_threshold(threshold: Any) -> None:
    """Raise ConfigError for a threshold, where there is one, that is no finite number."""
    if threshold is None:
        return
    if not isinstance(threshold, numbers.Real) or isinstance(threshold, bool) or not np.isfinite(float(threshold)):
        raise ConfigError(f"a threshold is the similarity that results have at least, a number such as 0.5, and not {threshold!r}")


def at_least(found: Found, threshold: float) -> Found:
    """What was found with a similarity of at least the threshold, in its order; behind it the same pads as past the end of the catalogue."""
    below = ~(found.scores.astype(np.float64) >= float(threshold))
    order = np.argsort(below, axis=-1, kind="stable")
    below = np.take_along_axis(below, order, axis=-1)
    ids, scores, rows = (np.take_along_axis(part, order, axis=-1) for part in found)
    ids[below], scores[below], rows[below] = None, -np.inf, -1
    return Found(ids, scores, rows)


def met_of(now: Catalogue, where: Where | None, allow: Any, deny: Any, k: int, skip: int, diversity: float | None) -> Array | None:
    """Which items may be found, bool [n], None for all; the other options are checked."""
    check_k(k)
    check_skip(skip)
    check_diversity(diversity)
    return allowed(Narrowing(where, allow, deny), now.items, now.find, now.masks)


def shown_of(now: Catalogue, hits: Hits, vectors: Array, k: int, skip: int, threshold: float | None, diversity: float | None) -> Found:
    """What is shown of the hits: those that reach the threshold, in their order or in one of less likeness, from `skip` on."""
    found = found_of(now, hits, vectors)
    if diversity is not None:
        fits = None if threshold is None else found.scores.astype(np.float64) >= float(threshold)
        found = found_of(now, diversified(hits, now.vectors, k, skip, diversity, fits), vectors)
    # A page is cut before the threshold: in an order that is not by score, pages would otherwise repeat and lose items.
    found = Found(*(part[:, skip : skip + k] for part in found)) if skip else found
    return found if threshold is None else at_least(found, threshold)


def found_of(now: Catalogue, hits: Hits, vectors: Array) -> Found:
    """Hits with ids, and with raw similarities for scores."""
    present = hits.rows >= 0
    query, _ = np.nonzero(present)
    rows = hits.rows[present]
    scores = np.full(hits.rows.shape, -np.inf, np.float32)
    scores[present] = similarities(vectors, query, now.vectors, rows)
    ids = np.full(hits.rows.shape, None, object)
    ids[present] = now.ids.take(pa.array(rows)).to_pylist()
    return Found(ids, scores, hits.rows)


def first(found: Found) -> Found:
    return Found(*(part[0] for part in found))
