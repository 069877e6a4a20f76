"""Which column of the log names the items, and which the queries, where they have tables of their own; and what tells the item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.inference.looks import Look
from twotower.data.inference.names import (
    EVENT_WORDS,
    GRADE_WORDS,
    ID_WORDS,
    ITEM_WORDS,
    PERSON_WORDS,
    PRICE_WORDS,
    QUERY_WORDS,
    SPAN_WORDS,
    WEIGHT_WORDS,
    named,
)
from twotower.data.inference.readings import is_since_1970
from twotower.data.sources import Source
from twotower.data.values import to_text
from twotower.errors import DataError

ASKING = (*PERSON_WORDS, "query", "question", "q")
SAME = 0.98  # of the rows of things that occur again say the same of them


class Link(NamedTuple):
    """The id column of a table, the column of the log that holds it, why, and the columns of the log that repeat the table."""

    own: str
    column: str
    reason: str
    repeated: set[str]


def linked(log: dict[str, Look], table: dict[str, Look], pairs: Source, source: Source, taken: set[str], *, asking: bool) -> Link:
    """How the log names the rows of a table: of items, or of queries where `asking`. Raises DataError where it does not."""
    own_words, other_words = (ASKING, ITEM_WORDS) if asking else (ITEM_WORDS, ASKING)
    candidates = [name for name, listed in table.items() if listed.distinct and listed.share_distinct > 0.99 and not listed.nested]
    shared = [name for name in log if name in table and name not in candidates and not table[name].nested]
    whole = _whole(source, candidates + shared)
    found = []
    for own in candidates:
        sole = table[own].share_distinct == 1
        for name, look in log.items():
            inside = 0.0 if name in taken or look.nested else _inside(look, whole[own])
            if inside >= 0.3:
                # Numbers that count users from 1 are found among numbers that count items from 1: there the names decide.
                # So do ratings and counts: a few small numbers are found among any ids.
                measure = named(name, (*GRADE_WORDS, *WEIGHT_WORDS, *PRICE_WORDS)) and not named(name, own_words)
                fit = not measure and (not named(name, other_words) or named(name, own_words))
                alike = own == name and inside >= 0.5  # a column of one name, whatever else of it is not listed
                found.append((fit, alike, round(inside, 2), sole, named(name, own_words), own, name))
    if not found:
        block, side = ("query", "queries") if asking else ("item", "items")
        raise DataError(
            f"no column of {pairs.name} ({', '.join(log)}) holds the ids of {source.name} ({', '.join(table)}), the {side}. Name them in a config: "
            f'[{block}] id = "..." and [pairs] {block} = "..."'
        )
    _, _, inside, sole, _, own, name = max(found, key=lambda one: one[:5])
    rows = "every row" if sole else f"{table[own].share_distinct:.1%} of the rows"
    where = "table of queries" if asking else "catalogue"
    reason = f'"{own}" differs in {rows} of the {where}, and {inside:.0%} of "{name}" in the pairs is found there'
    repeated = {each for each in log if each in whole and (asking or not named(each, PERSON_WORDS)) and _inside(log[each], whole[each]) >= 0.5}
    return Link(own, name, reason, repeated - {name})


def _inside(look: Look, known: pa.Array) -> float:
    """The share of a column's values that are among the known."""
    return float(pc.mean(pc.is_in(look.texts, known).cast(pa.float64())).as_py() or 0)


def _whole(source: Source, names: list[str]) -> dict[str, pa.Array]:
    """The values of these columns in all rows: pairs name rows anywhere in a table, not only its first."""
    found: dict[str, list[pa.Array]] = {name: [] for name in names}
    for batch in source.select(names).batches() if names else ():
        for name in names:
            found[name].append(pc.unique(to_text(batch.column(name))))
    return {name: pc.unique(pa.chunked_array(chunks, pa.string())) for name, chunks in found.items()}


def item_column(log: dict[str, Look], pairs: Source, times: set[str]) -> str:
    """The column of the items where there is no catalogue: by its name, or the last that is no measure, no event and nobody who asks."""
    things = [name for name, look in log.items() if name not in times and not is_measure(look) and not look.nested and look.distinct > 1]
    called = [name for name in things if named(name, ITEM_WORDS)]
    if called:
        return next((name for name in called if named(name, ID_WORDS) and not log[name].is_text), called[0])
    others = [name for name in things if not is_event(log[name])]
    asking = [name for name in others if named(name, (*PERSON_WORDS, *QUERY_WORDS))]
    left = [name for name in others if name not in asking] if asking else others[1:]
    classes = [name for name in log if named(name, ("label",)) and log[name].distinct > 1] if others else []
    found = [name for name in left if named(name, ID_WORDS)][-1:] or left[-1:] or others[1:][-1:] or classes
    if not found:
        raise DataError(
            f"no column of {pairs.name} ({', '.join(log)}) looks like the item of a pair, and there is no catalogue. Name it in a config: "
            '[item] id = "..." and features = [ { column = "...", type = "id" } ]'
        )
    return found[0]


def is_measure(look: Look) -> bool:
    """Whether a column says how much a pair counts, how right it is, or how long it took."""
    return (named(look.name, (*GRADE_WORDS, *WEIGHT_WORDS, *PRICE_WORDS)) and look.numbers is not None) or is_span(look)


def is_span(look: Look) -> bool:
    """Whether numbers say how long something took, or at which time of day, going by their name and size: they order nothing."""
    called = named(look.name, ("time", "watched")) and named(look.name, SPAN_WORDS)
    return called and look.numbers is not None and not is_since_1970(look.numbers)


def is_event(look: Look) -> bool:
    """Whether a column says of what kind a pair is."""
    return named(look.name, EVENT_WORDS) and 2 <= look.distinct <= 20 and look.numbers is None and not look.nested


def told_by(column: Look, item: Look) -> tuple[bool, bool]:
    """(whether the item tells the value of a column, whether a value tells the item): judged by what occurs again, false where little does."""
    if column.nested or item.nested:
        return False, False
    table = pa.table({"column": to_text(column.values), "item": to_text(item.values)}).drop_null()
    return _tells(table, "item", "column"), _tells(table, "column", "item")


def _tells(table: pa.Table, name: str, other: str) -> bool:
    counts = table.group_by(name).aggregate([(other, "count_distinct"), (other, "count")])
    rows = np.asarray(counts.column(f"{other}_count"))
    again = rows >= 2
    if rows[again].sum() < 0.2 * rows.sum():
        return False
    return bool(rows[again & (np.asarray(counts.column(f"{other}_count_distinct")) == 1)].sum() >= SAME * rows[again].sum())
