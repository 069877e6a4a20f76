"""What comes in: JSON within bounds, and the requests that it may hold.

Everything is bounded before it is built: bytes by the gate, levels here, then lengths and numbers by the models. What is no JSON as RFC 8259 has it -
NaN, a name twice in one object, half of a surrogate pair - is refused, since readers differ on what it means.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from twotower.app.server.problems import Fault, Problem

MOST_BYTES = 1 << 20  # of a body
MOST_TEXT = 8192  # bytes of UTF-8 in one value
MOST_LEVELS = 32
MOST_DIGITS = 19  # of a whole number: what int64 holds
MOST_K, MOST_SKIP, MOST_QUERIES, MOST_IDS, MOST_COLUMNS, MOST_VALUES = 1000, 10_000, 128, 10_000, 256, 16_384
# Results of a diverse search, of one query and of all: the work grows with the square of the first, to about a second for the most of both.
MOST_DIVERSE, MOST_DIVERSE_IN_ALL = 500, 5000
DIVERSE = f"with diversity, k + skip is at most {MOST_DIVERSE}, and that times the number of queries at most {MOST_DIVERSE_IN_ALL:,}"
OPENING = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Unread(ValueError):
    """A body that is no JSON as we read it; the message holds nothing of it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def read_json(body: bytes) -> Any:
    """The value of a body. Raises Problem."""
    if not body.strip():
        raise Problem(400, "the body is empty; send a JSON object")
    if body.count(b"[") + body.count(b"{") > MOST_LEVELS and _levels(body) > MOST_LEVELS:
        raise Problem(400, f"the body is nested deeper than {MOST_LEVELS} levels")
    try:
        value = READER.decode(body.decode("utf-8"))
    except _Unread as error:
        raise Problem(error.status, str(error)) from None
    except UnicodeDecodeError:
        raise Problem(400, "the body is no UTF-8") from None
    except json.JSONDecodeError as error:
        raise Problem(400, f"the body is no JSON: it cannot be read at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise Problem(400, "the body is no JSON") from None
    if SURROGATE.search(body) and not _whole_characters(value):
        raise Problem(400, "a text of the body holds half of a surrogate pair, which is no character")
    return value


def _levels(body: bytes) -> int:
    """How deep brackets are nested outside of texts."""
    level = deepest = 0
    for match in OPENING.finditer(body):
        mark = match.group()
        level += 1 if mark in b"[{" else -1 if mark in b"]}" else 0
        deepest = max(deepest, level)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Unread("an object of the body has a name twice, and the second would hide the first")
    return found


def _constant(_: str) -> NoReturn:
    raise _Unread("the body holds NaN or Infinity, which is no JSON and no number to go by")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS + 1:
        raise _Unread(f"a whole number of the body has more than {MOST_DIGITS} digits", 422)
    return int(text)


def _number(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        raise _Unread("a number of the body is too large", 422)
    return found


READER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_number)


def _whole_characters(value: Any) -> bool:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and any("\ud800" <= character <= "\udfff" for character in part):
            return False
    return True


# What may be asked.


def _short(text: str) -> str:
    if not text.isascii() and len(text.encode()) > MOST_TEXT:
        raise ValueError(f"a text has at most {MOST_TEXT:,} bytes")
    return text


Text = Annotated[str, Field(max_length=MOST_TEXT), AfterValidator(_short)]
Id = Annotated[Text | int | float, Field(description="The id of an item, a text or a number.")]
Value = Text | bool | int | float | None
Row = Annotated[
    dict[Annotated[str, Field(max_length=256)], Value | Annotated[list[Value], Field(max_length=MOST_VALUES)]],
    Field(min_length=1, max_length=MOST_COLUMNS, description="A value for each column that the model reads."),
]
Query = Annotated[Text | int | float | Row, Field(description="A text or an id where the model reads one column, otherwise an object of columns.")]
Ids = Annotated[list[Id], Field(max_length=MOST_IDS)]
Where = Annotated[
    Text | dict[str, Any],
    Field(
        description="A filter on the columns of the items, as a text, price < 50 and not discontinued, or as JSON.", examples=[{"price": {"lt": 50}}]
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Chosen(_Body):
    variant: Annotated[str | None, Field(max_length=64, description="Which of several models answers.")] = None
    key: Annotated[str | None, Field(max_length=256, description="Who asks: with several variants, the same key is always answered by the same.")] = (
        None
    )


class _Narrowed(_Chosen):
    k: Annotated[int, Field(ge=1, le=MOST_K, description="How many items.")] = 10
    skip: Annotated[int, Field(ge=0, le=MOST_SKIP, description="How many of the best to pass over.")] = 0
    threshold: Annotated[float | None, Field(description="Leave out items whose score, the similarity of the vectors, is below.")] = None
    where: Where | None = None
    allow: Annotated[Ids | None, Field(description="The only items that may be found.")] = None
    deny: Annotated[Ids | None, Field(description="Items that are not found.")] = None
    diversity: Annotated[float | None, Field(gt=0, le=1, description=f"How much unlikeness to those above counts beside the score; {DIVERSE}.")] = (
        None
    )

    @model_validator(mode="after")
    def _within_bounds(self) -> _Narrowed:
        results, queries = self.k + self.skip, len(getattr(self, "queries", None) or [None])
        if self.diversity is not None and (results > MOST_DIVERSE or queries * results > MOST_DIVERSE_IN_ALL):
            raise ValueError(DIVERSE)
        return self

    def narrowing(self) -> dict[str, Any]:
        """What `Retriever.search` and `similar` take alike."""
        return {name: getattr(self, name) for name in ("k", "skip", "threshold", "where", "allow", "deny", "diversity")}


def _one_of(*names: str) -> ConfigDict:
    """One of these, or of these pairs, is to be there; said in the schema too."""
    return ConfigDict(json_schema_extra={"anyOf": [{"required": name.split("+")} for name in names]})  # type: ignore[dict-item]


class SearchBody(_Narrowed):
    """One query, or up to 128 at once. history, exclude: of one query a list of ids, of several a list of such lists."""

    model_config = _one_of("query", "queries", "history")

    query: Query | None = None
    queries: Annotated[list[Query] | None, Field(min_length=1, max_length=MOST_QUERIES)] = None
    history: Annotated[
        Ids | Annotated[list[Ids], Field(max_length=MOST_QUERIES)] | None, Field(description="What was touched before, oldest first.")
    ] = None
    exclude: Annotated[Ids | Annotated[list[Ids], Field(max_length=MOST_QUERIES)] | None, Field(description="Items that this query leaves out.")] = (
        None
    )
    repeats: Annotated[bool, Field(description="Whether items of the history may be found again.")] = False
    mode: Annotated[Literal["vectors", "words", "hybrid"] | None, Field(description="By default what ranked best on validation.")] = None
    explain: Annotated[bool, Field(description="Say of each item what vectors and words add.")] = False

    @model_validator(mode="after")
    def _one_form(self) -> SearchBody:
        if self.queries is not None and self.query is not None:
            raise ValueError("send query or queries, and not both")
        if self.queries is None and self.query is None and self.history is None:
            raise ValueError("send a query, queries, or a history")
        return self


class SimilarBody(_Narrowed):
    """The items most like one, or like the middle of several."""

    model_config = _one_of("item", "items")

    item: Id | None = None
    items: Annotated[list[Id] | None, Field(min_length=1, max_length=MOST_QUERIES)] = None

    @model_validator(mode="after")
    def _one_form(self) -> SimilarBody:
        if (self.item is None) == (self.items is None):
            raise ValueError("send item, the id of one, or items, those of several")
        return self


class Pair(_Body):
    """A query, and the item to score it with: an id, or a row of its columns."""

    query: Query
    item: Id | Row


class ScoreBody(_Chosen):
    """One query with several items, or pairs."""

    model_config = _one_of("query+items", "pairs")

    query: Query | None = None
    items: Annotated[list[Id | Row] | None, Field(min_length=1, max_length=MOST_K)] = None
    pairs: Annotated[list[Pair] | None, Field(min_length=1, max_length=MOST_QUERIES)] = None

    @model_validator(mode="after")
    def _one_form(self) -> ScoreBody:
        if (self.pairs is None) == (self.query is None and self.items is None) or (self.query is None) != (self.items is None):
            raise ValueError("send query and items, or pairs")
        return self


class EmbedBody(_Chosen):
    """Queries or items to embed. history: as in a search."""

    model_config = _one_of("query", "queries", "history", "item", "items")

    query: Query | None = None
    queries: Annotated[list[Query] | None, Field(min_length=1, max_length=MOST_QUERIES)] = None
    item: Row | None = None
    items: Annotated[list[Row] | None, Field(min_length=1, max_length=MOST_QUERIES)] = None
    history: Annotated[
        Ids | Annotated[list[Ids], Field(max_length=MOST_QUERIES)] | None, Field(description="What was touched before, oldest first.")
    ] = None

    @model_validator(mode="after")
    def _one_form(self) -> EmbedBody:
        given = [name for name in ("query", "queries", "item", "items") if getattr(self, name) is not None]
        if len(given) > 1 or (not given and self.history is None) or (self.history is not None and given[:1] in (["item"], ["items"])):
            raise ValueError("send one of query, queries, item and items; a history goes with a query, or alone")
        return self


Asked = TypeVar("Asked", bound=_Body)
NAMES = frozenset(name for model in (SearchBody, SimilarBody, ScoreBody, EmbedBody, Pair) for name in model.model_fields)


def read_body(model: type[Asked], body: bytes) -> Asked:
    """The request that a body holds. Raises Problem, which names the places that do not fit and none of the values."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise Problem(422, "the body is to be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Of a union each member complains; the first word on a place will do.
        faults: dict[str, str] = {}
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            faults.setdefault(_place(each["loc"]), each["msg"].removeprefix("Value error, "))
        told = [Fault(place, said) for place, said in list(faults.items())[:8]]
        raise Problem(422, "the body does not fit what this route takes; see errors here and /openapi.json", told) from None


def _place(parts: tuple[int | str, ...]) -> str:
    """Where in a body, by our own names alone: others came with it."""
    found = ""
    for part in parts:
        if isinstance(part, int):
            found += f"[{part}]"
        elif part in NAMES:
            found += f".{part}" if found else str(part)
    return found or "the body"
