"""The forms in which histories may be passed at look-up."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from twotower.bundle.asking import histories_of, is_one, with_history
from twotower.errors import DataError

TABLE = pa.table({"q": ["x"]})
TWO = pa.table({"q": ["x", "y"]})


@pytest.mark.parametrize(
    "history",
    [
        [7, "b"],
        ("7.0", "b"),
        np.array(["7", "b"]),
        pa.array(["7", "b"]),
        pa.chunked_array([["7"], ["b"]]),
        pd.Series([7, "b"]),
        [["7", "b"]],
        [7.0, " b "],
    ],
)
def test_one_history_in_any_form(history):
    assert with_history(TABLE, "seen", histories_of(history)).column("seen").to_pylist() == [["7", "b"]]


@pytest.mark.parametrize(
    "history",
    [
        [[7], None],
        [np.array([7]), None],
        pa.array([["7"], None]),
        pd.Series([["7"], None]),
        [pd.Series(["7"]), None],
    ],
)
def test_several_histories_in_any_form(history):
    assert with_history(TWO, "seen", histories_of(history)).column("seen").to_pylist() == [["7"], None]


def test_one_id_is_a_history_of_one():
    for item in ("b", 7, np.int64(7)):
        assert with_history(TABLE, "seen", histories_of(item)).column("seen").to_pylist() == [[str(item)]]


def test_an_empty_history_is_one():
    assert with_history(TABLE, "seen", histories_of([])).column("seen").to_pylist() == [[]]


def test_a_column_that_is_there_is_replaced():
    table = with_history(TABLE.append_column("seen", pa.array([["old"]])), "seen", [["new"]])
    assert table.column_names == ["q", "seen"] and table.column("seen").to_pylist() == [["new"]]


def test_each_query_needs_a_history():
    with pytest.raises(DataError, match="2 queries came with 1 histories"):
        with_history(TWO, "seen", histories_of(["a"]))


@pytest.mark.parametrize("history", [[["a"], "b"], {"a": 1}, [{"a": 1}], [[["a"]]], [[{"a": 1}]], [b"a"], [[b"a"], [b"b"]]])
def test_what_is_no_history_is_refused_in_words(history):
    given = histories_of(history)
    table = pa.table({"q": [str(n) for n in range(len(given))]})
    with pytest.raises(DataError, match="a history is a list of item ids"):
        with_history(table, "seen", given)


def test_one_query_or_several():
    assert is_one("x", ["a"]) and is_one({"q": "x"}, None) and is_one(None, ["a", "b"]) and is_one(None, [])
    assert not is_one(["x"], [["a"]]) and not is_one(None, [["a"], ["b"]]) and not is_one({"q": ["x", "y"]}, None)
