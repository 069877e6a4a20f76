"""Whether the towers still tell things apart."""

from __future__ import annotations

import numpy as np

from twotower.data.columns import Array
from twotower.data.schema import SIDES

ALIKE = 0.98  # the mean cosine from which nothing is told apart
FEWEST = 20  # vectors: of fewer a mean says little
BLOCK = 1 << 16  # vectors looked at at once, in double precision


def likeness(vectors: Array) -> float:
    """The mean cosine of two different vectors of [n, d]; 0 for fewer than two. By the length of their sum, without the n x n cosines."""
    n = len(vectors)
    if n < 2:
        return 0.0
    total, there = np.zeros(vectors.shape[1]), 0
    for start in range(0, n, BLOCK):
        part = vectors[start : start + BLOCK].astype(np.float64)
        lengths = np.linalg.norm(part, axis=1, keepdims=True)
        total += (part / np.maximum(lengths, 1e-12)).sum(axis=0)
        there += int(np.count_nonzero(lengths))
    return float((total @ total - there) / (n * (n - 1)))


def collapse(queries: Array, items: Array) -> str:
    """What to say where nearly all vectors of a side are one (the collapse of Jing et al. 2022, complete); else nothing."""
    alike = {side: likeness(vectors) for side, vectors in zip(SIDES, (queries, items), strict=True) if len(vectors) >= FEWEST}
    told = [f"the {side} vectors are nearly all the same (mean cosine {cosine:.3f})" for side, cosine in alike.items() if cosine > ALIKE]
    if not told:
        return ""
    return (
        f"{' and '.join(told)}, so nothing is told apart by them. Lower [train] learning_rate and table_learning_rate; if it stays so, the columns "
        "of that side say nothing that tells its rows apart: twotower check."
    )
