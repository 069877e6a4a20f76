"""From sources to a prepared folder: every row has a defined outcome, and it is reported."""

import datetime as dt
import json
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from twotower import files
from twotower.config import from_values
from twotower.data import keys, preparation, quantities
from twotower.data.features import Category, Id, Text
from twotower.data.hashes import hash_texts
from twotower.data.preparation import prepare
from twotower.data.schema import ItemSide, PairColumns, QuerySide, Schema
from twotower.data.sources import open_source
from twotower.data.splits import SplitOptions
from twotower.errors import BundleError, ConfigError, DataError

ITEMS = [{"sku": n, "title": f"title {n}", "kind": f"k{n % 2}", "tags": [str(n)], "price": n / 2} for n in range(8)]
PAIRS = [{"q": f"ask {n}", "item": n % 8, "user": n % 5} for n in range(40)]
SCHEMA = Schema(
    query=QuerySide(features=(Text(column="q"),)),
    item=ItemSide(id="sku", features=(Id(column="sku"), Text(column="title"), Category(column="kind")), payload=("title", "tags", "price")),
    pairs=PairColumns(item="item"),
)
TEXTS = Schema(query=QuerySide(features=(Text(column="q"),)), item=ItemSide(features=(Text(column="a"),)))


@pytest.fixture
def make(tmp_path):
    def run(pairs=PAIRS, items=ITEMS, schema=SCHEMA, options=SplitOptions(), **changes):
        pair_columns = {name: value for name, value in changes.items() if name in PairColumns.__dataclass_fields__}
        schema = replace(schema, pairs=replace(schema.pairs, **pair_columns))
        if "unlisted" in changes:
            schema = replace(schema, item=replace(schema.item, unlisted=changes["unlisted"]))
        if "key" in changes:
            schema = replace(schema, query=replace(schema.query, key=changes["key"]))
        return prepare(open_source(pairs, "pairs"), None if items is None else open_source(items, "items"), schema, options, tmp_path)

    return run


def logged(prepared):
    """The log in the user's words: (query, item id, weight)."""
    queries = prepared.queries.column(0).to_pylist()
    ids = prepared.items.column("_id").to_pylist()
    log = prepared.log
    return [(queries[q], ids[i], float(w)) for q, i, w in zip(log.query_rows, log.item_rows, log.weights, strict=True)]


def test_every_pair_is_found_again(make):
    prepared = make()
    assert logged(prepared) == [(row["q"], row["item"], 1.0) for row in PAIRS]
    assert prepared.items.to_pylist() == [
        {"_id": i["sku"], "sku": i["sku"], "title": i["title"], "kind": i["kind"], "tags": i["tags"], "price": i["price"]} for i in ITEMS
    ]
    assert np.bincount(prepared.parts).tolist() == [32, 4, 4]
    encoded = prepared.encoder.encode("item", ITEMS)
    for name, column in prepared.columns["item"].items():
        assert np.array_equal(getattr(column, "values", column), getattr(encoded[name], "values", encoded[name]))
    assert sum(np.bincount(prepared.columns["item"]["sku:id"])[2:]) == 8


def test_a_second_run_reuses_and_any_change_does_not(make, monkeypatch):
    first = make()
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    assert make().folder == first.folder and (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    others = [
        make(pairs=[*PAIRS, PAIRS[0]]),
        make(items=[*ITEMS[:7], ITEMS[7] | {"title": "new"}]),
        make(options=SplitOptions(seed=1)),
        make(repeats="keep"),
    ]
    monkeypatch.setattr(preparation, "HASH", "other")
    others.append(make())
    monkeypatch.setattr(preparation, "__version__", "99")
    others.append(make())
    monkeypatch.setattr(preparation.unicodedata, "unidata_version", "99")
    others.append(make())
    assert len({p.folder for p in [first, *others]}) == 8


def test_what_layers_alone_know_makes_no_folder_and_weights_do(tmp_path):
    """A weighted mean reads weights beside the values, so other numbers are encoded; a sum reads those of a mean."""
    pairs = pa.table({"q": [f"q{n}" for n in range(30)], "item": [n % 5 for n in range(30)]})
    items = pa.table({"item": list(range(5)), "tags": ["a:0.5|b:2", "a", "b:1", "c", ""]})

    def folder(pool):
        features = [{"column": "tags", "type": "categories", "pool": pool}]
        chosen = from_values({"query": {"features": [{"column": "q", "type": "id"}]}, "item": {"id": "item", "features": features}})
        made = prepare(open_source(pairs), open_source(items), chosen.schema, chosen.split, tmp_path)
        (column,) = made.columns["item"].values()
        return made.folder, column.values.ndim

    (mean, plain), (summed, same), (weighted, paired), again = map(folder, ("mean", "sum", "weighted", "mean"))
    assert mean == summed == again[0] != weighted and (plain, same, paired) == (1, 1, 2)


def test_the_report_names_the_sources_of_this_call(make):
    make()
    again = make(replace(open_source(PAIRS, "pairs"), name="clicks"), replace(open_source(ITEMS, "items"), name="shop"))
    assert (again.report["pairs_source"], again.report["items_source"]) == ("clicks", "shop")
    assert again.folder == make().folder and make().report["pairs_source"] == "pairs"


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.float64(), pa.date32(), pa.bool_(), pa.decimal128(21, 2)])
def test_ids_come_back_in_their_own_type(make, kind):
    ids = pa.array(range(8), pa.int64())
    own = {pa.date32(): ids.cast(pa.int32()).cast(pa.date32()), pa.bool_(): pa.array([False, True])}.get(kind)
    own = ids.cast(kind) if own is None else own
    items = pa.table(
        {"sku": own, "title": [f"t{n}" for n in range(len(own))], "kind": ["a"] * len(own), "tags": ["b"] * len(own), "price": [1] * len(own)}
    )
    pairs = pa.table({"q": [f"ask {n}" for n in range(40)], "item": own.take(pa.array([n % len(own) for n in range(40)]))})
    prepared = make(pairs, items)
    assert prepared.items.column("_id").type == kind and prepared.items.column("_id").to_pylist() == own.to_pylist()
    assert [row[1] for row in logged(prepared)] == pairs.column("item").to_pylist()


def test_seven_joins_with_seven_wherever_it_was_read(make, tmp_path):
    (tmp_path / "items.csv").write_text("sku,title,kind,tags,price\n" + "".join(f"{n}.0,t{n},k,x,1\n" for n in range(7)) + "007,bond,k,x,1\n")
    pq.write_table(pa.table({"q": [f"a{n}" for n in range(42)], "item": pa.array([n % 7 for n in range(42)], pa.int32())}), tmp_path / "p.parquet")
    prepared = make(str(tmp_path / "p.parquet"), str(tmp_path / "items.csv"))
    assert prepared.report["pairs_of_unlisted_item"] == 0 and prepared.report["items_without_pairs"] == 1


# --- outcomes, counted


def test_every_row_that_is_left_out_is_counted(make):
    pairs = [
        *PAIRS,
        {"q": None, "item": 1, "user": 1},
        {"q": " ", "item": 1, "user": 1},
        {"q": "x", "item": None, "user": 1},
        {"q": "y", "item": 99, "user": 1},
        PAIRS[0],
    ]
    items = [*ITEMS, ITEMS[3] | {"title": "again"}, ITEMS[3] | {"sku": None}, ITEMS[0] | {"sku": 50}]
    report = make(pairs, items).report
    expected = {
        "catalogue_rows": 11,
        "catalogue_rows_without_id": 1,
        "catalogue_ids_repeated": 1,
        "pairs_read": 45,
        "pairs_without_query": 2,
        "pairs_without_item": 1,
        "pairs_of_unlisted_item": 1,
        "unlisted_examples": ["99"],
        "pairs_merged": 1,
        "pairs": 40,
        "items": 9,
        "items_without_pairs": 1,
        "query_rows": 40,
        "keys": 40,
    }
    assert {name: report[name] for name in expected} == expected


def test_the_first_of_a_repeated_id_stays(make):
    prepared = make(items=[*ITEMS, ITEMS[3] | {"title": "again"}])
    assert prepared.items.column("title").to_pylist()[3] == "title 3" and prepared.n_items == 8


def test_unlisted_items_can_be_kept_with_nothing_but_their_id(make):
    pairs = [*PAIRS, {"q": "x", "item": 99, "user": 1}, {"q": "y", "item": 98, "user": 1}]
    prepared = make(pairs, unlisted="keep")
    report = prepared.report
    assert (report["pairs_of_unlisted_item"], report["unlisted_items_kept"], report["pairs"]) == (2, 2, 42)
    nothing = {"title": None, "kind": None, "tags": None, "price": None}
    assert prepared.items.to_pylist()[8:] == [{"_id": 99, "sku": 99} | nothing, {"_id": 98, "sku": 98} | nothing]
    assert (np.asarray(prepared.columns["item"]["sku:id"])[8:] >= 2).all()


@pytest.mark.parametrize("stranger", ["abc", "7.5", str(2**70)])
def test_an_unlisted_id_that_the_catalogue_cannot_hold_is_said(make, stranger):
    pairs = [row | {"item": str(row["item"])} for row in PAIRS] + [{"q": "x", "item": stranger, "user": 1}]
    with pytest.raises(DataError, match=f"names the item '{stranger}'.*as text"):
        make(pairs, unlisted="keep")
    assert make(pairs).report["pairs_of_unlisted_item"] == 1


def test_repeats(make):
    pairs = [row | {"w": float(n % 3)} for n, row in enumerate(PAIRS * 2)]
    summed = defaultdict(float)
    first = {}
    for row in pairs:
        summed[row["q"], row["item"]] += row["w"]
        first.setdefault((row["q"], row["item"]), row["w"])
    for repeats, expected in {"count": summed, "first": first}.items():
        assert {(q, i): w for q, i, w in logged(make(pairs, repeats=repeats, weight="w"))} == expected
    assert Counter(logged(make(pairs, repeats="keep", weight="w"))) == Counter((r["q"], r["item"], r["w"]) for r in pairs)


@pytest.mark.parametrize("by", ["random", "group", "last", "column"])
def test_test_pairs_that_are_trained_on_are_counted(make, by):
    pairs = [row | {"s": ["train", "val", "test"][n % 3]} for n, row in enumerate(PAIRS * 4)]
    prepared = make(pairs, repeats="keep", key="user", options=SplitOptions(by=by, column="s" if by == "column" else None))
    placed = list(zip(prepared.log.query_keys.tolist(), prepared.log.item_rows.tolist(), prepared.parts.tolist(), strict=True))
    trained = {(key, item) for key, item, part in placed if part == 0}
    both = sum((key, item) in trained for key, item, part in placed if part == 2)
    assert prepared.report["test_pairs_in_train"] == both and (both > 0) == (by in ("last", "column"))


def test_events_weigh_what_they_are_said_to(make):
    kinds = ["click", "buy", "scroll", None]
    pairs = [row | {"event": kinds[n % 4], "w": 2.0} for n, row in enumerate(PAIRS)]
    prepared = make(pairs, event="event", event_weights={"click": 1.0, "buy": 10.0}, weight="w")
    assert prepared.report["pairs_of_unlisted_event"] == 20
    assert {w for _, i, w in logged(prepared) if i % 4 == 0} == {2.0} and {w for _, i, w in logged(prepared) if i % 4 == 1} == {20.0}


def test_the_log_is_ordered_by_time(make):
    pairs = [row | {"ts": (7 * n) % 40} for n, row in enumerate(PAIRS)]
    assert logged(make(pairs, time="ts")) == [(row["q"], row["item"], 1.0) for row in sorted(pairs, key=lambda row: row["ts"])]
    late_first = [PAIRS[0] | {"ts": 9, "w": 9.0}, PAIRS[0] | {"ts": 3, "w": 3.0}, *(row | {"ts": 5, "w": 1.0} for row in PAIRS[1:])]
    assert logged(make(late_first, time="ts", weight="w", repeats="first"))[0] == ("ask 0", 0, 3.0)


@pytest.mark.parametrize("timed", [True, False])
def test_no_merged_pair_trains_on_what_came_after_its_test(make, timed):
    generator = np.random.default_rng(0)
    pairs = [{"user": int(generator.integers(6)), "item": int(generator.integers(8)), "ts": n} for n in range(150)]
    schema = replace(SCHEMA, query=QuerySide(features=(Id(column="user"),), key="user"))
    prepared = make(pairs, schema=schema, options=SplitOptions(by="last"), **({"time": "ts"} if timed else {}))
    last = {(str(row["user"]), row["item"]): row["ts"] for row in pairs}
    held = {q: last[q, i] for (q, i, _), part in zip(logged(prepared), prepared.parts, strict=True) if part == 2}
    for (query, item, _), part in zip(logged(prepared), prepared.parts, strict=True):
        assert query not in held or part == 2 or last[query, item] < held[query]
    assert len(held) == 6


MOMENTS = {
    "zones": (["2024-05-01T10:00:00+02:00", "2024-05-01 08:30:00Z", "2024-05-01T03:00:00-06:00", "2024-05-01 10:00:00"], [0, 1800, 3600, 7200]),
    "fractions": (
        ["2024-05-01 10:00:00.1234567", "2024-05-01 10:00:00.5", "2024-05-01 10:00:01", "2024-05-02"],
        [0, 0.376544, 0.876544, 50399.876544],
    ),
    "numbers": (["1", "2.5", "1e3", " 1001 "], [0, 1.5, 999, 1000]),
}


@pytest.mark.parametrize("kind", list(MOMENTS))
def test_written_times(kind):
    values, expected = MOMENTS[kind]
    times = quantities.times(pa.record_batch({"t": values}), "t", "x", 0).to_numpy()
    assert np.allclose(times - times[0], expected, atol=1e-5, rtol=0)


def test_typed_times_are_seconds():
    moment = dt.datetime(2024, 5, 1, 12, 0, 0, 250_000)
    expected = moment.replace(tzinfo=dt.UTC).timestamp()
    for kind in (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "Asia/Tokyo")):
        column = pa.array([moment.replace(tzinfo=dt.UTC) if kind.tz else moment], kind)
        assert quantities.times(pa.record_batch({"t": column}), "t", "x", 0).to_pylist() == [expected]
    assert quantities.times(pa.record_batch({"t": [dt.date(1970, 1, 2)]}), "t", "x", 0).to_pylist() == [86400.0]
    assert quantities.times(pa.record_batch({"t": pa.array([3], pa.timestamp("ns"))}), "t", "x", 0).to_pylist() == [0.0]


def test_items_without_an_id_are_known_by_their_text(make):
    rows = [{"q": f"ask {n}", "a": ["Yes", "no ", "no", None][n % 4]} for n in range(40)]
    prepared = make(rows, None, TEXTS)
    assert prepared.n_items == 2 and prepared.report["pairs_without_item"] == 10
    ids = prepared.items.column("_id").to_pylist()
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids) and len(set(ids)) == 2


def test_a_row_of_values_is_not_another_row_of_values():
    rows = [("a", "b"), ("ab", None), (None, "ab"), ("a\x1f", "b"), ("a", "\x1fb"), ("a\x1f\x1fb", None), (None, None), ("\x1f", "\x1f")]
    columns = [pa.array([row[side] for row in rows], pa.string()) for side in (0, 1)]
    digests = keys.digests_of(columns).to_pylist()
    assert digests[6] is None and len(set(digests)) == len(rows)


def test_texts_that_differ_in_case_share_a_key_and_not_a_row(make):
    pairs = [*PAIRS, {"q": "ASK 0", "item": 5, "user": 1}, {"q": "CAFÉ", "item": 1, "user": 1}, {"q": "café", "item": 2, "user": 1}]
    report = make(pairs).report
    assert (report["query_rows"], report["keys"]) == (43, 41)


def test_a_declared_key_decides_whose_matches_are_known(make):
    prepared = make(key="user")
    assert prepared.report["keys"] == 5
    known = prepared.known(0, 1, 2)
    found = {frozenset(known.values[a:b].tolist()) for a, b in zip(known.offsets[:-1], known.offsets[1:], strict=True)}
    assert found == {frozenset(row["item"] for row in PAIRS if row["user"] == user) for user in range(5)}
    # A pair without the key stands for itself.
    assert make([*PAIRS, {"q": "alone", "item": 1, "user": None}], key="user").report["keys"] == 6


def test_a_key_has_one_name_in_every_preparation(make):
    pairs = [{"q": f"Ask {n}", "item": n % 8, "user": None if n % 5 == 0 else n % 5} for n in range(40)]
    reordered = [*pairs[20:], *pairs[:20]]
    for key in (None, "user"):
        table = pa.Table.from_pylist(pairs)
        names = keys.keys_of([keys.values_of(SCHEMA.query.features, table.column)["q"]], table.column("user") if key else None).to_pylist()
        plain = [f"k{row['user']}" if key and row["user"] else f"r{row['q'].lower()}" for row in pairs]
        assert names == plain
        expected = {row["q"]: name for row, name in zip(pairs, hash_texts(plain).tolist(), strict=True)}
        for rows in (pairs, reordered):
            prepared = make(rows, key=key)
            assert prepared.key_names.dtype == np.uint64 and len(prepared.key_names) == prepared.report["keys"] == len(set(plain))
            asked = prepared.queries.column("q").take(pa.array(prepared.log.query_rows)).to_pylist()
            assert dict(zip(asked, prepared.key_names[prepared.log.query_keys].tolist(), strict=True)) == expected


def test_keys_of_a_column_read_twice_are_those_of_its_text():
    table = pa.table({"q": ["7.0", "7", None], "d": ["TV", None, None]})
    for order in [("id", "text"), ("text", "id")]:
        kinds = {"id": Id(column="q"), "text": Text(column="q")}
        values = keys.values_of([*(kinds[name] for name in order), Category(column="d")], table.column)
        assert list(values) == ["q", "d"] and keys.keys_of([*values.values()], None).to_pylist() == ["r7.0\x1f\x1ftv", "r7\x1f\x1f", "r\x1f\x1f"]


@pytest.mark.parametrize("by", ["group", "random"])
def test_held_out_rows_may_hold_what_training_never_saw(make, by):
    schema = replace(SCHEMA, query=QuerySide(features=(Id(column="user", unknown_values="error"),), key="user"))
    pairs = [{"user": n, "item": n % 8} for n in range(20)]
    prepared = make(pairs, schema=schema, options=SplitOptions(by=by))
    trained = set(prepared.log.query_rows[prepared.parts == 0].tolist())
    assert prepared.report["unknown_values"]["query"]["user:id"] == 20 - len(trained) > 0
    with pytest.raises(DataError, match="never seen"):
        prepared.encoder.encode("query", [{"user": 77}])


def test_known_equals_a_plain_count(make):
    prepared = make(key="user")
    for parts in [(0,), (0, 1), (2,)]:
        plain = defaultdict(set)
        for key, item, part in zip(prepared.log.query_keys, prepared.log.item_rows, prepared.parts, strict=True):
            if part in parts:
                plain[int(key)].add(int(item))
        known = prepared.known(*parts)
        assert [known.values[a:b].tolist() for a, b in zip(known.offsets[:-1], known.offsets[1:], strict=True)] == [
            sorted(plain[k]) for k in range(5)
        ]


def test_a_column_can_be_an_id_and_a_text_at_once(make):
    rows = [{"q": ["7.0", "7", "x"][n % 3], "a": f"answer {n % 5}"} for n in range(45)]
    schemas = [replace(TEXTS, query=QuerySide(features=order)) for order in [(Id(column="q"), Text(column="q")), (Text(column="q"), Id(column="q"))]]
    for schema in schemas:
        prepared = make(rows, None, schema)
        direct = prepared.encoder.encode("query", [{"q": value} for value in ["7.0", "7", "x"]])
        assert np.array_equal(prepared.columns["query"]["q:id"], direct["q:id"]) and direct["q:id"][0] == direct["q:id"][1]
        assert np.array_equal(prepared.columns["query"]["q:text"].values, direct["q:text"].values)


def test_columns_of_any_name(make):
    names = ["say \"hi\", 'x' é", "SAY \"HI\", 'X' É", "row", "id", "key", "item", "raw0", "; DROP TABLE items"]
    rows = [{name: f"{name} {n}" for name in names} | {"a": f"a{n % 4}"} for n in range(30)]
    schema = Schema(
        query=QuerySide(features=tuple(Text(column=name) for name in names)), item=ItemSide(features=(Text(column="a"),), payload=tuple(names))
    )
    prepared = make(rows, None, schema)
    assert prepared.queries.column_names == names and prepared.queries.num_rows == 30


@pytest.mark.parametrize(
    "column", [pa.nulls(8), pa.array([1] * 8, pa.float16()), pa.array([[1]] * 8, pa.list_view(pa.int8())), pa.array([{"a": 1}] * 8)]
)
def test_columns_to_show_may_hold_anything(make, column):
    items = pa.Table.from_pylist(ITEMS)
    prepared = make(items=items.set_column(3, "tags", column))
    assert prepared.items.column("tags").to_pylist() == column.to_pylist()


def test_another_column_named_as_the_shown_id_is_refused(make):
    items = [row | {"_id": f"x{row['sku']}"} for row in ITEMS]
    for side in (replace(SCHEMA.item, payload=("_id",)), replace(SCHEMA.item, features=(Id(column="_id"),))):
        with pytest.raises(DataError, match=r'items: "_id" is the name .*\[item\] id = "_id", or rename'):
            make(items=items, schema=replace(SCHEMA, item=side))
    own = ItemSide(id="_id", features=(Id(column="_id"),), payload=("_id", "title"))
    prepared = make([row | {"item": f"x{row['item']}"} for row in PAIRS], items, replace(SCHEMA, item=own))
    assert prepared.items.column("_id").to_pylist() == [row["_id"] for row in items]


def test_tables_are_written_as_they_are_read(make, monkeypatch):
    write, whole = files.write_table, []
    monkeypatch.setattr(files, "write_table", lambda path, rows, *rest: (whole.append(isinstance(rows, pa.Table)), write(path, rows, *rest)))
    assert make().queries.num_rows == 40 and whole == [False, False]


# --- what cannot be used


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"pairs": ITEMS, "items": PAIRS}, DataError, 'pairs has no column "q"'),
        ({"pairs": PAIRS[:1]}, DataError, "1 different pair;"),
        ({"pairs": [row | {"item": "z"} for row in PAIRS]}, DataError, "40 of 40 pairs name an item that items lacks"),
        ({"pairs": [row | {"item": 0} for row in PAIRS], "items": ITEMS[:1]}, DataError, "one item"),
        ({"items": [row | {"sku": None} for row in ITEMS]}, DataError, "names no item"),
        ({"pairs": [row | {"q": None} for row in PAIRS]}, DataError, "no usable pair"),
        ({"weight": "q"}, DataError, "rows 1, 2, 3, 4, 5 and 35 more: \"q\" is 'ask 0', .*and a number is needed"),
        ({"time": "q"}, DataError, "rows 1, 2, 3, 4, 5 and 35 more: the time \"q\" is 'ask 0'"),
        ({"weight": "usr"}, DataError, 'did you mean "user"'),
        ({"pairs": [row | {"w": -1 if row["q"] == "ask 7" else 1} for row in PAIRS], "weight": "w"}, DataError, 'row 8: the weight "w" is -1'),
        ({"pairs": [row | {"w": None if row["q"] == "ask 7" else 1} for row in PAIRS], "weight": "w"}, DataError, 'row 8: the weight "w" is None'),
        ({"pairs": [row | {"w": 0} for row in PAIRS], "weight": "w"}, DataError, "sum to 0"),
        ({"pairs": [row | {"w": 1e300} for row in PAIRS], "weight": "w"}, DataError, "too large"),
        ({"pairs": [row | {"t": None if row["q"] == "ask 7" else 1} for row in PAIRS], "time": "t"}, DataError, 'row 8: the time "t" is missing'),
        ({"pairs": [row | {"t": dt.time(1, 2)} for row in PAIRS], "time": "t"}, DataError, "a number is needed"),
        ({"pairs": [row | {"q": ["a"]} for row in PAIRS]}, DataError, 'the column "q" .* holds values of type list'),
        ({"pairs": [row | {"q": b"a"} for row in PAIRS]}, DataError, 'the column "q" .* holds values of type binary'),
        ({"event": "user"}, ConfigError, "event_weights go together"),
        ({"schema": replace(TEXTS, query=QuerySide(features=()))}, ConfigError, "no features"),
        ({"schema": replace(TEXTS, query=QuerySide(features=(Text(column="q"), Text(column="q"))))}, ConfigError, "twice"),
        ({"schema": replace(TEXTS, item=ItemSide(features=(Text(column="title"),)))}, DataError, "id must name"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error(make, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        make(**changes)
    assert not [path for path in tmp_path.iterdir() if (path / "manifest.json").exists()]


def test_memory_that_cannot_be_meant_is_said(tmp_path):
    with pytest.raises(ConfigError, match="Write memory like"):
        prepare(open_source(PAIRS), open_source(ITEMS), SCHEMA, SplitOptions(), tmp_path, memory="lots")
    with pytest.raises(ConfigError, match=r"no room left.*Raise \[machine\] memory, which is 0GB"):
        prepare(open_source(PAIRS), open_source(ITEMS), SCHEMA, SplitOptions(), tmp_path, memory="0GB")


# --- the folder


def test_an_interrupted_preparation_leaves_nothing(make, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(preparation.SideWriter, "close", stop)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert list(tmp_path.iterdir()) == []
    # What a kill leaves behind lies under a passing name and is not taken for finished.
    files.write_text(tmp_path / ".0123.abc.part" / "log" / "parts.npy", "half")
    assert len(logged(make())) == 40


def test_another_that_finishes_first_is_no_error(make, tmp_path, monkeypatch):
    finished = make().folder
    aside = tmp_path / "aside"
    finished.rename(aside)
    run = preparation._Preparation.run

    def overtaken(self):
        report = run(self)
        aside.rename(finished)
        return report

    monkeypatch.setattr(preparation._Preparation, "run", overtaken)
    assert len(logged(make())) == 40
    assert [path.name for path in tmp_path.iterdir()] == [finished.name]


def test_two_processes_at_once(tmp_path):
    code = f"""
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.data.schema import *
from twotower.data.splits import SplitOptions
from twotower.data.features import Text
from pathlib import Path
rows = [{{"q": f"ask {{n}}", "a": f"answer {{n % 50}}"}} for n in range(3000)]
schema = Schema(query=QuerySide(features=(Text(column="q"),)), item=ItemSide(features=(Text(column="a"),)))
print(prepare(open_source(rows), None, schema, SplitOptions(), Path({str(tmp_path)!r})).folder.name)
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and len(set(said)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [said[0].strip()]


def test_a_damaged_folder_says_what_to_do(make):
    folder = make().folder
    (folder / "log" / "parts.npy").write_bytes(b"x")
    with pytest.raises(BundleError, match=f"delete .*{folder.name}"):
        make()


def test_two_runs_write_the_same_bytes(make, tmp_path):
    folder = make(repeats="count").folder
    first = json.loads((folder / "manifest.json").read_text())
    files.remove_folder(folder)
    assert json.loads((make().folder / "manifest.json").read_text()) == first


def test_many_batches_equal_one(make, monkeypatch):
    small = make().folder
    arrays = {path.relative_to(small): path.read_bytes() for path in small.rglob("*.npy")}
    files.remove_folder(small)
    for module in ("sources", "preparation.engine", "preparation.spills"):
        monkeypatch.setattr(f"twotower.data.{module}.BATCH", 7)
    again = make().folder
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*.npy")} == arrays


@pytest.mark.parametrize(("history", "dropped"), [(True, 1), (False, 3)])
def test_who_has_a_history_asks_also_where_all_else_is_missing(tmp_path, history, dropped):
    asked = [("a", "phone"), ("a", None), ("b", "desk"), ("b", None), (None, "desk"), (None, None), *[("c", "desk")] * 12]
    rows = [{"user": user, "device": device, "item": f"i{n}", "when": n} for n, (user, device) in enumerate(asked)]
    features = [{"column": "device", "type": "category"}, *([{"type": "history"}] if history else [])]
    chosen = from_values(
        {
            "pairs": {"time": "when"},
            "query": {"key": "user", "features": features},
            "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
            "split": {"by": "random", "test": 0.2, "validation": 0.2},
        }
    )
    report = prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path).report
    assert report["pairs_without_query"] == dropped


def test_what_only_layers_know_is_prepared_once(tmp_path):
    """Another dropout finds the same folder, and is what the encoder then says; another number of buckets does not."""
    from twotower.config import from_values

    rows = [{"q": f"word{n % 9} more{n}", "i": f"i{n % 7}"} for n in range(60)]
    folders, found = [], []
    for options in ({"dropout": 0.0}, {"dropout": 0.3}, {"buckets": 128}):
        features = [{"column": "q", "type": "text", **options}]
        chosen = from_values({"query": {"features": features}, "item": {"id": "i", "features": [{"column": "i", "type": "id"}]}})
        made = prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path)
        folders.append(made.folder)
        found.append(made.encoder.features["query"][0].dropout)
    assert folders[0] == folders[1] != folders[2] and found == [0.0, 0.3, 0.0]


def test_what_a_csv_shows_has_types_and_what_it_reads_does_not_change(tmp_path):
    """Texts that are numbers or truth values throughout can be filtered as such; the towers read what they read of the same rows as texts."""
    items = pa.table(
        {
            "sku": [f"{n}" for n in range(18)],
            "title": [f"{1900 + n}" for n in range(18)],
            "price": [f"{n / 4:.2f}" for n in range(18)],
            "stock": [f"{n}" for n in range(18)],
            "code": [f"{n:03d}" for n in range(18)],
            "sold": ["true", "False"] * 9,
            "size": ["3", "", "12", "-4", "0", "8"] * 3,
            "none": [""] * 18,
        }
    )
    pa.csv.write_csv(items, tmp_path / "items.csv")
    pairs = {"asked": [f"q{n}" for n in range(18)] * 3, "sku": [f"{n % 18}" for n in range(54)]}
    types = {"sku": "id", "title": "text", "price": "number", "sold": "category"}
    features = [{"column": column, "type": kind} for column, kind in types.items()]
    config = from_values(
        {
            "query": {"features": [{"column": "asked", "type": "text"}]},
            "item": {"id": "sku", "features": features, "payload": ["stock", "code", "size", "none"]},
        }
    )
    made = {
        name: prepare(open_source(pairs, "pairs"), open_source(source, "items"), config.schema, config.split, tmp_path / name)
        for name, source in (("typed", str(tmp_path / "items.csv")), ("texts", items))
    }
    kinds = {field.name: str(field.type) for field in made["typed"].items.schema}
    told = {"price": "double", "sold": "bool", "stock": "int64", "size": "int64"}
    assert kinds == dict.fromkeys(["_id", "sku", "title", "price", "sold", "stock", "code", "size", "none"], "string") | told
    assert set(made["texts"].items.schema.types) == {pa.string()}
    shown = made["typed"].items.to_pylist()
    assert [row["size"] for row in shown][:3] == [3, None, 12] and [row["sold"] for row in shown][:2] == [True, False]
    assert [row["price"] for row in shown] == [n / 4 for n in range(18)]
    for name, column in made["texts"].columns["item"].items():
        other = made["typed"].columns["item"][name]
        for one, two in zip(column, other, strict=True) if isinstance(column, tuple) else [(column, other)]:
            assert np.array_equal(one, two)
    encoded = made["typed"].encoder.encode("item", made["typed"].items)
    for name, column in made["typed"].columns["item"].items():
        for one, two in zip(column, encoded[name], strict=True) if isinstance(column, tuple) else [(column, encoded[name])]:
            assert np.array_equal(one, two)
