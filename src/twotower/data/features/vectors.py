"""Vectors that somebody else computed: of images, sounds, other models."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array, Column
from twotower.data.features.feature import Form, Part, State, unreadable
from twotower.data.features.measures import Moments, count_missing, or_one, with_missing
from twotower.data.values import to_text
from twotower.errors import DataError

FLOATS = pa.list_(pa.float32())


@dataclass(frozen=True, kw_only=True)
class Vector:
    """A vector that comes with the data: of an image, a sound, another model. All have one width, and finite numbers.

    scale: `unit` divides each by its length, `standard` each place by its deviation, `none` leaves them as they are.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    column: str
    type: Literal["vector"] = "vector"
    scale: Literal["unit", "standard", "none"] = "unit"

    def normalise(self, column: pa.Array) -> pa.Array:
        """Lists of float32, null where it is missing or empty. Raises Unreadable for numbers that are not finite and widths that differ."""
        lists = column if column.type == FLOATS else _float_lists(self.column, column)
        lists = pc.if_else(pc.equal(pc.list_value_length(lists), 0), pa.scalar(None, FLOATS), lists)
        widths = np.asarray(pc.fill_null(pc.list_value_length(lists), -1), np.int64)
        usual = np.bincount(widths[widths >= 0]).argmax() if (widths >= 0).any() else 0
        odd = (widths >= 0) & (widths != usual)
        if odd.any():
            raise unreadable(self.column, odd, pc.list_value_length(lists), f"vector of {usual} numbers, as the others are (it has this many)")
        flat = lists.flatten()
        bad = ~np.isfinite(np.asarray(pc.fill_null(flat, float("nan"))))
        if bad.any():
            rows = np.repeat(np.arange(len(lists)), np.maximum(widths, 0))
            raise unreadable(self.column, np.isin(np.arange(len(lists)), rows[bad]), lists, "vector of finite numbers")
        return lists

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The width int64 [1], and the deviation of each place, float64 [w], where it is standard. Those of an earlier model stay."""
        if last is not None:
            return last
        width, moments = 0, Moments(0, 0.0, 0.0)
        for column, _ in parts:
            rows = self._rows(self.normalise(column), width).astype(np.float64)
            if len(rows):
                width, moments = rows.shape[1], moments.with_part(rows)
        state: dict[str, Array] = {"width": np.array([width], np.int64)}
        if self.scale == "standard":
            state["deviation"] = moments.deviation() if width else np.zeros(0)
        return state

    def _rows(self, lists: pa.Array, width: int) -> Array:
        """The vectors that are there, float32 [p, w]; their width must be the one known, where one is."""
        present = lists.drop_null()
        flat = np.asarray(present.flatten(), np.float32)
        own = len(flat) // max(1, len(present))
        if len(present) and width and own != width:
            raise DataError(
                f'the column "{self.column}" holds vectors of {own} numbers, and {width} are needed, as in the first ones. All need one width.'
            )
        return flat.reshape(len(present), own)

    def encode(self, column: pa.Array, state: State) -> Array:
        """Float32 [n, w + 1]: the scaled vector and whether it is missing."""
        lists = self.normalise(column)
        width = int(state["width"][0])
        missing = np.asarray(lists.is_null())
        vectors: Array = np.zeros((len(lists), width), np.float32)
        rows = self._rows(lists, width)
        if len(rows):
            if not width:
                raise DataError(f'the column "{self.column}" holds vectors of {rows.shape[1]} numbers, and it held none when this model learnt it.')
            vectors[~missing] = rows
        if self.scale == "standard":
            vectors = vectors / state["deviation"].astype(np.float32)
        elif self.scale == "unit":
            # By the largest number first, so that no square leaves the range of the numbers.
            vectors = vectors / or_one(np.abs(vectors).max(axis=1, keepdims=True, initial=0.0))
            vectors = vectors / or_one(np.linalg.norm(vectors, axis=1, keepdims=True))
        return with_missing(vectors, missing)

    def form(self, state: State, dimensions: int) -> Form:
        return Form(np.float32, width=1 + int(state["width"][0]))

    def unknown(self, encoded: Column) -> int:
        return 0

    def missing(self, encoded: Column) -> int:
        return count_missing(encoded)


def _float_lists(column: str, values: pa.Array) -> pa.Array:
    """Lists of numbers, or texts that hold them: JSON, or numbers between spaces or commas."""
    kind = values.type
    wanted = "vector of numbers, as a list or a text like [0.1, 0.2]"
    if pa.types.is_list_view(kind):
        values, kind = pa.array(values.to_pylist(), pa.list_(kind.value_type)), pa.list_(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        try:
            return values.cast(FLOATS, safe=False)
        except pa.ArrowInvalid:  # lists of texts, some of which are no numbers
            found = [None if row is None else _numbers(row) for row in values.to_pylist()]
            raise unreadable(column, _unread(found, values), values, wanted) from None
        except pa.ArrowNotImplementedError:
            raise TypeError(f"lists of {kind.value_type} are no {wanted}") from None
    texts = to_text(values, exact=False)
    found = [None if text is None else _floats(text) for text in texts.to_pylist()]
    bad = _unread(found, texts)
    if bad.any():
        raise unreadable(column, bad, texts, wanted)
    return pa.array(found, FLOATS)


def _unread(found: list[Any], values: pa.Array) -> Array:
    return np.array([row is None and value.is_valid for row, value in zip(found, values, strict=True)], bool)


def _floats(text: str) -> Array | None:
    try:
        return _numbers(json.loads(text) if text.startswith("[") else text.replace(",", " ").split())
    except (ValueError, RecursionError):
        return None


def _numbers(values: Any) -> Array | None:
    """Float32 of a plain list of numbers or of texts that are numbers; None for anything else."""
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        return None
    return numbers if numbers.ndim == 1 else None
