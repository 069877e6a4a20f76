"""Conditions as SQL of PostgreSQL: values are parameters, names are quoted by the driver."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from psycopg import sql

from twotower.search.filters import Condition, Operator
from twotower.stores.columns import sql_type
from twotower.stores.conditions import said
from twotower.stores.facts import Version

OPERATORS: dict[Operator, str] = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=", "ne": "<>"}
Part = tuple[sql.Composable, list[Any]]


def named(column: str) -> sql.Identifier:
    """A column in a statement with parameters, in which the driver takes a single % of a name for one of them."""
    return sql.Identifier(column.replace("%", "%%"))


def postgres_condition(condition: Condition, version: Version) -> Part:
    """A condition as SQL that is true for the rows that meet it, and its parameters."""
    found: Part = said(condition, version, PostgresWords())
    return found


class PostgresWords:
    """The words of PostgreSQL, in forms whose rows its planner can estimate: null stands for false until a `not` makes true of it.

    Texts are compared by their code points, as everywhere here, whatever the collation of the database.
    """

    def all(self) -> Part:
        """Every row."""
        return sql.SQL("true"), []

    def none(self) -> Part:
        """No row."""
        return sql.SQL("false"), []

    def missing(self, column: str, of: pa.DataType) -> Part:
        """Rows without a value; to PostgreSQL a nan is one, and the greatest."""
        also = " OR {0} = 'NaN'" if pa.types.is_floating(of) else ""
        return sql.SQL("({0} IS NULL" + also + ")").format(named(column)), []

    def compare(self, column: str, operator: Operator, value: Any, of: pa.DataType) -> Part:
        """Rows whose value compares so."""
        if isinstance(value, str) and "\0" in value:
            return self._beyond(column, operator, value, of)
        nan = " AND {0} <> 'NaN'" if pa.types.is_floating(of) and operator in ("gt", "ge", "ne") else ""
        text = "({0} " + OPERATORS[operator] + " %s::" + _cast(of) + nan + ")"
        return sql.SQL(text).format(named(column)), [value]

    def _beyond(self, column: str, operator: Operator, value: str, of: pa.DataType) -> Part:
        """A comparison with a text that no parameter can hold, and no row either: it stands just behind what precedes its character 0."""
        if operator == "eq":
            return self.none()
        if operator == "ne":
            return self.negate(self.missing(column, of))
        return self.compare(column, "le" if operator in ("lt", "le") else "gt", value.partition("\0")[0], of)

    def one_of(self, column: str, values: list[Any], of: pa.DataType) -> Part:
        """Rows whose value is one of these."""
        kept = [value for value in values if not (isinstance(value, str) and "\0" in value)]
        cast = _cast(of).removesuffix(' COLLATE "C"')
        return sql.SQL("({0} = ANY(%s::" + cast + "[]))").format(named(column)), [kept]

    def has(self, column: str, value: Any, of: pa.DataType) -> Part:
        """Rows whose list holds the value."""
        if isinstance(value, str) and "\0" in value:
            return self.none()
        return sql.SQL("(%s::" + _cast(of).removesuffix(' COLLATE "C"') + " = ANY({0}))").format(named(column)), [value]

    def flag(self, column: str) -> Part:
        """Rows whose truth value is true."""
        return sql.SQL("{0}").format(named(column)), []

    def every(self, parts: list[Part]) -> Part:
        """Rows that meet all."""
        return self._joined(parts, " AND ")

    def some(self, parts: list[Part]) -> Part:
        """Rows that meet one or more."""
        return self._joined(parts, " OR ")

    def _joined(self, parts: list[Part], word: str) -> Part:
        texts, values = [part[0] for part in parts], [value for part in parts for value in part[1]]
        return sql.SQL("({})").format(sql.SQL(word).join(texts)), values

    def negate(self, part: Part) -> Part:
        """Rows that do not meet it."""
        return sql.SQL("({} IS NOT TRUE)").format(part[0]), part[1]


def _cast(of: pa.DataType) -> str:
    kind = sql_type(pa.field("", of))
    return kind + ' COLLATE "C"' if kind == "text" else kind
