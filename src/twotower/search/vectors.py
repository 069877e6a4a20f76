"""Vectors as they are stored: as float32, as float16 at half the bytes, as int8 at a quarter; whoever reads them gets float32.

`Vectors` is read like an array of float32 `[n, d]`. To add a kind: its entry in `KINDS`, how `_packed` makes it and how `Vectors._widened`
reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twotower.errors import BundleError, ConfigError, DataError, choices

Array = np.ndarray[Any, np.dtype[Any]]

KINDS: dict[str, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
STEPS = 127  # of int8 on either side of 0
HALF_BITS = np.int32(-0x70000001)  # all but what a shift by 13 leaves of the sign between it and the exponent
HALF_SCALE, HALF_MOST = np.float32(2.0**112), 65504
LEAST = 1e-30  # what is smaller counts as 0, since one over it is no float32
BLOCK_BYTES = 1 << 24  # of float32 that are made or changed at once


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors [n, d]: `values` float32, float16 or int8; with int8, row i is values[i] x scales[i], `scales` float32 [n].

    Either may be memory-mapped. Rows come as float32; a slice of float32 values is a view of them. Raises DataError for arrays that do not
    go together.
    """

    values: Array
    scales: Array | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype.name not in KINDS:
            known = ", ".join(KINDS)
            raise DataError(f"vectors are stored as [n, d] of {known}, not as {self.values.dtype} of shape {self.values.shape}")
        if (self.kind == "int8") != (self.scales is not None):
            raise DataError("vectors of int8 come with the scales of their rows, and no others do")
        if self.scales is not None and (self.scales.dtype != np.float32 or self.scales.shape != (len(self),)):
            raise DataError(f"the scales of {len(self)} rows are float32 [{len(self)}], not {self.scales.dtype} {self.scales.shape}")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Array:
        """Rows as float32: a slice, rows int64 [m] or a mask bool [n] give [m, d], one row gives [d]."""
        return self._widened(self.values[rows], None if self.scales is None else self.scales[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of them, as float32 unless asked otherwise."""
        wanted = np.dtype(np.float32 if dtype is None else dtype)
        if copy is False and (self.kind != "float32" or wanted != np.float32):
            raise ValueError(f"vectors stored as {self.kind} become {wanted} only by a copy")
        whole = self[:]
        if wanted != np.float32:
            return whole.astype(wanted)
        return np.array(whole) if copy and self.kind == "float32" else np.asarray(whole)

    def __repr__(self) -> str:
        return f"<Vectors of {self.kind} [{len(self):,}, {self.shape[1]}]>"

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        n, d = self.values.shape
        return n, d

    @property
    def ndim(self) -> int:
        """Two, as of any array [n, d]."""
        return 2

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """What rows are read as."""
        return np.dtype(np.float32)

    @property
    def kind(self) -> str:
        """What they are stored as: one of KINDS."""
        return str(self.values.dtype.name)

    @property
    def nbytes(self) -> int:
        """The bytes that they take where they are stored."""
        return int(self.values.nbytes) + (0 if self.scales is None else int(self.scales.nbytes))

    def arrays(self) -> dict[str, Array]:
        """The arrays to save; `restore` takes them back."""
        return {"values": self.values} | ({} if self.scales is None else {"scales": self.scales})

    @classmethod
    def restore(cls, arrays: Mapping[str, Array]) -> Vectors:
        """Vectors from the arrays that were saved. Raises BundleError for arrays that are no vectors."""
        unknown = arrays.keys() - {"values", "scales"}
        if "values" not in arrays or unknown:
            raise BundleError(f"stored vectors are `values`, with int8 `scales` too; here are: {', '.join(sorted(arrays)) or 'none'}")
        try:
            return cls(arrays["values"], arrays.get("scales"))
        except DataError as error:
            raise BundleError(f"stored vectors are damaged: {error}") from None

    def narrowed(self, width: int, *, unit: bool = True) -> Vectors:
        """The first columns of each, of the same kind; unit: each again of length 1, as a cosine takes them (a row of zeros stays one).

        Of int8 only the scales change, so that nothing is rounded again. Raises ConfigError for a width that they do not have.
        """
        if not 1 <= width <= self.shape[1]:
            raise ConfigError(f"vectors of {self.shape[1]} dimensions can be narrowed to 1 to {self.shape[1]}, not to {width}")
        cut = Vectors(self.values[:, :width], self.scales)
        if not unit:
            return cut
        if cut.scales is None:
            values = np.empty(cut.shape, cut.values.dtype)
            for part in blocks(len(cut), width):
                rows = cut[part]
                values[part] = rows * _inverse(_lengths(rows))[:, None]
            return Vectors(values)
        scales = np.empty(len(cut), np.float32)
        for part in blocks(len(cut), width):
            scales[part] = np.sign(cut.scales[part]) * _inverse(_lengths(cut.values[part].astype(np.float32)))
        return Vectors(cut.values, scales)

    def _widened(self, values: Array, scales: Array | None) -> Array:
        wide = widened(values)
        if scales is not None:
            wide *= np.asarray(scales)[..., None]  # in place: int8 never becomes float32 without a copy
        return wide


def widened(values: Array, out: Array | None = None) -> Array:
    """Values of one of KINDS as float32, in `out` where that is given; float32 comes back as it is, and `out` is not touched.

    numpy takes float16 one by one. Here the bits are moved to where float32 has them, which is some four times as fast: the sign is spread by
    the wider integer, the exponent then lacks 112. nan and inf would become numbers, and are left to numpy.
    """
    if values.dtype == np.float32:
        return np.asarray(values)
    wide = np.empty(values.shape, np.float32) if out is None else out
    if values.dtype != np.float16 or not values.ndim:
        np.copyto(wide, values)
        return wide
    bits = wide.view(np.int32)
    np.copyto(bits, values.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, HALF_BITS, out=bits)
    np.multiply(wide, HALF_SCALE, out=wide)
    if wide.size and (wide.max() > HALF_MOST or wide.min() < -HALF_MOST):
        np.copyto(wide, values)
    return wide


def stored(vectors: Array | Vectors, kind: str) -> Vectors:
    """Vectors [n, d] of any numbers, stored as one of KINDS; what is stored so already is not copied.

    int8 is symmetric: the largest number of a row becomes 127 or -127. Raises ConfigError for an unknown kind, DataError for a shape that is not
    [n, d] and for numbers that the kind cannot hold: nan and inf in int8, nan, inf and more than 65,504 in float16.
    """
    if kind not in KINDS:
        raise ConfigError(f'vectors are not stored as "{kind}"; {choices(KINDS, kind)}')
    if isinstance(vectors, Vectors) and vectors.kind == kind:
        return vectors
    if vectors.ndim != 2:
        raise DataError(f"vectors are [n, d], not an array of shape {vectors.shape}")
    if kind == "float32":
        return Vectors(np.asarray(vectors, np.float32))
    values = np.empty(vectors.shape, KINDS[kind])
    scales = np.empty(len(values), np.float32) if kind == "int8" else None
    for part in blocks(*values.shape):
        values[part], made = _packed(np.asarray(vectors[part], np.float32), kind)
        if scales is not None:
            scales[part] = made
    return Vectors(values, scales)


def _packed(rows: Array, kind: str) -> tuple[Array, Array]:
    """Rows float32 [m, d] as float16 or int8, and the scales of the latter, float32 [m]."""
    largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
    if not (largest <= (np.finfo(np.float16).max if kind == "float16" else np.finfo(np.float32).max)).all():
        raise DataError(f"{kind} cannot hold these vectors: there is nan, inf or a number too large in them")
    if kind == "float16":
        return rows.astype(np.float16), largest
    scales = np.asarray(largest / STEPS, np.float32)
    return np.rint(rows * _inverse(scales)[:, None]).clip(-STEPS, STEPS).astype(np.int8), scales


def concatenated(parts: Sequence[Vectors]) -> Vectors:
    """Vectors behind each other, of one kind; a single part is not copied. Raises DataError for a mix of kinds or widths, or for none."""
    if len({(part.kind, part.shape[1]) for part in parts}) != 1:
        told = ", ".join(f"{part.kind} of {part.shape[1]} dimensions" for part in parts) or "none"
        raise DataError(f"only vectors of one kind and width go behind each other; here are: {told}. Store them all alike first.")
    if len(parts) == 1:
        return parts[0]
    scales = [part.scales for part in parts if part.scales is not None]
    return Vectors(np.concatenate([part.values for part in parts]), np.concatenate(scales) if scales else None)


def taken(vectors: Array | Vectors) -> Vectors:
    """A plain array [n, d] as Vectors: one of float32 or float16 as it is, any other as float32. Raises DataError for another shape."""
    if isinstance(vectors, Vectors):
        return vectors
    return Vectors(vectors) if vectors.dtype in (np.float32, np.float16) and vectors.ndim == 2 else stored(vectors, "float32")


def blocks(n: int, d: int, size: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices of n rows of d numbers, each of so many bytes of float32."""
    step = max(1, size // (4 * max(1, d)))
    return (slice(start, start + step) for start in range(0, n, step))


def _lengths(rows: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows, rows)))


def _inverse(values: Array) -> Array:
    """One over each; 0 for what counts as 0."""
    return np.divide(1, values, out=np.zeros(len(values), np.float32), where=values > LEAST)
