"""The features of each side, with a reason for each column that is read and for each that is left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.features import FeatureOptions, History, Id, Text
from twotower.data.inference.links import is_measure, told_by
from twotower.data.inference.looks import LOOK, Look
from twotower.data.inference.names import AFTER_WORDS, CONTEXT_WORDS, ID_WORDS, PERSON_WORDS, QUERY_WORDS, named
from twotower.data.inference.readings import read
from twotower.data.schema import feature_name
from twotower.data.sources import Source
from twotower.data.values import to_text
from twotower.errors import DataError

HISTORY_FROM = 4  # pairs a key has on average: with fewer, two of which are held out, hardly anything would be left of a history
MOST_COUNTED = 2_000_000  # pairs whose keys are counted


class Found(NamedTuple):
    """The features of a side. why: by the feature's name. left: by column, why it is no feature. key: with how many pairs each on average."""

    features: tuple[FeatureOptions, ...]
    why: dict[str, str]
    left: dict[str, str]
    key: str | None = None
    each: float = 0.0


def item_side(looks: dict[str, Look], item_id: str | None) -> Found:
    """An id, and what every other column is best read as."""
    found = _table_side(looks, item_id)
    if not found.features:
        raise DataError(f"none of the items' columns ({', '.join(looks)}) says anything of them: {_told(found.left)}")
    return found


def _table_side(looks: dict[str, Look], item_id: str | None) -> Found:
    """What the columns of a table are best read as; maybe nothing."""
    features: list[FeatureOptions] = [] if item_id is None else [Id(column=item_id)]
    why, left = {}, {}
    for name, look in looks.items():
        if name == item_id:
            why[feature_name(features[0])] = "of its own, for what the other columns do not say of it"
            continue
        reading = read(look)
        if reading.feature is None:
            left[name] = reading.reason
        else:
            features.append(reading.feature)
            why[feature_name(reading.feature)] = reading.reason
    return Found(tuple(features), why, left)


def told_of_item(log: dict[str, Look], column: str, free: Iterable[str]) -> list[str]:
    """The columns of a log without a catalogue that hold one value for each item, such as its title."""
    return [name for name in free if log[name].distinct > 1 and told_by(log[name], log[column])[0]]


def query_side(log: dict[str, Look], free: list[str], column: str, pairs: Source) -> Found:
    """What asks, out of the free columns of the log: words, or somebody; and what a request carries besides."""
    left = {name: why for name in free if (why := _unfit(log[name], log[column])) is not None}
    own = [name for name in free if name not in left] or [name for name in free if log[name].distinct and not log[name].nested]
    if not own:
        raise DataError(f'{pairs.name}: no column is left that says what was asked or who asked, beside the item\'s "{column}": {_told(left)}')
    left = {name: why for name, why in left.items() if name not in own}
    people = sorted((name for name in own if _is_person(log[name])), key=lambda name: _rank(name, PERSON_WORDS))
    worded = _worded(own, log, people)
    found = _asked(worded, log[worded]) if worded is not None else _person(people or own, log, column, pairs)
    used = {feature.column for feature in found.features} | {found.key}
    for name in own:
        if name not in used:
            _add(found, log[name], left)
    context = [read(log[name]).feature for name in own if _context(log[name]) and name not in used]
    return found._replace(features=(*found.features, *(feature for feature in context if feature is not None)), left=left)


def query_table(looks: dict[str, Look], query_id: str, column: str, log: dict[str, Look], item: str, pairs: Source) -> Found:
    """The features of queries that have a table of their own, and their history where they come often."""
    listed = _table_side({name: look for name, look in looks.items() if name != query_id}, None)
    each = pairs_of_each(log, column, item, pairs)
    if each < HISTORY_FROM or any(feature.worded for feature in listed.features):
        if not listed.features:
            raise DataError(
                f"the table of queries says nothing but their ids ({_told(listed.left)}), and each has {each:.1f} items on average: nothing can be "
                "learnt of them"
            )
        return listed._replace(each=each)
    history, why = _history(each, log)
    return listed._replace(features=(history, *listed.features), why={feature_name(history): why} | listed.why, each=each)


def _unfit(look: Look, item: Look) -> str | None:
    """Why a column of the log cannot be part of a query, or None."""
    if not look.distinct or (look.distinct == 1 and not look.missing):
        return read(look).reason
    if look.nested or look.lists is not None:
        return "holds lists or objects; add it where it is known when the question is asked"
    if named(look.name, AFTER_WORDS):
        return "was written after the choice, going by its name"
    told, tells = told_by(look, item)
    if tells and (told or look.distinct > 20) and not named(look.name, QUERY_WORDS):
        return "gives the answer away: each of its values goes with one item"
    return None


def _rank(name: str, words: tuple[str, ...]) -> int:
    return next(n for n, word in enumerate(words) if named(name, (word,)))


def _is_person(look: Look) -> bool:
    return named(look.name, PERSON_WORDS) and not look.is_text and not look.is_date and not is_measure(look)


def _worded(own: list[str], log: dict[str, Look], people: list[str]) -> str | None:
    """The column of words that were asked with, if there is one."""
    called = [name for name in own if named(name, QUERY_WORDS) and name not in people and log[name].numbers is None and not log[name].is_date]
    if called:
        # Of two that hold a word or so each, such as query_id and query, an id is not what was typed.
        best = sorted(called, key=lambda name: (not log[name].is_text, named(name, ID_WORDS), _rank(name, QUERY_WORDS)))
        # A column that is called text beside somebody who chose is what they wrote of it.
        return next((name for name in best if log[name].is_text or not people), None)
    return next((name for name in own if log[name].is_text), None)


def _asked(name: str, look: Look) -> Found:
    feature = Text(column=name)
    return Found((feature,), {feature_name(feature): f"what was asked: {look.words:.0f} word{'s' * (look.words >= 1.5)} on average"}, {})


def _person(names: list[str], log: dict[str, Look], column: str, pairs: Source) -> Found:
    """Somebody who chose: by their history where they have one, else by their id."""
    name = next((name for name in names if log[name].share_distinct < 1 and not is_measure(log[name])), names[0])
    look = log[name]
    each = pairs_of_each(log, name, column, pairs)
    if each < 1.01:
        raise DataError(
            f'{pairs.name}: nothing tells who or what asks: "{name}" holds no words, and each of its values has one pair, so nothing can be learnt '
            "of it. Add a column of what was asked, or of who asked more than once, or a table of queries."
        )
    if each < HISTORY_FROM:
        feature = Id(column=name)
        why = f"who chose: {look.distinct:,} different in {look.rows:,} rows; with {each:.1f} items each, too few for a history ({HISTORY_FROM})"
        return Found((feature,), {feature_name(feature): why}, {}, name, each)
    history, why = _history(each, log)
    return Found((history,), {feature_name(history): why}, {}, name, each)


def _history(each: float, log: dict[str, Look]) -> tuple[FeatureOptions, str]:
    why = f"what was chosen before, as the item tower sees it, so that new people and new items count at once; {each:.0f} items each on average"
    return History() if "history" not in log else History(column="history of items"), why


def pairs_of_each(log: dict[str, Look], key: str, item: str, pairs: Source) -> float:
    """How many different items each value of a key has on average, in the first two million pairs."""
    table = pa.table({"key": to_text(log[key].values), "item": to_text(log[item].values)})
    if table.num_rows >= LOOK:
        parts, rows = [], 0
        for batch in pairs.select([key, item]).batches():
            parts.append(pa.table({"key": to_text(batch.column(key)), "item": to_text(batch.column(item))}))
            rows += batch.num_rows
            if rows >= MOST_COUNTED:
                break
        table = pa.concat_tables(parts)
    counts = table.drop_null().group_by("key").aggregate([("item", "count_distinct")]).column("item_count_distinct")
    return float(pc.mean(counts).as_py() or 0)


def _context(look: Look) -> bool:
    """Whether a column is known when the question is asked, going by its name."""
    reading = read(look)
    return named(look.name, CONTEXT_WORDS) and reading.feature is not None and reading.feature.type in ("category", "number", "categories")


def _add(found: Found, look: Look, left: dict[str, str]) -> None:
    """Note why one more column of the log is read, or is not."""
    reading = read(look)
    if _context(look) and reading.feature is not None:
        found.why[feature_name(reading.feature)] = f"known when the question is asked; {reading.reason}"
    elif reading.feature is None:
        left[look.name] = reading.reason
    elif _is_person(look):
        left[look.name] = f'could give a history, where it is known who asks: {{ type = "history", by = "{look.name}" }}'
    else:
        left[look.name] = "add it, if it is known when the question is asked"


def _told(left: dict[str, str]) -> str:
    return "; ".join(f'"{name}" {why}' for name, why in left.items()) or "there is no other column"
