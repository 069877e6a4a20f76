"""Conditions as text: `price < 50 and category in ['sofa', 'chair'] and not discontinued`. Read by recursive descent, nothing is run.

either      both ("or" both)*
both        one ("and" one)*
one         "not" one | "(" either ")" | comparison
comparison  name | name "is" "not"? "null" | name "not"? "in" list | value "not"? "in" name | operand (operator operand)+
list        "[" (value ("," value)*)? "]", or in parentheses
"""

from __future__ import annotations

import re
from typing import NamedTuple

from twotower.errors import ConfigError
from twotower.search.filters.conditions import (
    MOST_CHARACTERS,
    MOST_LEVELS,
    TOO_DEEP,
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
    Value,
    bounded,
)

TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<name>[^\W\d]\w*)
    | (?P<quoted>`(?:[^`]|``)*`)
    | (?P<text>'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*")
    | (?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?!\w))
    | (?P<operator><=|>=|==|!=|<|>|=)
    | (?P<mark>[()\[\],])""",
    re.VERBOSE | re.DOTALL,
)
NAME = re.compile(r"[^\W\d]\w*")
WORDS = ("and", "or", "not", "in", "is", "null", "true", "false")  # in any case; a column of such a name stands in backticks
SIGNS: dict[str, Operator] = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "=": "eq", "!=": "ne"}
SPELLED: dict[Operator, str] = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
TURNED: dict[Operator, Operator] = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
HINTS = {"&": "write `and`", "|": "write `or`", "!": "write `not`", "~": "write `not`", "{": "as JSON, all of the filter stands in { }"}
MOST_SPELLED = 400  # characters of a number


class Token(NamedTuple):
    """A piece of a filter's text: a `name`, `value`, `word`, `operator`, `mark` or the `end`."""

    kind: str
    value: Value
    place: int


def parse(text: str) -> Condition:
    """The condition that a text says. Raises ConfigError with the place where it cannot be read."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"a filter has at most {MOST_CHARACTERS:,} characters and this one has {len(text):,}; for many ids use allow or deny")
    if not text.strip():
        raise ConfigError("the filter is empty; write a condition such as: price < 50 and not discontinued")
    return bounded(_Reader(text).all())


def to_text(condition: Condition) -> str:
    """The text that says a condition; read again it is the same one."""
    return _written(bounded(condition))


# Reading.


def _wrong(text: str, place: int, what: str) -> ConfigError:
    rest = text[place : place + 20]
    where = f'character {place + 1}, "{rest}{"..." if len(text) > place + 20 else ""}"' if rest else "its end"
    return ConfigError(f"the filter cannot be read at {where}: {what}")


def _tokens(text: str) -> list[Token]:
    found, place = [], 0
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise _wrong(text, place, _unreadable(text[place]))
        if match.lastgroup != "space":
            found.append(_token(text, match))
        place = match.end()
    return [*found, Token("end", "", len(text))]


def _unreadable(character: str) -> str:
    if character in "'\"`":
        return "this quote is not closed"
    if character.isdigit() or character in "+-.":
        return "this is neither a number nor a name; texts and dates stand in quotes, odd names of columns in backticks"
    hint = HINTS.get(character, "this says nothing here")
    return f"{hint}; there are and, or, not, in, is null, < <= > >= == !=, and names with odd characters in backticks"


def _token(text: str, match: re.Match[str]) -> Token:
    spelled, kind, place = match.group(), str(match.lastgroup), match.start()
    if kind == "name":
        word = spelled.lower()
        if word in ("true", "false"):
            return Token("value", word == "true", place)
        return Token("word", word, place) if word in WORDS else Token("name", spelled, place)
    if kind == "quoted":
        return Token("name", spelled[1:-1].replace("``", "`"), place)
    if kind == "text":
        return Token("value", _unescaped(text, spelled[1:-1], place + 1), place)
    if kind == "number":
        if len(spelled) > MOST_SPELLED:
            raise _wrong(text, place, f"a number has at most {MOST_SPELLED} characters")
        return Token("value", int(spelled) if spelled.lstrip("+-").isdigit() else float(spelled), place)
    return Token(kind, spelled, place)


def _unescaped(text: str, inner: str, place: int) -> str:
    for match in re.finditer(r"\\(.)", inner, re.DOTALL):
        if match[1] not in ESCAPES:
            raise _wrong(text, place + match.start(), r"""a backslash stands before \ ' " n r or t; for a backslash itself write two""")
    return re.sub(r"\\(.)", lambda match: ESCAPES[match[1]], inner)


class _Reader:
    """Reads tokens from left to right; each method reads what the rule of its name says."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at = text, _tokens(text), 0

    def next(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def taken(self, *values: str) -> bool:
        """Whether these words or marks come next; if so they are passed."""
        coming = self.tokens[self.at : self.at + len(values)]
        same = len(coming) == len(values) and all(t.kind in ("word", "mark") and t.value == v for t, v in zip(coming, values, strict=True))
        self.at += len(values) if same else 0
        return same

    def wrong(self, what: str) -> ConfigError:
        return _wrong(self.text, self.next().place, what)

    def all(self) -> Condition:
        condition = self.either(0)
        if self.next().kind != "end":
            raise self.wrong(self.unexpected())
        return condition

    def unexpected(self) -> str:
        before, here = self.tokens[self.at - 1], self.next()
        if here.value == ")":
            return "this closes no parenthesis"
        if here.kind == "value" and before.kind == "value":
            return "after a value comes `and` or `or`; texts and dates stand in quotes"
        return "the condition before it is complete; go on with `and` or `or`"

    def either(self, level: int) -> Condition:
        parts = [self.both(level)]
        while self.taken("or"):
            parts.append(self.both(level))
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def both(self, level: int) -> Condition:
        parts = [self.one(level)]
        while self.taken("and"):
            parts.append(self.one(level))
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def one(self, level: int) -> Condition:
        opened = self.next()
        if level > MOST_LEVELS:
            raise self.wrong(TOO_DEEP)
        if self.taken("not"):
            return Not(self.one(level + 1))
        if not self.taken("("):
            return self.comparison()
        inner = self.either(level + 1)
        if not self.taken(")"):
            if self.next().kind == "end":
                raise _wrong(self.text, opened.place, "this parenthesis is not closed")
            raise self.wrong(self.unexpected())
        return inner

    def comparison(self) -> Condition:
        first = self.operand("a condition")
        if self.next().kind == "operator":
            return self.chain(first)
        if self.taken("is"):
            return self.missing(first)
        negated = self.taken("not", "in")
        if negated or self.taken("in"):
            found = self.one_of(first) if first.kind == "name" else self.has(first)
            return Not(found) if negated else found
        if first.kind == "name":
            return Flag(str(first.value))
        raise _wrong(self.text, first.place, "a value alone is no condition; compare a column with it, as in price < 50")

    def operand(self, wanted: str) -> Token:
        token = self.next()
        if token.kind in ("name", "value"):
            return self.take()
        if token.value == "null":
            raise self.wrong("nothing compares with null; write `price is null` or `price is not null`")
        raise self.wrong(f"{wanted} is wanted here, such as {'price < 50' if wanted == 'a condition' else 'a number, or a text in quotes'}")

    def chain(self, left: Token) -> Condition:
        parts = []
        while self.next().kind == "operator":
            operator = SIGNS[str(self.take().value)]
            right = self.operand("a value")
            if {left.kind, right.kind} != {"name", "value"}:
                raise _wrong(self.text, right.place, _not_one_column(left, right))
            named = left.kind == "name"
            name, value = (left, right) if named else (right, left)
            parts.append(Compare(str(name.value), operator if named else TURNED[operator], value.value))
            left = right
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def missing(self, first: Token) -> Condition:
        negated = self.taken("not")
        if not self.taken("null"):
            raise self.wrong("after `is` comes `null` or `not null`; other values are compared with =")
        if first.kind != "name":
            raise _wrong(self.text, first.place, "before `is null` stands the name of a column, without quotes")
        found = Missing(str(first.value))
        return Not(found) if negated else found

    def has(self, value: Token) -> Condition:
        if self.next().kind != "name":
            raise self.wrong("after a value and `in` comes the name of a column of lists, without quotes; or write: category in ['a', 'b']")
        return Has(str(self.take().value), value.value)

    def one_of(self, name: Token) -> Condition:
        opened = self.next()
        close = {"[": "]", "(": ")"}.get(str(opened.value)) if opened.kind == "mark" else None
        if close is None:
            raise self.wrong(f"after `in` comes a list in brackets, as in {name.value} in ['a', 'b']; a text before `in` stands in quotes")
        self.take()
        values: list[Value] = []
        while not (not values and self.taken(close)):
            token = self.operand("a value")
            if token.kind != "value":
                raise _wrong(self.text, token.place, "a list holds values; texts stand in quotes")
            values.append(token.value)
            if self.taken(close):
                break
            if not self.taken(","):
                if self.next().kind == "end":
                    raise _wrong(self.text, opened.place, "this list is not closed")
                raise self.wrong(f"in a list, a comma or {close} is wanted here")
        return OneOf(str(name.value), tuple(values))


def _not_one_column(left: Token, right: Token) -> str:
    if left.kind == "value":
        return "two values are compared; one side is the name of a column, without quotes"
    return f"a column is compared with a value, and not with a column; a text stands in quotes: {left.value} == '{right.value}'"


# Writing.


def _written(condition: Condition) -> str:
    if isinstance(condition, Every):
        return " and ".join(_inner(part, (Every, Some)) for part in condition.parts)
    if isinstance(condition, Some):
        return " or ".join(_inner(part, (Some,)) for part in condition.parts)
    if isinstance(condition, Not):
        if isinstance(condition.part, OneOf):
            return f"{_name(condition.part.column)} not in [{', '.join(map(_value, condition.part.values))}]"
        if isinstance(condition.part, Missing):
            return f"{_name(condition.part.column)} is not null"
        return f"not {_inner(condition.part, (Every, Some))}"
    name = _name(condition.column)
    if isinstance(condition, Compare):
        return f"{name} {SPELLED[condition.operator]} {_value(condition.value)}"
    if isinstance(condition, OneOf):
        return f"{name} in [{', '.join(map(_value, condition.values))}]"
    if isinstance(condition, Has):
        return f"{_value(condition.value)} in {name}"
    return f"{name} is null" if isinstance(condition, Missing) else name


def _inner(part: Condition, looser: tuple[type, ...]) -> str:
    if isinstance(part, (Every, Some)) and len(part.parts) == 1:
        return _inner(part.parts[0], looser)
    return f"({_written(part)})" if isinstance(part, looser) else _written(part)


def _name(column: str) -> str:
    return column if NAME.fullmatch(column) and column.lower() not in WORDS else "`" + column.replace("`", "``") + "`"


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if isinstance(value, str) else repr(value)
