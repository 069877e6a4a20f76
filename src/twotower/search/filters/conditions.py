"""What a filter says: a tree of conditions on the columns of an item, and the bounds that every such tree keeps."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from twotower.errors import ConfigError, choices

Operator = Literal["lt", "le", "gt", "ge", "eq", "ne"]
OPERATORS: tuple[Operator, ...] = ("lt", "le", "gt", "ge", "eq", "ne")
Value = str | int | float | bool

MOST_CHARACTERS = 8192  # of a filter's text, of a value and of a column's name
MOST_LEVELS = 32  # of and, or and not within each other
MOST_TERMS = 1000  # comparisons, and values of lists
MOST_DIGITS = 100  # of a whole number
TOO_DEEP = f"a filter is nested more than {MOST_LEVELS} levels deep; write it with fewer `not` and parentheses"


@dataclass(frozen=True, slots=True)
class Compare:
    """`price < 50`: met where there is a value and it compares so."""

    column: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """`category in ['sofa', 'chair']`: met where the value is one of these; by none of no values."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Has:
    """`'wood' in materials`: met where the list holds the value."""

    column: str
    value: Value


@dataclass(frozen=True, slots=True)
class Missing:
    """`price is null`: met where there is no value; a nan is none, an empty text or list is one."""

    column: str


@dataclass(frozen=True, slots=True)
class Flag:
    """`discontinued`: met where the truth value is true."""

    column: str


@dataclass(frozen=True, slots=True)
class Every:
    """`a and b`: met where all parts are; two parts or more."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """`a or b`: met where one part is, or several; two parts or more."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`not a`: met by every row that does not meet the part, those without a value among them."""

    part: Condition


Term = Compare | OneOf | Has | Missing | Flag
Condition = Term | Every | Some | Not


def terms(condition: Condition) -> Iterator[Term]:
    """The comparisons of a condition, from left to right."""
    waiting: list[Condition] = [condition]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (Every, Some)):
            waiting.extend(reversed(part.parts))
        elif isinstance(part, Not):
            waiting.append(part.part)
        else:
            yield part


def bounded(condition: Condition) -> Condition:
    """The same condition. Raises ConfigError for one that is too deep, too long, or holds what no condition can."""
    waiting: list[tuple[Any, int]] = [(condition, 0)]
    found = 0
    while waiting:  # a loop, so that no depth can overflow the stack
        part, level = waiting.pop()
        if isinstance(part, (Every, Some, Not)):
            if level == MOST_LEVELS:
                raise too_deep()
            inner = (part.part,) if isinstance(part, Not) else part.parts
            if not isinstance(inner, tuple) or not inner:
                raise ConfigError(f"a condition {type(part).__name__} holds a tuple of one condition or more, and not {inner!r:.80}")
            waiting.extend((each, level + 1) for each in inner)
            continue
        found += max(1, len(part.values)) if isinstance(part, OneOf) else 1
        if found > MOST_TERMS:
            raise ConfigError(
                f"a filter has at most {MOST_TERMS:,} comparisons and values of lists; this one has more. For many ids use allow or deny"
            )
        _check_term(part)
    return condition


def too_deep() -> ConfigError:
    """What to say of a filter of too many levels."""
    return ConfigError(TOO_DEEP)


def _check_term(term: Any) -> None:
    if not isinstance(term, Term):
        raise ConfigError(f"a filter is made of conditions, such as Compare('price', 'lt', 50), and not of {type(term).__name__}")
    check_name(term.column)
    if isinstance(term, Compare) and term.operator not in OPERATORS:
        raise ConfigError(f'there is no operator "{term.operator}"; {choices(OPERATORS)}')
    for value in values_of(term):
        if plain(value, term.column) is not value:
            raise ConfigError(f'the value for "{term.column}" is a {type(value).__name__}; conditions hold texts, numbers, true and false')


def values_of(term: Term) -> tuple[Value, ...]:
    """The values that a comparison names."""
    if isinstance(term, OneOf):
        return term.values
    return (term.value,) if isinstance(term, (Compare, Has)) else ()


def check_name(column: Any) -> None:
    """Raise ConfigError for what can be no column's name."""
    if not isinstance(column, str):
        raise ConfigError(f"a filter names columns by texts, and not by {column!r:.80}")
    _check_text(column, "the name of a column")


def plain(value: Any, column: str) -> Value:
    """A value as conditions hold it: numpy's become Python's, dates and times ISO texts. Raises ConfigError for what cannot be compared with."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (datetime.date, datetime.time)):
        return str(value.isoformat())
    if isinstance(value, str):
        _check_text(value, f'a value for "{column}"')
    elif value is None:
        raise ConfigError(f'nothing compares with null; for items without a value write: {column} is null, or as JSON {{"{column}": null}}')
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f'a value for "{column}" is {value}, which is no number to compare with; for items without a value write: {column} is null')
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**MOST_DIGITS:
        raise ConfigError(f'a whole number for "{column}" has more than {MOST_DIGITS} digits')
    elif not isinstance(value, (str, int, float)):
        raise ConfigError(f'a value for "{column}" is a {type(value).__name__}; a filter compares with texts, numbers, true and false')
    found: Value = value
    return found


def _check_text(text: str, what: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{what} in a filter has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(
            f"{what} in a filter holds half of a surrogate pair, which is no character: {text.encode('utf-8', 'replace').decode()[:80]}"
        )
