"""What became of a catalogue, and its versions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from twotower.app.reports.results import bytes_told
from twotower.app.reports.tables import columns_of, plain
from twotower.bundle import Change, Version


def grown(change: Change) -> RenderableType:
    """A sentence."""
    if change.nothing:
        return plain(f"nothing differs: version {change.version} of {change.rows:,} items stays in use")
    parts = [
        f"{change.added:,} new",
        f"{change.embedded:,} embedded anew",
        f"{change.shown:,} shown otherwise",
        f"{change.removed:,} gone",
        f"{change.same:,} as they were",
    ]
    return plain(f"version {change.version} is in use: {change.rows:,} items, {', '.join(part for part in parts if not part.startswith('0 '))}")


def versions(found: Sequence[Version]) -> RenderableType:
    """A table, newest first."""
    table = columns_of("", "version", "written (UTC)", "items", "new", "embedded anew", "shown otherwise", "gone", "of its own", "grew from")
    for version in reversed(found):
        counts = [f"{version.change[name]:,}" if version.change else "" for name in ("added", "embedded", "shown", "removed")]
        mark, written = "in use" if version.in_use else "", (version.written or "")[:19].replace("T", " ")
        table.add_row(mark, version.version, written, f"{version.rows:,}", *counts, bytes_told(version.own_bytes), version.parent or "")
    return table
