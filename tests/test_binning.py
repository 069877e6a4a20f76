"""Values of features in bins: each row adds up to one, what is unknown and missing is what the features say, and the bins are those of the data."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.columns import Ragged, offsets_of
from twotower.data.features import Categories, Category, History, Id, Number, Pieces, Text, Time, Vector
from twotower.learning.binning import TOP, Values, entries, known_rows, labels, learnt, missing_rows, unknown_rows

WORDS = ["list", "open", "ports", "disk", "zebra", "quux", ""]
texts = st.lists(st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)), min_size=1, max_size=30)
FEATURES = {
    Id(column="c"): texts,
    Id(column="c", buckets=3, minimum=2): texts,
    Category(column="c"): texts,
    Categories(column="c"): st.lists(st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=4).map("|".join)), min_size=1, max_size=30),
    Number(column="c"): st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=30),
    Number(column="c", scale="quantile"): st.lists(st.one_of(st.none(), st.integers(0, 3).map(float)), min_size=1, max_size=30),
    Time(column="c"): st.lists(st.one_of(st.none(), st.floats(0, 2e9)), min_size=1, max_size=30),
    Text(column="c", buckets=1 << 16): texts,
    Pieces(column="c", vocabulary=64): texts,
    Vector(column="c"): st.lists(st.one_of(st.none(), st.just([0.5, 1.0])), min_size=1, max_size=30),
}


def column_of(values):
    return pa.nulls(len(values), pa.string()) if all(value is None for value in values) else pa.array(values)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.type)
@settings(max_examples=30)
@given(data=st.data())
def test_each_row_adds_up_to_one_and_counts_are_those_of_the_feature(feature, data):
    old, new = (column_of(data.draw(FEATURES[feature])) for _ in range(2))
    if feature.type == "pieces" and not old.drop_null():
        old = pa.array(["list open"])
    state = feature.fit([(old, np.ones(len(old), np.int64))])
    values = Values(feature, state, old, feature.encode(old, state))
    bins = learnt(values, np.ones(len(old)))
    for column in (old, new):
        if feature.type == "vector" and not state["width"][0] and column.null_count < len(column):
            continue
        there = Values(feature, state, column, feature.encode(column, state))
        rows, places, shares = entries(there, bins)
        assert np.bincount(rows, shares, minlength=len(column)) == pytest.approx(np.ones(len(column)))
        assert places.min() >= 0 and places.max() < len(labels(feature, bins))
        assert missing_rows(there).sum() == feature.missing(there.encoded)
        assert not (known_rows(there) & missing_rows(there)).any()
        if feature.type != "text":
            assert unknown_rows(there).sum() == feature.unknown(there.encoded)
        else:
            known = {word for text in old.drop_null().to_pylist() for word in text.split()}
            wanted = [bool(text and text.split()) and not set(text.split()) & known for text in column.to_pylist()]
            assert unknown_rows(there).tolist() == wanted


def test_names_have_bins_in_the_order_of_how_common_they_are():
    feature, column = Category(column="c"), pa.array(["b"] * 3 + ["a"] * 2 + ["d"] + [None])
    state = feature.fit([(column, np.ones(7, np.int64))])
    weights = np.array([1, 1, 1, 5, 5, 1, 1.0])
    bins = learnt(Values(feature, state, column, feature.encode(column, state)), weights)
    assert sorted(bins.names) == ["a", "b", "d"]
    new = pa.array(["a", "zz", None, "d"])
    told = [labels(feature, bins)[place] for place in entries(Values(feature, state, new, feature.encode(new, state)), bins)[1]]
    assert told == ["a", "unknown", "missing", "d"]


def test_many_names_share_a_bin_and_ids_have_no_names():
    feature = Id(column="c")
    column = pa.array([f"u{n}" for n in range(TOP + 50)] + ["u3"] * 5)
    state = feature.fit([(column, np.ones(len(column), np.int64))])
    values = Values(feature, state, column, feature.encode(column, state))
    bins = learnt(values, np.ones(len(column)))
    assert len(bins.codes) == TOP and bins.names == [] and int(feature.encode(pa.array(["u3"]), state)[0]) in bins.codes
    places = entries(values, bins)[1]
    assert (places == TOP).sum() == 50 and labels(feature, bins)[TOP] == "other known ones" and "u3" not in labels(feature, bins)


def test_several_values_share_a_row():
    feature, column = Categories(column="c"), pa.array(["a|b", "a", None])
    state = feature.fit([(column, np.ones(3, np.int64))])
    values = Values(feature, state, column, feature.encode(column, state))
    bins = learnt(values, np.ones(3))
    rows, places, shares = entries(values, bins)
    found = {(int(row), labels(feature, bins)[place]): float(share) for row, place, share in zip(rows, places, shares, strict=True)}
    assert found == {(0, "a"): 0.5, (0, "b"): 0.5, (1, "a"): 1.0, (2, "missing"): 1.0}


def test_quantities_lie_in_deciles():
    feature, column = Number(column="c"), pa.array(np.arange(100.0))
    state = feature.fit([(column, np.ones(100, np.int64))])
    values = Values(feature, state, column, feature.encode(column, state))
    bins = learnt(values, np.ones(100))
    assert bins.edges == pytest.approx(np.quantile(np.arange(100.0), np.arange(1, 10) / 10).tolist())
    assert np.bincount(entries(values, bins)[1]).tolist() == [10] * 10
    lengths = np.array([0, 0, 1, 5, 5])
    history = Values(History(), {}, None, None, lengths)
    assert missing_rows(history).tolist() == [True, True, False, False, False] and len(entries(history, learnt(history, np.ones(5)))[0]) == 5


def test_words_of_a_text_are_known_or_not():
    feature, column = Text(column="c", buckets=1 << 16), pa.array(["list open ports"])
    state = feature.fit([(column, np.ones(1, np.int64))])
    new = pa.array(["list ports", "list open ports quux", "list quux zebra", "quux zebra", "portsx", "", None])
    values = Values(feature, state, new, feature.encode(new, state))
    told = [labels(feature, learnt(values, np.ones(7)))[place] for place in entries(values, learnt(values, np.ones(7)))[1]]
    assert told == ["no unknown words", "up to a quarter unknown", "more than half unknown", "no known word", "no known word", "missing", "missing"]
    assert known_rows(values).tolist() == [True, True, True, False, True, False, False]  # letter pieces of "portsx" are known


def test_pieces_that_cannot_be_spelled():
    feature = Pieces(column="c", vocabulary=64)
    encoded = Ragged(np.array([2, 3, 1, 1], np.int32), offsets_of([2, 1, 1, 0]))
    values = Values(feature, {}, None, encoded)
    assert unknown_rows(values).tolist() == [False, True, True, False] and known_rows(values).tolist() == [True, False, False, False]
    assert entries(values, learnt(values, np.ones(4)))[1].tolist() == [0, 1, 1, 2]
