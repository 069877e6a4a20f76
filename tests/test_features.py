"""Every feature: what all of them promise, in one suite, and what each of them means, against values worked by hand."""

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args, get_type_hints
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from annotated_types import Le
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.columns import Ragged, concatenate, distinct, lengths_of, row_count, take
from twotower.data.encoder import Encoder, to_table
from twotower.data.features import FEATURES, Categories, Category, History, Id, Number, Text, Time, Unreadable, Vector
from twotower.data.schema import ItemSide, QuerySide, Schema
from twotower.errors import ConfigError, DataError


def counted(values):
    """Values as one part of training rows, each in one pair."""
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return column, np.ones(len(column), np.int64)


def learnt(feature, *columns):
    return feature.fit([counted(column) for column in columns])


def row(encoded, number):
    return encoded.values[encoded.offsets[number] : encoded.offsets[number + 1]].tolist()


def same(one, other):
    """Whether two encoded columns are bit-equal."""
    parts = [(one.values, other.values), (one.offsets, other.offsets)] if isinstance(one, Ragged) else [(one, other)]
    return type(one) is type(other) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in parts)


# --- what every feature promises ----------------------------------------------------------------------------------

NAMES = ["x", "y", None, "7", "x", "e\u0301", " x "]
SETS = [["x", "y"], ["y"], None, ["7", "x", "x"], [], ["z", None, ""]]
WEIGHED = ['{"x": 0.5, "y": 2}', "x:1|y:0.25", None, '{"z": 0}', "x"]
MOMENTS = ["2024-05-01", "2024-05-01 17:30:00", None, "1999-12-31T23:59:59Z", "2024-03-31 02:30:00+02:00"]
# name: (feature, raw values, values that were never seen)
CASES = {
    "id": (Id(column="a"), NAMES, ["new", "7.5"]),
    "id with buckets": (Id(column="a", buckets=3, minimum=2), NAMES, ["new", "7", "other"]),
    "category": (Category(column="a"), NAMES, ["new"]),
    "categories": (Categories(column="a"), SETS, [["new", "x"], ["newer"]]),
    "categories sum": (Categories(column="a", pool="sum", buckets=2), SETS, [["new"]]),
    "categories weighted": (Categories(column="a", pool="weighted"), WEIGHED, ["new:2|x", "newer"]),
    "number": (Number(column="a"), [1.5, -2.0, None, 1e6, 0.0], []),
    "number log": (Number(column="a", scale="log"), [1.5, -2.0, None, 1e300], []),
    "number quantile": (Number(column="a", scale="quantile", bins=4), [1.5, -2.0, None, 3.0, 3.0], []),
    "time": (Time(column="a"), MOMENTS, []),
    "time in a zone": (Time(column="a", zone="Europe/Berlin", cycles=("day", "age")), MOMENTS, []),
    "vector": (Vector(column="a"), [[1.0, 2.0], None, [0.0, 0.0], [-3.0, 4.0]], []),
    "vector standard": (Vector(column="a", scale="standard"), [[1.0, 2.0], None, [0.0, 2.0]], []),
    "vector none": (Vector(column="a", scale="none"), [[1.0, 2.0], None], []),
    "text": (Text(column="a", buckets=512), ["red shoe", "Red hat!", None, "", "?!", "e\u0301te"], []),
    "history": (History(column="a", last=2), [["x", "y", "z"], None, [], ["7"]], []),
}
MISSING_ROWS = {"id": 1, "category": 1, "categories": 2, "number": 1, "time": 1, "vector": 1, "text": 3, "history": 2}


@pytest.fixture(params=CASES)
def case(request):
    feature, values, new = CASES[request.param]
    column = pa.array(values)
    return feature, column, new, learnt(feature, column)


def test_no_feature_goes_untested():
    optional = {"pieces", "pretrained"}  # they need the packages of an extra, and have tests of their own
    assert {feature.type for feature, _, _ in CASES.values()} == set(FEATURES) - optional


def test_normalising_twice_changes_nothing(case):
    feature, column, _, state = case
    once = feature.normalise(column)
    assert feature.normalise(once).equals(once)
    assert len(once) == len(column)
    # What is learnt and encoded of canonical values is what raw ones give.
    again = learnt(feature, once)
    assert state.keys() == again.keys() and all(np.array_equal(state[name], again[name]) for name in state)
    assert same(feature.encode(once, state), feature.encode(column, state))


def test_rows_are_encoded_alike_in_any_company(case):
    feature, column, new, state = case
    column = pa.concat_arrays([feature.normalise(column), feature.normalise(pa.array(new, column.type if not new else None))])
    whole = feature.encode(column, state)
    for cut in range(len(column) + 1):
        parts = [feature.encode(part, state) for part in (column.slice(0, cut), column.slice(cut))]
        assert same(concatenate(parts), whole)
    order = np.random.default_rng(0).permutation(len(column))
    assert same(feature.encode(column.take(pa.array(order)), state), take(whole, order))


def test_what_is_learnt_does_not_depend_on_the_parts(case):
    feature, column, _, state = case
    for cut in range(len(column) + 1):
        parts = learnt(feature, column.slice(0, cut), column.slice(cut))
        for name, array in state.items():
            np.testing.assert_allclose(parts[name].astype(float), array.astype(float), rtol=1e-12)
            assert parts[name].dtype == array.dtype


def test_the_form_is_what_comes_out(case):
    feature, column, new, state = case
    form = feature.form(state, 16)
    for values in (column, column.slice(0, 0), column.slice(0, 1), pa.nulls(3), pa.array(new, column.type) if not new else pa.array(new)):
        encoded = feature.encode(values, state)
        flat = encoded.values if isinstance(encoded, Ragged) else encoded
        assert row_count(encoded) == len(values)
        assert isinstance(encoded, Ragged) == form.ragged
        if feature.type == "history":
            assert flat.dtype == np.uint64  # names of items, which the catalogue then stands in for
            continue
        assert flat.dtype.kind == np.dtype(form.dtype).kind
        assert flat.shape[1:] == (() if form.width is None else (form.width,))
        assert np.isfinite(flat.astype(float)).all()
        if form.high:
            codes = flat if form.width is None else flat[:, 0]
            assert ((codes >= (1 if form.ragged else 0)) & (codes < form.high)).all()


def test_what_is_missing_and_what_is_unknown_are_counted(case):
    feature, column, new, state = case
    encoded = feature.encode(column, state)
    weighted = getattr(feature, "pool", None) == "weighted"
    assert feature.missing(encoded) == (1 if weighted else MISSING_ROWS[feature.type])
    nothing = feature.encode(pa.nulls(4), state)
    assert feature.missing(nothing) == 4
    assert feature.unknown(nothing) == 0
    if new:
        strange = feature.encode(pa.array(new), state)
        assert feature.missing(strange) == 0
        assert feature.unknown(strange) == len(new)


def test_a_feature_that_learnt_of_nothing_still_encodes(case):
    feature, column, _, state = case
    for empty in ([], [column.slice(0, 0)], [pa.nulls(3)]):
        bare = learnt(feature, *empty)
        assert bare.keys() == state.keys()
        if feature.type == "vector":  # nobody has said how wide they are
            assert feature.encode(pa.nulls(2), bare).tolist() == [[1.0], [1.0]]
            continue
        encoded = feature.encode(column, bare)
        assert row_count(encoded) == len(column)
        assert np.isfinite((encoded.values if isinstance(encoded, Ragged) else encoded).astype(float)).all()


def test_the_state_comes_back_with_the_encoder(case):
    feature, column, _, state = case
    sides = {"query": (feature,), "item": (Id(column="sku"),)}
    name = f"a:{feature.type}"
    encoder = Encoder(sides, {"query": {name: state}, "item": {"sku:id": learnt(Id(column="sku"), ["i"])}})
    again = Encoder.restore(encoder.describe(), encoder.arrays())
    assert again.features == encoder.features
    rows = pa.table({"a": column})
    assert same(again.encode("query", rows)[name], encoder.encode("query", rows)[name])
    assert same(encoder.encode("query", rows)[name], feature.encode(column, state))
    assert again.missing("query", again.encode("query", rows)) == {name: feature.missing(feature.encode(column, state))}


SPELLINGS = {
    "id": (Id, [7, None, 12], [pa.array([7, None, 12]), pa.array([7.0, None, 12.0]), pa.array(["7", None, "12"]), pa.array(["7.0", "", " 12 "])]),
    "id of whole numbers": (Id, [7, 8], [pa.array([7, 8], pa.uint8()), pa.array([7, 8], pa.float32()), pa.array(["7", "8"]).dictionary_encode()]),
    "truth": (Category, [True, False], [pa.array([True, False]), pa.array(["True", "FALSE"]), pa.array(["true", "false"], pa.large_string())]),
    "number": (Number, [7, None, 12], [pa.array(["7", "n/a", "12.0"]), pa.array([7, None, 12], pa.int8()), pa.array([7, np.nan, 12], pa.float16())]),
    "number as text": (
        Number,
        [1000.5, None],
        [pa.array(["1000.5", ""]), pa.array(["1.0005e3", "NULL"]), pa.array(["1000.5", " - "]).dictionary_encode()],
    ),
    "time": (
        Time,
        [datetime(2024, 5, 1, 17, 30, tzinfo=UTC), None],
        [
            pa.array(["2024-05-01 17:30:00", None]),
            pa.array(["2024-05-01T17:30:00Z", ""]),
            pa.array(["2024-05-01 19:30:00+02:00", "null"]),
            pa.array([1714584600, None]),
            pa.array(["1714584600", None]),
            pa.array([1714584600.0, np.nan]),
            pa.array([1714584600, None], pa.timestamp("s")),
            pa.array([1714584600 * 10**9, None], pa.timestamp("ns", "Asia/Tokyo")),
        ],
    ),
    "sets": (
        Categories,
        [["7", "a b"], None, ["x"]],
        [
            pa.array(["7|a b", None, "x"]),
            pa.array(["7.0| a b |", "", "|x|"]),
            pa.array(['["7", "a b"]', "[]", '["x", null, ""]']),
            pa.array(['[7, "a b"]', None, "x"]),
            pa.array([["7.0", " a b "], [], ["x", None]]),
            pa.array([["7", "a b"], None, ["x"]], pa.large_list(pa.large_string())),
            pa.array(["7|a b", None, "x"]).dictionary_encode(),
            pa.array([["7", "a b"], None, ["x", None]], pa.list_(pa.string(), 2)),
            pa.array([["7", "a b"], None, ["x"]], pa.list_view(pa.string())),
        ],
    ),
    "sets of numbers": (Categories, [[7, 8], [9]], [pa.array(["7|8", "9"]), pa.array([[7.0, 8.0], [9.0]]), pa.array(["[7, 8.0]", "[9]"])]),
    "vectors": (
        Vector,
        [[0.5, -2.0], None],
        [
            pa.array([[0.5, -2.0], None], pa.list_(pa.float32(), 2)),
            pa.array([[0.5, -2.0], None], pa.list_(pa.float64(), 2)),
            pa.array([np.array([0.5, -2.0], np.float16), None], pa.list_(pa.float16())),
            pa.array([[0.5, -2.0], None], pa.large_list(pa.float64())),
            pa.array([[0.5, -2.0], None], pa.list_view(pa.float64())),
            pa.array(["[0.5, -2]", None]),
            pa.array(["0.5 -2.0", ""]),
            pa.array(["0.5, -2", "[]"]),
            pa.array([["0.5", "-2"], []]),
        ],
    ),
    "histories": (History, [["7", "b"], None], [pa.array([["7.0", "b"], []]), pa.array(["7|b", ""]), pa.array(['[7, "b"]', None])]),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_values_are_read_alike_wherever_they_come_from(kind):
    made, values, spelled = SPELLINGS[kind]
    feature = made(column="a")
    plain = to_table([{"a": value} for value in values])["a"].combine_chunks()
    state = learnt(feature, plain)
    expected = feature.encode(plain, state)
    frame = to_table(pd.DataFrame({"a": pd.Series(values, dtype=object)}))["a"].combine_chunks()
    for column in (*spelled, frame):
        assert same(feature.encode(column, state), expected), column
        assert same(feature.encode(column, learnt(feature, column)), expected), column


JUNK = [
    pa.array(["x" * 1_000_000, None]),
    pa.array(["a\0b", "\0"]),
    pa.array(["[" * 100_000, "{" * 5000]),
    pa.array(['{"a": {"b": [1]}}', "[[1], [2, [3]]]"]),
    pa.array(["[" + "9" * 400 + "]", "9" * 400]),
    pa.array(["inf", "-Infinity", "nan"]),
    pa.array(["[NaN, Infinity]", "NaN NaN"]),
    pa.array(["9999999-99-99", "2024-13-45", "24:00"]),
    pa.array([float("inf"), 1.0]),
    pa.array([10**18, None], pa.timestamp("s")),
    pa.array([2**31 - 1], pa.date32()),
    pa.array([1, 2], pa.duration("s")),
    pa.array([1, 2], pa.time32("s")),
    pa.array([b"\xff\xfe"]),
    pa.array([[1.0], [2.0, 3.0]]),
    pa.array([[None, 1.0]]),
    pa.array([[float("nan")]]),
    pa.array([[[1.0]], [[2.0], [3.0]]]),
    pa.array([[True, False]]),
    pa.array([["a", "1"], ["2"]]),
    pa.array([[b"a"]]),
    pa.array([{"a": 1.0, "b": None}, None]),
    pa.array([{"a": {"b": 1}}]),
    pa.array([[{"value": None, "weight": 1.0}], [{"value": "a", "weight": None}]]),
    pa.array([[{"value": "a", "weight": float("inf")}]], pa.list_(pa.struct([("value", pa.string()), ("weight", pa.float64())]))),
    pa.array([[("k", 1.0)]], pa.map_(pa.string(), pa.float64())),
    pa.array([1 << 60, -(1 << 63)]),
    pa.array([1e308, -1e308, 1e-308]),
    pa.array(['{"a": 1' + "0" * 400 + "}", '["ab", "a1"]', "[1, 2]", "a:b:c", "a:"]),
    to_table([{"a": "\ud800 lone"}, {"a": ["\udfff"]}])["a"].combine_chunks(),
    to_table([{"a": 1}, {"a": "x"}, {"a": [1, {"b": 2}]}, {"a": {"c": datetime(2024, 1, 1)}}])["a"].combine_chunks(),
]


@pytest.mark.parametrize("number", range(len(JUNK)))
def test_junk_is_read_or_refused_in_our_words(case, number):
    """Whatever a column holds, what comes out is finite numbers, or an error of ours; TypeError is put in words by the encoder."""
    feature, _, _, state = case
    column, longest = JUNK[number], 0
    for columns in (column, pa.concat_arrays([column, pa.nulls(1, column.type)])):
        encoder = Encoder({"query": (feature,), "item": ()}, {"query": {f"a:{feature.type}": state}, "item": {}})
        try:
            encoded = encoder.encode("query", pa.table({"a": columns}))[f"a:{feature.type}"]
        except DataError as error:
            longest = max(longest, len(str(error)))
            continue
        flat = encoded.values if isinstance(encoded, Ragged) else encoded
        assert np.isfinite(flat.astype(float)).all()
        assert row_count(encoded) == len(columns)
        try:
            assert all(np.isfinite(array.astype(float)).all() for array in learnt(feature, columns).values())
        except DataError:
            assert feature.type == "vector"  # of another width
    assert longest < 1000  # a value of a million letters is told in a few


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(CASES)), st.lists(st.one_of(st.none(), st.text(max_size=9), st.text('[]{}":,|.0123456789-eE ', max_size=12)), max_size=6)
)
def test_any_text_is_read_or_refused_in_our_words(name, texts):
    feature, values, _ = CASES[name]
    column = to_table([{"a": text} for text in texts] or [{"a": None}])["a"].combine_chunks()
    state = learnt(feature, pa.array(values))
    try:
        encoded = feature.encode(column, state)
    except DataError:
        return
    once = feature.normalise(column)
    assert feature.normalise(once).equals(once)
    assert same(feature.encode(once, state), encoded)


@pytest.mark.parametrize(
    ("feature", "values", "said"),
    [
        (Number(column="price"), ["1", "x", "3", "4 EUR"], "column \"price\" holds what is no number: row 2 'x', row 4 '4 EUR'"),
        (Number(column="price"), [str(n) + "x" for n in range(9)], "row 5 '4x' and 4 more"),
        (Number(column="price"), [1.0, math.inf], "no finite number: row 2 inf"),
        (Time(column="at"), ["2024-05-01", "soon"], "no moment such as .*: row 2 'soon'"),
        (Time(column="at"), [5.0, -math.inf], "row 2 -inf"),
        (Vector(column="v"), [[1.0, 2.0], [1.0], [3.0, 4.0]], "no vector of 2 numbers.*: row 2 1"),
        (Vector(column="v"), [[1.0, 2.0], [1.0, None]], "no vector of finite numbers: row 2"),
        (Vector(column="v"), ["[1, 2]", "[[1], [2]]"], "no vector of numbers.*: row 2"),
        (Vector(column="v"), [["1", "2"], ["1", "b"]], "no vector of numbers.*: row 2"),
        (Categories(column="tags"), ["a|b", '["a", ["b"]]'], "no list of plain values: row 2"),
        (Categories(column="tags"), ["a|b", '["a"'], "no list of values.*: row 2"),
        (Categories(column="tags", pool="weighted"), ["a:1", "a:b", '{"a": null}', '{"a": []}'], r"no set of weighted values.*: row 2 .*, row 4 "),
        (Categories(column="tags", pool="weighted"), ["a:inf"], "row 1 'a:inf'"),
    ],
)
def test_bad_values_are_named(feature, values, said):
    with pytest.raises(Unreadable, match=said) as raised:
        feature.normalise(pa.array(values))
    assert len(raised.value.rows) <= 5
    moved = raised.value.at("pairs.csv", 100)
    assert str(moved).startswith("pairs.csv: ") and f"row {101 + raised.value.rows[0]} " in str(moved)


# --- ids and categories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", [Id(column="a"), Category(column="a")])
def test_each_known_value_has_a_code_and_the_rest_share_one(feature):
    state = learnt(feature, ["x", "y", None], ["y", "7"])
    codes = feature.encode(pa.array(["y", "x", "7", "new", None, ""]), state)
    assert codes.dtype == np.int64 and sorted(codes[:3]) == [2, 3, 4] and codes[3:].tolist() == [1, 0, 0]
    assert feature.unknown(codes) == 1
    assert feature.encode(pa.array([7]), state) == feature.encode(pa.array([7.0]), state) == codes[2]
    assert feature.encode(pa.array([], pa.string()), state).shape == (0,)


@given(st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=5), st.randoms())
def test_codes_do_not_depend_on_the_order_or_the_batches(batches, random):
    feature = Id(column="a")
    flat = [value for batch in batches for value in batch]
    shuffled = random.sample(flat, len(flat))
    one, two = learnt(feature, *batches), learnt(feature, shuffled)
    assert np.array_equal(one["hashes"], two["hashes"]) and len(one["hashes"]) == len(set(flat))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=20), st.integers(1, 6), st.integers(0, 20))
def test_a_value_needs_its_minimum_of_pairs(rows, minimum, cut):
    feature = Id(column="a", minimum=minimum)
    state = feature.fit([(pa.array([v for v, _ in part], pa.int64()), np.array([n for _, n in part], np.int64)) for part in (rows[:cut], rows[cut:])])
    pairs = Counter()
    for value, count in rows:
        pairs[value] += count
    known = {value for value, count in pairs.items() if count >= minimum}
    codes = feature.encode(pa.array(range(7)), state)
    assert {value for value in range(7) if codes[value] >= 2} == known
    lists = Categories(column="a", minimum=minimum)
    again = lists.fit([(pa.array([[v] for v, _ in rows], pa.list_(pa.int64())), np.array([n for _, n in rows], np.int64))])
    assert np.array_equal(again["hashes"], state["hashes"])


def test_unknown_values_share_buckets_that_never_move():
    few, many = Id(column="a", buckets=4), Id(column="a", buckets=4)
    one, two = learnt(few, ["x"]), learnt(many, ["x", "y", *map(str, range(50))])
    new = pa.array([f"new{n}" for n in range(200)])
    codes = few.encode(new, one)
    assert np.array_equal(codes, many.encode(new, two))  # whatever else is known
    assert set(codes) == {1, 2, 3, 4} and few.unknown(codes) == 200
    assert max(Counter(codes.tolist()).values()) < 100
    single = Id(column="a")
    known = pa.array(["x", "y", "3"])
    assert np.array_equal(many.encode(known, two) - 3, single.encode(known, two))  # known codes move by the buckets before them, and no more


@pytest.mark.parametrize("feature", [Id(column="a", unknown_values="error"), Categories(column="a", unknown_values="error")])
def test_an_unknown_value_can_be_an_error(feature):
    state = learnt(feature, ["x"])
    feature.encode(pa.array(["x", None]), state)
    with pytest.raises(DataError, match="'y', which the model has never seen"):
        feature.encode(pa.array(["x", "y"]), state)


def schema_of(query, item):
    return Schema(query=QuerySide(features=tuple(query)), item=ItemSide(features=tuple(item), id="sku"))


def fitted(schema, **rows):
    return Encoder.fit(schema, lambda side: [(batch, np.ones(len(batch), np.int64)) for batch in to_table(rows[side]).to_batches()])


def test_features_of_one_table_learn_together():
    schema = schema_of([Id(column="seen", table="things"), Categories(column="basket", table="things")], [Id(column="sku", table="things")])
    encoder = fitted(schema, query=[{"seen": "a|b", "basket": ["c", "a"]}, {"seen": 7, "basket": None}], item=[{"sku": "7"}, {"sku": "d"}])
    states = [encoder.states["query"]["seen:id"], encoder.states["query"]["basket:categories"], encoder.states["item"]["sku:id"]]
    assert len({id(state) for state in states}) == 1
    assert len(states[0]["hashes"]) == 5  # "a|b", a, c, d, 7
    code = encoder.encode("item", [{"sku": "c"}])["sku:id"][0]
    assert encoder.encode("query", [{"seen": "c", "basket": ["c"]}])["seen:id"][0] == code
    assert encoder.encode("query", [{"seen": "c", "basket": ["c"]}])["basket:categories"].values.tolist() == [code]


@pytest.mark.parametrize("other", [{"buckets": 5}, {"minimum": 2}])
def test_features_of_one_table_must_agree_on_what_it_holds(other):
    schema = schema_of([Id(column="seen", table="things", **other)], [Id(column="sku", table="things")])
    with pytest.raises(ConfigError, match='the table "things" need one minimum'):
        fitted(schema, query=[{"seen": "a"}], item=[{"sku": "7"}])


# --- several values -----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(["a", " b", "", "7", "new", "c d"])), max_size=4)), max_size=6))
def test_a_set_has_the_codes_of_its_values_in_their_order(rows):
    feature, single = Categories(column="a"), Id(column="a")
    state = learnt(single, ["a", "b", "7", "c d"])
    encoded = feature.encode(pa.array(rows, pa.list_(pa.string())), state)
    for number, values in enumerate(rows):
        plain = [value.strip() for value in values or () if value and value.strip()]
        assert row(encoded, number) == single.encode(pa.array(plain, pa.string()), state).tolist()


WEIGHTS = {
    "a dict": [{"drama": 0.7, "war": -2.0}, None, {"7": 1.0}],
    "json": ['{"drama": 0.7, "war": -2}', "", '{"7.0": 1}'],
    "json of pairs": ['[["drama", 0.7], ["war", -2]]', "[]", '[["7", 1]]'],
    "a text": ["drama:0.7|war:-2", None, "7"],
    "a map": pa.array([[("drama", 0.7), ("war", -2.0)], None, [("7", 1.0)]], pa.map_(pa.string(), pa.float64())),
    "structs": [[{"value": "drama", "weight": 0.7}, {"value": "war", "weight": -2.0}], [], [{"value": " 7.0", "weight": 1.0}]],
    "structs the other way": [[{"weight": 0.7, "value": "drama"}, {"weight": -2.0, "value": "war"}], None, [{"weight": 1.0, "value": "7"}]],
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weighted_values_are_read_alike_in_every_form(kind):
    feature = Categories(column="a", pool="weighted")
    given_values = WEIGHTS[kind]
    column = given_values if isinstance(given_values, pa.Array) else to_table([{"a": value} for value in given_values])["a"].combine_chunks()
    state = learnt(Id(column="a"), ["drama", "war", "7"])
    drama, war, seven = (Id(column="a").encode(pa.array([name]), state)[0] for name in ("drama", "war", "7"))
    encoded = feature.encode(column, state)
    assert encoded.offsets.tolist() == [0, 2, 2, 3]
    assert encoded.values.tolist() == [[drama, 0.7], [war, -2.0], [seven, 1.0]]


def test_a_value_without_a_weight_weighs_one():
    feature = Categories(column="a", pool="weighted")
    state = learnt(feature, ["drama|war"])
    for column in (pa.array(["drama|war"]), pa.array([["drama", "war"]]), pa.array(['["drama", "war"]']), pa.array(["drama:1|war"])):
        assert same(feature.encode(column, state), feature.encode(pa.array(["drama:1|war:1.0"]), state))
    assert len(feature.encode(pa.array(["b1"]), state).values) == 1  # and no "b" that weighs 1


# --- numbers ------------------------------------------------------------------------------------------------------


def test_a_number_is_standardised():
    feature = Number(column="a")
    state = learnt(feature, [1.0, None], [2.0, 3.0, 6.0])  # mean 3, deviation sqrt(14/4)
    found = feature.encode(pa.array([3.0, 3.0 + math.sqrt(3.5), None, 1e9, -1e9]), state)
    assert found.tolist() == [[0, 0], [pytest.approx(1), 0], [0, 1], [10, 0], [-10, 0]]


def test_a_number_that_spans_powers_of_ten_is_logged():
    feature = Number(column="a", scale="log")
    state = learnt(feature, [0.0, math.e - 1, 1 - math.e])  # 0, 1, -1
    found = feature.encode(pa.array([0.0, math.e**2 - 1]), state)
    assert found[:, 0].tolist() == pytest.approx([0, 2 / math.sqrt(2 / 3)])


def test_quantiles_are_equally_full_steps():
    feature = Number(column="a", scale="quantile", bins=4)
    state = learnt(feature, list(map(float, range(9))))  # edges 0 2 4 6 8
    found = feature.encode(pa.array([0.0, 1.0, 5.0, 8.0, 99.0, -1.0, None]), state)
    assert found[:, :4].tolist() == [[0, 0, 0, 0], [0.5, 0, 0, 0], [1, 1, 0.5, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found[:, 4].tolist() == [0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("scale", ["standard", "log", "quantile"])
@pytest.mark.parametrize("value", [0.0, 5.0, 0.1, -1e-300, 1.7e308, -1e15])
def test_numbers_that_are_all_equal_say_nothing(scale, value):
    feature = Number(column="a", scale=scale)
    state = learnt(feature, [value] * 7)
    found = feature.encode(pa.array([value, None]), state)
    assert np.abs(found[0]).max() < 1e-6
    assert found[1, -1] == 1


@pytest.mark.parametrize("scale", ["standard", "log", "quantile"])
@pytest.mark.parametrize("size", [1e-150, 1e-13, 1e-5, 1.0, 1e12, 1e90])
def test_the_unit_of_a_number_does_not_matter(scale, size):
    if scale == "log" and size != 1.0:
        pytest.skip("a logarithm is what minds the unit")
    values = np.random.default_rng(0).normal(size=200)
    feature = Number(column="a", scale=scale)
    one, other = (feature.encode(pa.array(v), learnt(feature, v)) for v in (values, values * size))
    np.testing.assert_allclose(other, one, atol=1e-5)
    assert one[:, 0].std() > 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", ["standard", "log", "quantile"])
def test_huge_numbers_stay_numbers(scale):
    feature = Number(column="a", scale=scale)
    values = pa.array([1.7e308, -1.7e308, 1.0, 0.0, 5e-324, None])
    assert np.isfinite(feature.encode(values, learnt(feature, values))).all()


def test_small_differences_of_large_numbers_are_kept():
    feature = Number(column="a")
    values = 1e12 + np.arange(10.0)
    found = feature.encode(pa.array(values), learnt(feature, values[:3], values[3:]))[:, 0]
    np.testing.assert_allclose(found, (np.arange(10) - 4.5) / np.arange(10).std(), atol=1e-4)


@pytest.mark.parametrize("word", ["NA", "n/a", "NaN", "null", "None", "-", "?", "", "  "])
def test_ways_to_write_that_a_number_is_missing(word):
    assert Number(column="a").normalise(pa.array([word, "1"])).to_pylist() == [None, 1.0]


# --- moments ------------------------------------------------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")


def cycles_of(moment):
    """(sine, cosine) of the day, week and year of a moment by the clocks of its zone; weeks begin on a Thursday, as 1970 did."""
    seconds = (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()
    found = []
    for length in (86400, 7 * 86400, 365.2425 * 86400):
        angle = 2 * math.pi * (seconds % length) / length
        found += [math.sin(angle), math.cos(angle)]
    return found


@given(st.datetimes(datetime(1980, 1, 1), datetime(2037, 12, 31)), st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]))
def test_the_day_is_read_from_the_clocks_of_the_zone(moment, zone):
    feature = Time(column="a", zone=zone)
    there = moment.replace(tzinfo=UTC, microsecond=0).astimezone(ZoneInfo(zone))
    state = learnt(feature, ["2030-01-01"])
    for column in (pa.array([there.astimezone(UTC)]), pa.array([there.isoformat()]), pa.array([there.timestamp()])):
        assert feature.encode(column, state)[0, :6].tolist() == pytest.approx(cycles_of(there), abs=1e-4)


def test_noon_is_noon_in_summer_and_in_winter():
    feature = Time(column="a", cycles=("day",), zone="Europe/Berlin")
    state = learnt(feature, ["2024-01-01"])
    naive = feature.encode(pa.array(["2024-01-15 12:00:00", "2024-07-15 12:00:00"]), state)
    zoned = feature.encode(pa.array(["2024-01-15T11:00:00Z", "2024-07-15T10:00:00Z"]), state)
    np.testing.assert_allclose(naive, [[0, -1, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(zoned, naive, atol=1e-6)


def test_hours_that_the_clocks_skip_or_repeat_are_moments_too():
    feature = Time(column="a", zone="Europe/Berlin")
    column = pa.array(["2024-03-31 02:30:00", "2024-10-27 02:30:00"])  # skipped; there twice, the first is meant
    seconds = feature.normalise(column).to_pylist()
    assert seconds[1] == datetime(2024, 10, 27, 0, 30, tzinfo=UTC).timestamp()
    assert abs(seconds[0] - datetime(2024, 3, 31, 1, 0, tzinfo=UTC).timestamp()) <= 3600


def test_age_is_the_logarithm_of_the_days_before_the_newest():
    feature = Time(column="a", cycles=("age",))
    newest = datetime(2024, 6, 1, tzinfo=UTC)
    days = np.array([0, 1, 10, 100])
    state = learnt(feature, [newest - timedelta(days=int(d)) for d in days])
    plain = np.log1p(days)
    later = feature.encode(pa.array([newest + timedelta(days=3)]), state)[0, 0]
    found = feature.encode(pa.array([newest - timedelta(days=int(d)) for d in days]), state)[:, 0]
    np.testing.assert_allclose(found, (plain - plain.mean()) / plain.std(), atol=1e-6)
    assert later == pytest.approx((-math.log1p(3) - plain.mean()) / plain.std(), abs=1e-6)


def test_moments_at_the_ends_of_the_calendar():
    for zone in ("UTC", "Europe/Berlin"):
        feature = Time(column="a", zone=zone)
        seconds = feature.normalise(pa.array(["9999-12-31", "0001-01-02", "2024-05-01 10:00:00.123456789"])).to_pylist()
        assert [round(s / (365.2425 * 86400)) for s in seconds] == [8030, -1969, 54]
    exact = Time(column="a").normalise(pa.array([1_714_557_600_123_456_789], pa.timestamp("ns")))[0].as_py()
    assert exact == pytest.approx(1_714_557_600.123456, abs=1e-6)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", " ", "\0", "\ud800", None])
def test_a_zone_that_is_none_is_refused_at_once(zone):
    with pytest.raises(ValueError, match="there is no time zone"):
        Time(column="a", zone=zone)


def test_a_time_of_no_cycle_is_refused():
    with pytest.raises(ValueError, match="cycles names none"):
        Time(column="a", cycles=())


# --- vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_unit_vector_has_length_one_whatever_its_size(size):
    feature = Vector(column="a")
    values = pa.array([[3 * size, 4 * size], [0.0, 0.0], None])
    found = feature.encode(values, learnt(feature, values))
    np.testing.assert_allclose(found, [[0.6, 0.8, 0], [0, 0, 0], [0, 0, 1]], atol=1e-6)


def test_a_standard_vector_is_divided_by_the_deviation_of_each_place():
    feature = Vector(column="a", scale="standard")
    values = [[1.0, 5.0, 1000.0], [3.0, 5.0, 1002.0], [5.0, 5.0, 1004.0]]
    state = learnt(feature, values[:1], values[1:])
    found = feature.encode(pa.array(values), state)
    deviation = math.sqrt(8 / 3)
    np.testing.assert_allclose(found, [[v[0] / deviation, 5.0, v[2] / deviation, 0] for v in values], rtol=1e-6)  # what never changes stays as it is


def test_a_vector_may_stay_as_it_is():
    feature = Vector(column="a", scale="none")
    values = [[1.5, -2.0], [0.0, 7.0]]
    assert feature.encode(pa.array(values), learnt(feature, values))[:, :2].tolist() == values


def test_vectors_of_another_width_than_before_are_refused():
    feature = Vector(column="a")
    state = learnt(feature, [[1.0, 2.0]])
    with pytest.raises(DataError, match="vectors of 3 numbers, and 2 are needed"):
        feature.encode(pa.array([[1.0, 2.0, 3.0]]), state)
    with pytest.raises(DataError, match="vectors of 3 numbers, and 2 are needed"):
        learnt(feature, [[1.0, 2.0]], [[1.0, 2.0, 3.0]])


# --- texts --------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=5), st.integers(0, 5))
def test_a_text_is_encoded_alike_alone_and_in_any_batch(texts, cut):
    feature = Text(column="a", buckets=1000)
    texts = [None if t is None else t.encode("utf-8", "replace").decode() for t in texts]
    whole = feature.encode(pa.array(texts, pa.string()), {})
    parts = [feature.encode(pa.array(part, pa.string()), {}) for part in (texts[:cut], texts[cut:])]
    joined = concatenate(parts)
    assert np.array_equal(joined.values, whole.values) and np.array_equal(joined.offsets, whole.offsets)
    assert whole.values.dtype == np.int32 and ((whole.values > 0) & (whole.values < 1000)).all()


@pytest.mark.parametrize("buckets", [64, 1000, 1 << 20])
def test_words_pairs_and_pieces_have_ranges_of_their_own(buckets):
    texts = pa.array([f"word{n} more{n * 7} and{n * 3}" for n in range(3000)])
    words = Text(column="a", buckets=buckets, pairs=False, pieces=()).encode(texts, {}).values
    with_pairs = Text(column="a", buckets=buckets, pieces=()).encode(texts, {})
    full = Text(column="a", buckets=buckets).encode(texts, {})
    quarter = buckets // 4
    assert words.min() >= 1 and words.max() < quarter
    for number in (0, 2999):
        assert row(with_pairs, number)[:3] == row(full, number)[:3] == words[3 * number : 3 * number + 3].tolist()
        assert all(quarter <= b < 2 * quarter for b in row(with_pairs, number)[3:])
        assert all(2 * quarter <= b < buckets for b in row(full, number)[5:])
    if buckets == 64:  # few enough that each is met
        assert set(full.values) == set(range(1, 64))


def test_a_text_counts_once_in_how_many_texts_a_bucket_stands():
    feature = Text(column="a", pairs=False, pieces=())
    state = learnt(feature, ["b b b", "b a"], ["a", None, "c"])
    counts = dict(zip(state["buckets"].tolist(), state["counts"].tolist(), strict=True))
    of = {word: counts[int(feature.encode(pa.array([word]), {}).values[0])] for word in "abc"}
    assert of == {"a": 2, "b": 2, "c": 1} and state["texts"].tolist() == [5] and len(counts) == 3


def test_only_so_many_words_are_read():
    feature = Text(column="a", words=2, pairs=False, pieces=())
    encoded = feature.encode(pa.array(["one two three", "one two"]), {})
    assert row(encoded, 0) == row(encoded, 1) and len(row(encoded, 0)) == 2


def test_a_missing_text_has_no_words_and_a_number_has_its_digits():
    feature = Text(column="a")
    encoded = feature.encode(pa.array([None, "", " ", "?!"], pa.string()), {})
    assert encoded.values.size == 0 and encoded.offsets.tolist() == [0] * 5
    assert np.array_equal(feature.encode(pa.array([7.0]), {}).values, feature.encode(pa.array(["7"]), {}).values)


@given(st.lists(st.integers(-5, 5)))
def test_distinct_equals_a_sorted_set(values):
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))


def test_no_number_of_buckets_that_is_allowed_fills_a_machine():
    hints = get_type_hints(Text, include_extras=True)["buckets"]
    assert [limit.le for limit in get_args(hints) if isinstance(limit, Le)] == [67_108_864]


# --- histories at look-up -----------------------------------------------------------------------------------------


def test_only_the_last_items_of_a_history_are_read():
    feature = History(last=3)
    long, short = (feature.encode(pa.array([items]), {}).values for items in (["a", "b", "c", "d", "e"], ["c", "d", "e"]))
    assert np.array_equal(long, short) and len(short) == 3
    assert feature.encode(pa.array([["e", "d", "c"]]), {}).values.tolist() == short[::-1].tolist()
    assert lengths_of(replace(feature, last=1).encode(pa.array([["a", "b"], []]), {})).tolist() == [1, 0]
