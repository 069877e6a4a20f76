"""Gowalla with wider embeddings, beside peers of 256 factors."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.rows import Asked, Figure
from benchmarks.rows.gowalla import measured


def measure(asked: Asked) -> Iterator[Figure]:
    """As `gowalla`, wider."""
    yield from measured("gowalla_wide", asked, 256, "more than with 64")
