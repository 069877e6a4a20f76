"""What every feature is: a typed column of one side, the state that the data taught it, and the form of what it encodes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array, Column
from twotower.errors import DataError

State = Mapping[str, Array]
Part = tuple[pa.Array, Array]  # values [n], and in how many training pairs each row is, int64 [n]

SHOWN = 5  # bad rows that an error names


class Form(NamedTuple):
    """What one encoded row looks like: codes below `high`, or numbers.

    ragged: whether a row holds any number of entries, and longest how many it holds at most where there is a bound. width: of one
    entry where it is itself a row of numbers.
    """

    dtype: Any
    ragged: bool = False
    width: int | None = None
    high: int = 0
    longest: int | None = None


class Feature(Protocol):
    """A typed column of one side."""

    from_log: ClassVar[bool]  # whether it is cut from the log of pairs rather than read from a raw column
    worded: ClassVar[bool]  # whether it reads words
    nested: ClassVar[bool]  # whether it reads lists

    @property
    def column(self) -> str:
        """The name of the raw column."""
        ...

    @property
    def type(self) -> str:
        """Its key in FEATURES and in LAYERS."""
        ...

    def normalise(self, column: pa.Array) -> pa.Array:
        """Raw values in the one Arrow type of this feature; normalising twice changes nothing. Raises TypeError or Unreadable."""
        ...

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """Learn the state from values, streamed.

        last: of a model that is trained again. What it encodes then is encoded to the same: names keep being known, statistics stay.
        """
        ...

    def encode(self, column: pa.Array, state: State) -> Column:
        """Raw values [n] as numbers, n rows."""
        ...

    def form(self, state: State, dimensions: int) -> Form:
        """What `encode` gives, as the towers take it."""
        ...

    def unknown(self, encoded: Column) -> int:
        """How many of the encoded rows hold a value that the state does not know."""
        ...

    def missing(self, encoded: Column) -> int:
        """How many of the encoded rows hold nothing."""
        ...


class Unreadable(DataError):
    """Values that a feature cannot read. rows: where they stand in the array given, the first few. wanted: what is needed there."""

    def __init__(self, column: str, rows: Sequence[int], values: Sequence[Any], wanted: str, count: int, *, where: str = "", start: int = 0) -> None:
        self.column, self.rows, self.values, self.wanted, self.count = column, rows, values, wanted, count
        named = ", ".join(f"row {start + row + 1} {_short(value)}" for row, value in zip(rows, values, strict=True))
        more = f" and {count - len(rows):,} more" if count > len(rows) else ""
        super().__init__(f'{where + ": " if where else ""}the column "{column}" holds what is no {wanted}: {named}{more}')

    def at(self, where: str, start: int) -> Unreadable:
        """The same, told by the rows of a file whose part began at row `start`."""
        return Unreadable(self.column, self.rows, self.values, self.wanted, self.count, where=where, start=start)


def unreadable(column: str, bad: Array, values: pa.Array, wanted: str) -> Unreadable:
    """The error for the rows [n] that are bad, with the first few of their values."""
    rows = np.flatnonzero(bad)
    first = rows[:SHOWN].tolist()
    return Unreadable(column, first, [_plain(values[row]) for row in first], wanted, len(rows))


def _plain(value: pa.Scalar) -> Any:
    """A value as Python has it, or its number where it is a moment that Python has not."""
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return getattr(value, "value", None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
