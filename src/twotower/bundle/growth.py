"""How a catalogue grows: what is new or differs is embedded, and becomes one new version. The model never changes.

A version names segments and which of their rows it leaves out. A row that differs is left out, and stands again in a segment of
what changed, which is as small as the change. Once much is left out, or there are many segments, one new segment holds all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import files
from twotower.bundle.catalogue import Catalogue, items_of, stored_rows, vectors_of
from twotower.bundle.layout import Bundle, Segment, write_segment, write_version
from twotower.data.columns import Array
from twotower.data.hashes import hash_texts
from twotower.data.keys import digests_of, joined, texts_of, values_of
from twotower.data.prepared import ID
from twotower.data.sources import Source, open_source
from twotower.data.values import has_text, to_text
from twotower.errors import BundleError, ConfigError, DataError, choices
from twotower.search.lexical import Counts, Lexical, Words, count, one_behind_another, taken
from twotower.search.vectors import stored
from twotower.search.vectors import taken as taken_vectors

BLOCK = 4096  # rows embedded at once, and kept for a run after a kill
MOST_SEGMENTS = 16
MOST_DEAD = 0.5  # of the rows of all segments
MOST_GONE = 0.1  # of the items, unless it is meant
EXAMPLES = 3
WAIT = "Wait for it, and try again."

Embed = Callable[[pa.Table], Array]  # item rows -> vectors float32 [n, d]
Report = Callable[[int], None]  # is told how many more rows are done


class Change(NamedTuple):
    """What became of a catalogue. Where nothing changed, the version is the one before."""

    version: str
    parent: str | None
    rows: int  # items that it holds now
    added: int  # items that are new
    embedded: int  # items that were there and read otherwise: embedded anew
    shown: int  # items of which only what is shown differs: their vectors stay
    removed: int
    same: int

    @property
    def nothing(self) -> bool:
        """Whether no item differs."""
        return not (self.added or self.embedded or self.shown or self.removed)


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
        parts.append((table.take(pa.array(changed)), old[changed], (old[changed] < 0) | (differs[changed] == 2)))
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


def grow(now: Catalogue, plan: Plan, embed: Embed, report: Report = lambda _: None) -> Change:
    """Write the next version of a catalogue, and make it the one in use.

    The folder must be held. Killed at any moment, the version before stays in use, and what was embedded is not embedded again.
    """
    bundle, n = now.bundle, plan.table.num_rows
    same = len(now) - int((plan.old >= 0).sum()) - len(plan.gone)
    counts = {
        "added": int((plan.old < 0).sum()),
        "embedded": int((plan.old[: plan.to_embed] >= 0).sum()),
        "shown": n - plan.to_embed,
        "removed": len(plan.gone),
    }
    if not n and not len(plan.gone):
        return Change(bundle.version, bundle.catalogue.get("parent"), len(now), **counts, same=same)
    rows = same + n
    if not rows:
        raise ConfigError("no item would be left. A catalogue needs at least one.")
    if isinstance(bundle.segments[0].words, Lexical):
        raise BundleError(f"{bundle.folder} was written by an earlier version, and its words cannot grow. Train again.")
    stage = bundle.folder / "staging"
    vectors = _embedded(plan, embed, stage, bundle, report)
    kept = np.asarray(now.vectors[plan.old[plan.to_embed :]], np.float32)
    kind = taken_vectors(bundle.segments[0].vectors).kind
    delta = Segment(stored(np.concatenate([vectors, kept]), kind), plan.table, _words(now, plan))
    left_out = now.stored[np.concatenate([plan.old[plan.old >= 0], plan.gone])]
    dead = np.sort(np.concatenate([bundle.removed, left_out]))
    names = list(bundle.catalogue["segments"])
    if n:
        names.append("")
    everything = sum(segment.items.num_rows for segment in bundle.segments) + n
    grown = replace(bundle, segments=(*bundle.segments, *([delta] if n else [])), removed=dead)
    if len(names) > MOST_SEGMENTS or len(dead) > MOST_DEAD * everything:
        names, dead, delta = [""], np.empty(0, np.int64), whole(grown)
    if n or names == [""]:
        names[-1] = write_segment(bundle.folder, delta, bundle.fingerprint)
    version = write_version(bundle.folder, bundle.fingerprint, names, rows, removed=dead, parent=bundle.version, change=counts)
    files.remove_folder(stage)
    return Change(version, bundle.version, rows, **counts, same=same)


def whole(bundle: Bundle) -> Segment:
    """All that a version holds as one segment."""
    kept = stored_rows(bundle)
    items = items_of(bundle).take(pa.array(kept))
    words = bundle.segments[0].words
    if isinstance(words, Words):
        own = taken(one_behind_another([_words_of(segment).own for segment in bundle.segments]), kept)
        words = Words(own, None if words.asked is None else _asked(bundle, kept))
    return Segment(vectors_of(bundle, kept), items.combine_chunks(), words)


def _such(ids: Sequence[object]) -> str:
    return f", such as {', '.join(map(repr, ids))}" if len(ids) else ""


# --- rows ---------------------------------------------------------------------------------------------------------


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
    if not has_text(column.type) or not has_text(kind):
        try:
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(f'{name}: the column "{source_column}" holds {column.type}, and the catalogue {kind}. Write it as it was.') from None
    texts = to_text(column)
    if pa.types.is_integer(kind) and field.name != ID and not _whole(texts):
        kind = pa.float64()  # the first fractions of a column that held whole numbers; with older segments it is read as such
    try:
        cast = texts.cast(kind)
        rounded = pc.not_equal(to_text(cast), texts) if field.name == ID else pa.nulls(len(texts), pa.bool_())
        bad = np.flatnonzero(np.asarray(pc.fill_null(rounded, False)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        bad = np.array([row for row, text in enumerate(texts) if not _fits(text, kind)])
    if len(bad):
        raise DataError(
            f'{name}, row {first + int(bad[0]) + 1}: the column "{source_column}" holds {texts[int(bad[0])].as_py()!r}, '
            f"and the catalogue has {kind} there, which cannot hold it"
        )
    return cast


def _whole(texts: pa.Array) -> bool:
    """Whether none of these is a number with a fraction."""
    return not pc.any(pc.match_substring_regex(texts, r"^-?[0-9]+\.[0-9]+$"), min_count=0).as_py()


def _fits(text: pa.Scalar, kind: pa.DataType) -> bool:
    try:
        pa.array([text.as_py()], pa.string()).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


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
    """The items of a catalogue by the hashes of their ids, of what the model reads, and of what is shown."""

    def __init__(self, now: Catalogue) -> None:
        self.now = now
        self.hashes = hash_texts(to_text(now.ids).to_pylist())
        self.order = np.argsort(self.hashes, kind="stable")
        self.sorted = self.hashes[self.order]
        self.read, self.shown = self._content(now.items)

    def find(self, hashes: Array) -> Array:
        """The row int64 [n] of each id, -1 for one that is not there."""
        place = np.minimum(np.searchsorted(self.sorted, hashes), len(self.sorted) - 1)
        return np.where(self.sorted[place] == hashes, self.order[place], -1)

    def differing(self, table: pa.Table, old: Array) -> Array:
        """Of rows that stand at these of the catalogue: 2 where the model reads another thing, 1 where another is shown, else 0."""
        read, shown = self._content(table)
        there = np.maximum(old, 0)
        return np.where(read != self.read[there], 2, np.where(shown != self.shown[there], 1, 0)) * (old >= 0)

    def _content(self, table: pa.Table) -> tuple[Array, Array]:
        features = self.now.bundle.encoder.features["item"]
        read = values_of(features, lambda column: table.column(column).combine_chunks())
        others = [name for name in table.column_names if name != ID and name not in read]
        return _hashed([texts_of(values) for values in read.values()]), _hashed([_texts(table.column(name)) for name in [*others, *read]])


def _texts(column: pa.ChunkedArray) -> pa.Array:
    """What is shown, as texts."""
    if has_text(column.type):
        return to_text(column, exact=False)
    return pa.array([None if value is None else repr(value) for value in column.to_pylist()], pa.string())


def _hashed(columns: list[pa.Array]) -> Array:
    return hash_texts(joined([pc.coalesce(column, "\x1d") for column in columns]).to_pylist())


# --- what is made of them -----------------------------------------------------------------------------------------


def _embedded(plan: Plan, embed: Embed, stage: Path, bundle: Bundle, report: Report) -> Array:
    """The vectors of the rows to embed, float32 [n, d]; more than a block of them are kept until the version is written."""
    table = plan.table.slice(0, plan.to_embed)
    folder = stage / hashlib.sha256(f"{bundle.fingerprint} {_table_digest(table)}".encode()).hexdigest()[:16]
    blocks: list[Array] = []
    for start in range(0, plan.to_embed, BLOCK):
        place, part = folder / f"{start:010d}.npy", table.slice(start, BLOCK)
        if place.exists():
            blocks.append(files.read_array(place, mapped=False))
        else:
            blocks.append(embed(part))
            if plan.to_embed > BLOCK:
                files.write_array(place, blocks[-1])
        report(part.num_rows)
    return np.concatenate(blocks) if blocks else np.empty((0, bundle.dimensions), np.float32)


def _table_digest(table: pa.Table) -> str:
    hashed = hashlib.sha256()
    for name in table.column_names:
        hashed.update(name.encode())
        hashed.update(np.asarray(hash_texts(_texts(table.column(name)).fill_null("").to_pylist())).tobytes())
    return hashed.hexdigest()


def _words(now: Catalogue, plan: Plan) -> Words | None:
    """The words of changed rows: their own, and those of the training queries that led to them before."""
    first = now.bundle.segments[0].words
    if not isinstance(first, Words):
        return None
    columns = now.bundle.encoder.text_columns("item")
    parts = [to_text(plan.table.column(name), exact=False).to_pylist() for name in columns]
    own = count(" ".join(value for value in values if value) for values in zip(*parts, strict=True)) if parts else count([""] * plan.table.num_rows)
    if first.asked is None:
        return Words(own, None)
    return Words(own, _asked(now.bundle, np.where(plan.old >= 0, now.stored[plan.old], -1)))


def _words_of(segment: Segment) -> Words:
    assert isinstance(segment.words, Words)
    return segment.words


def _asked(bundle: Bundle, stored: Array) -> Counts:
    """The words of training queries of these rows of the segments, int64 [n]; of -1 there are none."""
    parts = [_words_of(segment).asked or count([""] * segment.items.num_rows) for segment in bundle.segments]
    none = np.flatnonzero(stored < 0)
    places = stored.copy()
    places[none] = sum(len(part.lengths) for part in parts) + np.arange(len(none))
    return taken(one_behind_another([*parts, count([""] * len(none))]), places)
