"""Which items may be found: filters, ids that are allowed or denied, and what each query leaves out, as masks and rows of the catalogue."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.bundle.asking import histories_of, is_list, is_value, listed
from twotower.data.columns import Array, Ragged, group, offsets_of, ragged_rows
from twotower.data.values import to_array
from twotower.errors import ConfigError, DataError
from twotower.search.filters import Condition, condition_of, mask, to_text
from twotower.search.filters.kinds import inner_of

Where = str | Mapping[str, Any] | Condition
Find = Callable[[pa.Array], Array]  # the rows of ids, -1 where there is none
MASKS = 8  # conditions whose masks are kept: a byte an item each


class Narrowing(NamedTuple):
    """What a search is narrowed to: all of it holds at once."""

    where: Where | None = None
    allow: Any = None
    deny: Any = None


class Masks:
    """Which items meet the last few filters, kept by the table that they were asked of. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[pa.Table, Array]] = OrderedDict()

    def of(self, where: Where, items: pa.Table) -> Array:
        """Whether each item meets the filter, bool [n]; not to be written to. Raises ConfigError for a filter that cannot be meant."""
        condition = condition_of(where)
        name = to_text(condition)
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept[0] is items:
                self._kept.move_to_end(name)
                return kept[1]
        met = mask(condition, items)
        met.flags.writeable = False
        with self._lock:
            self._kept[name] = items, met
            self._kept.move_to_end(name)
            while len(self._kept) > MASKS:
                self._kept.popitem(last=False)
        return met


def allowed(narrowing: Narrowing, items: pa.Table, find: Find, masks: Masks) -> Array | None:
    """Which items may be found, bool [n]; None for all. Ids that the catalogue lacks are passed over, so `allow` of such alone leaves nothing."""
    where, allow, deny = narrowing
    met = None if where is None else masks.of(where, items)
    for name, ids, wanted in (("allow", allow, True), ("deny", deny, False)):
        if ids is None:
            continue
        rows = rows_of_ids(_flat(ids, name), find)
        named = np.full(items.num_rows, not wanted)
        named[rows[rows >= 0]] = wanted
        met = named if met is None else met & named
    return met


def excluded(exclude: Any, queries: int, find: Find) -> Ragged | None:
    """The rows that each query leaves out, of ids in any form: a list for one query, a list of lists for several."""
    if exclude is None:
        return None
    if isinstance(exclude, (pa.Array, pa.ChunkedArray)) and not pa.types.is_null(exclude.type) and inner_of(exclude.type) is not None:
        return _excluded_column(exclude, queries, find)
    lists = [[exclude]] if is_value(exclude) else histories_of(exclude)
    if len(lists) != queries and not any(each is not None and len(each) for each in lists):
        lists = [[]] * queries  # nothing, said once
    _check_count(len(lists), queries)
    flat = [_flat([] if each is None else each, "exclude") for each in lists]
    rows = rows_of_ids([value for each in flat for value in each], find)
    owner = np.repeat(np.arange(queries), [len(each) for each in flat])
    known = rows >= 0
    return Ragged(rows[known], offsets_of(np.bincount(owner[known], minlength=queries)))


def _excluded_column(lists: pa.Array | pa.ChunkedArray, queries: int, find: Find) -> Ragged:
    """The same of an Arrow column of lists, without a detour by Python's."""
    whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    _check_count(len(whole), queries)
    rows = _rows_of(pc.list_flatten(whole), find)
    known = rows >= 0
    owner = pc.list_parent_indices(whole).to_numpy()[known]
    return Ragged(rows[known], offsets_of(np.bincount(owner, minlength=queries)))


def _check_count(lists: int, queries: int) -> None:
    if lists != queries:
        raise DataError(f"{queries} queries came with {lists} lists to exclude; give one for each, or with deny one for all")


def together(*parts: Ragged | None) -> Ragged | None:
    """Rows that several things leave out, as one."""
    given = [part for part in parts if part is not None]
    if len(given) < 2:
        return given[0] if given else None
    owners = np.concatenate([ragged_rows(part) for part in given])
    return group(owners, np.concatenate([part.values for part in given]), len(given[0].offsets) - 1)


def rows_of_ids(ids: list[Any], find: Find) -> Array:
    """The row int64 [n] of each id, -1 where there is none."""
    return _rows_of(to_array(ids), find)


def _rows_of(ids: pa.Array, find: Find) -> Array:
    """The same for an Arrow array; each distinct one is looked up once."""
    encoded = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    rows = np.append(find(encoded.dictionary), -1)  # the last: of what is missing
    return np.asarray(rows[encoded.indices.cast(pa.int64()).fill_null(len(rows) - 1).to_numpy(zero_copy_only=False)], np.int64)


def _flat(ids: Any, name: str) -> list[Any]:
    """Ids as a list of plain ones. Raises ConfigError for another form."""
    values = [ids] if is_value(ids) else listed(ids) if is_list(ids) or isinstance(ids, (set, frozenset)) else None
    if values is None or any(isinstance(value, (Mapping, list, tuple, set, np.ndarray, bytes)) for value in values):
        several = ", or for several queries a list of such lists" if name == "exclude" else ""
        raise ConfigError(f"{name} is a list of item ids{several}, and not {ids!r:.80}")
    return values


def check_k(k: Any) -> None:
    """Raise ConfigError for what is no number of items to find."""
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise ConfigError(f"k is {k!r}; it is the number of items asked for, a whole number of 1 or more")


def check_skip(skip: Any) -> None:
    """Raise ConfigError for what is no number of results to pass over."""
    if not isinstance(skip, (int, np.integer)) or isinstance(skip, bool) or skip < 0:
        raise ConfigError(f"skip is the number of results to pass over, 0 or more, and not {skip!r}")
