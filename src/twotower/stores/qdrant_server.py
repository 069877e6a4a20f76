"""Points of a Qdrant server: a collection a table, and an alias that says which is live."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from twotower.data.prepared import ID
from twotower.errors import DataError, OutputError
from twotower.stores.facts import Version
from twotower.stores.qdrant_words import PAYLOAD_KINDS
from twotower.stores.store import Gone

LINKS, BUILD_BREADTH = 16, 128
SCANNED = 10_000  # kilobytes of vectors that are scanned rather than searched through the graph
SENT_AT_ONCE = 512
LEDGER = 1  # the id of the point that holds the ledger


class Served:
    """A collection a table. The alias of the name says which is live, and moves in one request; a collection of one point is the ledger."""

    def __init__(self, client: Any, shown: str, name: str) -> None:
        from qdrant_client import models

        self.client, self.shown, self.name, self.names = client, shown, name, models
        self.ledger = f"{name}__versions"

    @contextlib.contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

        try:
            yield
        except UnexpectedResponse as error:
            if error.status_code == 404:
                raise Gone(f"{self.shown}: a table is gone that was live a moment ago") from None
            if error.status_code in (401, 403):
                raise DataError(f"{self.shown} refuses the key. Set QDRANT_API_KEY, or name the store by a variable: env:NAME") from None
            kind = OutputError if error.status_code in (500, 507) else DataError
            raise kind(f"{self.shown} cannot {doing}: it answers {error.status_code} {error.reason_phrase}") from None
        except ApiException:
            raise DataError(f"{self.shown} cannot be reached: nothing answers at its host and port, or not in time") from None
        except ValueError as error:
            if "not found" in str(error):
                raise Gone(f"{self.shown}: a table is gone that was live a moment ago") from None
            raise

    def reach(self) -> None:
        """Raise DataError where nothing answers."""
        with self._speaking("answer"):
            self.client.get_collections()

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Qdrant has no locks: of two that publish at once, the later switch stays."""
        yield

    def _live(self) -> str | None:
        with self._speaking("read its aliases"):
            return next((each.collection_name for each in self.client.get_aliases().aliases if each.alias_name == self.name), None)

    def read(self) -> list[Version]:
        """The ledger, with what the alias says."""
        live = self._live()
        try:
            with self._speaking("read its ledger"):
                points = self.client.retrieve(self.ledger, [LEDGER], with_payload=True)
        except Gone:
            return []
        told = points[0].payload["versions"] if points else []
        return [replace(Version.of(each), live=each["table"] == live) for each in told]

    def write(self, versions: Sequence[Version]) -> None:
        """The ledger names what is finished; then the alias moves, in one request."""
        names, live = self.names, next(version.table for version in versions if version.live)
        with self._speaking("put a version live"):
            if not self.client.collection_exists(self.ledger):
                self.client.create_collection(self.ledger, vectors_config=names.VectorParams(size=1, distance=names.Distance.DOT))
            told = {"versions": [version.told() for version in versions]}
            self.client.upsert(self.ledger, [names.PointStruct(id=LEDGER, vector=[0.0], payload=told)], wait=True)
            moves: list[Any] = []
            if self._live() is not None:
                moves.append(names.DeleteAliasOperation(delete_alias=names.DeleteAlias(alias_name=self.name)))
            moves.append(names.CreateAliasOperation(create_alias=names.CreateAlias(collection_name=live, alias_name=self.name)))
            self.client.update_collection_aliases(moves)

    def tables(self) -> list[str]:
        """Every collection."""
        with self._speaking("list its collections"):
            return [each.name for each in self.client.get_collections().collections]

    def create(self, table: str, dimensions: int, indexed: dict[str, str]) -> None:
        """An empty collection; a half-built one of that name goes."""
        names = self.names
        self.drop(table)
        graph = names.HnswConfigDiff(m=LINKS, ef_construct=BUILD_BREADTH, full_scan_threshold=SCANNED)
        with self._speaking("make a collection"):
            vectors = names.VectorParams(size=dimensions, distance=names.Distance.DOT)
            self.client.create_collection(table, vectors_config=vectors, hnsw_config=graph)
            for name, kind in indexed.items():
                self.client.create_payload_index(table, name, getattr(names.PayloadSchemaType, PAYLOAD_KINDS[kind].upper()), wait=True)

    def upsert(self, table: str, points: list[Any]) -> None:
        """Points as (id, vector, payload)."""
        made = [self.names.PointStruct(id=each, vector=vector, payload=payload) for each, vector, payload in points]
        with self._speaking("take the items"):
            self.client.upsert(table, made, wait=True)

    def delete(self, table: str, ids: list[Any]) -> None:
        """Remove points."""
        with self._speaking("remove items"):
            self.client.delete(table, self.names.PointIdsList(points=ids), wait=True)

    def finish(self, table: str) -> None:
        """Wait until the server has indexed what it means to."""
        while True:
            with self._speaking("build the index"):
                if self.client.get_collection(table).status != self.names.CollectionStatus.YELLOW:
                    return
            time.sleep(0.5)

    def count(self, table: str, condition: Any, exact: bool) -> int:
        """How many points meet a condition."""
        with self._speaking("count"):
            return int(self.client.count(table, count_filter=condition, exact=exact).count)

    def nearest(self, table: str, vectors: list[list[float]], k: int, condition: Any, params: Any) -> list[list[Any]]:
        """The best points of each vector."""
        names = self.names
        asked = [names.QueryRequest(query=each, limit=k, filter=condition, params=params, with_payload=[ID]) for each in vectors]
        with self._speaking("search"):
            return [each.points for each in self.client.query_batch_points(table, asked)]

    def retrieve(self, table: str, ids: list[Any]) -> list[Any]:
        """Points by their ids."""
        with self._speaking("show items"):
            return list(self.client.retrieve(table, ids, with_payload=True))

    def scroll(self, table: str) -> Iterator[list[Any]]:
        """Every point with its vector, some at once."""
        offset = None
        while True:
            with self._speaking("read items"):
                points, offset = self.client.scroll(table, limit=SENT_AT_ONCE, offset=offset, with_payload=True, with_vectors=True)
            yield points
            if offset is None:
                return

    def drop(self, table: str) -> None:
        """Remove a collection."""
        with self._speaking("drop a collection"):
            self.client.delete_collection(table)
