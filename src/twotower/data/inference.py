"""Guesses a schema from a look at the data, and says why: what `init` writes and what `train` uses when told nothing."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.features import Category, Id, Text
from twotower.data.prepared import ID
from twotower.data.schema import FeatureOptions, ItemSide, PairColumns, QuerySide, Schema
from twotower.data.sources import Source
from twotower.data.splits import SplitOptions
from twotower.data.values import to_text
from twotower.errors import DataError

LOOK = 20_000  # rows
QUERY_WORDS = ("query", "question", "search", "utterance", "prompt", "claim", "anchor", "task", "text", "q")
PERSON_WORDS = ("user", "customer", "visitor", "member", "account", "client", "session", "reader", "player")
ITEM_WORDS = (
    "item",
    "product",
    "answer",
    "passage",
    "document",
    "doc",
    "page",
    "book",
    "movie",
    "film",
    "article",
    "sku",
    "category",
    "intent",
    "positive",
)
TIME_WORDS = ("time", "timestamp", "ts", "date", "datetime", "created_at", "event_time")
EVENT_WORDS = ("event", "action", "type", "kind")
VALUE_WORDS = ("rating", "score", "stars", "weight", "price", "count", "quantity", "label")
FEW_VALUES = 100


class Guess(NamedTuple):
    """A schema, a split, what suits this kind of data, and a reason for each choice."""

    schema: Schema
    split: SplitOptions
    correction: bool  # whether the sampling correction suits
    dimensions: int
    epochs: int
    reasons: dict[str, str]  # by option, such as "query.features"


class _Look(NamedTuple):
    """What a look at one column shows."""

    name: str
    texts: pa.Array  # canonical, without the missing
    distinct: int
    words: float  # mean number of words
    rows: int
    dated: bool  # whether its type is a date or a time

    @property
    def share_distinct(self) -> float:
        return self.distinct / max(1, len(self.texts))

    @property
    def is_text(self) -> bool:
        return self.words >= 2

    @property
    def is_event(self) -> bool:
        return _named(self.name, EVENT_WORDS) and 2 <= self.distinct <= 20

    @property
    def is_measure(self) -> bool:
        return _named(self.name, VALUE_WORDS) and _is_number(self.texts)


def infer(pairs: Source, items: Source | None) -> Guess:
    """Guess from the first rows. Raises DataError where there is nothing to tell the sides apart."""
    log = _look(pairs)
    if len(log) < 2:
        raise DataError(f"{pairs.name} has {len(pairs.columns)} column; pairs need at least two, one for the query and one for the item")
    catalogue = _look(items) if items is not None else {}
    reasons: dict[str, str] = {}
    time = next((name for name, look in log.items() if _named(name, TIME_WORDS) or look.dated), None)
    item_id, item_column, repeated = _link(log, catalogue, pairs, items, time, reasons)
    free = [name for name in log if name not in (item_column, time)]
    own = [name for name in free if name not in repeated] or free
    query, key = _query([name for name in own if not (log[name].is_measure or log[name].is_event)] or own, log, reasons)
    leftover = [name for name in log if name not in (item_column, time, *(f.column for f in query))]
    event = next((name for name in leftover if log[name].is_event), None)
    if event is not None:
        kinds = ", ".join(f'"{kind}" = 1' for kind in pc.unique(log[event].texts).to_pylist())
        reasons["pairs.event"] = f'event = "{event}", event_weights = {{ {kinds} }}'
    if leftover:
        reasons["query.features"] += f"; not used: {', '.join(leftover)} (add what is known when the question is asked)"
    # A column called `_id` that is not the id would take the place of the id that is shown.
    listed = {name: look for name, look in catalogue.items() if name == item_id or name != ID}
    item = _item_features(listed or {item_column: log[item_column]}, item_id, query, reasons)
    payload = tuple(name for name in listed if name != item_id)
    schema = Schema(
        query=QuerySide(features=query, key=key),
        item=ItemSide(features=item, id=item_id, payload=payload),
        pairs=PairColumns(item=item_column if item_id not in (None, item_column) else None, time=time),
    )
    text_both = all(any(f.type == "text" for f in side) for side in (query, item))
    reasons["train.correction"] = (
        "both sides have words, so what is asked says more than what is popular" if text_both else "ids learn popularity rightly only with it"
    )
    worded = any(isinstance(feature, Text) for feature in query)
    return Guess(schema, _split(key, time, reasons), not text_both, 256 if worded else 128, 5 if worded else 20, reasons)


def _look(source: Source) -> dict[str, _Look]:
    table = source.head(LOOK)
    found = {}
    for name in source.columns:
        try:
            texts = to_text(table.column(name)).drop_null()
        except TypeError:
            continue  # nested columns are of no use here
        words = pc.mean(pc.list_value_length(pc.split_pattern_regex(texts.slice(0, 1000), r"\s+"))).as_py() if len(texts) else 0
        dated = bool(pa.types.is_temporal(table.schema.field(name).type))
        found[name] = _Look(name, texts, pc.count_distinct(texts).as_py(), words or 0, table.num_rows, dated)
    return found


def _named(name: str, words: tuple[str, ...]) -> bool:
    """Whether one of the words is a part of the name: of `movie_id`, `movieId` or `Movie ID`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    parts = re.split(r"[\W_]+", apart.lower())
    return any(word in parts or name.lower() == word for word in words)


def _link(
    log: dict[str, _Look], catalogue: dict[str, _Look], pairs: Source, items: Source | None, time: str | None, reasons: dict[str, str]
) -> tuple[str | None, str, set[str]]:
    """(the catalogue's id column, the log's column that holds it, columns of the log that repeat what the catalogue says of an item).

    Without a catalogue: (an id column or None, the item's column, nothing).
    """
    if items is None:
        column = _item_column(log, pairs, time)
        reasons["item.id"] = f'there is no catalogue: the column "{column}" of the pairs is the item'
        return (None if log[column].is_text else column), column, set()
    best: tuple[bool, float, bool, bool, bool, str, str] | None = None
    candidates = [name for name, listed in catalogue.items() if listed.distinct and listed.share_distinct > 0.99]
    shared = [name for name in log if name in catalogue and name not in candidates]
    whole = _whole(items, candidates + shared)
    for own in candidates:
        sole = catalogue[own].share_distinct == 1
        for name, look in log.items():
            if name == time or not len(look.texts):
                continue
            inside = _inside(look, whole[own])
            # Numbers that count users from 1 are found among numbers that count items from 1: there the names decide.
            candidate = (not _named(name, PERSON_WORDS), round(inside, 2), sole, own == name, _named(name, ITEM_WORDS), own, name)
            if inside >= 0.3 and (best is None or candidate[:5] > best[:5]):
                best = candidate
    if best is None:
        raise DataError(
            f"no column of {pairs.name} ({', '.join(log)}) holds the ids of {items.name} ({', '.join(catalogue)}). Name them in a config: "
            '[item] id = "..." and [pairs] item = "..."'
        )
    _, inside, sole, _, _, own, name = best
    rows = "every row" if sole else f"{catalogue[own].share_distinct:.1%} of the rows"
    reasons["item.id"] = f'"{own}" differs in {rows} of the catalogue, and {inside:.0%} of "{name}" in the pairs is found there'
    repeated = {name for name in log if name in whole and not _named(name, PERSON_WORDS) and _inside(log[name], whole[name]) >= 0.5}
    return own, name, repeated


def _item_column(log: dict[str, _Look], pairs: Source, time: str | None) -> str:
    """The column of the items where there is no catalogue: by its name, or the last that is no measure, no event and nobody who asks."""
    things = [name for name, look in log.items() if name != time and not look.is_measure]
    called = next((name for name in things if _named(name, ITEM_WORDS)), None)
    if called is not None:
        return called
    others = [name for name in things if not log[name].is_event]
    asking = [name for name in others if _named(name, (*PERSON_WORDS, *QUERY_WORDS))]
    left = [name for name in others if name not in asking] if asking else others[1:]
    classes = [name for name in log if name != time and _named(name, ("label",))] if others else []
    found = left[-1:] or others[1:][-1:] or classes
    if not found:
        raise DataError(
            f"no column of {pairs.name} ({', '.join(log)}) looks like the item of a pair, and there is no catalogue. Name it in a config: "
            '[item] id = "..." and features = [ { column = "...", type = "id" } ]'
        )
    return found[0]


def _inside(look: _Look, known: pa.Array) -> float:
    """The share of a column's values that are among the known."""
    return float(pc.mean(pc.is_in(look.texts, known).cast(pa.float64())).as_py() or 0)


def _whole(source: Source, names: list[str]) -> dict[str, pa.Array]:
    """The values of these columns in all rows: pairs name items anywhere in the catalogue, not only in its first rows."""
    found: dict[str, list[pa.Array]] = {name: [] for name in names}
    for batch in source.batches() if names else ():
        for name in names:
            found[name].append(pc.unique(to_text(batch.column(name))))
    return {name: pc.unique(pa.chunked_array(chunks, pa.string())) for name, chunks in found.items()}


def _query(names: list[str], log: dict[str, _Look], reasons: dict[str, str]) -> tuple[tuple[FeatureOptions, ...], str | None]:
    """The query's features and key, out of these columns of the log."""
    if not names:
        raise DataError("the pairs have no column left for the query beside the item's")
    people = [name for name in names if _named(name, PERSON_WORDS) and not log[name].is_text]
    called = [name for name in names if _named(name, QUERY_WORDS) and name not in people]
    worded = [name for name in called if log[name].is_text] or called or [name for name in names if log[name].is_text]
    if worded:
        reasons["query.features"] = f'"{worded[0]}" holds words: {log[worded[0]].words:.0f} on average'
        return (Text(column=worded[0]),), None
    person = (people or names)[0]
    reasons["query.features"] = f'"{person}" names who chose: {log[person].distinct:,} different in {log[person].rows:,} rows'
    return (Id(column=person),), person


def _item_features(
    looks: dict[str, _Look], item_id: str | None, query: tuple[FeatureOptions, ...], reasons: dict[str, str]
) -> tuple[FeatureOptions, ...]:
    """An id, texts, and columns of few values."""
    found: list[FeatureOptions] = [] if item_id is None else [Id(column=item_id)]
    said = [] if item_id is None else [f'"{item_id}" as an id of its own']
    for name, look in looks.items():
        if name == item_id or not look.distinct:
            continue
        if look.is_text or (look.share_distinct > 0.2 and not _is_number(look.texts)):
            found.append(Text(column=name))
            said.append(f'"{name}" as words')
        elif 2 <= look.distinct <= FEW_VALUES and not _is_number(look.texts):
            found.append(Category(column=name))
            said.append(f'"{name}" as one of {look.distinct} values')
    if not found:
        found = [Text(column=next(iter(looks)))]
    reasons["item.features"] = ", ".join(said)
    return tuple(found)


def _is_number(texts: pa.Array) -> bool:
    try:
        numbers: Array = np.array([float(text) for text in texts.slice(0, 1000).to_pylist()])
    except ValueError:
        return False
    return bool(len(numbers))


def _split(key: str | None, time: str | None, reasons: dict[str, str]) -> SplitOptions:
    if key is not None:
        reasons["split.by"] = "each key's last pairs are held out, by " + ("time" if time else "the order of the log")
        return SplitOptions(by="last")
    reasons["split.by"] = "whole queries are held out, so that none is trained on and tested"
    return SplitOptions(by="group")
