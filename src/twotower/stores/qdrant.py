"""Qdrant: its engine in the process over a folder, or a server. A version is a shard or a collection of its own and never changes once it is live.

The client's own local mode is not used: it keeps what it holds as pickles, and lets one process in.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.errors import ConfigError, MissingExtra
from twotower.search.filters import Condition
from twotower.stores.columns import from_json, to_json
from twotower.stores.facts import Version, stored_names
from twotower.stores.places import Place
from twotower.stores.qdrant_server import Served
from twotower.stores.qdrant_shards import Shards
from twotower.stores.qdrant_words import MARKS, marks, qdrant_condition
from twotower.stores.store import KEPT, Found, Rows, check_count

SENT_AT_ONCE = 512
FEW = 10_000  # points that meet a condition: so many are scored one by one, which misses none
PATIENCE = 15  # seconds
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")


def open_folder(place: Place, name: str) -> Qdrant:
    """The engine of qdrant:///folder. Raises MissingExtra."""
    try:
        import qdrant_edge
    except ImportError:
        raise MissingExtra("a store of Qdrant", "qdrant") from None
    return Qdrant(Shards(place, name, qdrant_edge), name)


def open_server(place: Place, name: str) -> Qdrant:
    """The engine of qdrant+http://host:6333. A password in the URL, or QDRANT_API_KEY, is its key. Raises DataError where nothing answers."""
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise MissingExtra("a store of Qdrant", "qdrant") from None
    parts = urlsplit(place.url.removeprefix("qdrant+"))
    key = unquote(parts.password or parts.username or "") or os.environ.get("QDRANT_API_KEY")
    try:
        host, port = parts.hostname, parts.port or 6333
    except ValueError:
        raise ConfigError(f"{place.shown} names no port; write {place.scheme}://host:6333") from None
    if not host:
        raise ConfigError(f"{place.shown} names no host; write {place.scheme}://host:6333")
    url = f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"
    served = Served(QdrantClient(url, api_key=key, timeout=PATIENCE, check_compatibility=False), place.shown, name)
    served.reach()
    return Qdrant(served, name)


class Points(Protocol):
    """Where points lie: shards in a folder, or collections of a server."""

    shown: str

    @property
    def names(self) -> Any: ...
    def claim(self) -> contextlib.AbstractContextManager[None]: ...
    def read(self) -> list[Version]: ...
    def write(self, versions: Sequence[Version]) -> None: ...
    def tables(self) -> list[str]: ...
    def create(self, table: str, dimensions: int, indexed: dict[str, str]) -> None: ...
    def upsert(self, table: str, points: list[Any]) -> None: ...
    def delete(self, table: str, ids: list[Any]) -> None: ...
    def finish(self, table: str) -> None: ...
    def count(self, table: str, condition: Any, exact: bool) -> int: ...
    def nearest(self, table: str, vectors: list[list[float]], k: int, condition: Any, params: Any) -> list[list[Any]]: ...
    def retrieve(self, table: str, ids: list[Any]) -> list[Any]: ...
    def scroll(self, table: str) -> Iterator[list[Any]]: ...
    def drop(self, table: str) -> None: ...
    def close(self) -> None: ...


class Qdrant:
    """The tables of one name, over either kind of points."""

    breadths = (100, 200, 400, 800)

    def __init__(self, points: Points, name: str) -> None:
        self.points = points
        self.name = name
        self.shown = points.shown
        self.claim = points.claim
        self.versions = points.read
        self.switch = points.write
        self.drop = points.drop
        self.close = points.close

    def tables(self) -> list[str]:
        """Every table made under this name."""
        pattern = re.compile(f"{self.name}_[0-9a-f]{{12}}_[0-9]+(_[0-9]+)?")
        return [table for table in self.points.tables() if pattern.fullmatch(table)]

    def count(self, version: Version) -> int:
        """How many points a table has."""
        return self.points.count(version.table, None, True)

    def search(self, version: Version, vectors: Array, k: int, where: Condition | None) -> tuple[str, Found]:
        """The k best of each vector."""
        names = self.points.names
        condition = None if where is None else qdrant_condition(where, version, names)
        few = condition is not None and self.points.count(version.table, condition, False) <= FEW
        params = names.SearchParams(exact=True) if few else names.SearchParams(hnsw_ef=max(version.breadth or self.breadths[0], 2 * k))
        found = self.points.nearest(version.table, vectors.tolist(), k, condition, params)
        if not few and any(len(each) < min(k, version.facts.rows) for each in found):
            found = self.points.nearest(version.table, vectors.tolist(), k, condition, names.SearchParams(exact=True))
        of = version.shape.field(ID).type
        ids = [from_json([point.payload[ID] for point in each], of).to_pylist() for each in found]
        return version.facts.version, (ids, [[point.score for point in each] for each in found])

    def show(self, version: Version, ids: Sequence[Any]) -> pa.Table:
        """`_id` and payload of those that are there."""
        shape = version.shape
        wanted = [_point_id(each) for each in to_json(pa.array(ids, shape.field(ID).type), ID)]
        payloads = [point.payload for point in self.points.retrieve(version.table, wanted)]
        stored = [ID, *(version.columns[name] for name in shape.names[1:])]
        return pa.table([from_json([each.get(key) for each in payloads], of.type) for key, of in zip(stored, shape, strict=True)], schema=shape)

    def plan(self, version: Version) -> Version:
        """The names of its columns."""
        return replace(version, columns=stored_names(version.shape.names, PLAIN))

    def create(self, version: Version) -> None:
        """An empty table, with an index for each column that conditions may order or match."""
        shape = version.shape
        kinds = {version.columns[name]: _index_kind(shape.field(name).type) for name in shape.names[1:]}
        self.points.create(
            version.table, version.facts.dimensions, dict.fromkeys(MARKS, "text") | {name: kind for name, kind in kinds.items() if kind}
        )

    def append(self, version: Version, rows: Rows) -> None:
        """More points."""
        batch, vectors = rows
        ids = to_json(batch.column(0), ID)
        columns = {stored: to_json(batch.column(name), name) for name, stored in version.columns.items()}
        points = []
        for row, (each, vector) in enumerate(zip(ids, vectors.tolist(), strict=True)):
            payload: dict[str, Any] = {ID: each}
            payload |= {name: values[row] for name, values in columns.items() if values[row] is not None}
            payload |= marks({ID: each} | {name: values[row] for name, values in columns.items()})
            points.append((_point_id(each), vector, payload))
        for start in range(0, len(points), SENT_AT_ONCE):
            self.points.upsert(version.table, points[start : start + SENT_AT_ONCE])

    def finish(self, version: Version) -> Version:
        """Let it build its index."""
        self.points.finish(version.table)
        return replace(version, breadth=self.breadths[0])

    def refresh(
        self, live: Version, following: Version, changed: Iterator[Rows], removed: Sequence[Any], earlier: Sequence[Version]
    ) -> list[Version]:
        """A copy of the live table with the changes, which then takes its place."""
        then = replace(following, live=True)
        try:
            self.create(then)
            for points in self.points.scroll(live.table):
                self.points.upsert(then.table, [(point.id, list(point.vector), point.payload) for point in points])
            gone = [_point_id(each) for each in to_json(pa.array(removed, live.shape.field(ID).type), ID)]
            if gone:
                self.points.delete(then.table, gone)
            for rows in changed:
                self.append(then, rows)
            check_count(self.count(then), then.facts)
            self.finish(then)
        except BaseException:
            with contextlib.suppress(Exception):
                self.drop(then.table)
            raise
        versions = [*earlier, replace(live, live=False), then][-KEPT:]
        self.switch(versions)
        return versions


def _point_id(value: Any) -> Any:
    """The id of a point: an item's own where Qdrant can hold it, else one made of it."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value >= 0 else str(uuid.uuid5(NAMESPACE, json.dumps(value, ensure_ascii=False)))


def _index_kind(of: pa.DataType) -> str | None:
    of = of.value_type if pa.types.is_list(of) else of
    types = pa.types
    tests = [(types.is_integer, "int"), (types.is_floating, "float"), (types.is_string, "text")]
    tests += [(types.is_timestamp, "time"), (types.is_date, "time")]
    return next((kind for test, kind in tests if test(of)), None)
