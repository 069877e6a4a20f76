"""The items that a query side touched before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le, Lt

from twotower.data.columns import Column, Ragged, lengths_of, offsets_of, spans
from twotower.data.features.feature import Form, Part, State
from twotower.data.features.names import Categories
from twotower.data.hashes import hash_texts


@dataclass(frozen=True, kw_only=True)
class History:
    """The items that somebody touched before, cut from the log of pairs; at look-up a list of item ids, oldest first.

    by: the column of the log whose equal values share a history; by default the key. column: the name under which look-up
    passes it. last: how many items of it are read. items: what stands for an item, the output of the item `tower`, so that new
    items count at once, or its embedding in the `ids` table of the item side. pool: their `mean`; weighted by `recency`;
    `attention`; or a causal `transformer` (Kang and McAuley 2018) of `layers` and `heads`. dropout: of its layers. forget: the share
    of a history's items that a training step leaves out.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = True
    worded: ClassVar[bool] = False
    nested: ClassVar[bool] = True

    column: str = "history"
    type: Literal["history"] = "history"
    by: str | None = None
    last: Annotated[int, Ge(1), Le(4096)] = 50
    items: Literal["tower", "ids"] = "tower"
    pool: Literal["mean", "recency", "attention", "transformer"] = "mean"
    layers: Annotated[int, Ge(1), Le(64)] = 2
    heads: Annotated[int, Ge(1), Le(64)] = 2
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    forget: Annotated[float, Ge(0), Lt(1)] = 0.0

    def normalise(self, column: pa.Array) -> pa.Array:
        """Lists of canonical item ids, null where there is none."""
        return Categories(column=self.column).normalise(column)

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        return {}

    def encode(self, column: pa.Array, state: State) -> Ragged:
        """Hashes uint64 of the last item ids of each row, oldest first."""
        lists = self.normalise(column)
        flat = Ragged(hash_texts(lists.flatten().to_pylist()), offsets_of([len(row or ()) for row in lists.to_pylist()]))
        lengths = np.minimum(lengths_of(flat), self.last)
        return Ragged(flat.values[spans(flat.offsets[1:] - lengths, lengths)], offsets_of(lengths))

    def form(self, state: State, dimensions: int) -> Form:
        """What the tower takes: item vectors, or codes of the item side's ids."""
        return Form(np.float32, ragged=True, width=dimensions) if self.items == "tower" else Form(np.int64, ragged=True)

    def unknown(self, encoded: Column) -> int:
        return 0

    def missing(self, encoded: Column) -> int:
        assert isinstance(encoded, Ragged)
        return int(np.count_nonzero(lengths_of(encoded) == 0))
