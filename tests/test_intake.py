"""Logs as people have them: labels, tables of their own, files of their own, orders, cores, and what is wrong with them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from twotower.data.features import Categories, Category, History, Id, Number, Text, Vector
from twotower.data.preparation import identity, prepare
from twotower.data.preparation.identity import Index, Names, names_of
from twotower.data.schema import ItemSide, PairColumns, QuerySide, Schema
from twotower.data.sources import open_source
from twotower.data.splits import SplitOptions
from twotower.errors import ConfigError, DataError

ITEMS = [{"sku": n, "title": f"title {n}"} for n in range(8)]
PAIRS = [{"q": f"ask {n}", "item": n % 8, "user": n % 5, "ts": n, "label": float(n % 3)} for n in range(60)]
SCHEMA = Schema(
    query=QuerySide(features=(Text(column="q"),)),
    item=ItemSide(id="sku", features=(Id(column="sku"), Text(column="title"))),
    pairs=PairColumns(item="item"),
)
USERS = replace(SCHEMA, query=QuerySide(features=(Id(column="user"),), key="user"))
BY_HISTORY = replace(SCHEMA, query=QuerySide(features=(History(),), key="user"))


@pytest.fixture
def make(tmp_path):
    def run(pairs=PAIRS, items=ITEMS, schema=SCHEMA, sources=None, progress=lambda _: None, split=None, **changes):
        schema = replace(schema, pairs=replace(schema.pairs, **changes))
        others = {name: open_source(data, name) for name, data in (sources or {}).items()}
        listed = None if items is None else open_source(items, "items")
        return prepare(open_source(pairs, "pairs"), listed, schema, SplitOptions(**(split or {})), tmp_path, progress=progress, **others)

    return run


def logged(prepared, part=None):
    """(query, item id, label) of each pair."""
    log = prepared.log if part is None else prepared.part(part)
    asked = prepared.queries.column(0).to_pylist()
    ids = prepared.items.column("_id").to_pylist()
    return [(asked[q], ids[i], float(label)) for q, i, label in zip(log.query_rows, log.item_rows, log.labels, strict=True)]


# --- labels


def test_non_matches_stay_in_training_alone_and_are_not_known(make):
    prepared = make(label="label")
    report = prepared.report
    assert set(logged(prepared)) <= {(row["q"], row["item"], row["label"]) for row in PAIRS}
    assert report["non_matches"] == 20 and report["keys_without_match"] == 20
    assert report["pairs"] == len(prepared.log.labels) == 60 - report["non_matches_outside_train"] and report["non_matches_outside_train"] > 0
    assert (prepared.log.labels[prepared.parts != 0] > 0).all() and (prepared.part(0).labels == 0).any()
    known = prepared.known(0, 1, 2)
    assert len(known.values) == 40
    assert np.bincount(prepared.parts, minlength=3)[1:].tolist() == [4, 4]


def test_match_says_from_where_a_label_counts(make):
    assert Counter(label for _, _, label in logged(make(label="label", match=2))) == {
        2.0: 20,
        0.0: 40 - make(label="label", match=2).report["non_matches_outside_train"],
    }
    assert Counter(label for _, _, label in logged(make())) == {1.0: 60}


@pytest.mark.parametrize("repeats", ["count", "first", "keep"])
def test_a_match_and_a_non_match_of_one_item_are_not_merged(make, repeats):
    """Were the non-match dropped for a match that the split holds out later, its absence would tell the answer."""
    pairs = [*PAIRS, {**PAIRS[1], "label": 0.0}, {**PAIRS[0], "label": 3.0}]  # a match passed over later; a non-match chosen later
    prepared = make(pairs, label="label", repeats=repeats)
    assert prepared.report["pairs_read"] == 62 and prepared.report["non_matches_of_matches"] == 2
    found = logged(prepared)
    for query, match in (("ask 0", 3.0), ("ask 1", 1.0)):
        labels = sorted(label for q, _, label in found if q == query)
        assert labels in ([match], [0.0, match])  # held out, only the match is a target
    known = prepared.known(0)
    matched = prepared.part(0).take(np.flatnonzero(prepared.part(0).labels > 0))
    assert len(known.values) == len(np.unique(matched.query_keys * prepared.n_items + matched.item_rows))


@pytest.mark.parametrize("written", [[False, True], ["false", "true"], ["FALSE", "True"]])
def test_truth_values_are_labels_of_1_and_0(make, written):
    numbered = [row | {"label": float(row["label"] > 0)} for row in PAIRS]
    assert logged(make([row | {"label": written[row["label"] > 0]} for row in PAIRS], label="label")) == logged(make(numbered, label="label"))


def test_labels_out_of_range_name_the_first_five_rows(make):
    pairs = [row | {"label": -1.0 if n > 9 else 1.0} for n, row in enumerate(PAIRS)]
    with pytest.raises(DataError, match=r'pairs rows 11, 12, 13, 14, 15 and 45 more: the label "label" is -1\.0; it must be a number of 0 or more'):
        make(pairs, label="label")
    with pytest.raises(DataError, match=r'rows 1, .*"q" is .*and a number is needed'):
        make(label="q")


# --- tables and files of their own


def test_queries_have_a_table_of_their_own(make):
    table = [{"user_id": str(n), "age": float(20 + n), "city": "ab"[n % 2]} for n in range(4)] + [{"user_id": "0", "age": 99.0, "city": "z"}]
    side = QuerySide(id="user_id", features=(Number(column="age"), Category(column="city")))
    prepared = make(schema=replace(SCHEMA, query=side), sources={"queries": table}, query="user")
    report = prepared.report
    assert (report["pairs_of_unlisted_query"], report["query_table_ids_repeated"], report["keys"], report["query_rows"]) == (12, 1, 4, 4)
    assert prepared.queries.to_pylist() == [{"age": 20.0 + n, "city": "ab"[n % 2]} for n in range(4)]
    expected = Counter((20.0 + row["user"], row["item"]) for row in PAIRS if row["user"] < 4)
    assert {(age, item) for age, item, _ in logged(prepared)} == set(expected)
    with pytest.raises(DataError, match="name a query that queries lacks, such as '0'"):
        make(schema=replace(SCHEMA, query=side), sources={"queries": [row | {"user_id": "x"} for row in table]}, query="user")
    with pytest.raises(ConfigError, match="go together"):
        make(schema=replace(SCHEMA, query=side))


def test_files_of_one_log_may_write_items_in_other_types(make):
    """Without a catalogue an item is shown as the first file has it, whichever names it; what cannot be had in that type is refused."""
    schema = replace(SCHEMA, item=ItemSide(id="item", features=(Id(column="item"),), payload=("price",)))
    typed = {"pairs": [{"q": f"ask {n}", "item": f"{n % 8}", "price": "9"} for n in range(60)], "items": None, "schema": schema}
    late = pa.table({"q": [f"late {n}" for n in range(10)], "item": range(10), "price": [1.5] * 10})
    prepared = make(**typed, sources={"test": late}, split={"by": "files"})
    assert prepared.items.column("price").to_pylist() == ["9"] * 8 + ["1.5"] * 2 and prepared.items.column("_id").to_pylist()[8:] == ["8", "9"]
    typed["pairs"] = [row | {"item": int(row["item"]), "price": 9} for row in typed["pairs"]]
    with pytest.raises(DataError, match='the column "price" of the items is int64 in one file and double in another'):
        make(**typed, sources={"test": late}, split={"by": "files"})


def test_parts_may_have_files_of_their_own(make):
    test = [{"q": f"late {n}", "item": n % 8} for n in range(10)]
    prepared = make(sources={"test": test}, split={"by": "files"})
    assert {q for q, _, _ in logged(prepared, 2)} == {row["q"] for row in test} and prepared.report["split"]["validation"] == 6
    both = make(sources={"test": [*test, PAIRS[0] | {"item": 0}], "validation": PAIRS[50:55]}, split={"by": "files"})
    assert both.report["test_pairs_in_train"] == 1 and both.report["split"]["validation"] == 5
    with pytest.raises(DataError, match="test nothing"):
        make(sources={"test": PAIRS[:10]}, split={"by": "files"})
    with pytest.raises(DataError, match="given twice"):
        make(sources={"test": PAIRS}, split={"by": "files"})
    for options, sources in (({"by": "files"}, {}), ({}, {"test": test})):
        with pytest.raises(ConfigError, match="go together"):
            make(sources=sources, split=options)


# --- order, age, core


def test_equal_times_share_a_moment(make):
    pairs = [row | {"ts": row["ts"] // 4} for row in PAIRS]
    prepared = make(pairs, time="ts")
    assert prepared.log.moments.tolist() == [4 * (n // 4) for n in range(60)]
    assert make(ordered=True).log.moments.tolist() == list(range(60)) and make().log.moments is None


def test_a_log_in_order_is_split_by_it(make):
    prepared = make(ordered=True, split={"by": "time", "test": 0.1, "validation": 0.1})
    assert prepared.parts.tolist() == [0] * 48 + [1] * 6 + [2] * 6
    with pytest.raises(ConfigError, match=r"needs .* time"):
        make(split={"by": "time"})


def test_what_is_too_old_is_dropped(make):
    prepared = make(time="ts", since="19s")
    assert prepared.report["pairs_before_since"] == 40 and [q for q, _, _ in logged(prepared)] == [row["q"] for row in PAIRS[40:]]
    assert prepared.queries.num_rows == prepared.report["keys"] == 20
    assert make(time="ts", since="1970-01-01").report["pairs_before_since"] == 0
    for changes in ({"since": "19s"}, {"since": "later", "time": "ts"}, {"ordered": True, "time": "ts"}, {"match": 2.0}, {"query": "user"}):
        with pytest.raises(ConfigError):
            make(**changes)


def test_the_core_equals_a_plain_count(make):
    generator = np.random.default_rng(0)
    pairs = [
        {"user": int(u), "item": f"i{i}", "label": float(u % 7 > 0)}
        for u, i in zip(generator.integers(40, size=260), generator.integers(50, size=260) ** 2 // 50, strict=True)
    ]
    left = {(row["user"], row["item"]) for row in pairs}
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        kept = {(u, i) for u, i in left if users[u] >= 4 and items[i] >= 4}
        if kept == left:
            break
        left = kept
    schema = Schema(query=QuerySide(features=(Id(column="user"),), key="user"), item=ItemSide(id="item", features=(Id(column="item"),)))
    prepared = make(pairs, None, schema, core=4)
    assert {(int(u), i) for u, i, _ in logged(prepared)} == left and 0 < len(left) < len({(r["user"], r["item"]) for r in pairs})
    assert prepared.n_items == len({i for _, i in left}) and prepared.report["items_without_pairs"] == 0
    assert prepared.report["pairs_outside_core"] == len([r for r in pairs if (r["user"], r["item"]) not in left])


# --- histories


def test_a_history_is_whose_the_log_says(make):
    prepared = make(schema=BY_HISTORY, time="ts", repeats="keep")
    assert prepared.queries.num_rows == 1 and prepared.queries.column_names == [] and prepared.columns["query"] == {}
    assert prepared.log.history_keys.tolist() == prepared.log.query_keys.tolist() == [n % 5 for n in range(60)]
    side = QuerySide(features=(Text(column="q"), History(by="user")))
    pairs = [row | {"user": None if n in (7, 9) else row["user"]} for n, row in enumerate(PAIRS)]
    other = make(pairs, schema=replace(SCHEMA, query=side), time="ts")
    names = other.log.history_keys.tolist()
    whose = [("row", n) if n in (7, 9) else row["user"] for n, row in enumerate(PAIRS)]
    assert len(set(names)) == 7 == len(set(zip(names, whose, strict=True)))
    assert make().log.history_keys is None
    with pytest.raises(ConfigError, match="whose it is"):
        make(schema=replace(SCHEMA, query=QuerySide(features=(History(),))))


# --- what an encoder may learn from


def test_cold_items_are_unknown_to_the_encoder(make):
    prepared = make(split={"by": "cold_items", "test": 0.25})
    cold = set(prepared.log.item_rows[prepared.parts != 0].tolist())
    codes = np.asarray(prepared.columns["item"]["sku:id"])
    # Titles are counted over the rows that were learnt from; ids need a training pair besides.
    assert prepared.encoder.states["item"]["title:text"]["texts"].tolist() == [8 - len(cold)]
    assert len(cold) == 3 and cold == set(np.flatnonzero(codes < 2).tolist()) and not cold & set(prepared.part(0).item_rows.tolist())


def test_near_duplicates_never_straddle_and_neither_does_an_entity(make):
    pairs = [{"q": f"{'How to' if n % 2 else 'to how'} do {n // 2}{'?' if n % 2 else ''}", "item": n % 8, "team": f"t{n // 6}"} for n in range(120)]
    prepared = make(pairs, split={"by": "group"})
    part_of = {q: part for (q, _, _), part in zip(logged(prepared), prepared.parts.tolist(), strict=True)}
    assert all(part_of[pairs[n]["q"]] == part_of[pairs[n + 1]["q"]] for n in range(0, 120, 2)) and prepared.report["split"]["keys_joined"] == 60
    by_team = make(pairs, split={"by": "group", "column": "team"})
    part_of = {q: part for (q, _, _), part in zip(logged(by_team), by_team.parts.tolist(), strict=True)}
    assert len({(row["team"], part_of[row["q"]]) for row in pairs}) == 20 == by_team.report["split"]["groups"]
    with pytest.raises(DataError, match="finds 1 group"):
        make([row | {"team": "all"} for row in pairs], split={"by": "group", "column": "team"})


def test_queries_of_any_kind_of_value_are_told_apart(make):
    rows = [
        {"tags": [["a"], ["a", "b"], ["a,b"], None][n % 4], "v": [[0.5, 1.0], [1.0, 0.5]][n % 2], "p": float(n % 3), "item": n % 8} for n in range(96)
    ]
    side = QuerySide(features=(Categories(column="tags"), Vector(column="v"), Number(column="p")))
    prepared = make(pa.Table.from_pylist(rows), schema=replace(SCHEMA, query=side))
    assert prepared.queries.num_rows == prepared.report["keys"] == 12
    assert {(None if t is None else tuple(t), tuple(v), p) for t, v, p in zip(*prepared.queries.to_pydict().values(), strict=True)} == {
        (None if r["tags"] is None else tuple(r["tags"]), tuple(r["v"]), r["p"]) for r in rows
    }
    assert len(prepared.columns["query"]["v:vector"]) == 12 and np.asarray(prepared.columns["query"]["v:vector"]).ndim == 2


# --- strange texts, and names of texts


def test_strange_texts_are_texts(make):
    odd = ["x" * (1 << 20), "a\x00b", "a b", "\ud800lone", "é", "e\u0301", "\U0001f600", "ab" * 200, "ab" * 201]
    prepared = make([*PAIRS, *({"q": text, "item": n % 8, "user": 1, "ts": 1, "label": 1.0} for n, text in enumerate(odd))])
    asked = prepared.queries.column("q").to_pylist()[60:]
    assert asked == ["x" * (1 << 20), "a b", "?lone", "é", "\U0001f600", "ab" * 200, "ab" * 201]


def test_times_are_written_in_one_way(make, monkeypatch):
    monkeypatch.setattr("twotower.data.sources.BATCH", 30)
    pairs = [row | {"ts": str(n) if n < 30 else "2024-05-01"} for n, row in enumerate(PAIRS)]
    with pytest.raises(DataError, match=r"row 31: .* before it stood numbers"):
        make(pairs, time="ts")


def test_equal_texts_have_equal_names_wherever_they_stand():
    texts = ["", "a", "ab", "a" * 8, "a" * 9, "a" * 256, "a" * 257, "b" * 100_000, "é", "\x00", "\x00\x00", *map(str, range(500))]
    names = names_of(pa.array(texts))
    assert len(set(names.codes.tolist())) == len(set(names.checks.tolist())) == len(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    moved = names_of(pa.array(["skipped", *(texts[n] for n in order)]).slice(1))
    assert moved.codes.tolist() == names.codes[order].tolist() and moved.checks.tolist() == names.checks[order].tolist()
    assert not set(names.codes.tolist()) & set(names_of(pa.array(texts), seed=1).codes.tolist())


def test_an_index_numbers_as_a_dict_does():
    index, plain, generator = Index(), {}, np.random.default_rng(0)
    for _ in range(30):
        texts = [str(n) for n in generator.integers(5000, size=900)]
        assert index.add(names_of(pa.array(texts)))[0].tolist() == [plain.setdefault(text, len(plain)) for text in texts]
    assert index.find(names_of(pa.array(["17", "strange"]))).tolist() == [plain["17"], -1]


def test_texts_that_share_a_name_are_told_apart(make, monkeypatch):
    plain, seeds = identity.names_of, []

    def weak(texts, seed=0):
        seeds.append(seed)
        names = plain(texts, seed)
        return names if seed else Names(names.codes % np.uint64(7) + np.uint64(1), names.checks)

    expected = logged(make())
    for module in ("intake", "catalogue"):
        monkeypatch.setattr(f"twotower.data.preparation.{module}.names_of", weak)
    assert logged(make(repeats="first")) == expected and set(seeds) == {0, 1}


def test_queries_that_are_forgotten_are_one_again(make, monkeypatch):
    pairs = [row | {"q": f"ask {n % 10}"} for n, row in enumerate(PAIRS)]
    expected = logged(make(pairs, time="ts"))
    monkeypatch.setattr("twotower.data.preparation.intake.HELD", 3)
    monkeypatch.setattr("twotower.data.sources.BATCH", 7)
    assert logged(make(pairs, time="ts", core=1, repeats="count", since="1d")) == expected


def test_reading_says_how_far_it_is(make, monkeypatch):
    monkeypatch.setattr("twotower.data.preparation.intake.TOLD_EVERY", 0.0)
    told = []
    make(progress=told.append)
    assert "reading the data: 60 pairs" in told and told[-1] == "encoding 60 queries and 8 items"


@pytest.mark.parametrize(
    ("written", "odd", "message"),
    [
        (lambda n: str(1_700_000_000 + n), "soon", r"rows? 8: the time \"ts\" is 'soon'; it must be a number as elsewhere"),
        (lambda n: f"2024-05-{n % 28 + 1:02}", "soon", r"rows? 8: the time \"ts\" is 'soon'; it must be a date like"),
    ],
)
def test_of_times_only_the_odd_one_is_named(make, written, odd, message):
    rows = [pair | {"ts": odd if n == 7 else written(n)} for n, pair in enumerate(PAIRS)]
    with pytest.raises(DataError, match=message):
        make(pairs=rows, time="ts")
