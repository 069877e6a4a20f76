"""A log as a few directions: its matrix balanced, and the singular value decomposition of that, by random directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from twotower.data.columns import Array

ROUNDS = 2  # of power iterations: singular values of a log fall slowly, and without any its weaker half is noise
SPARE = 16  # directions drawn beside those that are kept
FAINT = 1e-4  # of the strongest: what is weaker is noise


class Factors(NamedTuple):
    """left @ diag(values) @ right.T, the best approximation of a matrix by so many directions, the strongest first."""

    left: Array  # float32 [n, k]
    values: Array  # float32 [k]
    right: Array  # float32 [m, k]


def factorise(matrix: Any, directions: int, generator: np.random.Generator, rounds: int = ROUNDS) -> Factors:
    """The truncated singular value decomposition of a sparse matrix [n, m] by random directions and power iterations (Halko et al. 2011).

    Of fewer directions where the matrix has fewer, or weaker ones are next to nothing.
    """
    turned = matrix.T.tocsr()
    found = matrix @ generator.standard_normal((matrix.shape[1], min(directions + SPARE, *matrix.shape)), dtype=np.float32)
    for _ in range(rounds):
        found = matrix @ np.linalg.qr(turned @ np.linalg.qr(found)[0])[0]
    basis = np.linalg.qr(found)[0]  # [n, k + spare]
    right, values, within = np.linalg.svd(turned @ basis, full_matrices=False)  # of the transpose: [m, k + spare]
    k = min(directions, int(np.count_nonzero(values > FAINT * values.max(initial=0))))
    return Factors(basis @ within[:k].T, values[:k], right[:, :k])


def balanced(rows: Array, columns: Array, weights: Array, shape: tuple[int, int], power: float = 0.5) -> tuple[Any, Array]:
    """(a log as a sparse matrix, balanced; the sums of its columns [m]).

    Each entry is divided by the root of the sum of its row and by a power of that of its column. Entries are the logarithms of one plus the
    weight, so that a thousand clicks do not count for a thousand people. Balanced like this a block of things that belong together counts
    once, however often it occurs: the spectral embedding of GF-CF (Shen et al. 2021). A lower power leaves what is popular ahead, as a
    dot product can say it and a cosine cannot.
    """
    from scipy import sparse

    matrix = sparse.csr_matrix((np.log1p(weights).astype(np.float32), (rows, columns)), shape=shape)
    sums = [np.asarray(matrix.sum(axis=axis)).ravel() for axis in (1, 0)]
    left, right = (sparse.diags(np.maximum(total, 1e-12) ** -by) for total, by in zip(sums, (0.5, power), strict=True))
    return (left @ matrix @ right).astype(np.float32).tocsr(), sums[1]
