"""Conditions as JSON: `{"price": {"lt": 50}, "category": {"in": ["sofa", "chair"]}, "not": {"discontinued": true}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from twotower.errors import ConfigError, choices
from twotower.search.filters.conditions import (
    MOST_LEVELS,
    MOST_TERMS,
    OPERATORS,
    Compare,
    Condition,
    Every,
    Flag,
    Has,
    Missing,
    Not,
    OneOf,
    Some,
    bounded,
    check_name,
    plain,
    too_deep,
)

WORDS = ("and", "or", "not")  # a column of such a name stands in backticks, as in the text
MOST_JSON = 1 << 20  # characters of a filter's JSON


def from_json(value: Any) -> Condition:
    """The condition that an object of JSON says. Raises ConfigError for what cannot be meant."""
    return bounded(_read(value, 0))


def from_json_text(text: str) -> Condition:
    """The condition that a text of JSON says."""
    if len(text) > MOST_JSON:
        raise ConfigError(f"a filter's JSON has at most {MOST_JSON:,} characters and this one has {len(text):,}; for many ids use allow or deny")
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it is nested too deeply, or a number has too many digits"
        raise ConfigError(f'the filter starts with "{{" and is no JSON: {why}') from None
    return from_json(value)


def to_json(condition: Condition) -> dict[str, Any]:
    """The object of JSON that says a condition; read again it is the same one."""
    return _written(bounded(condition))


# Reading.


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f'the filter\'s JSON names "{twice}" twice in one object, and the second would hide the first; join them: {{"and": [...]}}')
    return found


def _no_constant(name: str) -> NoReturn:
    raise ConfigError(f"the filter's JSON holds {name}, which is no number to compare with")


def _read(value: Any, level: int) -> Condition:
    if level > 2 * MOST_LEVELS:  # levels of the JSON; those of the tree are counted once it stands
        raise too_deep()
    if not isinstance(value, Mapping):
        raise ConfigError(f'a filter is an object such as {{"price": {{"lt": 50}}}}, and not {value!r:.80}')
    if not value:
        raise ConfigError('the filter is empty; write a condition such as {"price": {"lt": 50}}')
    if len(value) > MOST_TERMS:
        raise ConfigError(f"a filter has at most {MOST_TERMS:,} comparisons and values of lists; this one has more")
    parts = [_entry(name, given, level) for name, given in value.items()]
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _entry(name: Any, given: Any, level: int) -> Condition:
    check_name(name)
    if name == "not":
        return Not(_read(given, level + 1))
    if name in ("and", "or"):
        parts = _list(given, f'"{name}"', 'conditions: {"or": [{"price": {"lt": 50}}, {"category": "sofa"}]}')
        if not parts:
            raise ConfigError(f'the filter\'s "{name}" is empty; it takes a list of one condition or more')
        read = tuple(_read(part, level + 1) for part in parts)
        return read[0] if len(read) == 1 else (Every(read) if name == "and" else Some(read))
    column = name[1:-1].replace("``", "`") if len(name) > 1 and name[0] == name[-1] == "`" else name
    if given is None:
        return Missing(column)
    if given is True:
        return Flag(column)
    if not isinstance(given, Mapping):
        if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            raise ConfigError(f'for "{column}" the filter gives a list; write {{"{column}": {{"in": [...]}}}}')
        return Compare(column, "eq", plain(given, column))
    if not given:
        raise ConfigError(f'for "{column}" the filter gives nothing to compare with; write for example {{"{column}": {{"lt": 50}}}}')
    found = [_term(column, operator, value) for operator, value in given.items()]
    return found[0] if len(found) == 1 else Every(tuple(found))


def _term(column: str, operator: Any, value: Any) -> Condition:
    if operator == "in":
        values = _list(value, f'"in" for "{column}"', "values")
        return OneOf(column, tuple(plain(each, column) for each in values))
    if operator == "has":
        return Has(column, plain(value, column))
    if operator not in OPERATORS:
        raise ConfigError(f'for "{column}" the filter gives "{operator!s:.80}", which compares nothing; {choices([*OPERATORS, "in", "has"])}')
    return Compare(column, operator, plain(value, column))


def _list(value: Any, what: str, of: str) -> Sequence[Any]:
    if isinstance(value, (set, frozenset)) or hasattr(value, "tolist"):
        value = list(value)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ConfigError(f"the filter's {what} takes a list of {of}, and not {value!r:.80}")
    if len(value) > MOST_TERMS:
        raise ConfigError(f"the filter's {what} lists {len(value):,}; at most {MOST_TERMS:,} are read. For many ids use allow or deny")
    return value


# Writing.


def _written(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, (Every, Some)):
        return {"and" if isinstance(condition, Every) else "or": [_written(part) for part in condition.parts]}
    if isinstance(condition, Not):
        return {"not": _written(condition.part)}
    name = condition.column
    if name in WORDS or name.startswith("`"):
        name = "`" + name.replace("`", "``") + "`"
    if isinstance(condition, Missing):
        return {name: None}
    if isinstance(condition, Flag):
        return {name: True}
    if isinstance(condition, OneOf):
        return {name: {"in": list(condition.values)}}
    return {name: {"has" if isinstance(condition, Has) else condition.operator: condition.value}}
