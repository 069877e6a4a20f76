"""The versions of a catalogue: which there are, going back to an earlier one, and writing all that one holds as one segment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.catalogue import Catalogue, items_of, stored_rows
from twotower.bundle.growth import WAIT, whole
from twotower.bundle.indexes import INDEXES, say_lost
from twotower.bundle.layout import (
    Bundle,
    current,
    find_bundle,
    open_bundle,
    point_at,
    read_version,
    segments_named,
    versions_in,
    write_segment,
    write_version,
)
from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.errors import ConfigError, choices


class Version(NamedTuple):
    """One version of a catalogue."""

    version: str
    in_use: bool
    parent: str | None
    written: str | None  # in UTC; None of the first ones, which did not say
    rows: int
    segments: int
    own_bytes: int  # of the segments that no version before holds: what it costs to send it
    change: dict[str, int]  # added, embedded, shown, removed


def versions(place: Path | str) -> list[Version]:
    """All versions of a bundle's catalogue, oldest first."""
    folder = find_bundle(place)
    used, met, found = current(folder), set[str](), []
    for name in versions_in(folder):
        facts = read_version(folder, name)
        new = set(facts["segments"]) - met
        met |= new
        size = sum(path.stat().st_size for each in new for path in (folder / "segments" / each).rglob("*") if path.is_file())
        written, change = facts.get("written"), facts.get("change", {})
        found.append(Version(name, name == used, facts["parent"], written, facts["rows"], len(facts["segments"]), size, change))
    return found


class Difference(NamedTuple):
    """What a version of a catalogue holds otherwise than an earlier one."""

    changed: Array  # int64 rows of the version that are new or differ
    removed: list[Any]  # ids that only the earlier one holds


def difference(now: Catalogue, earlier: str) -> Difference | None:
    """What has changed since an earlier version of the same bundle; None where that is no longer there."""
    bundle = now.bundle
    if earlier not in versions_in(bundle.folder):
        return None
    before = open_bundle(bundle.folder, version=earlier)
    names = {name: number for number, name in enumerate(dict.fromkeys([*bundle.catalogue["segments"], *before.catalogue["segments"]]))}
    own, other = _identities(bundle, names), _identities(before, names)
    ids = items_of(before).column(ID).take(pa.array(stored_rows(before)[~np.isin(other, own)]))
    return Difference(np.flatnonzero(~np.isin(own, other)), ids.filter(pa.array(now.find(ids) < 0)).to_pylist())


def _identities(bundle: Bundle, names: Mapping[str, int]) -> Array:
    """A number for each row that a version holds: which segment it stands in, and where; the same in every version."""
    parts = [
        (names[name] << 40) + np.arange(segment.items.num_rows) for name, segment in zip(bundle.catalogue["segments"], bundle.segments, strict=True)
    ]
    return np.concatenate(parts)[stored_rows(bundle)]


def rollback(place: Path | str, to: str | None = None) -> str:
    """Make an earlier version the one in use: the one that this one grew from, or another; returns its name.

    Nothing is lost: the version that was in use stays, and can be gone back to.
    """
    folder = find_bundle(place)
    with files.held(folder, WAIT):
        used = current(folder)
        wanted = read_version(folder, used)["parent"] if to is None else f"{int(to):06d}" if to.isascii() and to.isdigit() else to
        there = versions_in(folder)
        if wanted is None:
            raise ConfigError(f"version {used} is the first of {folder}, so there is none before it; {choices(there)}")
        if wanted not in there:
            raise ConfigError(f"{folder} has no version {wanted}; {choices(there, wanted)}")
        open_bundle(folder, version=wanted)  # whole, or not at all
        point_at(folder, wanted)
    return wanted


def compact(place: Path | str, keep: int | None = None) -> str:
    """Write all that the version in use holds as one segment, a version of its own; returns its name.

    keep: how many versions to keep, the newest; older ones go, and segments that none of those left names. Whoever still reads one of
    them is cut off, so keep those that are read.
    """
    folder = find_bundle(place)
    if keep is not None and keep < 1:
        raise ConfigError(f"keep is {keep}; at least one version, the one in use, must be kept")
    with files.held(folder, WAIT):
        before = open_bundle(folder)
        bundle = in_one(before)
        say_lost(folder, before.catalogue["segments"][0], bundle.catalogue["segments"][0])
        if keep is not None:
            _forget(folder, keep)
    return bundle.version


def in_one(bundle: Bundle) -> Bundle:
    """The bundle at a version that holds the same in one segment, which is written if need be; the folder must be held."""
    if len(bundle.segments) == 1 and not len(bundle.removed):
        return bundle
    name = write_segment(bundle.folder, whole(bundle), bundle.fingerprint)
    write_version(bundle.folder, bundle.fingerprint, [name], bundle.catalogue["rows"], parent=bundle.version)
    return open_bundle(bundle.folder, known=bundle)


def _forget(folder: Path, keep: int) -> None:
    """Remove all but the newest versions and the one in use, and the segments that are then nobody's, with their indexes."""
    there = versions_in(folder)
    kept = {*there[-keep:], current(folder)}
    named = segments_named(folder, kept)
    for version in set(there) - kept:
        files.remove_folder(folder / "catalogue" / version)
    for place in [*(folder / "segments").iterdir(), *(folder / INDEXES).glob("*")]:
        if place.name not in named:
            files.remove_folder(place)
