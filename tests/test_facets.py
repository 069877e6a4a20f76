"""What a column holds is told as it is: its ends, and how many items each value would leave."""

import datetime
import decimal
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.search import facets as module
from twotower.search.facets import facets
from twotower.search.filters import condition_of
from twotower.search.filters.masks import mask

D = decimal.Decimal
DAY = datetime.date(2024, 5, 1)
MOMENT = datetime.datetime(2024, 5, 1, 17, 30)


def one(values, of=None):
    return facets(pa.table({"c": values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, of)}))[0]


def named(found):
    return {each["value"]: each["count"] for each in found["values"]}


NUMBERS = st.lists(st.one_of(st.none(), st.floats(width=32), st.integers(-9, 9).map(float)), max_size=40)
TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=60)
LISTS = st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "", "å"])), max_size=5)), max_size=30)


@given(NUMBERS)
def test_ends_are_those_of_the_finite_numbers(values):
    found, finite = one(values, pa.float64()), [value for value in values if value is not None and math.isfinite(value)]
    assert found.get("least") == (min(finite) if finite else None) and found.get("greatest") == (max(finite) if finite else None)
    assert found["missing"] == sum(value is None or math.isnan(value) for value in values) and found["of"] == len(values)
    json.dumps(found, allow_nan=False)


@given(TEXTS)
def test_texts_are_counted_the_commonest_first(values):
    found, there = one(values, pa.string()), [value for value in values if value is not None]
    if len(set(there)) > 30:
        assert found["distinct"] == len(set(there)) and "values" not in found
    else:
        assert named({"values": found.get("values", [])}) == {value: there.count(value) for value in there}
        counts = [each["count"] for each in found.get("values", [])]
        assert counts == sorted(counts, reverse=True)


@given(LISTS)
def test_a_value_of_lists_counts_the_items_that_a_filter_by_it_leaves(values):
    items = pa.table({"c": pa.array(values, pa.list_(pa.string()))})
    found = facets(items)[0]
    for value, count in named({"values": found.get("values", [])}).items():
        assert count == mask(condition_of({"c": {"has": value}}), items).sum()
    assert set(named({"values": found.get("values", [])})) == {each for one in values if one for each in one if each is not None}


KINDS = {
    "halves": (pa.array([1.0, float("nan"), None]).cast(pa.float16()), {"least": 1.0, "greatest": 1.0, "missing": 2}),
    "decimals": (pa.array([D("1.50"), None, D("-2.25")], pa.decimal128(5, 2)), {"least": -2.25, "greatest": 1.5}),
    "big": (pa.array([2**64 - 1, None], pa.uint64()), {"least": 2**64 - 1}),
    "days": (pa.array([DAY, None]), {"kind": "date", "least": "2024-05-01"}),
    "days in milliseconds": (pa.array([DAY, None], pa.date64()), {"kind": "date", "least": "2024-05-01"}),
    "moments": (pa.array([MOMENT, None], pa.timestamp("ns")), {"kind": "moment", "greatest": "2024-05-01 17:30:00"}),
    "moments elsewhere": (pa.array([MOMENT], pa.timestamp("s", tz="Europe/Berlin")), {"least": "2024-05-01 17:30:00"}),
    "a slip among moments": (pa.array([1, 10**15, None], pa.timestamp("s")), {"greatest": "1970-01-01 00:00:01", "missing": 1}),
    "a slip among days": (pa.array([5, 3_000_000], pa.int32()).cast(pa.date32()), {"greatest": "1970-01-06"}),
    "nothing but a slip": (pa.array([3_000_000], pa.int32()).cast(pa.date32()), {"missing": 0}),
    "clocks": (pa.array([1, None], pa.time64("ns")), {"kind": "clock", "least": "00:00:00"}),
    "views of texts": (pa.array(["a", None, "a"], pa.string_view()), {"values": [{"value": "a", "count": 2}]}),
    "dictionaries": (pa.array(["a", None, "a"]).dictionary_encode(), {"kind": "text", "values": [{"value": "a", "count": 2}]}),
    "dictionaries of numbers": (pa.array([5, None, 6]).dictionary_encode(), {"kind": "number", "least": 5}),
    "truth": (pa.array([True, None, True]), {"kind": "truth", "values": [{"value": True, "count": 2}]}),
    "lists of numbers": (pa.array([[1.5, float("nan")], None]), {"values": [{"value": 1.5, "count": 1}]}),
    "lists of days": (pa.array([[DAY], []]), {"values": [{"value": "2024-05-01", "count": 1}]}),
    "lists of fine moments": (pa.array([[1]], pa.list_(pa.timestamp("ns"))), {"kind": "list", "distinct": 1}),
    "views of lists": (pa.array([["a", "a"], None], pa.list_view(pa.string())), {"values": [{"value": "a", "count": 1}]}),
    "vectors": (pa.array([[1, 2], [1, 3]], pa.list_(pa.int32(), 2)), {"kind": "list", "missing": 0}),
    "objects": (pa.array([{"a": 1}]), {"kind": "other", "missing": 0}),
    "bytes": (pa.array([b"a", None]), {"kind": "other", "missing": 1}),
    "nothing": (pa.nulls(3), {"kind": "other", "missing": 3}),
    "no row": (pa.chunked_array([], pa.int64()), {"kind": "number", "of": 0}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_column_is_told_as_plain_json(name):
    values, wanted = KINDS[name]
    found = one(values)
    assert wanted.items() <= found.items(), found
    json.dumps(found, allow_nan=False)


def test_many_or_long_values_are_not_named():
    assert one([str(n) for n in range(31)])["distinct"] == 31
    assert one(["x" * 81, "b"])["distinct"] == 2
    assert len(one([str(n) for n in range(30)])["values"]) == 30


def test_of_a_large_catalogue_a_sample_is_looked_at_and_it_says_so(monkeypatch):
    monkeypatch.setattr(module, "MOST_ITEMS", 100)
    monkeypatch.setattr(module, "MOST_LISTED", 200)
    items = pa.table({"n": np.arange(1000), "l": [[str(n % 3)] * 1 + ["x"] * 9 for n in range(1000)]})
    number, lists = facets(items)
    assert number["of"] == 100 and number["least"] >= 0 and number["greatest"] < 1000
    assert lists["of"] == 20 and named(lists)["x"] == 20
    assert facets(items) == [number, lists]
