"""Ids, categories and texts: what each learns and how it encodes."""

from typing import get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pytest
from annotated_types import Le
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.columns import concatenate, distinct
from twotower.data.features import FEATURES, Category, Id, Text
from twotower.errors import DataError


def learnt(feature, *columns):
    return feature.fit([feature.normalise(pa.array(column)) for column in columns])


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


def test_an_unknown_value_can_be_an_error():
    feature = Id(column="a", unknown_values="error")
    state = learnt(feature, ["x"])
    assert feature.encode(pa.array(["x", None]), state).tolist() == [2, 0]
    with pytest.raises(DataError, match="'y', which the model has never seen"):
        feature.encode(pa.array(["x", "y"]), state)


def test_nothing_learnt_knows_nothing():
    assert Id(column="a").encode(pa.array(["x", None]), learnt(Id(column="a"))).tolist() == [1, 0]


def row(encoded, number):
    return encoded.values[encoded.offsets[number] : encoded.offsets[number + 1]].tolist()


@settings(deadline=None)
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


@pytest.mark.parametrize("kind", list(FEATURES))
def test_normalising_twice_changes_nothing(kind):
    feature = FEATURES[kind](column="a")
    for column in (pa.array([" 7.0", "e\u0301", "True", "", None]), pa.array([7.0, None]), pa.array([1, 2]), pa.array([True]), pa.nulls(2)):
        once = feature.normalise(column)
        assert once.type == pa.string() and feature.normalise(once).equals(once)
        # What is learnt and encoded from canonical values is what raw ones give.
        state = feature.fit([once])
        one, two = (feature.encode(values, state) for values in (once, column))
        assert np.array_equal(getattr(one, "values", one), getattr(two, "values", two))


@given(st.lists(st.integers(-5, 5)))
def test_distinct_equals_a_sorted_set(values):
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))


def test_no_number_of_buckets_that_is_allowed_fills_a_machine():
    hints = get_type_hints(Text, include_extras=True)["buckets"]
    assert [limit.le for limit in get_args(hints) if isinstance(limit, Le)] == [67_108_864]
