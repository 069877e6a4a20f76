"""What a look at the first rows of a column shows."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.features.numbers import NOTHING
from twotower.data.sources import Source
from twotower.data.values import to_text

LOOK = 20_000  # rows
SAMPLE = 2_000  # values whose words and shapes are looked at
DATE = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}.*)?$"


class Look:
    """The first rows of one column. texts: the canonical ones, without the missing; of lists and objects, as JSON."""

    def __init__(self, name: str, values: pa.Array, nested: bool) -> None:
        self.name, self.values, self.nested = name, values, nested
        self.rows = len(values)
        present = values.drop_null()
        self.texts = pa.array([json.dumps(row, default=str) for row in present.to_pylist()], pa.string()) if nested else to_text(present).drop_null()
        self.distinct = int(pc.count_distinct(self.texts).as_py())

    @property
    def missing(self) -> float:
        """The share of the rows that hold nothing."""
        return 1 - len(self.texts) / max(1, self.rows)

    @property
    def share_distinct(self) -> float:
        """Different values by values."""
        return self.distinct / max(1, len(self.texts))

    @cached_property
    def sample(self) -> pa.Array:
        """Values from all over what was looked at, each as often as it stands there."""
        step = max(1, len(self.texts) // SAMPLE)
        return self.texts.take(pa.array(np.arange(0, len(self.texts), step)))

    @cached_property
    def words(self) -> float:
        """How many words a value has on average."""
        if self.nested or not len(self.texts):
            return 0.0
        return float(pc.mean(pc.list_value_length(pc.split_pattern_regex(self.sample, r"\s+"))).as_py())

    @cached_property
    def lists(self) -> list[list[Any]] | None:
        """The values as lists, where all of them are lists; None otherwise."""
        if not self.nested and not self.matching(r"^\["):
            return None
        try:
            found = [json.loads(text) for text in self.sample.to_pylist()]
        except (ValueError, RecursionError):
            return None
        return found if found and all(isinstance(row, list) for row in found) else None

    @property
    def is_text(self) -> bool:
        """Whether it reads as words: two a value or more, none of them lists, dates or vectors."""
        return self.words >= 2 and self.lists is None and not self.is_date and self.spaced is None

    @property
    def is_date(self) -> bool:
        """Whether its values are dates or moments as ISO 8601 writes them."""
        return self.matching(DATE)

    @cached_property
    def numbers(self) -> Array | None:
        """The values as finite numbers, where all are; None otherwise. Codes like 007 are none."""
        if self.nested or not len(self.texts):
            return None
        texts = self.texts.filter(pc.invert(pc.is_in(pc.utf8_lower(self.texts), pa.array(NOTHING))))
        if not len(texts) or pc.any(pc.match_substring_regex(texts, r"^[+-]?0\d")).as_py():
            return None
        try:
            found = np.asarray(texts.cast(pa.float64()))
        except pa.ArrowInvalid:
            return None
        return found if np.isfinite(found).all() else None

    @property
    def grades(self) -> Array | None:
        """The same, and truth values as 1 and 0."""
        if self.distinct <= 2 and not self.nested and pc.all(pc.is_in(self.texts, pa.array(["true", "false"]))).as_py():
            return np.asarray(pc.equal(self.texts, "true").cast(pa.float64()))
        return self.numbers

    @cached_property
    def spaced(self) -> int | None:
        """How many numbers stand in each value, where all are as many numbers between spaces or commas; None otherwise."""
        if self.nested or not len(self.texts):
            return None
        try:
            rows = [[float(part) for part in text.replace(",", " ").split()] for text in self.sample.to_pylist()]
        except ValueError:
            return None
        widths = {len(row) for row in rows}
        return widths.pop() if len(widths) == 1 and min(widths) >= 4 else None

    def matching(self, pattern: str, share: float = 1.0) -> bool:
        """Whether at least this share of the values matches a pattern."""
        if self.nested or not len(self.texts):
            return False
        return float(pc.mean(pc.match_substring_regex(self.sample, pattern).cast(pa.float64())).as_py()) >= share


def look(source: Source) -> dict[str, Look]:
    """A look at every column whose values, or what their lists hold, have a canonical text."""
    table = source.head(LOOK)
    plain = [name for name in source.columns if name not in source.unfit or name in source.nested]
    return {name: Look(name, whole(table.column(name)), pa.types.is_nested(table.schema.field(name).type)) for name in plain}


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column of a table as one array."""
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)
