"""Alternating least squares by the library implicit: a baseline for keys that training knows. Needs the extra `als`."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from twotower.data.prepared import Prepared
from twotower.errors import MissingExtra
from twotower.learning.evaluation import Cases, Scorer, dot_scorer
from twotower.learning.linear import known_of

FACTORS, ITERATIONS = 64, 15
ALPHA, RIDGE = 40.0, 5.0  # the weight of a match beside that of any other item, and the ridge


def require() -> None:
    """Raise MissingExtra if the extra `als` is not installed."""
    if find_spec("implicit") is None:
        raise MissingExtra('the baseline "als"', "als")


def als(prepared: Prepared, asked: Cases, threads: int = 1) -> Scorer | None:
    """Vectors of keys and items, each side by turns the ridge regression of all matches and non-matches on the other (Hu et al. 2008).

    The same for the same log, however many threads. Raises MissingExtra.
    """
    known = known_of(prepared, asked)
    if known is None:
        return None
    require()
    from implicit.cpu.als import AlternatingLeastSquares  # the other import takes a card where there is one
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # as it asks for: its own threads do the work
        model = AlternatingLeastSquares(
            factors=FACTORS, alpha=ALPHA, regularization=RIDGE, iterations=ITERATIONS, num_threads=threads, random_state=0
        )
        model.fit(known.matches, show_progress=False)
        # Whoever has matched more since is worked out anew, as of now.
        of_keys = asked.histories is None
        vectors = model.user_factors[known.by] if of_keys else model.recalculate_user(np.arange(len(known.by)), known.rows())
    return dot_scorer(vectors, model.item_factors)
