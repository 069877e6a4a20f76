"""Conditions in the words of a store: one walk over the tree, and for each store the words.

Every value is first turned into one of the column's own type, so that a store compares like with like. A row without a value, a nan among
them, meets no comparison, and `not` is the plain complement.
"""

from __future__ import annotations

import datetime
from typing import Any, Protocol

import pyarrow as pa

from twotower.data.prepared import ID
from twotower.search.filters import Compare, Condition, Every, Flag, Has, Missing, Not, OneOf, Operator, Some, Term, Value, check, masks
from twotower.stores.facts import Version

DAYS = (datetime.date.min.toordinal() - 719_163, datetime.date.max.toordinal() - 719_163)  # the years 1 to 9999, counted from 1970
MICROSECONDS = (DAYS[0] * 86_400_000_000, (DAYS[1] + 1) * 86_400_000_000 - 1)
EPOCH = datetime.datetime(1970, 1, 1)


class Words(Protocol):
    """How one store says a condition. `column` is the name in the store, `of` its Arrow type, a value one of Python's for that type."""

    def all(self) -> Any:
        """Every row."""

    def none(self) -> Any:
        """No row."""

    def missing(self, column: str, of: pa.DataType) -> Any:
        """Rows without a value."""

    def compare(self, column: str, operator: Operator, value: Any, of: pa.DataType) -> Any:
        """Rows whose value compares so."""

    def one_of(self, column: str, values: list[Any], of: pa.DataType) -> Any:
        """Rows whose value is one of these; there is one at least."""

    def has(self, column: str, value: Any, of: pa.DataType) -> Any:
        """Rows whose list holds the value; `of` is the type of what lists hold."""

    def flag(self, column: str) -> Any:
        """Rows whose truth value is true."""

    def every(self, parts: list[Any]) -> Any:
        """Rows that meet all."""

    def some(self, parts: list[Any]) -> Any:
        """Rows that meet one or more."""

    def negate(self, part: Any) -> Any:
        """Rows that do not meet it."""


def said(condition: Condition, version: Version, words: Words) -> Any:
    """A condition in the words of a store. Raises ConfigError for one that does not fit the columns."""
    shape = version.shape
    check(condition, shape)
    return _said(condition, version, shape, words)


def _said(condition: Condition, version: Version, shape: pa.Schema, words: Words) -> Any:
    if isinstance(condition, Not):
        return words.negate(_said(condition.part, version, shape, words))
    if isinstance(condition, (Every, Some)):
        parts = [_said(part, version, shape, words) for part in condition.parts]
        return words.every(parts) if isinstance(condition, Every) else words.some(parts)
    column = ID if condition.column == ID else version.columns[condition.column]
    return _term(condition, column, shape.field(condition.column).type, words)


def _term(term: Term, column: str, of: pa.DataType, words: Words) -> Any:
    if isinstance(term, Missing):
        return words.missing(column, of)
    if isinstance(term, Flag):
        return words.flag(column)
    if isinstance(term, Has):
        simple = _simple("eq", term.value, of.value_type)
        return words.none() if isinstance(simple, bool) else words.has(column, simple[1], of.value_type)
    if isinstance(term, OneOf):
        found = [simple[1] for simple in (_simple("eq", value, of) for value in term.values) if not isinstance(simple, bool)]
        return words.one_of(column, found, of) if found else words.none()
    assert isinstance(term, Compare)
    simple = _simple(term.operator, term.value, of)
    if not isinstance(simple, bool):
        return words.compare(column, *simple, of)
    return words.negate(words.missing(column, of)) if simple else words.none()


def _simple(operator: Operator, value: Value, of: pa.DataType) -> tuple[Operator, Any] | bool:
    """The comparison with a value of the column's type that answers the same; or the answer, the same for every value."""
    simple = masks.simple(operator, value, of)
    if isinstance(simple, bool) or not pa.types.is_temporal(of):
        return simple
    operator, ticks = simple
    if pa.types.is_date32(of):
        first, last = DAYS
    else:
        first, last = MICROSECONDS if pa.types.is_timestamp(of) else (0, 86_400_000_000 - 1)
    if not first <= ticks <= last:
        return operator in (("lt", "le", "ne") if ticks > last else ("gt", "ge", "ne"))
    return operator, _moment(ticks, of)


def _moment(ticks: int, of: pa.DataType) -> datetime.date | datetime.datetime | datetime.time:
    """What a column of days or microseconds counts, as Python says it."""
    if pa.types.is_date32(of):
        return datetime.date.fromordinal(ticks + 719_163)
    moment = EPOCH + datetime.timedelta(microseconds=ticks)
    if pa.types.is_time(of):
        return moment.time()
    return moment if of.tz is None else moment.replace(tzinfo=datetime.UTC)
