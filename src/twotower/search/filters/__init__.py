"""The language of filters: `price < 50 and category in ['sofa', 'chair'] and not discontinued`, over any column of the items.

`condition_of` reads a filter, as text or as JSON, into a tree of conditions; `check` says whether it fits a schema, `mask` which rows of a table
meet it. Nothing is evaluated but the comparisons of the tree. docs/search.md describes the language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twotower.errors import ConfigError
from twotower.search.filters.conditions import (
    Compare,
    Condition,
    Every,
    Flag,
    Has,
    Missing,
    Not,
    OneOf,
    Operator,
    Some,
    Term,
    Value,
    bounded,
    terms,
)
from twotower.search.filters.kinds import check
from twotower.search.filters.language import parse, to_text
from twotower.search.filters.masks import mask
from twotower.search.filters.wire import from_json, from_json_text, to_json

__all__ = [
    "Compare",
    "Condition",
    "Every",
    "Flag",
    "Has",
    "Missing",
    "Not",
    "OneOf",
    "Operator",
    "Some",
    "Term",
    "Value",
    "check",
    "condition_of",
    "from_json",
    "from_json_text",
    "mask",
    "parse",
    "terms",
    "to_json",
    "to_text",
]


def condition_of(where: str | Mapping[str, Any] | Condition) -> Condition:
    """The condition that a filter says: a text, JSON as a text or an object, or the condition itself. Raises ConfigError where it says none."""
    if isinstance(where, str):
        return from_json_text(where) if where.lstrip().startswith("{") else parse(where)
    if isinstance(where, Mapping):
        return from_json(where)
    if isinstance(where, (Every, Some, Not, Term)):
        return bounded(where)
    raise ConfigError(f"a filter is a text such as price < 50, or an object such as {{'price': {{'lt': 50}}}}, and not {where!r:.80}")
