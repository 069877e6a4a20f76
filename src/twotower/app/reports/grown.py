"""What became of a catalogue, its versions, and what searches it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from twotower.app.reports.results import bytes_told
from twotower.app.reports.tables import columns_of, plain
from twotower.bundle import Change, Version
from twotower.search.index import Chosen


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


def chosen_index(chosen: Chosen) -> RenderableType:
    """What was chosen to search vectors by, and what it comes to."""
    if chosen.kind == "exact":
        return plain(f"vectors are searched exactly, {chosen.milliseconds:.2f} ms a query: {chosen.reason}")
    return plain(
        f"{chosen.kind} of breadth {chosen.breadth} finds {chosen.recall:.1%} of the exact first ten in {chosen.milliseconds:.2f} ms a query, beside "
        f"{chosen.exact_milliseconds:.2f} ms of exact search; built in {chosen.seconds:,.0f} s, {bytes_told(chosen.bytes)}. Why: {chosen.reason}"
    )
