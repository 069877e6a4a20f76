"""Four shapes of data that people have, and the schema that suits each."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from twotower.data.features import Category, History, Id, Text, Vector
from twotower.data.inference import infer
from twotower.data.sources import open_source
from twotower.errors import DataError

GENERATOR = np.random.default_rng(0)
WORDS = [f"word{n}" for n in range(300)]


def sentence(n=6):
    return " ".join(GENERATOR.choice(WORDS, n))


def columns(features, kind):
    return [feature.column for feature in features if type(feature) is kind]


def test_two_text_columns(tmp_path):
    rows = "".join(f"{sentence()},{sentence(12)}\n" for _ in range(300))
    for header in ("question,answer", "anchor,positive", "left,right"):
        (tmp_path / "faq.csv").write_text(f"{header}\n{rows}")
        guess = infer(open_source(tmp_path / "faq.csv"), None)
        query, item = header.split(",")
        assert guess.schema.query.features == (Text(column=query),) and guess.schema.query.key is None
        assert guess.schema.item.features == (Text(column=item),) and guess.schema.item.id is None
        assert guess.split.by == "group" and not guess.correction
        guess.schema.check()


def test_answers_may_stand_first(tmp_path):
    (tmp_path / "faq.csv").write_text("answer,question\n" + "".join(f"{sentence(12)},{sentence()}\n" for _ in range(300)))
    schema = infer(open_source(tmp_path / "faq.csv"), None).schema
    assert columns(schema.query.features, Text) == ["question"] and columns(schema.item.features, Text) == ["answer"]


def interactions(n=2000):
    return {"user_id": GENERATOR.integers(0, 200, n), "movie_id": GENERATOR.integers(0, 300, n)}


def test_interactions_without_a_catalogue():
    guess = infer(open_source(interactions()), None)
    assert guess.schema.query.features == (History(),) and guess.schema.query.key == "user_id"
    assert guess.schema.item.features == (Id(column="movie_id"),) and guess.schema.item.id == "movie_id"
    assert guess.split.by == "random" and guess.correction and guess.per == "query"


@pytest.mark.parametrize("time", ["timestamp", "watched"])
def test_interactions_with_a_catalogue_and_times(time):
    # Users are counted from 0 as films are, and some films are missing from the catalogue.
    log = interactions() | {
        "movie_id": GENERATOR.integers(0, 320, 2000),
        time: pa.array(GENERATOR.integers(0, 10**9, 2000)).cast(pa.timestamp("s")).to_pylist(),
    }
    films = [{"id": n, "title": f"{sentence(3)} {n}", "genre": f"g{n % 9}", "year": 1950 + n % 70, "cast": [sentence(2)]} for n in range(300)]
    guess = infer(open_source(log), open_source(films))
    schema = guess.schema
    assert schema.query.features == (History(pool="transformer"),) and schema.query.key == "user_id"
    assert (schema.item.id, schema.pairs.item, schema.pairs.time) == ("id", "movie_id", time)
    assert (columns(schema.item.features, Id), columns(schema.item.features, Text), columns(schema.item.features, Category)) == (
        ["id"],
        ["title"],
        ["genre"],
    )
    assert "title" in schema.item.payload and "id" not in schema.item.payload
    assert guess.split.by == "last"
    schema.check()


@pytest.mark.parametrize("asked", ["search", "typed"])
def test_what_the_log_repeats_of_the_catalogue_does_not_leak_into_the_query(asked):
    products = [{"sku": f"p-{n}", "title": f"{sentence(4)} {n}", "brand": f"brand {n % 20}", "department": f"d{n % 5}"} for n in range(200)]
    chosen = [products[n] for n in GENERATOR.integers(0, 200, 1500)]
    log = [{"title": row["title"], "brand": row["brand"], asked: sentence(3), "sku": row["sku"], "department": row["department"]} for row in chosen]
    guess = infer(open_source(log), open_source(products))
    assert guess.schema.query.features == (Text(column=asked),) and guess.schema.query.key is None
    assert guess.schema.item.id == "sku" and guess.schema.pairs.item in (None, "sku")
    assert {f.column for f in guess.schema.item.features} >= {"sku", "title"}
    assert guess.split.by == "group"


def test_every_choice_has_a_reason():
    guess = infer(open_source(interactions()), None)
    told = {"query.key", "query.history:history", "item.id", "item.movie_id:id", "split.by", "train.correction"}
    assert told <= guess.reasons.keys() and all(guess.reasons.values())


def test_what_nothing_can_be_told_from_is_said():
    with pytest.raises(DataError, match="at least two"):
        infer(open_source({"a": [1, 2]}), None)
    with pytest.raises(DataError, match="holds the ids of"):
        infer(open_source({"user": [1, 2], "thing": ["x", "y"]}, "pairs"), open_source({"sku": ["a", "b", "c"]}, "items"))


@pytest.mark.parametrize("item", ["movieId", "itemId", "ItemID", "Product Id", "thing"])
@pytest.mark.parametrize("first", ["userId", "rating"])
def test_an_item_is_found_however_it_is_spelled(item, first):
    n = 2000
    columns = {
        "userId": GENERATOR.integers(0, 200, n),
        item: GENERATOR.integers(0, 300, n),
        "rating": GENERATOR.integers(1, 6, n) / 2,
        "eventType": GENERATOR.choice(["click", "buy"], n),
        "timestamp": GENERATOR.integers(0, 10**9, n),
    }
    guess = infer(open_source({first: columns[first]} | columns), None)
    assert (
        guess.schema.query.features == (History(pool="transformer", items="ids"),)
        and guess.schema.query.key == "userId"
        and guess.schema.pairs.label == "rating"
    )
    assert guess.schema.item.features == (Id(column=item),) and guess.schema.item.id == item
    assert guess.schema.pairs.time == "timestamp" and 'event = "eventType"' in guess.reasons["pairs.event"]


def test_classes_may_be_numbered():
    schema = infer(open_source({"text": [sentence() for _ in range(300)], "label": GENERATOR.integers(0, 9, 300)}), None).schema
    assert schema.query.features == (Text(column="text"),) and schema.item.features == (Id(column="label"),)


@pytest.mark.parametrize("columns", [["user_id", "ts"], ["user_id", "rating"], ["user_id", "rating", "ts"]])
def test_pairs_without_an_item_are_said(columns):
    pairs = {name: GENERATOR.integers(0, 50, 300) for name in columns}
    with pytest.raises(DataError, match=r"no column of data .* looks like the item"):
        infer(open_source(pairs), None)


def test_a_column_of_the_same_name_is_the_query_where_its_values_are_not_the_catalogues():
    documents = [{"doc_id": f"d{n}", "text": f"{sentence(20)} {n}"} for n in range(200)]
    pairs = [{"text": sentence(), "doc_id": f"d{n % 200}"} for n in range(600)]
    guess = infer(open_source(pairs), open_source(documents))
    assert guess.schema.query.features == (Text(column="text"),) and guess.schema.item.id == "doc_id"
    told = infer(open_source([row | {"title": documents[n % 200]["text"]} for n, row in enumerate(pairs)]), open_source(documents)).schema
    assert told.query.features == (Text(column="text"),)
    # Who uploaded an item and who chose it are counted alike.
    watched = {"user_id": GENERATOR.integers(0, 20, 600), "item_id": GENERATOR.integers(0, 200, 600), "device": ["tv", "web"] * 300}
    videos = {"item_id": range(200), "user_id": [n % 20 for n in range(200)]}
    assert infer(open_source(watched), open_source({name: list(column) for name, column in videos.items()})).schema.query.key == "user_id"


def test_the_files_are_read_as_often_as_needed():
    opened = []

    def counted(name, rows):
        source = open_source(rows, name)
        return replace(source, read=lambda columns: (opened.append(name), source.read(columns))[1])

    products = [{"sku": f"p{n}", "title": f"{sentence(4)} {n}", "code": n, "note": f"{n} {sentence(3)}"} for n in range(200)]
    infer(counted("pairs", [{"asked": sentence(3), "sku": f"p{n % 200}", "page": n} for n in range(400)]), counted("items", products))
    assert sorted(opened) == ["items", "items", "pairs"]  # a look at each, and all of the catalogue


def test_another_name_of_an_item_is_not_shown_as_its_id():
    films = [{"_id": f"{n:024x}", "movieId": n, "title": f"{sentence(3)} {n}"} for n in range(300)]
    schema = infer(open_source(interactions()), open_source(films)).schema
    assert schema.item.id == "movieId" and schema.item.payload == ("title",) and {f.column for f in schema.item.features} == {"movieId", "title"}


@pytest.mark.parametrize("unlisted", [0.01, 0.2])
def test_ratings_are_never_the_items(unlisted):
    """One to five are found among any ids that count from one, and some of the log's films the catalogue may lack."""
    generator = np.random.default_rng(0)
    films = generator.integers(1, 500, 4000)
    films[generator.random(4000) < unlisted] = 90_000
    log = pa.table({"user_id": generator.integers(1, 200, 4000), "film_id": films, "rating": generator.integers(1, 6, 4000)})
    catalogue = pa.table({"film_id": np.arange(1, 500), "title": [f"the film number {n}" for n in range(1, 500)]})
    guess = infer(open_source(log, "pairs"), open_source(catalogue, "items"))
    assert guess.schema.item.id == "film_id" and guess.schema.pairs.item in (None, "film_id") and guess.schema.query.key == "user_id"


def test_a_time_that_a_few_rows_spoil_is_named_with_those_rows():
    at = ["soon" if n in (5, 77) else f"2024-05-{n % 28 + 1:02}" for n in range(600)]
    guess = infer(open_source(interactions(600) | {"at": at}), None)
    assert guess.schema.pairs.time is None
    assert guess.left["query"]["at"] == "holds no moment in rows 6, 78; without those rows it would order the log"


@pytest.mark.parametrize("written", [[True, False], ["True", "False"]])
def test_truth_values_are_labels(written):
    relevant = GENERATOR.integers(0, 2, 2000)
    guess = infer(open_source(interactions() | {"relevant": [written[n] for n in relevant]}), None)
    assert guess.schema.pairs.label == "relevant" and "0 for an explicit non-match" in guess.reasons["pairs.label"]


def test_a_label_in_words_is_said_to_be_none():
    guess = infer(open_source(interactions() | {"label": GENERATOR.choice(["yes", "no"], 2000).tolist()}), None)
    assert guess.schema.pairs.label is None and "every pair is taken for a match" in guess.left["query"]["label"]


def test_short_questions_are_read_and_not_their_ids():
    asked = GENERATOR.integers(0, 200, 2000)
    log = {"query_id": [f"q{n}" for n in asked], "query": [WORDS[n] for n in asked], "product_id": GENERATOR.integers(0, 300, 2000)}
    assert infer(open_source(log), None).schema.query.features == (Text(column="query"),)


@pytest.mark.parametrize("span", ["watch_time", "time_spent", "time_of_day", "minutes_watched"])
def test_how_long_something_took_orders_no_log(span):
    spans = {span: GENERATOR.integers(0, 24, 2000)}
    guess = infer(open_source(interactions() | spans), None)
    assert guess.schema.pairs.time is None and guess.split.by == "random" and "how long" in guess.left["query"][span]
    moments = {"timestamp": GENERATOR.integers(1_600_000_000, 1_700_000_000, 2000)}
    guess = infer(open_source(spans | interactions() | moments), None)
    assert guess.schema.pairs.time == "timestamp" and guess.schema.query.key == "user_id" and guess.schema.item.id == "movie_id"


def test_numbers_in_order_are_a_time_by_their_name_and_dates_before_them():
    steps, days = {"session_time": np.arange(2000)}, {"date": pa.array(np.arange(2000, dtype=np.int32)).cast(pa.date32()).to_pylist()}
    assert infer(open_source(interactions() | steps), None).schema.pairs.time == "session_time"
    assert infer(open_source(interactions() | steps | days), None).schema.pairs.time == "date"


def test_numbers_that_a_few_rows_spoil_are_left_out_and_one_is_shown():
    prices = [f"{n} EUR" if n in (3, 40) else "n/a" if n == 7 else str(n) for n in range(300)]
    films = {"id": range(300), "title": [f"{sentence(3)} {n}" for n in range(300)], "price": prices}
    guess = infer(open_source(interactions()), open_source(films))
    assert not [feature for feature in guess.schema.item.features if feature.column == "price"]
    assert guess.left["item"]["price"] == "holds numbers and, in 0.7% of the rows, something else, such as '3 EUR'"


def test_four_decimals_in_a_row_are_a_vector():
    films = {"id": range(300), "looks": [" ".join(f"{x:.2f}" for x in GENERATOR.random(4)) for _ in range(300)]}
    guess = infer(open_source(interactions()), open_source(films))
    assert columns(guess.schema.item.features, Vector) == ["looks"]
