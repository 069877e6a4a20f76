"""Items as they stand in answers: their columns as JSON, kept for those that were shown before."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from twotower.bundle.catalogue import Catalogue
from twotower.data.prepared import ID
from twotower.data.values import plain_rows

KEPT = 1 << 16  # items
LONGEST = 4096  # bytes of one that is kept


class Shown:
    """The items of one version of a catalogue, as JSON. Safe to share between threads."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._items = catalogue.items
        self._kept: dict[int, tuple[Any, orjson.Fragment]] = {}
        self._lock = threading.Lock()

    def of(self, rows: Sequence[int]) -> dict[int, tuple[Any, orjson.Fragment]]:
        """For each of these rows its id and its columns."""
        kept = self._kept
        found = {row: entry for row in rows if (entry := kept.get(row)) is not None}
        missing = [row for row in dict.fromkeys(rows) if row not in found]
        if not missing:
            return found
        new: dict[int, tuple[Any, orjson.Fragment]] = {}
        for row, item in zip(missing, plain_rows(self._items.take(pa.array(missing, pa.int64()))), strict=True):
            name, text = item.pop(ID), to_json(item)
            found[row] = (name, orjson.Fragment(text))
            if len(text) <= LONGEST:
                new[row] = found[row]
        with self._lock:
            # A catalogue whose every item is asked for must not grow without end: what was kept is let go of at once, and fills again.
            if len(self._kept) + len(new) > KEPT:
                self._kept = {}
            self._kept.update(new)
        return found


def to_json(value: Any) -> bytes:
    """JSON of plain values, numpy's and dates; NaN becomes null, and what JSON has no word for a text."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
