"""One canonical form of raw values, whatever they were read from."""

import csv
import datetime as dt
import decimal
import io
import json
import unicodedata
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.sources import open_source
from twotower.data.values import plain_rows, rows_to_table, to_array, to_text, value_text

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


def texts(array, **options):
    return to_text(array, **options).to_pylist()


def read(data, column="a"):
    return [value for batch in open_source(data).batches() for value in texts(batch.column(column))]


def write_all(folder, values):
    """The same values as JSONL, Parquet, a data frame and dicts."""
    (folder / "v.jsonl").write_text("".join(json.dumps({"a": value}) + "\n" for value in values))
    pq.write_table(pa.table({"a": values}), folder / "v.parquet")
    return [str(folder / "v.jsonl"), str(folder / "v.parquet"), pd.DataFrame({"a": values}), [{"a": value} for value in values]]


# Every line of the table in docs/values.md.
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([7]), "7"),
        (pa.array([7], pa.uint8()), "7"),
        (pa.array([7.0]), "7"),
        (pa.array([7.0], pa.float32()), "7"),
        (pa.array(["7"]), "7"),
        (pa.array(["7"], pa.large_string()), "7"),
        (pa.array(["7.0"]), "7"),
        (pa.array([" 7.00 "]), "7"),
        (pa.array([decimal.Decimal("7.00")]), "7"),
        (pa.array(["7"]).dictionary_encode(), "7"),
        (pa.array(["007"]), "007"),
        (pa.array(["7.10"]), "7.10"),
        (pa.array([7.1]), "7.1"),
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([decimal.Decimal("7.10")]), "7.1"),
        (pa.array([decimal.Decimal("1234567890123456789012345678901.25")]), "1234567890123456789012345678901.25"),
        (pa.array([-0.0]), "0"),
        (pa.array(["-0"]), "0"),
        (pa.array(["-0.0"]), "0"),
        (pa.array([2**53 + 1]), "9007199254740993"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
        (pa.array([1e22]), "10000000000000000000000"),
        (pa.array([True]), "true"),
        (pa.array(["True"]), "true"),
        (pa.array(["FALSE"]), "false"),
        (pa.array(["tRue"]), "tRue"),
        (pa.array([dt.date(2024, 5, 1)]), "2024-05-01"),
        (pa.array([dt.datetime(2024, 5, 1, 17, 30)]), "2024-05-01 17:30:00"),
        (pa.array([dt.datetime(2024, 5, 1, 17, 30)], pa.timestamp("s")), "2024-05-01 17:30:00"),
        (pa.array([dt.datetime(2024, 5, 1, 17, 30, 0, 500_000)], pa.timestamp("ns")), "2024-05-01 17:30:00.5"),
        (pa.array([dt.datetime(2024, 5, 1, 17, 30)], pa.timestamp("ms", "Europe/Berlin")), "2024-05-01 17:30:00Z"),
        (pa.array([dt.time(17, 30, 0, 250_000)]), "17:30:00.25"),
        (pa.array(["cafe\u0301"]), "caf\u00e9"),
        (pa.array(["a\0b"]), "a b"),
        (pa.array([""]), None),
        (pa.array([" \t "]), None),
        (pa.array([None], pa.string()), None),
        (pa.array([None]), None),
        (pa.array([float("nan")]), None),
        (pa.array([uuid.UUID(int=7)]), "00000000-0000-0000-0000-000000000007"),
        (pa.array([None], pa.uuid()), None),
    ],
)
def test_the_table(array, expected):
    assert texts(array) == [expected]


def test_texts_for_reading_keep_their_spelling():
    assert texts(pa.array([" 7.0 ", "True", "-0", ""]), exact=False) == ["7.0", "True", "-0", None]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.struct([("a", pa.int64())]), pa.binary(), pa.duration("s")])
def test_what_has_no_text_raises(kind):
    with pytest.raises(TypeError, match="no canonical text"):
        to_text(pa.nulls(1, kind))


@given(TEXTS)
def test_a_text_becomes_its_trimmed_nfc_form(text):
    form = unicodedata.normalize("NFC", text).replace("\0", " ")
    got = texts(pa.array([text]), exact=False)[0]
    assert (got or "") == form.strip() or (got or "") in form  # Python and Unicode differ in what four control characters are
    assert got != ""


@given(st.lists(st.one_of(TEXTS, st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{0,3})?", fullmatch=True)), max_size=6))
def test_the_canonical_form_is_its_own_canonical_form(values):
    once = to_text(pa.array(values, pa.string()))
    assert to_text(once).equals(once)
    # Reading for words loses nothing that ids need.
    assert to_text(to_text(pa.array(values, pa.string()), exact=False)).equals(once)


@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_a_value_does_not_depend_on_its_neighbours(values):
    assert texts(pa.array(values)) == [texts(pa.array([value]))[0] for value in values] == [value_text(value) for value in values]


@given(st.lists(st.one_of(st.none(), TEXTS, st.text(" .0aTrue7-\t", max_size=5)), min_size=1, max_size=6), st.booleans())
def test_few_texts_are_cleaned_as_many_are(values, exact):
    many = to_text(pa.array([*values, *["x"] * 100], pa.string()), exact=exact)
    assert to_text(pa.array(values, pa.string()), exact=exact).equals(many[: len(values)])


@given(st.lists(st.floats(allow_nan=False), max_size=5))
def test_a_column_of_floats_equals_its_values_one_by_one(values):
    expected = [str(int(v)) if float(v).is_integer() else repr(v) for v in values]
    assert texts(pa.array(values, pa.float64())) == expected == [value_text(v) for v in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_whole_numbers_are_exact(values):
    assert texts(to_array(values)) == [str(v) for v in values]


@given(st.datetimes())
def test_a_moment_is_the_same_in_every_unit(moment):
    whole = moment.replace(microsecond=0)
    seconds = texts(pa.array([whole], pa.timestamp("s")))
    assert seconds == texts(pa.array([whole], pa.timestamp("us"))) == [whole.isoformat(" ")] == [value_text(whole)]
    assert texts(pa.array([moment], pa.timestamp("us"))) == [value_text(moment)]


@settings(max_examples=25)
@given(st.lists(st.one_of(st.integers(-(2**53), 2**53), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=4))
def test_every_road_gives_whole_numbers_one_form(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("values")
    (folder / "v.csv").write_text("a\n" + "".join(f"{value}\n" for value in values))
    for data in [str(folder / "v.csv"), *write_all(folder, values)]:
        assert read(data) == [str(value) for value in values]


@settings(max_examples=25)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_every_road_gives_numbers_one_form(tmp_path_factory, values):
    expected = [str(int(v)) if v.is_integer() else repr(v) for v in values]
    for data in write_all(tmp_path_factory.mktemp("values"), values):
        assert read(data) == expected


@settings(max_examples=25)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_every_road_gives_texts_one_form(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("values")
    table = io.StringIO()
    # What closes the row keeps an empty value from making an empty line.
    csv.writer(table, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *([value.replace("\r", " "), "x"] for value in values)])
    (folder / "v.csv").write_text(table.getvalue(), newline="", encoding="utf-8")
    expected = texts(pa.array(values))
    for data in write_all(folder, values):
        assert read(data) == expected
    if not any("\r" in value or "\0" in value for value in values):
        assert read(str(folder / "v.csv")) == expected


def test_seven_is_one_id_and_double_o_seven_another(tmp_path):
    (tmp_path / "v.csv").write_text("a\n7\n7.0\n007\n")
    (tmp_path / "v.jsonl").write_text('{"a": 7}\n{"a": 7.0}\n{"a": "7"}\n{"a": "007"}\n')
    assert read(str(tmp_path / "v.csv")) == ["7", "7", "007"]
    assert read(str(tmp_path / "v.jsonl")) == ["7", "7", "7", "007"]
    assert read(pd.DataFrame({"a": [7, "7", 7.0, "007", None, float("nan")]})) == ["7", "7", "7", "007", None, None]
    assert read([{"a": 7}, {"a": "7"}, {"a": np.float32(7)}, {"a": np.int8(7)}, {}]) == ["7", "7", "7", "7", None]


def test_numbers_that_a_float_would_blur_stay_apart():
    assert texts(to_array([2**53 + 1, 0.5])) == ["9007199254740993", "0.5"]
    assert texts(to_array([2**70, 1])) == [str(2**70), "1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.datetime64("2024-05-01"), None], ["2024-05-01", None]),
        ([np.datetime64("2024-05")], ["2024-05-01"]),
        ([np.datetime64("2024-05-01T17")], ["2024-05-01 17:00:00"]),
        ([np.datetime64("NaT")], [None]),
        ([np.datetime64("2024-05-01T17:30:00.5", "ns"), "x"], ["2024-05-01 17:30:00.5", "x"]),
        ([np.datetime64("NaT", "ns"), "x"], [None, "x"]),
        ([np.float32(0.1), 0.1, np.float16(0.1), np.float64(0.1), np.float32("nan"), np.float32(3)], ["0.1", "0.1", "0.1", "0.1", None, "3"]),
        (
            [dt.datetime(2024, 5, 1, 17, 30), dt.datetime(2024, 5, 1, 17, 30, tzinfo=dt.UTC), None],
            ["2024-05-01 17:30:00", "2024-05-01 17:30:00Z", None],
        ),
        ([pd.Timestamp("2024-05-01"), pd.Timestamp("2024-05-01", tz="Europe/Berlin")], ["2024-05-01 00:00:00", "2024-04-30 22:00:00Z"]),
        ([pd.Timestamp("2024-05-01"), pd.NaT], ["2024-05-01 00:00:00", None]),
        ([pd.Timestamp("2024-05-01", tz="UTC"), pd.NaT, None], ["2024-05-01 00:00:00Z", None, None]),
        ([pd.Timestamp("2024-05-01 17:30:00.123456789"), "x"], ["2024-05-01 17:30:00.123456789", "x"]),
        ([pd.Timestamp("2024-05-01 17:30:00.000000007+02:00"), "x"], ["2024-05-01 15:30:00.000000007Z", "x"]),
        ([pd.NaT], [None]),
        ([pd.NA, 7, pd.NA], [None, "7", None]),
        ([pd.NA, "x", pd.NaT], [None, "x", None]),
        ([pd.NA], [None]),
        ([["a", pd.NA, 1]], ['["a", null, 1]']),
    ],
)
def test_python_values_become_the_texts_that_a_column_of_their_own_would(values, expected):
    assert texts(to_array(values)) == expected


def test_truth_and_numbers_do_not_mix():
    assert texts(to_array([True, 1, "true", None])) == ["true", "1", "true", None]


def test_lone_surrogates_become_question_marks():
    assert texts(to_array(["a\ud800b"])) == ["a?b"]
    assert value_text("\udfff") == "?"


def test_dates_that_python_cannot_hold_are_texts_and_the_rest_stay_as_they_are():
    far, near = 300_000_000_000, 86_400  # seconds from 1970
    seconds = pa.timestamp("s")
    table = pa.table(
        {
            "at": pa.array([far, near, None], seconds),
            "day": pa.array([3_000_000, 1, None], pa.date32()),
            "days": pa.array([[far, near], [], None], pa.list_(seconds)),
            "made": pa.array([{"at": far, "by": "ann"}, None, {"at": near, "by": None}], pa.struct([("at", seconds), ("by", pa.string())])),
            "named": pa.array([far, near, None], seconds).dictionary_encode(),
            "n": [1, 2, None],
        }
    )
    first, second, third = plain_rows(table)
    then = dt.datetime(1970, 1, 2)
    text = first["at"]
    assert isinstance(text, str) and text.startswith("11476-")
    assert first == {"at": text, "day": "10183-09-21", "days": [text, then], "made": {"at": text, "by": "ann"}, "named": text, "n": 1}
    assert second == {"at": then, "day": dt.date(1970, 1, 2), "days": [], "made": None, "named": then, "n": 2}
    assert third == {"at": None, "day": None, "days": None, "made": {"at": then, "by": None}, "named": None, "n": None}
    assert plain_rows(table.slice(2)) == table.slice(2).to_pylist() and plain_rows(table.slice(0, 0)) == []


def test_rows_that_lack_a_column_are_null_there():
    table = rows_to_table([{"a": 1}, {"b": "x"}])
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
