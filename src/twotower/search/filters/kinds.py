"""What a column holds, as far as filters go, and whether a condition fits it."""

from __future__ import annotations

import datetime
import re
from fractions import Fraction
from typing import NamedTuple

import pyarrow as pa

from twotower.errors import ConfigError, choices
from twotower.search.filters.conditions import Compare, Condition, Flag, Has, Missing, Term, Value, bounded, terms, values_of

DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ](\S+))?")
CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,18}))?)?(Z|[+-][0-9]{2}:?[0-9]{2})?")
EPOCH = datetime.date(1970, 1, 1).toordinal()
DAY = 86400


class Kind(NamedTuple):
    """What values of a column are: in words, what a condition looks like, and what values it takes."""

    words: str
    example: str  # with {} for the column
    values: tuple[type, ...]


NUMBER = Kind("a number", "{} < 50", (int, float))
TEXT = Kind("a text", "{} == 'sofa'", (str,))
TRUTH = Kind("true or false", "not {}", (bool,))
DATES = Kind("a date", "{} >= '2024-05-01'", (str,))
MOMENT = Kind("a date and time", "{} >= '2024-05-01 17:30:00'", (str,))
CLOCKS = Kind("a time of day", "{} < '17:30'", (str,))
NOTHING = Kind("missing everywhere", "{} is null", (str, int, float, bool))
LISTS = Kind("a list", "'wood' in {}", ())


def kind_of(of: pa.DataType) -> Kind | None:
    """What values of an Arrow type are to a filter; None for those by which nothing can be filtered."""
    types = pa.types
    if types.is_dictionary(of):
        return kind_of(of.value_type)
    if inner_of(of) is not None:
        return LISTS
    tests = [
        (types.is_boolean, TRUTH),
        (types.is_integer, NUMBER),
        (types.is_floating, NUMBER),
        (types.is_decimal, NUMBER),
        (types.is_date, DATES),
        (types.is_timestamp, MOMENT),
        (types.is_time, CLOCKS),
        (types.is_string, TEXT),
        (types.is_large_string, TEXT),
        (types.is_string_view, TEXT),
        (types.is_null, NOTHING),
    ]
    return next((kind for test, kind in tests if test(of)), None)


def inner_of(of: pa.DataType) -> pa.DataType | None:
    """The type of what lists of this type hold; None for what is no list, or a list of what cannot be compared."""
    types = pa.types
    if not any(test(of) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)):
        return None
    inner = kind_of(of.value_type)
    return None if inner in (None, LISTS) else of.value_type


def check(condition: Condition, schema: pa.Schema) -> None:
    """Raise ConfigError for a condition on columns that are not there, or on values that they cannot hold."""
    for term in terms(bounded(condition)):
        _check_term(term, schema)


def _check_term(term: Term, schema: pa.Schema) -> None:
    column = term.column
    places = schema.get_all_field_indices(column)
    if len(places) != 1:
        told = f"there are {len(places)} columns" if places else "there is no column"
        raise ConfigError(f'{told} "{column}" to filter by; {choices(schema.names, column)}')
    of = schema.field(places[0]).type
    kind = kind_of(of)
    if kind is None:
        can = [field.name for field in schema if kind_of(field.type) is not None]
        raise ConfigError(f'the column "{column}" holds {of}, by which nothing can be filtered; those that can: {choices(can)}')
    if isinstance(term, Missing) or kind is NOTHING:
        return
    if isinstance(term, Has) != (kind is LISTS):
        told = f"each item holds {kind.words} there" if kind is LISTS else f"it is {kind.words} and no list"
        raise ConfigError(f'the column "{column}" cannot be compared so: {told}. Write for example: {_example(kind, column)}')
    if isinstance(term, Flag) and kind is not TRUTH:
        raise ConfigError(f'"{column}" alone is no condition: it is {kind.words}, and not true or false. Write for example: {_example(kind, column)}')
    if isinstance(term, Compare) and kind is TRUTH and term.operator not in ("eq", "ne"):
        raise ConfigError(f'"{column}" is true or false, and neither is less than the other. Write for example: {_example(kind, column)}')
    inner = inner_of(of)
    held = kind if inner is None else (kind_of(inner) or kind)
    for value in values_of(term):
        _check_value(column, held, value, isinstance(term, Has))


def _check_value(column: str, kind: Kind, value: Value, within: bool) -> None:
    fits = isinstance(value, kind.values) and (kind in (TRUTH, NOTHING) or not isinstance(value, bool))
    if fits and kind in (DATES, MOMENT, CLOCKS):
        fits = (clock(str(value)) if kind is CLOCKS else moment(str(value))) is not None
    if fits:
        return
    spelled = f'"{value:.60}"' if isinstance(value, str) else str(value).lower()
    given = f"{spelled} is not" if kind in (DATES, MOMENT, CLOCKS) else f"{spelled} is {_named(value)}"
    example = {NUMBER: "5 in {}", TEXT: "'wood' in {}", TRUTH: "true in {}"}.get(kind, "'2024-05-01' in {}") if within else kind.example
    held = f"holds lists, and what is in them is {kind.words}" if within else f"is {kind.words}"
    raise ConfigError(f'the column "{column}" {held}, and {given}. Write for example: {example.format(column)}')


def _named(value: Value) -> str:
    return "true or false" if isinstance(value, bool) else "a text" if isinstance(value, str) else "a number"


def _example(kind: Kind, column: str) -> str:
    return kind.example.format(column)


def moment(text: str) -> Fraction | None:
    """The seconds from 1970 to an ISO date, or date and time; without a zone it is UTC. None for another text."""
    match = DATE.fullmatch(text)
    if match is None:
        return None
    try:
        day = (datetime.date.fromisoformat(match[1]).toordinal() - EPOCH) * DAY
    except ValueError:
        return None
    seconds = Fraction(0) if match[2] is None else _seconds(match[2], zone=True)
    return None if seconds is None else day + seconds


def clock(text: str) -> Fraction | None:
    """The seconds from midnight to an ISO time of day; None for another text."""
    return _seconds(text, zone=False)


def _seconds(text: str, zone: bool) -> Fraction | None:
    match = CLOCK.fullmatch(text)
    if match is None or (match[5] and not zone):
        return None
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3] or 0)
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    parts = Fraction(int(match[4]), 10 ** len(match[4])) if match[4] else Fraction(0)
    away = 0
    if match[5] and match[5] != "Z":
        digits = match[5].replace(":", "")
        away = (int(digits[1:3]) * 60 + int(digits[3:5])) * (-60 if digits[0] == "-" else 60)
    return hours * 3600 + minutes * 60 + seconds - away + parts
