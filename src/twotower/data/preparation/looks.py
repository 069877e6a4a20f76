"""What columns of texts hold, where a file has no types: whole numbers, numbers and truth values become that in what is shown and filtered."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.schema import Schema
from twotower.data.values import to_text

# Written as a program would: "007", "+7" and "1e5" stay texts, and so do digits past what the type holds exactly.
SPELLED: dict[str, tuple[pa.DataType, str]] = {
    "whole numbers": (pa.int64(), r"^(0|-?[1-9][0-9]{0,17})$"),
    "numbers": (pa.float64(), r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?$"),
    "truth values": (pa.bool_(), r"^(true|false|True|False|TRUE|FALSE)$"),
}
# By which features such a column may be read and still become that: an id or a category may be any text tomorrow, and what is read as
# words or times is read as it is written.
KEPT = {"whole numbers": {"number"}, "numbers": {"number"}, "truth values": {"category"}}


class Looks:
    """Which kinds of values every text of some columns may be, narrowed batch by batch."""

    def __init__(self, schema: Schema, columns: list[str]) -> None:
        read: dict[str, set[str]] = {name: set() for name in columns}
        for feature in schema.item.features:
            if feature.column in read:
                read[feature.column].add(feature.type)
        self.kinds = {name: [kind for kind in SPELLED if types <= KEPT[kind]] for name, types in read.items()}
        self.met: set[str] = set()  # columns that hold anything

    def add(self, name: str, column: pa.Array) -> None:
        """Look at more texts of a column."""
        if self.kinds[name]:
            texts = to_text(column, exact=False).drop_null()
            if len(texts):
                self.met.add(name)
            self.kinds[name] = [kind for kind in self.kinds[name] if pc.all(pc.match_substring_regex(texts, SPELLED[kind][1]), min_count=0).as_py()]

    def typed(self, name: str, kind: pa.DataType) -> pa.DataType:
        """The type that a column is to be shown in; kind: what it has."""
        return SPELLED[self.kinds[name][0]][0] if name in self.met and self.kinds.get(name) else kind


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in the type that `typed` gave."""
    return column if column.type == kind else to_text(column, exact=True).cast(kind)
