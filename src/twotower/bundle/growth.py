"""How a catalogue grows: what is new or differs is embedded, and becomes one new version. The model never changes.

A version names segments and which of their rows it leaves out. A row that differs is left out, and stands again in a segment of
what changed, which is as small as the change. Once much is left out, or there are many segments, one new segment holds all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.catalogue import Catalogue, items_of, stored_rows, vectors_at, vectors_of
from twotower.bundle.changes import Plan, Report, read_hashes
from twotower.bundle.indexes import say_lost
from twotower.bundle.layout import Bundle, Segment, write_segment, write_version
from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.data.values import to_text
from twotower.errors import BundleError, ConfigError, DataError
from twotower.search.lexical import Counts, Lexical, Words, count, one_behind_another, taken
from twotower.search.vectors import stored
from twotower.search.vectors import taken as taken_vectors

BLOCK = 4096  # rows embedded at once, and kept for a run after a kill
MOST_SEGMENTS = 16
MOST_DEAD = 0.5  # of the rows of all segments
STAGING = "staging"
WAIT = "Wait for it, and try again."

Embed = Callable[[pa.Table], Array]  # item rows -> vectors float32 [n, d]


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
    vectors = _embedded(plan, embed, bundle, report)
    kept = vectors_at(bundle, now.stored[plan.old[plan.to_embed :]])
    kind = taken_vectors(bundle.segments[0].vectors).kind
    delta = Segment(stored(np.concatenate([vectors, kept]), kind), plan.table, _words(now, plan))
    left_out = now.stored[np.concatenate([plan.old[plan.old >= 0], plan.gone])]
    grown = replace(bundle, segments=(*bundle.segments, *([delta] if n else [])), removed=np.sort(np.concatenate([bundle.removed, left_out])))
    names, dead = bundle.catalogue["segments"], grown.removed
    if len(grown.segments) > MOST_SEGMENTS or len(dead) > MOST_DEAD * (rows + len(dead)):
        names, dead = [write_segment(bundle.folder, whole(grown), bundle.fingerprint)], dead[:0]
    elif n:
        names = [*names, write_segment(bundle.folder, delta, bundle.fingerprint)]
    version = write_version(bundle.folder, bundle.fingerprint, names, rows, removed=dead, parent=bundle.version, change=counts)
    files.remove_folder(bundle.folder / STAGING)
    say_lost(bundle.folder, bundle.catalogue["segments"][0], names[0])
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


# --- what is made of them -----------------------------------------------------------------------------------------


def _embedded(plan: Plan, embed: Embed, bundle: Bundle, report: Report) -> Array:
    """The vectors of the rows to embed, float32 [n, d]; more than a block of them are kept until the version is written."""
    table = plan.table.slice(0, plan.to_embed)
    read = read_hashes(bundle.encoder, table)
    folder = bundle.folder / STAGING / hashlib.sha256(read.tobytes()).hexdigest()[:16]
    blocks: list[Array] = []
    for start in range(0, plan.to_embed, BLOCK):
        place, part = folder / f"{start:010d}.npy", table.slice(start, BLOCK)
        if place.exists():
            blocks.append(files.read_array(place, mapped=False))
        else:
            blocks.append(_finite(embed(part), part))
            if plan.to_embed > BLOCK:
                files.write_array(place, blocks[-1])
        report(part.num_rows)
    return np.concatenate(blocks) if blocks else np.empty((0, bundle.dimensions), np.float32)


def _finite(vectors: Array, items: pa.Table) -> Array:
    """The vectors [n, d] of items [n]. Raises DataError where one is no number: a search that met it would fail."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        named = items.column(ID)[int(bad[0])].as_py()
        raise DataError(f"the item {named!r} becomes a vector that is no number; look for numbers in it that are far too large. Nothing was changed.")
    return vectors


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
    parts, places, start = [], [], 0
    for segment in bundle.segments:
        own = np.flatnonzero((stored >= start) & (stored < start + segment.items.num_rows))
        parts.append(taken(_words_of(segment).asked or count([""] * segment.items.num_rows), stored[own] - start))
        places.append(own)
        start += segment.items.num_rows
    none = np.flatnonzero(stored < 0)
    joined = one_behind_another([*parts, count([""] * len(none))])
    return taken(joined, np.argsort(np.concatenate([*places, none])))
