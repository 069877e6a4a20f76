"""PostgreSQL with pgvector. Everything lies in a schema of its own: a table a version, the ledger `twotower.versions`, and a view of what is live.

A reader looks the live table up and asks it within one snapshot; the ledger and the view change in one transaction.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.prepared import ID
from twotower.data.sources.databases import why_refused
from twotower.errors import DataError, MissingExtra, OutputError
from twotower.search.filters import Condition
from twotower.stores.columns import cells, from_cells, sql_type
from twotower.stores.facts import VECTOR, Version, stored_names
from twotower.stores.places import Place
from twotower.stores.store import Found, Gone, Rows, check_count

PATIENCE = 15  # seconds
CONNECTIONS = 8
LINKS, BUILD_BREADTH = 16, 100
INDEXED_FULL, INDEXED_HALF = 2000, 4000  # dimensions that pgvector can index, as float32 and as float16
RESCORED = 4  # times k, of what an index of float16 finds
FEW = 10_000  # rows that meet a condition: so many are scored one by one, which misses none
SCANNED = 100_000  # rows that an index visits for a condition before all are scored instead
MOST_BREADTH = 1000
# At most 63 bytes, and none of what every table has of its own.
PLAIN = re.compile(r"(?!(?:tableoid|xmin|cmin|xmax|cmax|ctid)$)(?:[\x01-\x7f]{1,63}|[^\x00]{1,15})", re.DOTALL)

LEDGER = (
    "CREATE TABLE IF NOT EXISTS twotower.versions "
    '(name text NOT NULL, place int NOT NULL, "table" text PRIMARY KEY, live bool NOT NULL, told jsonb NOT NULL)'
)


def open_postgres(place: Place, name: str) -> Postgres:
    """The engine of a URL. Raises DataError where nothing answers, MissingExtra."""
    try:
        import psycopg
        import psycopg_pool  # noqa: F401
        from pgvector.psycopg import register_vector  # noqa: F401
    except ImportError:
        raise MissingExtra("a store in PostgreSQL", "pgvector") from None
    try:
        psycopg.connect(place.url, connect_timeout=PATIENCE, autocommit=True).close()
    except psycopg.Error as error:
        raise DataError(f"{place.shown} cannot be reached: {why_refused(str(error))}") from None
    return Postgres(place, name)


class Postgres:
    """The tables of one name."""

    breadths = (100, 200, 400, MOST_BREADTH)

    def __init__(self, place: Place, name: str) -> None:
        self.shown = place.shown
        self.name = name
        self._url = place.url
        self._opened: Any = None
        self._opening = threading.Lock()

    # Connections.

    @property
    def _pool(self) -> Any:
        from psycopg_pool import ConnectionPool

        with self._opening:
            if self._opened is None:
                self._opened = ConnectionPool(
                    self._url,
                    min_size=1,
                    max_size=CONNECTIONS,
                    timeout=PATIENCE,
                    reconnect_timeout=PATIENCE,
                    # A prepared statement may keep one plan, through the index or not, whatever is set afterwards; and poolers lose it.
                    kwargs={"connect_timeout": PATIENCE, "prepare_threshold": None},
                    check=ConnectionPool.check_connection,
                    open=True,
                )
        return self._opened

    def close(self) -> None:
        """Let go of connections."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @contextlib.contextmanager
    def _connection(self, doing: str) -> Iterator[Any]:
        """A connection whose transaction ends with the block, and errors in our words."""
        import psycopg
        import psycopg_pool

        try:
            with self._pool.connection() as connection:
                yield connection
        except psycopg_pool.PoolTimeout:
            raise DataError(f"{self.shown} cannot be reached: it does not answer in time, or all {CONNECTIONS} connections are in use") from None
        except psycopg.errors.UndefinedTable:
            raise Gone(f"{self.shown}: a table is gone that was live a moment ago") from None
        except psycopg.errors.LockNotAvailable:
            raise OutputError(f"{self.shown}: twotower.{self.name} is in use by a long query. Run this again when it has ended.") from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise OutputError(f"{self.shown} does not let this user {doing}: {_said(error)}. Ask its owner for the right to.") from None
        except psycopg.errors.QueryCanceled:
            raise DataError(f"{self.shown} takes longer than its statement_timeout to {doing}") from None
        except psycopg.Error as error:
            kind = OutputError if str(error.sqlstate or "").startswith(("53", "58", "25")) else DataError
            lost = error.sqlstate is None and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
            raise kind(f"{self.shown} cannot {doing}: {'the connection is lost' if lost else _said(error)}") from None

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """A lock of the server's, which a lost connection gives back."""
        with self._connection("publish") as connection:
            connection.autocommit = True
            try:
                taken = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 7))", [f"twotower.{self.name}"]).fetchone()[0]
                if not taken:
                    raise OutputError(f'another process is publishing "{self.name}" into {self.shown}. Wait for it, and run this again.')
                try:
                    self._prepare(connection)
                    yield
                finally:
                    with contextlib.suppress(Exception):
                        connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 7))", [f"twotower.{self.name}"])
            finally:
                with contextlib.suppress(Exception):
                    connection.autocommit = False

    def _prepare(self, connection: Any) -> None:
        import psycopg

        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error:
            raise OutputError(f"{self.shown} has no pgvector, and this user may not add it. Let its owner run: CREATE EXTENSION vector") from None
        if connection.execute("SELECT to_regnamespace('twotower')").fetchone()[0] is None:
            connection.execute("CREATE SCHEMA twotower")
        connection.execute(LEDGER)

    # Reading.

    def versions(self) -> list[Version]:
        """The finished versions, oldest first."""
        try:
            with self._connection("read its ledger") as connection:
                rows = connection.execute("SELECT told, live FROM twotower.versions WHERE name = %s ORDER BY place", [self.name]).fetchall()
        except Gone:
            return []  # nothing was ever published here
        return [replace(Version.of(told), live=live) for told, live in rows]

    def tables(self) -> list[str]:
        """Every table made under this name."""
        pattern = f"^{self.name}_[0-9a-f]{{12}}_[0-9]+(_[0-9]+)?$"
        with self._connection("list its tables") as connection:
            asked = "SELECT tablename FROM pg_tables WHERE schemaname = 'twotower' AND tablename ~ %s"
            return [row[0] for row in connection.execute(asked, [pattern])]

    def count(self, version: Version) -> int:
        """How many rows a table has."""
        from psycopg import sql

        with self._connection("count its rows") as connection:
            return int(connection.execute(sql.SQL("SELECT count(*) FROM {}").format(_table(version.table))).fetchone()[0])

    def search(self, version: Version, vectors: Array, k: int, where: Condition | None) -> tuple[str, Found]:
        """The k best of each vector, in one snapshot."""
        from psycopg import IsolationLevel, sql

        from twotower.stores.postgres_words import postgres_condition

        condition, values = (sql.SQL("true"), []) if where is None else postgres_condition(where, version)
        breadth = min(MOST_BREADTH, max(version.breadth or self.breadths[0], 2 * k))
        settings = {"ef_search": breadth, "iterative_scan": "off" if where is None else "strict_order", "max_scan_tuples": SCANNED}
        with self._connection("search") as connection:
            connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
            try:
                with connection.transaction():
                    chosen = ", ".join(f"set_config('hnsw.{name}', '{value}', true)" for name, value in settings.items())
                    asked = f"SELECT told->'facts'->>'version', set_config('jit', 'off', true), {chosen} FROM twotower.versions WHERE \"table\" = %s"
                    told = connection.execute(asked, [version.table]).fetchone()
                    found = list(_nearest(connection, version, vectors, k, condition, values, where is not None))
            finally:
                connection.isolation_level, connection.read_only = None, None
        ids, scores = [[row[0] for row in rows] for rows in found], [[row[1] for row in rows] for rows in found]
        return (told[0] if told else version.facts.version), (ids, scores)

    def show(self, version: Version, ids: Sequence[Any]) -> pa.Table:
        """`_id` and payload of those that are there."""
        from psycopg import sql

        from twotower.stores.postgres_words import named

        shape = version.shape
        names = [ID, *(version.columns[each.name] for each in shape if each.name != ID)]
        listed = sql.SQL(", ").join(map(named, names))
        with self._connection("show items") as connection:
            kind = sql.SQL(sql_type(shape.field(ID)))
            asked = sql.SQL("SELECT {} FROM {} WHERE {} = ANY(%s::{}[])").format(listed, _table(version.table), sql.Identifier(ID), kind)
            rows = connection.execute(asked, [list(ids)]).fetchall()
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(shape)
        return pa.table([from_cells(values, each.type) for values, each in zip(columns, shape, strict=True)], schema=shape)

    # Changing.

    def plan(self, version: Version) -> Version:
        """The names of its columns, and that there is a type for each."""
        shape = version.shape
        for each in shape:
            sql_type(each)
        return replace(version, columns=stored_names(shape.names, PLAIN))

    def create(self, version: Version) -> None:
        """An empty table; a half-built one of that name goes."""
        from psycopg import sql

        shape = version.shape
        columns = [sql.SQL("{} {} PRIMARY KEY").format(sql.Identifier(ID), sql.SQL(sql_type(shape.field(ID))))]
        columns.append(sql.SQL("{} vector({})").format(sql.Identifier(VECTOR), sql.Literal(version.facts.dimensions)))
        for name, stored in version.columns.items():
            columns.append(sql.SQL("{} {}").format(sql.Identifier(stored), sql.SQL(sql_type(shape.field(name)))))
        with self._connection("make a table") as connection:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_table(version.table)))
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(_table(version.table), sql.SQL(", ").join(columns)))

    def append(self, version: Version, rows: Rows) -> None:
        """More rows, by COPY."""
        with self._connection("take the items") as connection:
            _copy(connection, version, _table(version.table), rows)

    def finish(self, version: Version) -> Version:
        """Build the index, where there are few enough dimensions for one."""
        from psycopg import errors, sql

        d, table = version.facts.dimensions, _table(version.table)
        kept = f"WITH (m = {LINKS}, ef_construction = {BUILD_BREADTH})"
        memory = min(1 << 20, max(65_536, version.facts.rows * (4 * d + 16 * LINKS + 200) * 3 // 2048))  # kB
        column = sql.SQL("({} vector_ip_ops)" if d <= INDEXED_FULL else f"(({{}}::halfvec({d})) halfvec_ip_ops)").format(sql.Identifier(VECTOR))

        def build(*settings: str) -> None:
            with self._connection("build the index") as connection:
                for setting in (f"SET LOCAL maintenance_work_mem = '{memory}kB'", *settings):
                    connection.execute(setting)
                with contextlib.suppress(errors.DiskFull) if not settings else contextlib.nullcontext():
                    connection.execute(sql.SQL("CREATE INDEX ON {} USING hnsw {} {}").format(table, column, sql.SQL(kept)))
                    return
                connection.rollback()
            # Workers share memory in /dev/shm, of which a container has little; one process needs none.
            build("SET LOCAL max_parallel_maintenance_workers = 0")

        if d <= INDEXED_HALF:
            build()
        with self._connection("analyse the table") as connection:
            connection.execute(sql.SQL("ANALYZE {}").format(table))
        return replace(version, breadth=self.breadths[0] if d <= INDEXED_HALF else 0)

    def switch(self, versions: Sequence[Version]) -> None:
        """The ledger and the view, in one transaction."""
        with self._connection("put a version live") as connection:
            self._switch(connection, versions)

    def _switch(self, connection: Any, versions: Sequence[Version]) -> None:
        from psycopg import errors, sql

        connection.execute(f"SET LOCAL lock_timeout = '{PATIENCE}s'")
        connection.execute("DELETE FROM twotower.versions WHERE name = %s", [self.name])
        for place, version in enumerate(versions):
            given = [self.name, place, version.table, version.live, json.dumps(version.told())]
            connection.execute("INSERT INTO twotower.versions VALUES (%s, %s, %s, %s, %s)", given)
        view, live = sql.Identifier("twotower", self.name), next(version for version in versions if version.live)
        made = sql.SQL("VIEW {} AS SELECT * FROM {}").format(view, _table(live.table))
        try:
            with connection.transaction():
                connection.execute(sql.SQL("CREATE OR REPLACE ") + made)  # who may read it still may
        except errors.InvalidTableDefinition:  # its columns are others now
            connection.execute(sql.SQL("DROP VIEW {}").format(view))
            connection.execute(sql.SQL("CREATE ") + made)

    def refresh(
        self, live: Version, following: Version, changed: Iterator[Rows], removed: Sequence[Any], earlier: Sequence[Version]
    ) -> list[Version]:
        """Rows, ledger and view, in one transaction on the live table."""
        from psycopg import sql

        then = replace(following, table=live.table, live=True)
        table, names = _table(live.table), [ID, VECTOR, *live.columns.values()]
        listed = sql.SQL(", ").join(map(sql.Identifier, names))
        renewed = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names[1:])
        with self._connection("change its items") as connection:
            if len(removed):
                kind = sql.SQL(sql_type(live.shape.field(ID)))
                connection.execute(sql.SQL("DELETE FROM {} WHERE {} = ANY(%s::{}[])").format(table, sql.Identifier(ID), kind), [list(removed)])
            connection.execute(sql.SQL("CREATE TEMP TABLE arriving (LIKE {}) ON COMMIT DROP").format(table))
            for rows in changed:
                _copy(connection, live, sql.Identifier("arriving"), rows)
            connection.execute(
                sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM arriving ON CONFLICT ({2}) DO UPDATE SET {3}").format(
                    table, listed, sql.Identifier(ID), renewed
                )
            )
            check_count(int(connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table)).fetchone()[0]), following.facts)
            versions = [*earlier[-1:], then]
            self._switch(connection, versions)
        return versions

    def drop(self, table: str) -> None:
        """Remove a table."""
        from psycopg import sql

        with self._connection("drop a table") as connection:
            connection.execute(f"SET LOCAL lock_timeout = '{PATIENCE}s'")
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_table(table)))


def _table(name: str) -> Any:
    from psycopg import sql

    return sql.Identifier("twotower", name)


def _said(error: Any) -> str:
    """The first line of the server, or of the driver about a value. It names tables, columns and values, never the URL."""
    return str(error.diag.message_primary or error)


def _copy(connection: Any, version: Version, table: Any, rows: Rows) -> None:
    from pgvector.psycopg import register_vector
    from psycopg import sql

    batch, vectors = rows
    shape = version.shape
    register_vector(connection)
    names = [ID, VECTOR, *version.columns.values()]
    kinds = [sql_type(shape.field(ID)), "vector", *(sql_type(shape.field(name)) for name in version.columns)]
    columns = [cells(batch.column(0), ID), list(vectors), *(cells(batch.column(name), name) for name in version.columns)]
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    with connection.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT BINARY)").format(table, listed)) as copy:
        copy.set_types(kinds)
        for row in zip(*columns, strict=True):
            copy.write_row(row)


def _expected(connection: Any, version: Version, condition: Any, values: list[Any]) -> float:
    """How many rows the planner thinks meet a condition."""
    from psycopg import sql

    asked = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} WHERE {}").format(_table(version.table), condition)
    return float(connection.execute(asked, values).fetchone()[0][0]["Plan"]["Plan Rows"])


def _nearest(
    connection: Any, version: Version, vectors: Array, k: int, condition: Any, values: list[Any], chosen: bool
) -> Iterator[list[tuple[Any, float]]]:
    """Ids and inner products of each vector. chosen: whether there is a condition.

    Where the planner expects few rows to meet it, or the index found fewer than k, they are scored one by one.
    """
    d = version.facts.dimensions
    indexed = not (chosen and _expected(connection, version, condition, values) <= FEW)
    half = INDEXED_FULL < d <= INDEXED_HALF
    for vector in vectors:
        rows: list[tuple[Any, float]] = []
        for through in (True, False) if indexed else (False,):
            if not through:
                connection.execute("SELECT set_config('enable_indexscan', 'off', true)")
            given, wide = str(vector.tolist()), half and through
            limits = [RESCORED * k if wide else k, k]
            rows = connection.execute(_statement(version, condition, wide), [given, *values, given, *limits]).fetchall()
            if not through and indexed:
                connection.execute("SELECT set_config('enable_indexscan', 'on', true)")
            if len(rows) >= min(k, version.facts.rows):
                break
        yield rows


def _statement(version: Version, condition: Any, half: bool) -> Any:
    """The k best rows by their true inner product; takes the vector, the values of the condition, the vector, and two limits."""
    from psycopg import sql

    own, d = sql.Identifier(VECTOR), version.facts.dimensions
    way = sql.SQL(f"{{}}::halfvec({d}) <#> %s::halfvec({d})" if half else "{} <#> %s::vector").format(own)
    near = sql.SQL("SELECT {}, {} AS found FROM {} WHERE {} ORDER BY {} LIMIT %s").format(
        sql.Identifier(ID), own, _table(version.table), condition, way
    )
    return sql.SQL("SELECT {}, -(found <#> %s::vector) FROM ({}) AS near ORDER BY 2 DESC LIMIT %s").format(sql.Identifier(ID), near)
