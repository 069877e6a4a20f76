"""One road from raw values to numbers, saved and restored whole."""

import json
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from twotower.data.encoder import Encoder, to_table
from twotower.data.features import Categories, Category, History, Id, Text
from twotower.data.schema import ItemSide, QuerySide, Schema
from twotower.errors import BundleError, DataError

SCHEMA = Schema(
    query=QuerySide(features=(Text(column="q", buckets=4096), Category(column="device"))),
    item=ItemSide(id="sku", features=(Id(column="sku"), Text(column="sku", pieces=(2,)))),
)
ROWS = {
    "query": [{"q": "find a book", "device": "phone"}, {"q": "Café 7", "device": None}, {"q": None, "device": "tv"}],
    "item": [{"sku": 7}, {"sku": 8}, {"sku": None}],
}


def counted(rows):
    """Rows to learn from, each in one pair."""
    return [(batch, np.ones(len(batch), np.int64)) for batch in to_table(rows).to_batches()]


@pytest.fixture(scope="module")
def encoder():
    return Encoder.fit(SCHEMA, lambda side: counted(ROWS[side]))


def equal(one, two):
    def arrays(columns):
        return {name: (c if isinstance(c, tuple) else (c,)) for name, c in columns.items()}

    one, two = arrays(one), arrays(two)
    return one.keys() == two.keys() and all(np.array_equal(a, b) and a.dtype == b.dtype for n in one for a, b in zip(one[n], two[n], strict=True))


def test_it_is_restored_from_plain_values_and_arrays(encoder):
    again = Encoder.restore(json.loads(json.dumps(encoder.describe())), encoder.arrays())
    assert again.features == encoder.features
    for side, rows in ROWS.items():
        assert equal(again.encode(side, rows), encoder.encode(side, rows))


@pytest.mark.parametrize("side", ["query", "item"])
def test_every_kind_of_rows_is_encoded_alike(encoder, side):
    table = to_table(ROWS[side])
    columns = {name: [row[name] for row in ROWS[side]] for name in ROWS[side][0]}
    expected = encoder.encode(side, ROWS[side])
    for rows in (table, table.to_batches()[0], pd.DataFrame(ROWS[side]), columns, pa.concat_tables([table.slice(0, 1), table.slice(1)])):
        assert equal(encoder.encode(side, rows), expected)


def test_uuids_are_read_as_they_were_prepared():
    numbers = [uuid.UUID(int=n) for n in range(3)]
    query = QuerySide(key="user", features=(Id(column="user"), Categories(column="touched"), History()))
    schema = Schema(query=query, item=ItemSide(features=(Id(column="sku"),)))
    rows = [{"user": number, "touched": numbers[:n], "history": numbers[n:]} for n, number in enumerate(numbers)]
    texts = [{"user": str(row["user"]), **{name: list(map(str, row[name])) for name in ("touched", "history")}} for row in rows]
    encoder = Encoder.fit(schema, lambda side: counted({"query": texts, "item": [{"sku": "a"}]}[side]))
    expected = encoder.encode("query", texts)
    assert encoder.unknown("query", expected) == {"user:id": 0, "touched:categories": 0, "history:history": 0}
    for given in (rows, pd.DataFrame(rows), {name: [row[name] for row in rows] for name in rows[0]}):
        assert equal(encoder.encode("query", given), expected)


def test_one_row_is_encoded_as_in_company(encoder):
    together = encoder.encode("query", ROWS["query"])["q:text"]
    for number, row in enumerate(ROWS["query"]):
        alone = encoder.encode("query", [row])["q:text"]
        assert np.array_equal(alone.values, together.values[together.offsets[number] : together.offsets[number + 1]])


def test_a_column_read_twice_is_two_features(encoder):
    assert encoder.columns("item") == ["sku"]
    encoded = encoder.encode("item", [{"sku": "7.0"}, {"sku": 9}])
    assert list(encoded) == ["sku:id", "sku:text"] and encoded["sku:id"][0] >= 2 and encoded["sku:id"][1] == 1
    assert encoder.unknown("item", encoded) == {"sku:id": 1, "sku:text": 0}


def test_no_rows_are_no_rows(encoder):
    encoded = encoder.encode("query", pa.table({"q": pa.array([], pa.string()), "device": pa.array([], pa.string())}))
    assert encoded["device:category"].shape == (0,) and encoded["q:text"].offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"q": "x"}], 'needs the column "device"'),
        ([{"Q": "x", "device": 1}], 'needs the column "q"'),
        ([{"q": ["x"], "device": 1}], 'column "q" of the query cannot be read as text'),
        ([{"q": b"x", "device": 1}], 'column "q" of the query cannot be read as text'),
        ("words", "must be a data frame"),
        (7, "must be a data frame"),
    ],
)
def test_rows_that_cannot_be_read(encoder, rows, said):
    with pytest.raises(DataError, match=said):
        encoder.encode("query", rows)


@pytest.mark.parametrize("damage", [{"hash": "other"}, {"query": [{"type": "sound"}]}, {"query": [{"type": "text", "colour": 1}]}, {"item": None}])
def test_a_description_that_does_not_fit_is_refused(encoder, damage):
    with pytest.raises(BundleError):
        Encoder.restore(encoder.describe() | damage, encoder.arrays())


def test_another_feature_of_the_state_is_refused_or_unused(encoder):
    with pytest.raises(BundleError):
        Encoder.restore(encoder.describe(), encoder.arrays() | {"item/9/hashes": np.zeros(1, np.uint64)})


def test_a_policy_of_errors_holds_at_look_up_and_not_where_rows_are_held_out():
    schema = Schema(
        query=QuerySide(features=(Id(column="user", unknown_values="error"), Category(column="device", unknown_values="error"))), item=SCHEMA.item
    )
    rows = {"query": [{"user": "a", "device": "tv"}], "item": [{"sku": 1}]}
    encoder = Encoder.fit(schema, lambda side: counted(rows[side]))
    new = [{"user": "b", "device": "tv"}, {"user": "a", "device": "radio"}]
    with pytest.raises(DataError, match="'b', which the model has never seen"):
        encoder.encode("query", new)
    encoded = encoder.encode("query", new, strict=False)
    assert {name: codes.tolist() for name, codes in encoded.items()} == {"user:id": [1, 2], "device:category": [2, 1]}
    assert encoder.unknown("query", encoded) == {"user:id": 1, "device:category": 1}


def test_missing_values_are_counted(encoder):
    assert encoder.missing("query", encoder.encode("query", ROWS["query"])) == {"q:text": 1, "device:category": 1}
    assert encoder.missing("item", encoder.encode("item", ROWS["item"])) == {"sku:id": 1, "sku:text": 1}


def test_a_row_is_empty_where_all_its_columns_are(encoder):
    rows = to_table([{"q": None, "device": ""}, {"q": "x", "device": None}, {"q": " ", "device": "tv"}])
    assert encoder.empty("query", rows).tolist() == [True, False, False]
    assert encoder.empty("query", rows.select(["q"])).tolist() == [True, False, True]


def with_history():
    schema = Schema(query=QuerySide(features=(Category(column="device"), History(column="seen", last=2)), key="device"), item=SCHEMA.item)
    return Encoder.fit(schema, lambda side: counted(ROWS[side]))


def test_a_history_may_be_given_and_is_empty_where_it_is_not():
    encoder = with_history()
    assert encoder.columns("query") == ["device"]
    given = encoder.encode("query", [{"device": "tv", "seen": ["a", "b", "c"]}, {"device": "tv", "seen": None}])["seen:history"]
    assert given.offsets.tolist() == [0, 2, 2]
    assert encoder.encode("query", [{"device": "tv"}])["seen:history"].offsets.tolist() == [0, 0]
    assert list(encoder.encode("query", [{"device": "tv"}], logged=False)) == ["device:category"]
    assert encoder.missing("query", encoder.encode("query", [{"device": "tv"}], logged=False)) == {"device:category": 0}


@pytest.mark.parametrize("feature", [{"type": "time", "column": "a", "zone": "Mars/Olympus"}, {"type": "time", "column": "a", "cycles": []}])
def test_a_declaration_that_cannot_be_made_here_is_refused(encoder, feature):
    with pytest.raises(BundleError, match="damaged"):
        Encoder.restore(encoder.describe() | {"query": [feature]}, {})
