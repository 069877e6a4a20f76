"""Quantities: a price, an age, a count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le

from twotower.data.columns import Array, Column
from twotower.data.features.feature import Form, Part, State, unreadable
from twotower.data.features.measures import FAR, bounded, count_missing, logged, moments_of, or_one, with_missing
from twotower.data.values import to_text

NOTHING = ("na", "n/a", "nan", "null", "none", "-", "?")  # how people write that a number is missing
SAMPLED = 1 << 20  # values that quantiles are taken of


@dataclass(frozen=True, kw_only=True)
class Number:
    """A quantity: a price, an age, a count. That it is missing is a signal of its own.

    scale: `standard` subtracts the mean and divides by the deviation; `log` does so with the logarithm, for what spans powers of
    ten; `quantile` says between which of `bins` equally full steps it lies (piecewise linear: Gorishniy et al. 2022).
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = False
    nested: ClassVar[bool] = False

    column: str
    type: Literal["number"] = "number"
    scale: Literal["standard", "log", "quantile"] = "standard"
    bins: Annotated[int, Ge(2), Le(1024)] = 16

    def normalise(self, column: pa.Array) -> pa.Array:
        """Float64, null where it is missing. Raises Unreadable for what is no finite number."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
            numbers = column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(kind) else column.cast(pa.float64(), safe=False)
        elif pa.types.is_decimal(kind):
            numbers = column.cast(pa.float64())
        else:
            numbers = _read_numbers(self.column, to_text(column))
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        endless = np.asarray(pc.fill_null(pc.is_inf(numbers), False))
        if endless.any():
            raise unreadable(self.column, endless, column, "finite number")
        return numbers

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """Mean and deviation float64 [2] of the scaled values, or the edges float64 [bins + 1] of the quantiles; those of an earlier model stay."""
        if last is not None:
            return last
        values = (bounded(self.normalise(column).drop_null()) for column, _ in parts)
        if self.scale == "quantile":
            return {"edges": _edges(values, self.bins)}
        return {"moments": moments_of(map(logged, values) if self.scale == "log" else values)}

    def encode(self, column: pa.Array, state: State) -> Array:
        """Float32 [n, 2]: the scaled value and whether it is missing; [n, bins + 1] for quantiles."""
        numbers = self.normalise(column)
        missing = np.asarray(numbers.is_null())
        values = bounded(pc.fill_null(numbers, 0.0))
        if self.scale == "quantile":
            edges, above = state["edges"], values[:, None] - state["edges"][:-1]
            steps = np.diff(edges)
            # Where many values are equal a step has no width: it is full for whatever lies above it.
            scaled = np.where(steps > 0, np.clip(above, 0.0, steps) / or_one(steps), above > 0)
        else:
            mean, deviation = state["moments"]
            scaled = np.clip(((logged(values) if self.scale == "log" else values) - mean) / deviation, -FAR, FAR)[:, None]
        return with_missing(scaled, missing)

    def form(self, state: State, dimensions: int) -> Form:
        return Form(np.float32, width=1 + (self.bins if self.scale == "quantile" else 1))

    def unknown(self, encoded: Column) -> int:
        return 0

    def missing(self, encoded: Column) -> int:
        return count_missing(encoded)


def _read_numbers(column: str, texts: pa.Array) -> pa.Array:
    texts = pc.if_else(pc.is_in(pc.utf8_lower(texts), pa.array(NOTHING)), pa.scalar(None, pa.string()), texts)
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        values = [_float(text) for text in texts.to_pylist()]
        bad = np.array([value is None and text is not None for value, text in zip(values, texts.to_pylist(), strict=True)])
        if bad.any():
            raise unreadable(column, bad, texts, "number") from None
        return pa.array(values, pa.float64())


def _float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _edges(parts: Iterable[Array], bins: int) -> Array:
    """The edges float64 [bins + 1] of equally full steps; past a million values, of a sample of them."""
    generator = np.random.default_rng(0)
    kept, tags = np.empty(0), np.empty(0)
    for values in parts:
        # The values with the smallest random tags are a sample of all values so far, however they came in parts.
        kept, tags = np.concatenate([kept, values]), np.concatenate([tags, generator.random(len(values))])
        if len(kept) > SAMPLED:
            chosen = np.argpartition(tags, SAMPLED)[:SAMPLED]
            kept, tags = kept[chosen], tags[chosen]
    return np.quantile(kept, np.linspace(0, 1, bins + 1)) if len(kept) else np.linspace(0, 1, bins + 1)
