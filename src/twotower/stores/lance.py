"""LanceDB in a folder. LanceDB numbers the states of a table by itself; the ledger names a table and a state, and readers open just that."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower import files
from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.errors import DataError, MissingExtra, OutputError
from twotower.search.filters import Condition
from twotower.stores.facts import VECTOR, Version, stored_names
from twotower.stores.lance_words import LanceWords, lance_condition
from twotower.stores.ledger import claimed, read_ledger, write_ledger
from twotower.stores.places import Place, folder_of
from twotower.stores.store import KEPT, Found, Gone, Rows, check_count

LINKS, BUILD_BREADTH = 16, 100
INDEXED_FROM = 200_000  # rows; below, scoring all of them is as fast
PARTITION = 1 << 20  # rows of one graph
PROBED = 8  # graphs that a search looks into
RESCORED = 4  # times k, of what the compressed vectors of an index find
FEW = 10_000  # rows that meet a condition: so many are scored one by one, which misses none
LOOKED_UP = 500  # ids in one question
PLAIN = re.compile(r"[a-z][a-z0-9_]{0,62}")


def open_lance(place: Place, name: str) -> Lance:
    """The engine of lancedb:///folder. Raises MissingExtra."""
    try:
        import lancedb  # noqa: F401
    except ImportError:
        raise MissingExtra("a store in LanceDB", "lancedb") from None
    return Lance(place, name)


class Lance:
    """The tables of one name."""

    breadths = (100, 200, 400, 800)

    def __init__(self, place: Place, name: str) -> None:
        self.shown = place.shown
        self.name = name
        self.folder = Path(folder_of(place))
        self._opened: dict[tuple[str, int], Any] = {}
        self._opening = threading.Lock()

    def close(self) -> None:
        """Let go of open tables."""
        self._opened = {}

    @contextlib.contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Errors of LanceDB in our words."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, NotImplementedError) as error:
            said = str(error)
            if "not found" in said.lower() or "No such file" in said:
                self.close()  # what is open may be of a table that was dropped and made anew
                raise Gone(f"{self.shown}: a table is gone that was live a moment ago") from None
            kind = (
                OutputError
                if isinstance(error, OSError) or re.search(r"[Nn]o space|[Pp]ermission|[Rr]ead-only|[Qq]uota|os error", said)
                else DataError
            )
            first = re.split(r", /\S+\.rs:|\n", said)[0] or type(error).__name__  # less the place in its source
            raise kind(f"{self.shown} cannot {doing}: {first:.300}") from None

    def _database(self) -> Any:
        import lancedb

        return lancedb.connect(str(self.folder))

    def _table(self, version: Version) -> Any:
        """The table in the state that the version names."""
        key = (version.table, version.mark)
        table = self._opened.get(key)
        if table is None:
            with self._speaking("open a table"):
                table = self._database().open_table(version.table, version=version.mark or None)
            if version.mark:
                with self._opening:
                    self._opened = {**dict(list(self._opened.items())[-KEPT:]), key: table}
        return table

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """A lock in the folder, which the system gives back where a process ends."""
        files.make_folder(self.folder)
        with claimed(self.folder, self.name, "lancedb"):
            yield

    # Reading.

    def versions(self) -> list[Version]:
        """The finished versions, oldest first."""
        return read_ledger(self.folder, self.name)

    def tables(self) -> list[str]:
        """Every table made under this name."""
        pattern = re.compile(rf"({self.name}_[0-9a-f]{{12}}_[0-9]+(_[0-9]+)?)\.lance")
        return [found[1] for found in map(pattern.fullmatch, (each.name for each in self.folder.glob("*.lance"))) if found]

    def count(self, version: Version) -> int:
        """How many rows a table has."""
        table = self._table(version)
        with self._speaking("count its rows"):
            return int(table.count_rows())

    def search(self, version: Version, vectors: Array, k: int, where: Condition | None) -> tuple[str, Found]:
        """The k best of each vector, all of one state of the table."""
        table, text = self._table(version), None if where is None else lance_condition(where, version)
        with self._speaking("search"):
            exact = not version.breadth or (text is not None and table.count_rows(filter=text) <= FEW)
            found = [self._nearest(table, version, vector, k, text, exact) for vector in vectors]
        return version.facts.version, ([ids for ids, _ in found], [scores for _, scores in found])

    def _nearest(self, table: Any, version: Version, vector: Array, k: int, text: str | None, exact: bool) -> tuple[list[Any], list[float]]:
        """Ids and inner products, best first. An index that finds fewer than k gives way to scoring all."""
        query = table.search(vector, vector_column_name=VECTOR).distance_type("dot").limit(k).select([ID, "_distance"])
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.ef(max(version.breadth, 2 * k)).nprobes(PROBED).refine_factor(RESCORED)
        if text is not None:
            query = query.where(text, prefilter=True)
        rows = query.to_arrow()
        if rows.num_rows < min(k, version.facts.rows) and not exact:
            return self._nearest(table, version, vector, k, text, True)
        # LanceDB gives 1 - the product.
        return rows.column(ID).to_pylist(), [1.0 - distance for distance in rows.column("_distance").to_pylist()]

    def show(self, version: Version, ids: Sequence[Any]) -> pa.Table:
        """`_id` and payload of those that are there."""
        table, shape = self._table(version), version.shape
        stored = [ID, *(version.columns[name] for name in shape.names[1:])]
        parts = []
        for start in range(0, len(ids), LOOKED_UP):
            text = LanceWords().one_of(ID, list(ids[start : start + LOOKED_UP]), shape.field(ID).type)
            with self._speaking("show items"):
                parts.append(table.search().where(text).limit(LOOKED_UP).select(stored).to_arrow().select(stored).rename_columns(shape.names))
        return pa.concat_tables(parts).cast(shape)

    # Changing.

    def plan(self, version: Version) -> Version:
        """The names of its columns."""
        return replace(version, columns=stored_names(version.shape.names, PLAIN))

    def create(self, version: Version) -> None:
        """An empty table; a half-built one of that name goes."""
        self.drop(version.table)
        with self._speaking("make a table"):
            database = self._database()
            database.create_table(version.table, schema=_schema(version))

    def append(self, version: Version, rows: Rows) -> None:
        """More rows."""
        with self._speaking("take the items"):
            self._database().open_table(version.table).add(_table_of(version, rows))

    def finish(self, version: Version) -> Version:
        """Build the index of a large table."""
        from lancedb.index import HnswSq

        with self._speaking("build the index"):
            table = self._database().open_table(version.table)
            table.optimize()
            if version.facts.rows >= INDEXED_FROM:
                partitions = -(-version.facts.rows // PARTITION)
                table.create_index(VECTOR, config=HnswSq(distance_type="dot", num_partitions=partitions, m=LINKS, ef_construction=BUILD_BREADTH))
            breadth = self.breadths[0] if version.facts.rows >= INDEXED_FROM else 0
            return replace(version, mark=int(table.version), breadth=breadth)

    def switch(self, versions: Sequence[Version]) -> None:
        """One file is replaced."""
        write_ledger(self.folder, self.name, versions)

    def refresh(
        self, live: Version, following: Version, changed: Iterator[Rows], removed: Sequence[Any], earlier: Sequence[Version]
    ) -> list[Version]:
        """A new state of the live table, which nobody sees before the ledger names it."""
        with self._speaking("change its items"):
            table = self._database().open_table(live.table)
            if table.version != live.mark:  # a change that was broken off, or one that was rolled back
                table.checkout(live.mark)
                table.restore()
            of = live.shape.field(ID).type
            for start in range(0, len(removed), LOOKED_UP):
                table.delete(LanceWords().one_of(ID, list(removed[start : start + LOOKED_UP]), of))
        for rows in changed:
            with self._speaking("change its items"):
                table.merge_insert(ID).when_matched_update_all().when_not_matched_insert_all().execute(_table_of(live, rows))
        with self._speaking("count its rows"):
            found, mark = int(table.count_rows()), int(table.version)
        check_count(found, following.facts)
        then = replace(following, table=live.table, mark=mark, live=True)
        versions = [*earlier, replace(live, live=False), then][-KEPT:]
        self.switch(versions)
        return versions

    def drop(self, table: str) -> None:
        """Remove a table, or what is left of one whose removal was broken off."""
        with contextlib.suppress(Gone), self._speaking("drop a table"):
            self._database().drop_table(table, ignore_missing=True)
        files.remove_folder(self.folder / f"{table}.lance")
        self.close()


def _schema(version: Version) -> pa.Schema:
    shape = version.shape
    fields = [pa.field(ID, shape.field(ID).type), pa.field(VECTOR, pa.list_(pa.float32(), version.facts.dimensions))]
    return pa.schema(fields + [pa.field(stored, shape.field(name).type) for name, stored in version.columns.items()])


def _table_of(version: Version, rows: Rows) -> pa.Table:
    batch, vectors = rows
    packed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), version.facts.dimensions)
    return pa.table([batch.column(0), packed, *(batch.column(name) for name in version.columns)], schema=_schema(version))
