"""Points of Qdrant's engine in the process: a shard a table, each in a folder of its own."""

from __future__ import annotations

import contextlib
import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twotower import files
from twotower.data.prepared import ID
from twotower.errors import DataError, OutputError, TwotowerError
from twotower.stores.facts import Version
from twotower.stores.ledger import claimed, read_ledger, write_ledger
from twotower.stores.places import Place, folder_of
from twotower.stores.qdrant_words import PAYLOAD_KINDS
from twotower.stores.store import KEPT, Gone

LINKS, BUILD_BREADTH = 16, 128
SCANNED = 10_000  # kilobytes of vectors that are scanned rather than searched through the graph
SENT_AT_ONCE = 512


class Shards:
    """A shard a table, each in a folder of its own. They have no log of writes, so that several processes may read one."""

    def __init__(self, place: Place, name: str, names: Any) -> None:
        self.shown, self.name, self.names = place.shown, name, names
        self.folder = Path(folder_of(place))
        self._opened: dict[tuple[str, int], Any] = {}
        self._opening = threading.Lock()

    @contextlib.contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except TwotowerError:
            raise
        except Exception as error:  # the engine has no class of its own
            said = str(error) or type(error).__name__
            if "No such file" in said or "not found" in said or "does not exist" in said:
                raise Gone(f"{self.shown}: a table is gone that was live a moment ago") from None
            kind = OutputError if re.search(r"[Nn]o space|[Pp]ermission|[Rr]ead-only|[Qq]uota|os error", said) else DataError
            raise kind(f"{self.shown} cannot {doing}: {said.splitlines()[0]:.300}") from None

    def close(self) -> None:
        """Let go of open shards; a search that still runs keeps its own."""
        with self._opening:
            self._opened = {}

    def _shard(self, table: str) -> Any:
        """The shard of a table; of one that was dropped and made anew, the new one."""
        try:
            key = (table, (self.folder / table).stat().st_ino)
        except FileNotFoundError:
            raise Gone(f"{self.shown}: a table is gone that was live a moment ago") from None
        with self._opening:
            if key not in self._opened:
                with self._speaking("open a table"):
                    shard = self.names.EdgeShard.load(str(self.folder / table))
                self._opened = {**dict(list(self._opened.items())[-KEPT:]), key: shard}
            return self._opened[key]

    def _forget(self, table: str) -> None:
        with self._opening:
            self._opened = {key: shard for key, shard in self._opened.items() if key[0] != table}

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """A lock in the folder, which the system gives back where a process ends."""
        files.make_folder(self.folder)
        with claimed(self.folder, self.name, "qdrant"):
            yield

    def read(self) -> list[Version]:
        """The ledger."""
        return read_ledger(self.folder, self.name)

    def write(self, versions: Sequence[Version]) -> None:
        """One file is replaced."""
        write_ledger(self.folder, self.name, versions)

    def tables(self) -> list[str]:
        """Every folder here."""
        return [each.name for each in self.folder.iterdir() if each.is_dir()]

    def create(self, table: str, dimensions: int, indexed: dict[str, str]) -> None:
        """An empty shard; a half-built one of that name goes."""
        names = self.names
        self.drop(table)
        files.make_folder(self.folder / table)
        vectors = names.EdgeVectorParams(size=dimensions, distance=names.Distance.Dot)
        graph = names.HnswIndexConfig(m=LINKS, ef_construct=BUILD_BREADTH, full_scan_threshold=SCANNED)
        with self._speaking("make a table"):
            shard = names.EdgeShard.create(str(self.folder / table), names.EdgeConfig(vectors=vectors, hnsw_config=graph, wal_enabled=False))
            for name, kind in indexed.items():
                shard.update(names.UpdateOperation.create_field_index(name, getattr(names.PayloadSchemaType, PAYLOAD_KINDS[kind])))
        with self._opening:
            self._opened = {**self._opened, (table, (self.folder / table).stat().st_ino): shard}

    def upsert(self, table: str, points: list[Any]) -> None:
        """Points as (id, vector, payload)."""
        made = [self.names.Point(id=_edge_id(each), vector=vector, payload=payload) for each, vector, payload in points]
        with self._speaking("take the items"):
            self._shard(table).update(self.names.UpdateOperation.upsert_points(made))

    def delete(self, table: str, ids: list[Any]) -> None:
        """Remove points."""
        with self._speaking("remove items"):
            self._shard(table).update(self.names.UpdateOperation.delete_points([_edge_id(each) for each in ids]))

    def finish(self, table: str) -> None:
        """Index it, write it out, and open it anew as a reader does."""
        shard = self._shard(table)
        with self._speaking("build the index"):
            shard.optimize()
            shard.flush()
            shard.close()
        self._forget(table)

    def count(self, table: str, condition: Any, exact: bool) -> int:
        """How many points meet a condition."""
        with self._speaking("count"):
            return int(self._shard(table).count(self.names.CountRequest(exact=exact, filter=condition)))

    def nearest(self, table: str, vectors: list[list[float]], k: int, condition: Any, params: Any) -> list[list[Any]]:
        """The best points of each vector."""
        names, shard = self.names, self._shard(table)
        asked = [names.QueryRequest(query=names.Query.Nearest(each), limit=k, filter=condition, params=params, with_payload=[ID]) for each in vectors]
        with self._speaking("search"):
            found: list[list[Any]] = shard.query_batch(names.QueryBatchRequest(asked)) if asked else []
        return found

    def retrieve(self, table: str, ids: list[Any]) -> list[Any]:
        """Points by their ids."""
        with self._speaking("show items"):
            return list(self._shard(table).retrieve([_edge_id(each) for each in ids], with_payload=True, with_vector=False))

    def scroll(self, table: str) -> Iterator[list[Any]]:
        """Every point with its vector, some at once."""
        shard, offset = self._shard(table), None
        while True:
            with self._speaking("read items"):
                points, offset = shard.scroll(self.names.ScrollRequest(offset=offset, limit=SENT_AT_ONCE, with_payload=True, with_vector=True))
            yield points
            if offset is None:
                return

    def drop(self, table: str) -> None:
        """Remove a shard."""
        self._forget(table)
        files.remove_folder(self.folder / table)


def _edge_id(value: Any) -> Any:
    return uuid.UUID(value) if isinstance(value, str) else value
