"""Conditions as the SQL of LanceDB, which takes no parameters: every value is a quoted text, cast to the type of its column."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from twotower.search.filters import Condition, Operator
from twotower.stores.conditions import said
from twotower.stores.facts import Version

OPERATORS: dict[Operator, str] = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=", "ne": "<>"}


def lance_condition(condition: Condition, version: Version) -> str:
    """A condition as SQL that is true or false for every row."""
    found: str = said(condition, version, LanceWords())
    return found


class LanceWords:
    """The words of LanceDB. Its floats are in total order: nan is the greatest, and -0 below 0."""

    def all(self) -> str:
        """Every row."""
        return "true"

    def none(self) -> str:
        """No row."""
        return "false"

    def missing(self, column: str, of: pa.DataType) -> str:
        """Rows without a value."""
        name = _name(column)
        return f"({name} IS NULL OR coalesce(isnan({name}), false))" if pa.types.is_floating(of) else f"({name} IS NULL)"

    def compare(self, column: str, operator: Operator, value: Any, of: pa.DataType) -> str:
        """Rows whose value compares so."""
        name = _name(column)
        if pa.types.is_floating(of):
            if value == 0 and operator in ("eq", "ne"):
                equal = self.one_of(column, [0.0, -0.0], of)
                return equal if operator == "eq" else self.every([self.negate(equal), self.negate(self.missing(column, of))])
            value = -0.0 if value == 0 and operator in ("lt", "ge") else value + 0.0
            return f"coalesce({name} {OPERATORS[operator]} {_literal(value, of)} AND NOT isnan({name}), false)"
        return f"coalesce({name} {OPERATORS[operator]} {_literal(value, of)}, false)"

    def one_of(self, column: str, values: list[Any], of: pa.DataType) -> str:
        """Rows whose value is one of these."""
        if pa.types.is_floating(of) and 0.0 in values:
            values = [*values, 0.0, -0.0]
        return f"coalesce({_name(column)} IN ({', '.join(_literal(value, of) for value in values)}), false)"

    def has(self, column: str, value: Any, of: pa.DataType) -> str:
        """Rows whose list holds the value."""
        values = [0.0, -0.0] if pa.types.is_floating(of) and value == 0 else [value]
        return self.some([f"coalesce(array_has({_name(column)}, {_literal(each, of)}), false)" for each in values])

    def flag(self, column: str) -> str:
        """Rows whose truth value is true."""
        return f"coalesce({_name(column)}, false)"

    def every(self, parts: list[str]) -> str:
        """Rows that meet all."""
        return f"({' AND '.join(parts)})"

    def some(self, parts: list[str]) -> str:
        """Rows that meet one or more."""
        return f"({' OR '.join(parts)})"

    def negate(self, part: str) -> str:
        """Rows that do not meet it."""
        return f"(NOT {part})"


def _name(column: str) -> str:
    assert "`" not in column  # such a column has another name in the store
    return f"`{column}`"


def _literal(value: Any, of: pa.DataType) -> str:
    """A value as SQL. Nothing of it is read as SQL: within quotes only a quote ends the text, and it is doubled."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = (
        value.isoformat(sep=" ") if hasattr(value, "hour") and hasattr(value, "year") else value.isoformat() if hasattr(value, "isoformat") else None
    )
    quoted = "'" + (str(value) if text is None else text).replace("'", "''") + "'"
    return quoted if pa.types.is_string(of) else f"arrow_cast({quoted}, '{_arrow_name(of)}')"


def _arrow_name(of: pa.DataType) -> str:
    """What DataFusion calls an Arrow type."""
    if pa.types.is_timestamp(of):
        return "Timestamp(Microsecond, None)" if of.tz is None else 'Timestamp(Microsecond, Some("UTC"))'
    if pa.types.is_decimal(of):
        return f"Decimal{of.bit_width}({of.precision}, {of.scale})"
    if pa.types.is_integer(of):
        return f"{'Int' if pa.types.is_signed_integer(of) else 'UInt'}{of.bit_width}"
    return {"date32[day]": "Date32", "time64[us]": "Time64(Microsecond)", "float": "Float32", "double": "Float64"}[str(of)]
