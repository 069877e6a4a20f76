"""Conditions as filters of Qdrant, whose engine in the process and whose client name the same things a little differently."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from twotower.errors import ConfigError
from twotower.search.filters import Condition, Operator
from twotower.stores.columns import SAFE_DIGITS, to_json
from twotower.stores.conditions import said
from twotower.stores.facts import Version

# What each point lists of its columns: those without a value, and those that hold true or false. The engine in the process takes a truth value
# in a condition for the number 1 or 0, so these stand for them.
MISSING, TRUE, FALSE = MARKS = ("_missing", "_true", "_false")
PAYLOAD_KINDS = {"text": "Keyword", "int": "Integer", "float": "Float", "time": "Datetime"}
RANGES: dict[Operator, tuple[str, ...]] = {"lt": ("lt",), "le": ("lte",), "gt": ("gt",), "ge": ("gte",), "eq": ("gte", "lte")}
WHOLE = 1 << 53  # past it Qdrant, which orders numbers as float64, cannot tell two from each other


def qdrant_condition(condition: Condition, version: Version, names: Any) -> Any:
    """A condition as a Filter. names: the module whose classes filters are made of. Raises ConfigError for an order that Qdrant knows not."""
    return said(condition, version, QdrantWords(names))


def marks(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The marks of a point with these values by column, lists among them."""

    def holds(value: Any, truth: bool) -> bool:
        return value is truth or (isinstance(value, list) and any(each is truth for each in value))

    there = {name: (value is None, holds(value, True), holds(value, False)) for name, value in values.items()}
    return {mark: [name for name, met in there.items() if met[place]] for place, mark in enumerate(MARKS)}


class QdrantWords:
    """The words of Qdrant; each gives a Filter."""

    def __init__(self, names: Any) -> None:
        self.names = names
        self._range = getattr(names, "RangeFloat", None) or names.Range
        self._dates = getattr(names, "RangeDateTime", None) or names.DatetimeRange

    def _must(self, *parts: Any) -> Any:
        return self.names.Filter(must=list(parts))

    def _match(self, column: str, value: Any) -> Any:
        return self._must(self.names.FieldCondition(key=column, match=self.names.MatchValue(value=value)))

    def all(self) -> Any:
        """Every point."""
        return self.negate(self.none())

    def none(self) -> Any:
        """No point: none lacks a column without a name of that kind."""
        return self._match(MISSING, "\0")

    def missing(self, column: str, of: pa.DataType) -> Any:
        """Points without a value."""
        return self._match(MISSING, column)

    def compare(self, column: str, operator: Operator, value: Any, of: pa.DataType) -> Any:
        """Points whose value compares so."""
        if operator == "ne":
            return self.every([self.negate(self._equal(column, value, of)), self.negate(self.missing(column, of))])
        if operator == "eq":
            return self._equal(column, value, of)
        if pa.types.is_string(of) or pa.types.is_time(of):
            raise ConfigError(
                f'Qdrant orders numbers, dates and times with a date, and "{column}" holds {of}. Compare with == or in, or use another store.'
            )
        return self._ranged(column, operator, value, of)

    def _ranged(self, column: str, operator: Operator, value: Any, of: pa.DataType) -> Any:
        wide = pa.types.is_integer(of) and abs(value) > WHOLE
        if wide or (pa.types.is_decimal(of) and of.precision > SAFE_DIGITS):
            raise ConfigError(f'Qdrant orders numbers of at most {SAFE_DIGITS} digits, and "{column}" is compared with {value}. Use another store.')
        if not isinstance(value, datetime.date):
            return self._between(column, self._range, operator, float(value))
        if self._dates.__name__ == "RangeDateTime":
            return self._between(column, self._dates, operator, value.isoformat())
        whole = value if isinstance(value, datetime.datetime) else datetime.datetime.combine(value, datetime.time())
        return self._between(column, self._dates, operator, whole)

    def _between(self, column: str, kind: Any, operator: Operator, value: Any) -> Any:
        return self._must(self.names.FieldCondition(key=column, range=kind(**dict.fromkeys(RANGES[operator], value))))

    def _equal(self, column: str, value: Any, of: pa.DataType) -> Any:
        if isinstance(value, bool):
            return self._match(TRUE if value else FALSE, column)
        if isinstance(value, str) or pa.types.is_integer(of):
            return self._match(column, value)
        if pa.types.is_time(of):
            return self._match(column, value.isoformat())
        if pa.types.is_decimal(of) and of.precision > SAFE_DIGITS:
            kept = to_json(pa.array([value], of), column)[0]
            return self._match(column, kept) if isinstance(kept, str) else self._between(column, self._range, "eq", kept)
        return self._ranged(column, "eq", value, of)

    def one_of(self, column: str, values: list[Any], of: pa.DataType) -> Any:
        """Points whose value is one of these."""
        if pa.types.is_string(of) or pa.types.is_integer(of):
            return self._must(self.names.FieldCondition(key=column, match=self.names.MatchAny(any=values)))
        return self.some([self._equal(column, value, of) for value in values])

    def has(self, column: str, value: Any, of: pa.DataType) -> Any:
        """Points whose list holds the value: Qdrant asks each value of a list by itself."""
        return self._equal(column, value, of)

    def flag(self, column: str) -> Any:
        """Points whose truth value is true."""
        return self._match(TRUE, column)

    def every(self, parts: list[Any]) -> Any:
        """Points that meet all."""
        return self._must(*parts)

    def some(self, parts: list[Any]) -> Any:
        """Points that meet one or more."""
        return self.names.Filter(should=parts)

    def negate(self, part: Any) -> Any:
        """Points that do not meet it."""
        return self.names.Filter(must_not=[part])
