"""Nearest neighbours of vectors by inner product: one protocol, several ways.

A new kind of index is one class with `search` and its entry in `INDEXES`. Rows are positions in the vectors; who wants
the user's ids back, and vectors of length 1 for a cosine, sees to that outside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twotower.search.index.approximate import KINDS, Approximate
from twotower.search.index.automatic import Chosen, choose
from twotower.search.index.exact import Exact, similarities
from twotower.search.index.hits import Hits, Index, best, best_of_both, best_of_each, check_allow, no_hits
from twotower.search.vectors import Array, Vectors

INDEXES: dict[str, Callable[[Array | Vectors], Index]] = {"exact": Exact} | {kind: partial(Approximate, kind=kind) for kind in KINDS}

__all__ = [
    "INDEXES",
    "Approximate",
    "Array",
    "Chosen",
    "Exact",
    "Hits",
    "Index",
    "best",
    "best_of_both",
    "best_of_each",
    "check_allow",
    "choose",
    "no_hits",
    "similarities",
]
