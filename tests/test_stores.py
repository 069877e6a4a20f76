"""A model's vectors in a store: what goes in comes out, nothing goes live that was not measured, and who asks sees one version or the other."""

import datetime
import decimal
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.stored import KINDS, MODEL, OTHER, catalogue, facts, nearest, packed, publish, running, vectors_in
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, OutputError, TwotowerError
from twotower.search.filters import Compare
from twotower.stores import STORES, is_store, open_store, place_of

TABLE = catalogue()
QUERIES = np.random.default_rng(1).standard_normal((30, 8)).astype(np.float32)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def places():
    yield from running()


@pytest.fixture(params=KINDS)
def store(request, places):
    with places.open(request.param) as opened:
        opened.kind = request.param
        yield opened


@pytest.fixture
def postgres(places):
    with places.open("postgres") as opened:
        yield opened


def answers(store, table, k=10):
    near = store.search(QUERIES, k)
    ids, scores = nearest(table, QUERIES, k)
    np.testing.assert_allclose(near.scores, scores, atol=1e-5)
    assert (near.ids == ids).mean() > 0.99  # but for what scores alike
    return near


def small(ids, vectors=None, **columns):
    vectors = np.eye(len(ids), 4, dtype=np.float32) if vectors is None else vectors
    return pa.table({"_id": ids, "_vector": packed(vectors), **columns})


# --- what goes in comes out


def test_what_is_published_is_found_by_its_true_scores_and_shown_as_it_was(store):
    assert store.live() is None and store.versions() == []
    told = []
    name = publish(store, TABLE, queries=QUERIES, report=told.append)
    assert name == f"{store.name}_{MODEL[:12]}_000001" == store.live().table and told[-1] == f"{name} is live"
    assert store.live().facts == facts(TABLE) and store.live().recall == 1.0
    near = answers(store, TABLE)
    assert near.version == "000001" and near.ids.dtype == object and near.scores.dtype == np.float32
    shown = store.show(["item 7", None, "nobody", *near.ids[0]])
    plain = {row["_id"]: row for row in TABLE.drop_columns(["_vector"]).to_pylist()}
    assert [row["_id"] for row in shown] == ["item 7", *near.ids[0]]
    for row in shown:
        wanted = plain[row["_id"]]
        assert list(row) == list(wanted)
        for column, value in wanted.items():
            missing = value is None or value != value
            assert (row[column] is None or row[column] != row[column]) if missing else row[column] == value, column
            assert missing or type(row[column]) is type(value)


IDS = {
    "texts": pa.array(["7", "007", "é", "a'b"]),
    "numbers": pa.array([7, -3, 0, (1 << 63) - 1]),
    "small numbers": pa.array([7, -3, 0, 100], pa.int8()),
    "days": pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3, 4)]),
    "decimals": pa.array([decimal.Decimal("1.50"), decimal.Decimal("-2.00"), decimal.Decimal("0.00"), decimal.Decimal("9.99")]),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=list(IDS))
def test_ids_come_back_in_their_own_type(store, ids):
    table = small(ids, title=["a", "b", "c", "d"])
    publish(store, table)
    near = store.search(np.eye(4, dtype=np.float32), 1)
    assert near.ids[:, 0].tolist() == ids.to_pylist() and {type(each) for each in near.ids[:, 0]} == {type(ids[0].as_py())}
    assert [row["title"] for row in store.show(near.ids[:, 0])] == ["a", "b", "c", "d"]
    store.refresh([], [ids[1].as_py()], replace(facts(table, 2), rows=3), "000001")
    assert ids[1].as_py() not in store.search(np.eye(4, dtype=np.float32), 4).ids


def test_past_the_end_and_without_a_direction_there_is_nothing(store):
    publish(store, small(["a", "b"]))
    near = store.search(np.array([[1, 0, 0, 0], [0, 0, 0, 0]], np.float32), 3)
    assert near.ids.tolist() == [["a", "b", None], [None] * 3] and near.scores.tolist() == [[1, 0, -np.inf], [-np.inf] * 3]
    assert store.search(np.empty((0, 4), np.float32), 3).ids.shape == (0, 3)
    assert store.show([]) == [] == store.show([None])


@pytest.mark.parametrize("name", ["off %", "%s off", "%(a)s", "100%%", "{0}", "?", "a$1"])
def test_a_column_may_be_called_anything(store, name):
    table = small(["a", "b"]).append_column(name, pa.array([5, 7]))
    publish(store, table)
    assert store.show(["b", "a"]) == [{"_id": "b", name: 7}, {"_id": "a", name: 5}]
    assert store.search(np.ones((1, 4), np.float32), 2, Compare(name, "gt", 6)).ids.tolist() == [["b", None]]
    fresh = small(["c"]).append_column(name, pa.array([9]))
    store.refresh(fresh.to_batches(), ["a"], facts(table, 2), "000001")
    assert store.show(["a", "b", "c"]) == [{"_id": "b", name: 7}, {"_id": "c", name: 9}]


NESTED = {
    "days": [{"on": datetime.date(2024, 5, 1)}, {"on": None}],
    "moments": [{"at": datetime.datetime(2024, 5, 1, 17, 30, 0, 5)}, None],
    "zoned moments": [[{"at": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)}], []],
    "hours": [{"at": datetime.time(7, 30)}, None],
    "spans": [{"for": datetime.timedelta(days=1, microseconds=3)}, None],
    "decimals": [{"cost": decimal.Decimal("1.50")}, None],
    "bytes": [{"raw": b"\x00\xff"}, None],
    "lists of lists": [[[1, 2], []], [None]],
    "deep": [{"a": [{"b": [datetime.date(2024, 5, 1)]}]}, {"a": None}],
    "plain": [{"a": 1, "b": "x", "c": 0.5, "d": True}, None],
    "whole numbers": [[1, (1 << 64) - 1], []],
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_is_shown_as_it_was(store, name):
    kind = pa.list_(pa.uint64()) if name == "whole numbers" else None
    if kind is not None and store.kind in ("qdrant", "served"):
        pytest.skip("Qdrant refuses whole numbers past 64 bits")
    publish(store, small(["a", "b"], nested=pa.array(NESTED[name], kind)))
    assert store.show(["a", "b"]) == [{"_id": row, "nested": value} for row, value in zip("ab", NESTED[name], strict=True)]


def test_what_is_no_number_is_missing_where_it_is_nested(store):
    nan = float("nan")
    publish(store, small(["a", "b"], nested=pa.array([{"x": nan}, {"x": 0.5}])))
    shown = [row["nested"]["x"] for row in store.show(["a", "b"])]
    assert (shown[0] is None or shown[0] != shown[0]) and shown[1] == 0.5
    if store.kind != "lance":
        with pytest.raises(DataError, match='"nested" holds a value that this store cannot keep: an infinite number'):
            publish(store, small(["a"], nested=pa.array([{"x": float("inf")}])), 2)


def test_a_map_is_shown_as_its_pairs(store):
    prices = pa.array([[("eu", decimal.Decimal("1.50"))], None], pa.map_(pa.string(), pa.decimal128(6, 2)))
    publish(store, small(["a", "b"], prices=prices))
    assert [row["prices"] for row in store.show(["a", "b"])] == prices.to_pylist()


def test_a_date_that_python_cannot_hold_is_shown_as_a_text(places):
    with places.open("lance") as store:
        publish(store, small(["a"], day=pa.array([2_932_897], pa.int32()).cast(pa.date32())))
        assert store.show(["a"]) == [{"_id": "a", "day": "10000-01-01"}]


def test_vectors_of_any_list_and_columns_of_any_spelling(store):
    kinds = {"large": pa.large_string(), "when": pa.timestamp("ns"), "code": pa.dictionary(pa.int8(), pa.string())}
    columns = {
        "large": pa.array(["a", "b"], kinds["large"]),
        "when": pa.array([10**18, None], kinds["when"]),
        "code": pa.array(["x", None]).dictionary_encode(),
    }
    table = pa.table({"_id": ["a", "b"], "_vector": pa.array([[1.0, 0.5], [0.25, 2.0]], pa.list_(pa.float32())), **columns})
    publish_plain(store, table, 2)
    assert store.show(["a", "b"]) == [
        {"_id": "a", "large": "a", "when": datetime.datetime(2001, 9, 9, 1, 46, 40), "code": "x"},
        {"_id": "b", "large": "b", "when": None, "code": None},
    ]


def publish_plain(store, table, d, rows=None):
    return store.publish(table.to_batches(), replace(facts(TABLE), dimensions=d, rows=table.num_rows if rows is None else rows))


# --- nothing goes live that is wrong

WRONG = {
    "two items of one id": (small(["a", "a"]), {}, "two items have one id|duplicate key"),
    "an item without an id": (small(["a", None]), {}, 'no "_id"'),
    "no number": (small(["a", "b"], np.array([[1, 2, 3, 4], [1, np.nan, 0, 0]], np.float32)), {}, "nan or inf"),
    "another width": (small(["a", "b"]), {"dimensions": 5}, "5 dimensions, and these have 4"),
    "too few": (small(["a", "b"]), {"rows": 3}, "3 items, and 2 came"),
    "no vectors": (pa.table({"_id": ["a"]}), {"rows": 1}, '"_vector"'),
    "nothing": (small([]).slice(0), {"rows": 1}, "1 items, and 0 came|no items"),
    "what no microsecond holds": (small(["a", "b"], t=pa.array([1, 2], pa.timestamp("ns"))), {}, "microseconds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_leaves_what_is_live(store, name):
    publish(store, TABLE)
    table, given, said = WRONG[name]
    with pytest.raises(DataError, match=said):
        store.publish(table.to_batches(), replace(facts(TABLE, 2), **{"dimensions": 4, "rows": table.num_rows} | given))
    assert [version.table for version in store.versions()] == store.engine.tables() == [store.live().table]
    answers(store, TABLE)


def test_a_store_that_finds_too_little_does_not_go_live(store, monkeypatch):
    publish(store, TABLE)
    true, asked = store.engine.search, []

    def forgetful(version, vectors, k, where):
        asked.append(version.breadth)
        version, (ids, scores) = true(version, vectors, k, where)
        return version, ([each[5:] for each in ids], [each[5:] for each in scores])

    monkeypatch.setattr(store.engine, "search", forgetful)
    with pytest.raises(OutputError, match=r"finds 0\.500 of the true 10 nearest items; 0\.95 is wanted"):
        publish(store, catalogue(seed=3), 2, queries=QUERIES)
    assert asked == sorted(asked) and (asked == [0] or asked == list(store.engine.breadths))
    assert store.engine.tables() == [store.live().table] and store.live().facts.version == "000001"
    publish(store, catalogue(seed=3), 2, queries=QUERIES, recall=0.5)
    assert store.live().facts.version == "000002" and store.live().recall == 0.5


def test_text_that_postgres_cannot_hold_is_named(postgres):
    with pytest.raises(DataError, match='"title" holds a text with the character 0'):
        publish(postgres, small(["a"], title=["a\0b"]))


# --- versions


def test_the_last_two_versions_stay(store):
    tables = [catalogue(seed=seed) for seed in range(4)]
    names = [publish(store, table, version) for version, table in enumerate(tables[:3], 1)]
    assert [version.table for version in store.versions()] == names[1:] and set(store.engine.tables()) == set(names[1:])
    answers(store, tables[2])
    assert store.rollback() == names[1] == store.live().table
    answers(store, tables[1])
    with pytest.raises(DataError, match=r"no version .* before"):
        store.rollback()
    assert publish(store, tables[2], 3) == names[2]  # it is there still
    answers(store, tables[2])
    store.rollback()
    last = publish(store, tables[3], 4, model=OTHER)
    assert [version.table for version in store.versions()] == [names[1], last]  # what was rolled back is gone
    assert set(store.engine.tables()) == {names[1], last}


def test_publishing_again_changes_nothing(store):
    name = publish(store, TABLE)
    told = []
    assert store.publish(iter(()), facts(TABLE), report=told.append) == name and told == [f"{name} is there already and live"]


def test_names_do_not_meet(places):
    one, other = places.open("lance", "both"), places.open("lance", "both_ways")
    publish(one, TABLE)
    publish(other, catalogue(seed=1))
    for version in (2, 3, 4):
        publish(one, catalogue(seed=version), version)
    answers(other, catalogue(seed=1))


def test_another_models_table_is_refused_with_both_fingerprints(store):
    publish(store, TABLE, model=OTHER)
    assert store.search(QUERIES, 1, fingerprint=OTHER).ids.shape == (30, 1)
    for ask in (lambda: store.search(QUERIES, 1, fingerprint=MODEL), lambda: store.refresh([], [], facts(TABLE, 2), "000001")):
        with pytest.raises(BundleError, match=f"{OTHER[:12]}.*{MODEL[:12]}.*twotower export"):
            ask()
    with pytest.raises(ConfigError, match=r"takes \[q, 8\]"):
        store.search(QUERIES[:, :5], 1)


# --- small changes


def test_a_change_replaces_adds_and_removes(store):
    publish(store, TABLE)
    fresh = catalogue(20, seed=9).set_column(0, "_id", pa.array([*(f"item {n}" for n in range(10)), *(f"new {n}" for n in range(10))]))
    kept = TABLE.slice(10).filter(pa.array([n not in (20, 21) for n in range(10, 300)]))
    whole = pa.concat_tables([kept, fresh])
    change = replace(facts(whole, 2))
    store.refresh(fresh.to_batches(7), ["item 20", "item 21", "nobody"], change, "000001")
    assert store.live().facts == change
    near = answers(store, whole)
    assert near.version == "000002" and store.engine.count(store.live()) == 308
    titles = {row["_id"]: row["select"] for row in whole.to_pylist()}
    assert {row["_id"]: row["select"] for row in store.show(titles)} == titles
    assert store.search(QUERIES, 400, Compare("_id", "eq", "new 3")).ids[:, 0].tolist() == ["new 3"] * 30
    store.refresh(iter(()), [], change, "000001")  # once more is once
    with pytest.raises(BundleError, match="holds the catalogue version 000002, and this change starts from 000001"):
        store.refresh([], [], facts(whole, 3), "000001")


def test_a_change_that_fails_is_not_seen(store):
    publish(store, TABLE)
    fresh = catalogue(3, seed=9)

    def broken():
        yield fresh.to_batches()[0]
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        store.refresh(broken(), ["item 200"], facts(TABLE, 2), "000001")
    with pytest.raises(DataError, match="300 rows for 299 items"):
        store.refresh(fresh.to_batches(), [], replace(facts(TABLE, 2), rows=299), "000001")
    assert store.live().facts == facts(TABLE)
    answers(store, TABLE)
    whole = pa.concat_tables([fresh, TABLE.slice(3).filter(pa.array([n != 200 for n in range(3, 300)]))])
    store.refresh(fresh.to_batches(), ["item 200"], facts(whole, 2), "000001")
    answers(store, whole)


def test_a_change_can_be_rolled_back_and_made_again(places):
    with places.open("lance") as store:
        publish(store, TABLE)
        less = TABLE.slice(1)
        store.refresh([], ["item 0"], facts(less, 2), "000001")
        store.rollback()
        answers(store, TABLE)
        store.refresh([], ["item 0"], facts(less, 2), "000001") if store.live().facts.version == "000001" else None
        answers(store, less)
        store.refresh([], ["item 1"], facts(less.slice(1), 3), "000002")
        answers(store, less.slice(1))


# --- while others ask


@pytest.mark.parametrize("kind", ["postgres", "lance", "qdrant"])
def test_who_asks_while_versions_go_live_sees_one_of_them_whole(places, kind):
    """Items of version v are called v/...; readers have connections of their own."""

    def of(version):
        return catalogue(120, seed=version).set_column(0, "_id", pa.array([f"{version}/{n}" for n in range(120)]))

    with places.open(kind) as writer:
        publish(writer, of(1))
        done, wrong, seen = threading.Event(), [], set()

        def ask():
            try:
                with places.open(kind, writer.name) as reader:
                    while not done.is_set():
                        near = reader.search(QUERIES[:5], 20)
                        versions = {each.partition("/")[0] for each in near.ids.ravel()}
                        seen.update(versions)
                        if versions != {str(int(near.version))}:
                            wrong.append((near.version, versions))
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in range(2, 7):
            publish(writer, of(version), version)
            time.sleep(0.2)
        writer.rollback()
        time.sleep(0.2)
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == [] and {"5", "6"} <= seen


def test_a_change_is_seen_whole_by_every_query_of_one_search(postgres, places):
    """Each change turns every vector round, so scores of one search are all of one sign or all of the other."""
    vectors = np.abs(np.random.default_rng(0).standard_normal((200, 8))).astype(np.float32)
    tables = [small([f"{n}" for n in range(200)], sign * vectors) for sign in (1, -1)]
    publish(postgres, tables[0])
    done, wrong, seen = threading.Event(), [], set()

    def ask():
        with places.open("postgres", postgres.name) as reader:
            while not done.is_set():
                near = reader.search(np.abs(QUERIES), 3)
                seen.add(near.version)
                if len(set(np.sign(near.scores).ravel())) != 1 or (near.scores[0, 0] > 0) != (int(near.version) % 2 == 1):
                    wrong.append(near)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(2, 12):
        postgres.refresh(tables[(version + 1) % 2].to_batches(), [], facts(tables[0], version), f"{version - 1:06d}")
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(seen) > 1


@pytest.mark.parametrize("kind", ["postgres", "lance", "qdrant"])
def test_two_that_publish_at_once_do_not_meet(places, kind):
    with places.open(kind) as one, places.open(kind, one.name) as other:
        publish(one, TABLE)
        with one.engine.claim(), pytest.raises(OutputError, match="another process is publishing"):
            publish(other, catalogue(seed=2), 2)
        publish(other, catalogue(seed=2), 2)
        answers(one, catalogue(seed=2))


# --- killed, full, down

KILLED = """
import os, signal, sys
from tests.stored import catalogue, facts
from twotower.stores import open_store
store, at = open_store(sys.argv[1], sys.argv[2]), sys.argv[3]
true = getattr(store.engine, at)
def die(*given):
    if at == "drop" and not given[0].endswith("_000001"):
        return true(*given)
    if at != "append" or store.engine.count(given[0]) >= 100:
        if at == "drop":
            true(*given)
        os.kill(os.getpid(), signal.SIGKILL)
    return true(*given)
setattr(store.engine, at, die)
table = catalogue(seed=5)
store.publish(table.to_batches(50), facts(table, 3))
"""


def child(code, *given, **more):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, given)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, **more
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "lance", "qdrant"])
@pytest.mark.parametrize("at", ["append", "finish", "switch", "drop"])
def test_one_that_is_killed_leaves_the_last_version_and_runs_again(places, kind, at):
    with places.open(kind) as store:
        publish(store, catalogue(seed=1), 1)
        publish(store, TABLE, 2)
        assert child(KILLED, places.urls[kind], store.name, at).returncode == -signal.SIGKILL
        if at == "drop":  # live already; the oldest table may or may not be gone
            answers(store, catalogue(seed=5))
        else:
            assert store.live().facts.version == "000002"
            answers(store, TABLE)
        publish(store, catalogue(seed=5), 3)
        answers(store, catalogue(seed=5))
        assert len(store.engine.tables()) == 2 and store.rollback() == f"{store.name}_{MODEL[:12]}_000002"
        answers(store, TABLE)


FULL = """
import resource, signal, sys
from tests.stored import catalogue, facts
from twotower.errors import TwotowerError
from twotower.stores import open_store
store = open_store(sys.argv[1], sys.argv[2])
table = catalogue(2000, 64, seed=5)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.publish(table.to_batches(500), facts(table, 2))
except TwotowerError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lance", "qdrant"])
def test_a_disk_that_takes_no_more_leaves_the_last_version(places, kind):
    with places.open(kind) as store:
        publish(store, TABLE)
        done = child(FULL, places.urls[kind], store.name)
        assert done.returncode == 0 and done.stdout.startswith("OutputError"), done
        assert "Traceback" not in done.stdout + done.stderr
        answers(store, TABLE)
        publish(store, catalogue(seed=4), 2)
        answers(store, catalogue(seed=4))
        assert len(store.engine.tables()) == 2


def secretive(url, said, kind=DataError):
    with pytest.raises(kind, match=said) as caught:
        open_store(url)
    assert "s3cret" not in str(caught.value) and "s3cret" not in repr(caught.value) and caught.value.__cause__ is None
    return str(caught.value)


def test_a_store_that_cannot_be_reached_is_said_without_any_secret(places, monkeypatch):
    port = re.search(r":(\d+)/", places.urls["postgres"])[1]
    secretive(f"postgresql://ann:wrongs3cret@127.0.0.1:{port}/postgres", "refuses the user or the password")
    secretive(f"postgresql://ann:s3cret@127.0.0.1:{port}/nope", "no database of that name")
    secretive("postgresql://ann:s3cret@127.0.0.1:1/postgres", "postgresql://127.0.0.1:1/postgres cannot be reached: nothing answers")
    secretive("postgresql://ann:s3cret%@127.0.0.1/postgres", "cannot be understood")
    secretive("qdrant+http://ann:s3cret@127.0.0.1:1", "nothing answers")
    secretive("qdrant+http://ann:s3cret@127.0.0.1:port", "names no port", ConfigError)
    secretive("qdrant+http://", "names no host", ConfigError)
    monkeypatch.setenv("SHOP", "postgresql://ann:s3cret@127.0.0.1:1/postgres?password=s3cret")
    secretive("env:SHOP", "the store of env:SHOP cannot be reached")


def test_mistakes_in_a_url_are_said(monkeypatch):
    secretive("postgres3://ann:s3cret@host/db", 'did you mean "postgres"', ConfigError)
    said = secretive("redis://ann:s3cret@host", '"redis" is no kind of store', ConfigError)
    assert said.endswith(f"the choices are: {', '.join(sorted(STORES))}")
    secretive("somewhere", "named by a URL", ConfigError)
    secretive("lancedb://", "names no folder", ConfigError)
    monkeypatch.delenv("NOT_SET", raising=False)
    secretive("env:NOT_SET", "NOT_SET is not set", ConfigError)
    with pytest.raises(ConfigError, match="names no tables"):
        open_store("lancedb:///tmp/x", name='a"; DROP')
    assert is_store("lancedb:///x") and is_store("env:X") and not is_store("folder/out.onnx")


@pytest.mark.parametrize("between", ["/", "?", "#", "@", "/@", "?@", "@?", "%", ":"])
def test_no_part_of_a_secret_is_shown_however_it_is_spelled(between):
    shown = place_of(f"postgresql://ann:s3{between}cret@host/db?password=s3cret").shown
    assert shown in ("postgresql://host/db", "postgresql://...")
    assert place_of("postgresql://host:5432/db?user=ann&password=s3cret").shown == "postgresql://host:5432/db"
    assert place_of("postgresql://host/db?user=ann@x&password=s3cret").shown == "postgresql://..."
    assert place_of("lancedb:///data/a@b/lance").shown == "lancedb:///data/a@b/lance"
    assert place_of("qdrant+http://:s3/cret@host:6333").shown == "qdrant+http://host:6333"


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql://h/d", "psycopg", "pgvector"),
        ("lancedb:///x", "lancedb", "lancedb"),
        ("qdrant:///x", "qdrant_edge", "qdrant"),
        ("qdrant+http://h", "qdrant_client", "qdrant"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, url, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=re.escape(f"twotower[{extra}]")):
        open_store(url)


def test_a_store_with_nothing_in_it_says_so(store):
    for ask in (lambda: store.search(QUERIES, 1), lambda: store.show(["a"]), store.rollback, lambda: store.refresh([], [], facts(TABLE), "000001")):
        with pytest.raises(DataError, match="holds nothing under the name"):
            ask()


def test_a_damaged_or_newer_ledger_is_refused(places):
    with places.open("lance") as store:
        publish(store, TABLE)
        path = store.engine.folder / f"{store.name}.versions.json"
        for text, said in [
            ("{", "no valid JSON|not valid JSON"),
            ('{"format": 2}', "newer twotower"),
            ('{"format": 1, "versions": [{}]}', "damaged"),
        ]:
            path.write_text(text)
            with pytest.raises(BundleError, match=said):
                store.search(QUERIES, 1)


# --- PostgreSQL


def asked(store, sql):
    with store.engine._connection("test") as connection:
        return connection.execute(sql).fetchall()


def test_people_read_what_is_live_by_sql(postgres):
    publish(postgres, TABLE)
    assert asked(postgres, f"SELECT count(*), sum(stock), max(cost)::text FROM twotower.{postgres.name}")[0][2] == "100.00"
    kinds = dict(asked(postgres, f"SELECT column_name, data_type FROM information_schema.columns WHERE table_name = '{postgres.live().table}'"))
    assert kinds["price"] == "double precision" and kinds["materials"] == "ARRAY" and kinds["sold"] == "timestamp with time zone"
    assert 'odd "name" `x`; --' in kinds and "ctid" not in kinds
    publish(postgres, small(["a"], other=[1]), 2)
    assert asked(postgres, f"SELECT other FROM twotower.{postgres.name}") == [(1,)]
    postgres.rollback()
    assert asked(postgres, f"SELECT count(*) FROM twotower.{postgres.name}") == [(300,)]


def test_who_may_read_the_view_still_may_when_another_version_is_live(postgres):
    def changed(statement):
        with postgres.engine._connection("test") as connection:
            connection.execute(statement)

    publish(postgres, small(["a"], title=["x"]))
    changed(f"GRANT SELECT ON twotower.{postgres.name} TO pg_monitor")
    changed(f"CREATE VIEW public.titles_{postgres.name} AS SELECT title FROM twotower.{postgres.name}")
    allowed = f"SELECT has_table_privilege('pg_monitor', 'twotower.{postgres.name}', 'SELECT')"
    publish(postgres, small(["a", "b"], title=["y", "z"]), 2)
    titles = f"SELECT title FROM public.titles_{postgres.name} ORDER BY title"
    assert asked(postgres, allowed) == [(True,)] and asked(postgres, titles) == [("y",), ("z",)]
    postgres.refresh(small(["c"], title=["w"]).to_batches(), [], replace(facts(small(["a", "b", "c"]), 3), rows=3), "000002")
    assert asked(postgres, allowed) == [(True,)] and len(asked(postgres, titles)) == 3
    publish(postgres, small(["a"], title=["x"], price=[1]), 4)  # one column more at the end
    assert asked(postgres, allowed) == [(True,)] and asked(postgres, titles) == [("x",)]
    changed(f"DROP VIEW public.titles_{postgres.name}")
    publish(postgres, small(["a"], name=["x"]), 5)
    assert asked(postgres, f"SELECT name FROM twotower.{postgres.name}") == [("x",)]


@pytest.mark.parametrize(("d", "index"), [(2000, "vector_ip_ops"), (2001, "halfvec"), (4001, None)])
def test_an_index_for_as_many_dimensions_as_there_can_be(postgres, d, index):
    table = catalogue(60, d).select(["_id", "_vector"])
    publish(postgres, table)
    found = asked(postgres, f"SELECT indexdef FROM pg_indexes WHERE tablename = '{postgres.live().table}' AND indexdef LIKE '%hnsw%'")
    assert (index in found[0][0]) if index else found == []
    queries = np.random.default_rng(2).standard_normal((3, d)).astype(np.float32)
    near = postgres.search(queries, 5)
    ids, scores = nearest(table, queries, 5)
    assert near.ids.tolist() == ids.tolist()
    np.testing.assert_allclose(near.scores, scores, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres", "lance", "qdrant"])
def test_filters_find_nearly_all_whatever_they_keep(places, kind, monkeypatch):
    """20,000 items, with an index in every store, and only what a store's own index finds."""
    from twotower.stores import lance, postgres, qdrant, qdrant_shards

    monkeypatch.setattr(lance, "INDEXED_FROM", 1000)
    monkeypatch.setattr(qdrant_shards, "SCANNED", 100)
    for module in (lance, postgres, qdrant):
        monkeypatch.setattr(module, "FEW", 300)
    n, d = 20_000, 32
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((400, d))
    vectors = (centres[generator.integers(400, size=n)] + 0.6 * generator.standard_normal((n, d))).astype(np.float32)
    draw = generator.random(n)
    table = pa.table({"_id": pa.array(range(n)), "_vector": packed(vectors), "draw": draw})
    queries = (centres[generator.integers(400, size=100)] + 0.6 * generator.standard_normal((100, d))).astype(np.float32)
    with places.open(kind) as store:
        publish(store, table, queries=queries)
        assert store.live().recall >= 0.95 and store.live().breadth
        for kept in (1.0, 0.5, 0.05, 0.01, 0.0005):
            near = store.search(queries, 10, Compare("draw", "lt", kept))
            ids, _ = nearest(table, queries, 10, draw < kept)
            right = [
                len({each for each in one if each is not None} & set(two)) / sum(each is not None for each in two)
                for one, two in zip(near.ids, ids, strict=True)
            ]
            assert np.mean(right) >= (0.95 if kept > 0.012 else 1.0), (kept, np.mean(right))
            assert all(draw[each] < kept for each in near.ids.ravel() if each is not None)


def test_few_rows_are_scored_one_by_one_though_many_were_just_searched_through_the_index(postgres, monkeypatch):
    from twotower.stores import postgres as module

    monkeypatch.setattr(module, "FEW", 300)
    monkeypatch.setattr(type(postgres.engine), "breadths", (1,))  # so that an index misses much
    generator = np.random.default_rng(0)
    draw = generator.random(5000)
    table = pa.table({"_id": pa.array(range(5000)), "_vector": packed(generator.standard_normal((5000, 16)).astype(np.float32)), "draw": draw})
    queries = generator.standard_normal((40, 16)).astype(np.float32)
    publish(postgres, table)
    through = postgres.search(queries, 1, Compare("draw", "lt", 0.5)).ids
    assert (through != nearest(table, queries, 1, draw < 0.5)[0]).any()
    assert postgres.search(queries, 1, Compare("draw", "lt", 0.04)).ids.tolist() == nearest(table, queries, 1, draw < 0.04)[0].tolist()


def test_a_server_that_goes_away_is_one_error_and_comes_back(tmp_path_factory):
    import shutil
    import tempfile

    from tests.servers import start

    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    url, stop = start(folder)
    try:
        with open_store(url, "gone") as store:
            publish(store, TABLE)
            answers(store, TABLE)
            stop()
            with pytest.raises(TwotowerError, match="cannot") as caught:
                store.search(QUERIES, 1)
            assert "s3cret" not in str(caught.value)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_vectors_of_a_table_are_those_that_were_given():
    assert np.array_equal(vectors_in(TABLE), TABLE.column("_vector").combine_chunks().flatten().to_numpy().reshape(300, 8))
