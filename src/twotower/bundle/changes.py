"""What a catalogue of today changes in the one of yesterday: its rows are put into the same form and compared, id by id.

Whether the model reads another thing is asked of the canonical values that the towers read, so 7 and "7" are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.bundle.catalogue import Catalogue
from twotower.bundle.layout import Bundle
from twotower.data.columns import Array
from twotower.data.encoder import Encoder
from twotower.data.hashes import hash_texts
from twotower.data.keys import digests_of, joined, texts_of, values_of
from twotower.data.prepared import ID
from twotower.data.sources import Source, open_source
from twotower.data.values import cast_texts, has_text, to_text
from twotower.errors import ConfigError, DataError, choices

MOST_GONE = 0.1  # of the items, unless it is meant
EXAMPLES = 3
IDS_AT_ONCE = 1 << 16
SHOWN, READ = 1, 2  # how a row differs
STRINGS = {pa.string(), pa.large_string()}  # a text of either is that of the other, letter for letter
FRACTION = r"^-?[0-9]+\.[0-9]+$"

Report = Callable[[int], None]  # is told how many more rows are done


class Plan(NamedTuple):
    """What is to change: rows in the form of the catalogue's, those to embed first, and which rows of the catalogue go."""

    table: pa.Table  # `_id` and the columns to show
    old: Array  # int64, the row of the catalogue that each takes the place of, -1 for a new item
    to_embed: int
    gone: Array  # int64 rows of the catalogue


def compare(now: Catalogue, source: Source, *, partial: bool, report: Report = lambda _: None) -> Plan:
    """What a whole catalogue, or a part of one, changes. Raises DataError for one that cannot be meant.

    partial: items that it does not name stay; otherwise they go.
    """
    columns = _columns(now.bundle, source)
    known = _Known(now)
    parts: list[tuple[pa.Table, Array, Array]] = []
    met: list[Array] = []
    ids: list[pa.Array] = []
    first = 0
    for batch in source.batches():
        table = _formed(now, pa.Table.from_batches([batch]), columns, source.name, first)
        hashes = hash_texts(_id_texts(table.column(ID), source.name, first))
        old = known.find(hashes)
        differs = known.differing(table, old)
        changed = np.flatnonzero((old < 0) | (differs > 0))
        parts.append((table.take(pa.array(changed)), old[changed], (old[changed] < 0) | (differs[changed] == READ)))
        met.append(hashes)
        ids.append(table.column(ID).combine_chunks())
        first += table.num_rows
        report(table.num_rows)
    if not first:
        raise DataError(f"{source.name} is empty: a catalogue needs a row an item")
    _once(np.concatenate(met), ids, source.name)
    table = pa.concat_tables([part[0] for part in parts], promote_options="permissive")
    old, anew = (np.concatenate([part[n] for part in parts]) for n in (1, 2))
    order = np.argsort(~anew, kind="stable")
    gone = np.empty(0, np.int64) if partial else np.flatnonzero(~np.isin(known.hashes, np.concatenate(met)))
    return Plan(table.take(pa.array(order)), old[order], int(anew.sum()), gone)


def added(now: Catalogue, items: pa.Table) -> Plan:
    """Items that are new, and nothing else. Raises DataError for one that is there already."""
    plan = compare(now, open_source(items, "items"), partial=True)
    there = items.num_rows - int((plan.old < 0).sum())
    if there:
        column = item_column(now.bundle)
        known: list[object] = []
        if column is not None:
            known = items.column(column).take(pa.array(np.flatnonzero(now.find(items.column(column)) >= 0)[:EXAMPLES])).to_pylist()
        raise DataError(f"{there:,} of these items are in the catalogue already{_such(known)}: update_items changes them, refresh does either")
    return plan


def updated(now: Catalogue, items: pa.Table) -> Plan:
    """Items that are there, with some of their columns changed. Raises DataError for one that is not there."""
    column = item_column(now.bundle)
    if column is None:
        raise ConfigError("the items of this catalogue are named by what they hold, so another content is another item: remove and add it")
    if column not in items.column_names:
        raise DataError(f'items to update need the column "{column}", their id; {choices(items.column_names, column)}')
    shown = {item_name: item_name for item_name in now.items.column_names if item_name != ID} | {column: column}
    odd = next((name for name in items.column_names if name not in shown), None)
    if odd is not None:
        raise DataError(f'the catalogue has no column "{odd}"; {choices(shown, odd)}')
    rows = now.rows_of(items.column(column).to_pylist())
    before = now.items.take(pa.array(rows))
    filled = {name: items.column(name) if name in items.column_names else before.column(name) for name in shown}
    return compare(now, open_source(pa.table(filled), "items"), partial=True)


def removed(now: Catalogue, rows: Array) -> Plan:
    """These rows of the catalogue, int64, gone, and nothing else."""
    return Plan(now.items.slice(0, 0), np.empty(0, np.int64), 0, rows)


def check_gone(plan: Plan, now: Catalogue, name: str) -> None:
    """Raise ConfigError where more than a tenth of the items would go."""
    if len(plan.gone) > MOST_GONE * len(now):
        few = now.ids.take(pa.array(plan.gone[:EXAMPLES])).to_pylist()
        raise ConfigError(
            f"{name} lacks {len(plan.gone):,} of the {len(now):,} items{_such(few)}, so they would go. Say --yes (yes=True) if that is meant, "
            "or --partial (partial=True) if the file holds some items alone"
        )


def _such(ids: Sequence[object]) -> str:
    return f", such as {', '.join(map(repr, ids))}" if len(ids) else ""


# --- the form of the catalogue ------------------------------------------------------------------------------------


def item_column(bundle: Bundle) -> str | None:
    """The column of a catalogue that holds the ids of its items; None where an item is named by its content."""
    facts = bundle.model["schema"]
    named: str | None = facts["item"]["id"] or facts["pairs"]["item"]
    return named


def _columns(bundle: Bundle, source: Source) -> dict[str, str]:
    """For each column of the catalogue, which of the source's it comes from."""
    named = item_column(bundle)
    read = bundle.encoder.columns("item")
    columns = {} if named is None else {ID: source.require(named, "the id of the item")}
    nested = {feature.column for feature in bundle.encoder.features["item"] if feature.nested}
    for name in bundle.segments[0].items.column_names:
        if name != ID:
            role = "read by the model" if name in read else "shown of an item"
            columns[name] = source.require(name, role, shown=name not in read, nested=name in nested)
    return columns


def _formed(now: Catalogue, rows: pa.Table, columns: dict[str, str], name: str, first: int) -> pa.Table:
    """Rows of a source in the form of the catalogue's items. first: how many rows came before."""
    arrays: dict[str, pa.Array] = {}
    for field in now.items.schema:
        if field.name in columns:
            arrays[field.name] = _typed(rows.column(columns[field.name]).combine_chunks(), field, name, columns[field.name], first)
    if ID not in arrays:
        values = values_of(now.bundle.encoder.features["item"], lambda column: rows.column(columns[column]).combine_chunks())
        arrays[ID] = digests_of(list(values.values()))
    return pa.table({field.name: arrays[field.name] for field in now.items.schema})


def _typed(column: pa.Array, field: pa.Field, name: str, source_column: str, first: int) -> pa.Array:
    """A column in the type that the catalogue holds it in. Of an id what comes back must be the same: a cast may round."""
    kind = field.type
    if column.type == kind:
        return column
    if {column.type, kind} <= STRINGS:
        return column.cast(kind)
    if not has_text(column.type) or not has_text(kind):
        try:
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(f'{name}: the column "{source_column}" holds {column.type}, and the catalogue {kind}. Write it as it was.') from None
    texts = to_text(column)
    if pa.types.is_integer(kind) and field.name != ID and pc.any(pc.match_substring_regex(texts, FRACTION), min_count=0).as_py():
        kind = pa.float64()  # the first fractions of a column that held whole numbers; with older segments it is read as such
    cast, bad = cast_texts(texts, kind, exact=field.name == ID)
    if len(bad):
        raise DataError(
            f'{name}, row {first + int(bad[0]) + 1}: the column "{source_column}" holds {texts[int(bad[0])].as_py()!r}, '
            f"and the catalogue has {kind} there, which cannot hold it"
        )
    return cast


def _id_texts(ids: pa.ChunkedArray, name: str, first: int) -> list[str]:
    texts = to_text(ids)
    if texts.null_count:
        row = first + int(np.flatnonzero(np.asarray(texts.is_null()))[0]) + 1
        raise DataError(f"{name}, row {row}: the item has no id. Give it one, or leave the row out.")
    return texts.to_pylist()  # type: ignore[no-any-return]


def _once(hashes: Array, ids: Sequence[pa.Array], name: str) -> None:
    """Raise DataError where an id comes twice."""
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if len(again):
        first, second = order[again[0] : again[0] + 2].tolist()
        told, many = pa.chunked_array(list(ids))[first].as_py(), len(np.unique(hashes[order][again]))
        raise DataError(
            f"{name} names {many:,} item{'s' if many > 1 else ''} more than once, such as {told!r} in the rows {first + 1} and {second + 1}. "
            "Leave one row for each."
        )


class _Known:
    """The items of a catalogue, by the hashes of their ids."""

    def __init__(self, now: Catalogue) -> None:
        self.now = now
        texts = to_text(now.ids)
        # In parts: hashing holds some fifty bytes a character.
        self.hashes = np.concatenate([hash_texts(texts.slice(start, IDS_AT_ONCE).to_pylist()) for start in range(0, len(texts), IDS_AT_ONCE)])
        self.order = np.argsort(self.hashes, kind="stable")
        self.sorted = self.hashes[self.order]

    def find(self, hashes: Array) -> Array:
        """The row int64 [n] of each id, -1 for one that is not there."""
        place = np.minimum(np.searchsorted(self.sorted, hashes), len(self.sorted) - 1)
        return np.where(self.sorted[place] == hashes, self.order[place], -1)

    def differing(self, table: pa.Table, old: Array) -> Array:
        """Of rows that stand at these of the catalogue: READ where the model reads another thing, SHOWN where only another is shown, else 0."""
        encoder, there, found = self.now.bundle.encoder, np.flatnonzero(old >= 0), np.zeros(len(old), np.int64)
        new, before = table.take(pa.array(there)), self.now.items.take(pa.array(old[there]))
        # Most rows are as they were, to the letter; of the others alone it is asked whether they mean the same.
        other = np.flatnonzero(np.any([_unlike(new.column(name), before.column(name)) for name in new.column_names if name != ID], axis=0))
        there, new, before = there[other], new.take(pa.array(other)), before.take(pa.array(other))
        found[there] = np.where(shown_hashes(new) != shown_hashes(before), SHOWN, 0)
        found[there[read_hashes(encoder, new) != read_hashes(encoder, before)]] = READ
        return found


def _unlike(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Array:
    """Whether values of two columns differ as they are spelled, bool [n]; true where that cannot be said."""
    if one.type != other.type:
        return np.ones(len(one), bool)
    try:
        same = pc.fill_null(pc.equal(one, other), False)
    except pa.ArrowNotImplementedError:  # lists, say
        return np.ones(len(one), bool)
    return ~np.asarray(pc.or_(same, pc.and_(one.is_null(), other.is_null())), bool)


def read_hashes(encoder: Encoder, table: pa.Table) -> Array:
    """A hash uint64 [n] of what the item tower reads of each row."""
    return _hashed([texts_of(values) for values in values_of(encoder.features["item"], lambda name: table.column(name).combine_chunks()).values()])


def shown_hashes(table: pa.Table) -> Array:
    """A hash uint64 [n] of what is shown of each row."""
    return _hashed([_texts(table.column(name)) for name in table.column_names if name != ID])


def _texts(column: pa.ChunkedArray) -> pa.Array:
    if has_text(column.type):
        return to_text(column, exact=False)
    return pa.array([None if value is None else repr(value) for value in column.to_pylist()], pa.string())


def _hashed(columns: list[pa.Array]) -> Array:
    return hash_texts(joined([pc.coalesce(column, "\x1d") for column in columns]).to_pylist())
