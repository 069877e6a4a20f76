"""What the examination finds: each finding is planted in data that are clean but for it, and is found alone."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from twotower import files
from twotower.data.doctor import Asked, examine
from twotower.data.doctor.findings import percent
from twotower.data.doctor.popularity import gini, head_share
from twotower.data.doctor.shingles import near_pairs, shingle
from twotower.data.features import Category, History, Id, Text
from twotower.data.preparation import prepare
from twotower.data.schema import ItemSide, PairColumns, QuerySide, Schema
from twotower.data.sources import open_source
from twotower.data.splits import SplitOptions

NOW = dt.datetime(2024, 6, 1, tzinfo=dt.UTC).timestamp()
WORDS = [
    f"{a}{b}{c}" for a in ("bra", "kel", "mon", "tis", "ved", "lup") for b in ("ado", "ime", "oru", "ush", "ynn") for c in ("k", "sta", "ven", "lo")
]
N_PAIRS, N_ITEMS, N_USERS = 3000, 250, 300

TEXTS = Schema(
    query=QuerySide(features=(Text(column="q"),)),
    item=ItemSide(id="sku", features=(Id(column="sku"), Text(column="title"), Category(column="kind"))),
    pairs=PairColumns(item="item"),
)
PEOPLE = Schema(
    query=QuerySide(features=(Id(column="user"),), key="user"),
    item=ItemSide(id="sku", features=(Id(column="sku"),)),
    pairs=PairColumns(item="item", time="at"),
)


def asked_world():
    """(pairs, items): questions of seven words about items of eight, all words well known and no two texts alike."""
    generator = np.random.default_rng(0)
    items = [{"sku": f"s{n}", "title": " ".join(generator.choice(WORDS, 8, replace=False)), "kind": f"k{n % 3}"} for n in range(N_ITEMS)]
    pairs = [{"q": " ".join(generator.choice(WORDS, 7, replace=False)), "item": f"s{n % N_ITEMS}"} for n in range(N_PAIRS)]
    return pairs, items


def people_world():
    """(pairs, items): people who choose twenty different things each, one an hour, all over half a year."""
    generator = np.random.default_rng(0)
    items = [{"sku": f"s{n}"} for n in range(N_ITEMS)]
    rows = [(user, item) for user in range(N_USERS) for item in generator.choice(N_ITEMS, 20, replace=False)]
    begun = dt.datetime(2023, 11, 1, tzinfo=dt.UTC)
    order = generator.permutation(len(rows))
    pairs = [{"user": f"u{rows[i][0]}", "item": f"s{rows[i][1]}", "at": begun + dt.timedelta(minutes=40 * n)} for n, i in enumerate(order)]
    return pairs, items


@pytest.fixture
def look(tmp_path):
    """Examines pairs and items; gives the diagnosis."""

    def examined(pairs, items, schema=TEXTS, split=None, asked=Asked(batch_size=64, correction=False), fast=False):
        split = SplitOptions(by="last" if schema.query.key else "group") if split is None else split
        sources = open_source(pairs, "pairs"), None if items is None else open_source(items, "items")
        prepared = prepare(*sources, schema, split, tmp_path)
        return examine(*sources, schema, split, prepared, asked, fast=fast, now=NOW)

    return examined


def alarms(found):
    return {finding.code for finding in found.findings if finding.severity != "good"}


def only(found):
    """The one finding that is no praise."""
    told = [finding for finding in found.findings if finding.severity != "good"]
    assert [finding.code for finding in told] == [told[0].code]
    return told[0]


def schema_of(base=TEXTS, *, query=None, item=None, key=None, **pairs):
    from dataclasses import replace

    changed = replace(base, pairs=replace(base.pairs, **pairs))
    if query is not None:
        changed = replace(changed, query=replace(changed.query, features=query))
    if item is not None:
        changed = replace(changed, item=replace(changed.item, features=item))
    return changed


# --- clean data ---------------------------------------------------------------------------------------------------


def test_clean_data_raise_no_alarm(look):
    assert alarms(look(*asked_world())) == set()
    assert alarms(look(*people_world(), schema=PEOPLE)) == set()


def test_clean_data_without_a_catalogue_raise_no_alarm(look):
    pairs, items = asked_world()
    titles = {item["sku"]: item["title"] for item in items}
    schema = Schema(query=TEXTS.query, item=ItemSide(features=(Text(column="a"),)))
    assert alarms(look([{"q": row["q"], "a": titles[row["item"]]} for row in pairs], None, schema)) == set()


def test_a_diagnosis_is_plain_data(look):
    found = look(*asked_world())
    told = files.json_text(found)
    assert '"settings"' in told and found.facts["pairs"] == N_PAIRS
    assert found.facts["items_without_training_pairs"] == 0 and found.facts["gini_of_items"] < 0.2


# --- duplicates and conflicts -------------------------------------------------------------------------------------


def test_repeated_pairs_are_told_with_their_rows(look):
    pairs, items = asked_world()
    finding = only(look([*pairs, *pairs[:300]], items))
    assert finding.code == "repeated_pairs" and finding.counts == {"rows": 300} and finding.severity == "note"
    assert finding.share == pytest.approx(300 / 3300)
    first, again = finding.examples[0]["rows"]
    assert again == first + N_PAIRS and finding.examples[0]["query"] == pairs[first - 1]["q"]


def test_a_log_joined_twice_is_a_warning(look):
    pairs, items = people_world()
    finding = only(look([*pairs, *pairs], items, PEOPLE))
    assert (finding.code, finding.severity, finding.share) == ("repeated_pairs", "warning", 0.5)


def test_contradictory_pairs(look):
    pairs, items = asked_world()
    rows = [row | {"verdict": 1} for row in pairs] + [row | {"verdict": 0} for row in pairs[:6]]
    finding = only(look(rows, items, schema_of(label="verdict")))
    assert (finding.code, finding.counts) == ("contradictory_pairs", {"pairs": 6})
    example = finding.examples[0]
    assert example["none in row"] == example["a match in row"] + N_PAIRS


def test_a_label_that_is_not_read_is_told(look):
    pairs, items = asked_world()
    finding = only(look([row | {"label": n % 5 > 0} for n, row in enumerate(pairs)], items))
    assert finding.code == "unused_labels" and finding.share == pytest.approx(0.2) and finding.examples[0] == {"row": 1, "label": 0}
    assert 'label = "label"' in finding.advice


def test_grades_of_which_even_the_lowest_matches(look):
    pairs, items = asked_world()
    rows = [row | {"stars": 1 + n % 5} for n, row in enumerate(pairs)]
    found = look(rows, items, schema_of(label="stars"))
    finding = only(found)
    assert (finding.code, finding.severity, finding.counts) == ("low_grades", "note", {"rows of 1": 600}) and "match = 3" in finding.advice
    assert found.facts["matches"] == N_PAIRS and found.facts["what_matches"].startswith('"stars" above 0')
    told = look(rows, items, schema_of(label="stars", match=3.0))
    assert alarms(told) == set() and told.facts["what_matches"].startswith('"stars" from 3 on')
    assert told.facts["matches"] == sum(row["stars"] >= 3 for row in rows)


def test_conflicting_answers(look):
    pairs, items = asked_world()
    more = [{"q": row["q"], "item": f"s{(n + 7) % N_ITEMS}"} for n, row in enumerate(pairs[:40])]
    finding = only(look([*pairs, *more], items))
    assert (finding.code, finding.counts) == ("conflicting_answers", {"queries": 40})
    assert finding.examples[0]["rows"] == [1, N_PAIRS + 1] and finding.examples[0]["items"] == "s0 | s7"


def test_items_of_the_same_words(look):
    pairs, items = asked_world()
    items[1] |= {"title": " ".join(reversed(items[0]["title"].split())), "kind": "k0"}
    finding = only(look(pairs, items))
    assert (finding.code, finding.counts) == ("items_alike", {"items": 2}) and finding.examples[0]["ids"] == ["s0", "s1"]
    items[1]["kind"] = "k1"
    assert alarms(look(pairs, items)) == set()


def test_rows_left_out_are_told(look):
    pairs, items = asked_world()
    finding = only(look([*pairs, *({"q": f"{pairs[n]['q']} ado", "item": "gone"} for n in range(90))], items))
    assert (finding.code, finding.counts) == ("pairs_of_unlisted_item", {"pairs": 90}) and finding.examples[0] == {"item": "gone"}


def test_ids_that_are_repeated_in_the_catalogue(look):
    pairs, items = asked_world()
    finding = only(look(pairs, [*items, items[4] | {"title": "something else"}]))
    assert (finding.code, finding.examples[0]) == ("repeated_ids", {"rows": [5, N_ITEMS + 1], "id": "s4"})


# --- leaks across the split ---------------------------------------------------------------------------------------


def in_parts(pairs, of):
    return [row | {"part": of(n)} for n, row in enumerate(pairs)]


def by_tenths(n):
    turn = (n + n // N_ITEMS) % 10
    return ("test", "validation")[turn] if turn < 2 else "train"


COLUMN = SplitOptions(by="column", column="part")


def test_test_pairs_that_training_holds_stop(look):
    pairs, items = asked_world()
    rows = in_parts(pairs, lambda n: "train") + in_parts(pairs[:400], lambda n: ("test", "validation")[n % 2])
    found = look(rows, items, split=COLUMN, fast=True)
    assert only(found).code == "pairs_in_both_parts" and only(found).share == 1 and found.stops
    assert 'column "part"' in found.message()
    assert alarms(look(in_parts(pairs, by_tenths), items, split=COLUMN)) == set()


def test_queries_that_training_asks_too(look):
    pairs, items = asked_world()
    rows = [*pairs, *({"q": row["q"], "item": f"s{(n + 7) % N_ITEMS}"} for n, row in enumerate(pairs[:1500]))]
    finding = only(look(rows, items, split=SplitOptions(by="random")))
    assert finding.code == "queries_in_both_parts" and finding.share > 0.4 and 'by = "group"' in finding.advice
    assert alarms(look(rows, items)) == set()


def test_queries_in_nearly_the_same_words(look):
    pairs, items = asked_world()
    rows = in_parts(pairs, by_tenths)
    held, train = ([row for row in rows if (row["part"] == "train") == trained] for trained in (False, True))
    for row, like in zip(held[:300], train, strict=False):
        row |= {"q": like["q"] + " lo", "item": like["item"]}
    finding = only(look(rows, items, split=COLUMN))
    assert finding.code == "near_queries" and finding.counts["queries"] == 300 and finding.share == pytest.approx(0.5)
    assert finding.examples[0]["held out"] == finding.examples[0]["in training"] + " lo"


def test_near_queries_are_not_told_to_be_grouped_again(look):
    pairs, items = asked_world()
    for row, like in zip(pairs[:1000], pairs[1000:2000], strict=True):
        row |= {"q": like["q"] + " lo", "item": like["item"]}
    finding = only(look(pairs, items, split=SplitOptions(by="group")))
    assert finding.code == "near_queries" and "group" not in finding.advice and "[split] column" in finding.advice


def test_the_answer_within_the_query(look):
    pairs, items = asked_world()
    titles = {item["sku"]: item["title"] for item in items}
    for n, row in enumerate(pairs):
        if n % 10 < 3:
            row["q"] = f"{row['q']} {titles[row['item']].upper()} {WORDS[n % 100]}"
    finding = only(look(pairs, items))
    assert finding.code == "answer_in_query" and finding.share == pytest.approx(0.3) and finding.severity == "note"


def test_what_is_held_back_meets_its_key_in_a_large_batch(look):
    """An item of 250 alike is in a batch of 512 nine times out of ten, and in one of 64 less than every other time."""
    found = {finding.code: finding for finding in look(*people_world(), PEOPLE, asked=Asked(batch_size=512, correction=True)).findings}
    told = found["held_back_negatives"]
    assert told.share == pytest.approx(1 - (1 - 1 / N_ITEMS) ** 511, abs=0.05) and told.counts == {"keys": N_USERS}
    assert "held_back_negatives" not in alarms(look(*people_world(), PEOPLE, asked=Asked(batch_size=64, correction=True)))


def test_parts_too_small_to_tell_anything(look):
    pairs, items = asked_world()
    finding = only(look(pairs, items, split=SplitOptions(by="group", test=0.02)))
    assert finding.code == "small_test" and finding.counts == {"pairs": 60}
    finding = only(look(pairs, items, split=SplitOptions(by="group", test=0.1, validation=0.02)))
    assert finding.code == "small_validation" and finding.counts == {"pairs": 60}


# --- leaks from the future ----------------------------------------------------------------------------------------


def test_held_out_pairs_from_before_training(look):
    pairs, items = people_world()
    finding = only(look(pairs, items, PEOPLE, SplitOptions(by="random")))
    assert finding.code == "test_before_train" and finding.share > 0.8 and finding.examples[0]["held out at"] < finding.examples[0]["in training at"]
    assert 'by = "last"' in finding.advice
    # Who asks by a history alone has no values of their own in the log.
    finding = only(look(pairs, items, schema_of(PEOPLE, query=(History(),)), SplitOptions(by="random")))
    assert finding.code == "test_before_train" and finding.share > 0.8 and finding.examples[0]["query"] == "a history"


@pytest.mark.parametrize("told", ["receipt of {}", "{}"])
def test_a_column_that_gives_the_answer_away(look, told):
    pairs, items = people_world()
    rows = [row | {"page": told.format(row["item"])} for row in pairs]
    schema = schema_of(PEOPLE, query=(Id(column="user"), Category(column="page")))
    found = look(rows, items, schema)
    finding = only(found)
    assert finding.code == "column_gives_answer" and '"page"' in finding.title and finding.share == 1
    setting = next(setting for setting in found.settings if setting.option == "query.features")
    assert setting.value == [{"column": "user", "type": "id"}]


def test_a_column_that_tells_little_is_no_leak(look):
    pairs, items = people_world()
    rows = [row | {"device": f"d{n % 40}"} for n, row in enumerate(pairs)]
    assert alarms(look(rows, items, schema_of(PEOPLE, query=(Id(column="user"), Category(column="device"))))) == set()


def test_times_later_than_now(look):
    pairs, items = people_world()
    for row in pairs[10:14]:
        row["at"] = row["at"].replace(year=2031)
    finding = only(look(pairs, items, PEOPLE))
    assert (finding.code, finding.counts) == ("times_after_now", {"pairs": 4}) and finding.examples[0]["row"] == 11


def test_times_far_from_all_others(look):
    pairs, items = people_world()
    for row in pairs[:3]:
        row["at"] = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    finding = only(look(pairs, items, PEOPLE))
    assert (finding.code, finding.counts) == ("times_far_off", {"pairs": 3})
    assert finding.examples[0] == {"row": 1, "time": "1970-01-01 00:00:00"}


# --- false negatives ----------------------------------------------------------------------------------------------


def test_false_negatives_are_counted_as_they_are_met(look):
    pairs, items = asked_world()
    titles = [item["title"] for item in items]
    for n in range(0, N_ITEMS, 2):  # twins that differ by one word in twenty-four
        long = f"{titles[n]} {titles[(n + 51) % N_ITEMS]} {titles[(n + 101) % N_ITEMS]}"
        items[n]["title"], items[n + 1]["title"] = long, long + " zusatz"
        items[n]["kind"] = items[n + 1]["kind"] = f"k{n % 3}"
    found = look(pairs, items)
    finding = only(found)
    # Each item's twin has 1/250 of the pairs; a batch of 64 has 63 others.
    assert finding.code == "false_negatives" and finding.share == pytest.approx(1 - (1 - 1 / 250) ** 63, rel=0.05)
    assert finding.counts["items with a twin"] == N_ITEMS
    assert list(finding.figure.y) == sorted(finding.figure.y) and finding.figure.x[1] == 64


# --- damaged types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("mojibake", "cafÃ© "),
        ("mojibake", "itâ€™s "),
        ("replacement_characters", "caf\ufffd "),
        ("html_entities", "a &amp; b "),
        ("control_characters", "a\x08b "),
    ],
)
def test_damaged_texts(look, code, text):
    pairs, items = asked_world()
    for row in pairs[100:140]:
        row["q"] = text + row["q"]
    finding = only(look(pairs, items))
    assert finding.code == code and finding.severity == "warning" and finding.share == pytest.approx(40 / N_PAIRS)
    assert finding.examples[0]["row"] == 101 and finding.examples[0]["column"] == "q"


def test_letters_of_many_languages_are_no_damage(look):
    pairs, items = asked_world()
    for row, text in zip(
        pairs, ["São Paulo NÃO", "Ærø Øl Å", "Привет Ñandú", "日本語 Ðorðe", "l’été — « oui »", "R&D AT&T; 5 > 3"] * 20, strict=False
    ):
        row["q"] += " " + text
    assert alarms(look(pairs, items)) == set()


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("constant_column", lambda n: "same"),
        ("empty_column", lambda n: None),
        ("nearly_empty_column", lambda n: "ab"[n % 2] if n < 10 else None),
        ("half_empty_column", lambda n: "ab"[n % 2] if n < 90 else None),
        ("one_sided_column", lambda n: "b" if n == 3 else "a"),
    ],
)
def test_columns_that_say_nothing(look, code, value):
    pairs, items = asked_world()
    table = pa.table(
        {"sku": [i["sku"] for i in items], "title": [i["title"] for i in items], "kind": pa.array([value(n) for n in range(N_ITEMS)], pa.string())}
    )
    found = look(pairs, table)
    assert only(found).code == code and '"kind"' in only(found).title and not found.stops
    changed = [setting.value for setting in found.settings if setting.option == "item.features"]
    assert bool(changed) == (code in ("constant_column", "empty_column"))


def test_a_side_that_says_nothing_stops(look):
    pairs, items = asked_world()
    found = look([row | {"shop": "here"} for row in pairs], items, schema_of(query=(Category(column="shop"),)), SplitOptions(by="random"), fast=True)
    assert [finding.code for finding in found.stops] == ["constant_column"] and "name a column that differs" in found.message()


def test_numbers_read_as_text(look):
    pairs, items = asked_world()
    items = [item | {"price": f"{n * 1.25 + 3:.2f}"} for n, item in enumerate(items)]
    finding = only(look(pairs, items, schema_of(item=(*TEXTS.item.features, Text(column="price")))))
    assert finding.code == "numbers_as_text" and '"price"' in finding.title and 'type = "number"' in finding.advice


def test_ids_that_were_floats(look):
    pairs, items = people_world()
    rows = [row | {"user": float(row["user"][1:])} for row in pairs]
    finding = only(look(rows, items, PEOPLE))
    assert (finding.code, finding.severity) == ("ids_as_floats", "note") and finding.counts == {"ids": len(pairs)}
    finding = only(look([row | {"user": row["user"] + 2.0**60 * (row["user"] + 1)} for row in rows], items, PEOPLE))
    assert (finding.code, finding.severity) == ("ids_too_large", "warning")


def test_ids_that_differ_in_zeros_or_case(look):
    pairs, items = asked_world()
    items[0]["sku"], pairs[0]["item"] = "S1", "S1"
    finding = only(look([row for row in pairs if row["item"] != "s0"], items))
    assert finding.code == "ids_nearly_equal" and sorted(finding.examples[0]["ids"]) == ["S1", "s1"]


def test_words_for_nothing(look):
    pairs, items = asked_world()
    items = [item | {"kind": "N/A" if n % 20 == 0 else item["kind"]} for n, item in enumerate(items)]
    finding = only(look(pairs, items))
    assert finding.code == "placeholders" and finding.share == pytest.approx(0.052) and finding.examples[0]["value"] == "N/A"


def test_ids_that_say_that_there_is_none(look):
    """What a data frame makes of missing ids when it writes them as texts; a cell that is empty is missing, and no more."""
    pairs, items = people_world()
    for n, word in enumerate(["NaN", "nan", "None", "NULL", "<NA>"] * 4):
        pairs[n * 10]["user"] = word
    pairs[3]["item"], items[0]["sku"] = "NaN", "nan"
    found = look(pairs, items, PEOPLE)
    finding = next(finding for finding in found.findings if finding.code == "ids_of_nothing")
    assert finding.severity == "warning" and finding.title.startswith('22 rows have a word for a missing value as an id in "user", "item", "sku"')
    assert finding.counts == {"pairs: user": 20, "pairs: item": 1, "items: sku": 1}
    assert finding.examples[0] == {"file": "pairs", "row": 1, "column": "user", "value": "NaN"}
    assert "placeholders" not in alarms(found)


def test_an_empty_cell_is_no_id(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("user,item\n" + "".join(f"{'' if n % 5 == 0 else f'u{n % 7}'},i{n % 30}\n" for n in range(200)))
    schema = Schema(query=PEOPLE.query, item=ItemSide(id="item", features=(Id(column="item"),)))
    split, source = SplitOptions(by="random"), open_source(path, "pairs")
    prepared = prepare(source, None, schema, split, tmp_path / "prepared")
    assert prepared.report["pairs_without_query"] == 40
    assert "ids_of_nothing" not in alarms(examine(source, None, schema, split, prepared, Asked(16), now=NOW))


# --- head and tail ------------------------------------------------------------------------------------------------


def test_few_items_with_most_pairs(look):
    pairs, items = asked_world()
    for n, row in enumerate(pairs):
        row["item"] = f"s{n % 2}" if (n + n // N_ITEMS) % 10 < 7 else row["item"]
    finding = only(look(pairs, items, asked=Asked(batch_size=64, correction=True)))
    assert finding.code == "head_of_items" and finding.severity == "note" and finding.share == pytest.approx(0.7, abs=0.03)
    assert {finding.examples[0]["item"], finding.examples[1]["item"]} == {"s0", "s1"} and finding.figure.diagonal
    assert only(look(pairs, items)).severity == "warning"  # without the correction


def test_one_item_stops(look):
    pairs, items = asked_world()
    rows = [row | {"item": "s0" if row["part"] == "train" else row["item"]} for row in in_parts(pairs, by_tenths)]
    assert [finding.code for finding in look(rows, items, split=COLUMN, fast=True).stops] == ["one_item"]


def test_a_default_value_that_asks_like_a_crowd(look):
    pairs, items = people_world()
    rows = pairs + [{"user": "guest", "item": f"s{n}", "at": pairs[n]["at"]} for n in range(200)]
    finding = only(look(rows, items, PEOPLE))
    assert finding.code == "outsized_keys" and finding.examples[0]["user"] == "guest"


def test_items_that_no_pair_names(look):
    pairs, items = people_world()
    finding = only(look(pairs, items + [{"sku": f"more{n}"} for n in range(100)], PEOPLE))
    assert (finding.code, finding.counts) == ("items_without_pairs", {"items": 100})


def test_shares_and_gini_by_hand():
    assert head_share(np.array([1] * 99 + [101])) == pytest.approx(101 / 200)
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0) and gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)


# --- what the model will not know ---------------------------------------------------------------------------------


def test_one_key_stops(look):
    pairs, items = people_world()
    mine = [row | {"user": "me", "device": f"d{n % 3}"} for n, row in enumerate(pairs[:500])]
    found = look(mine, items, schema_of(PEOPLE, query=(Category(column="device"),)), split=SplitOptions(by="random"), fast=True)
    (finding,) = found.stops
    assert finding.code == "one_query" and '"user" is the same in every row' in finding.title


def test_keys_that_training_never_shows_stop(look):
    pairs, items = people_world()
    found = look(pairs, items, PEOPLE, SplitOptions(by="group"), fast=True)
    assert only(found).code == "unseen_queries" and found.stops and 'by = "last"' in found.message()


def test_values_that_training_never_shows(look):
    pairs, items = asked_world()
    rows = [row | {"session": f"v{n}"} for n, row in enumerate(pairs)]
    finding = only(look(rows, items, schema_of(query=(Text(column="q"), Id(column="session")))))
    assert finding.code == "unseen_values" and finding.share == 1


def test_words_that_training_never_shows(look):
    pairs, items = asked_world()
    rows = in_parts(pairs, by_tenths)
    for n, row in enumerate(rows):
        if row["part"] == "validation":
            row["q"] = " ".join([*row["q"].split()[:3], *(f"neu{n}x{k}" for k in range(4))])
    finding = only(look(rows, items, split=COLUMN))
    assert finding.code == "unseen_words" and finding.share == pytest.approx(4 / 7)


def test_items_that_training_never_shows(look):
    pairs, items = asked_world()
    rows = [row | {"part": "train" if n % N_ITEMS >= 50 else ("test", "validation")[n % 2]} for n, row in enumerate(pairs)]
    finding = only(look(rows, items, split=COLUMN))
    assert finding.code == "cold_items" and finding.share == 1


def test_texts_past_the_window(look):
    pairs, items = asked_world()
    finding = only(look(pairs, items, schema_of(item=(Id(column="sku"), Text(column="title", words=6)))))
    assert finding.code == "long_texts" and finding.share == 1 and "25%" in finding.title and "words = 8" in finding.advice


def test_too_little_data_and_too_large_a_batch(look):
    pairs, items = asked_world()
    found = look(pairs[:500], items, asked=Asked(batch_size=512, correction=False))
    assert {"few_pairs", "large_batch"} <= alarms(found)
    setting = next(setting for setting in found.settings if setting.option == "train.batch_size")
    assert setting.changes and setting.value == 16
    assert only(look(pairs, items, asked=Asked(batch_size=1024, correction=False))).code == "large_batch"


# --- texts that are near ------------------------------------------------------------------------------------------


def test_near_texts_are_those_of_a_plain_count():
    generator = np.random.default_rng(3)
    base = [" ".join(generator.choice(WORDS, 12)) for _ in range(150)]
    other = [" ".join([*text.split()[: int(generator.integers(5, 13))], *generator.choice(WORDS, int(generator.integers(0, 2)))]) for text in base]
    left, right = shingle(base), shingle(other)

    def pieces(side, n):
        return set(side.pieces.values[side.pieces.offsets[n] : side.pieces.offsets[n + 1]].tolist())

    sets = [pieces(left, n) for n in range(150)], [pieces(right, n) for n in range(150)]
    overlap = np.array([[len(a & b) / len(a | b) for b in sets[1]] for a in sets[0]])
    near = near_pairs(left, right)
    found = set(zip(near.left.tolist(), near.right.tolist(), strict=True))
    true = set(zip(*(axis.tolist() for axis in np.nonzero(overlap >= 0.8)), strict=True))
    assert found <= true and len(found) >= 0.9 * len(true) > 20
    assert np.allclose([overlap[pair] for pair in zip(near.left, near.right, strict=True)], near.overlap)


def test_the_order_and_the_case_of_words_do_not_count():
    told = shingle(["Open the door", "door, OPEN the!", "open a door", ""])
    assert told.bags[0] == told.bags[1] != told.bags[2] and told.bags[3] == 0


def test_a_share_never_reads_as_more_than_it_is():
    assert [percent(share) for share in (0, 0.0004, 0.034, 0.5, 0.9996, 1)] == ["0.0%", "below 0.1%", "3.4%", "50%", "above 99.9%", "100%"]


# --- a log too long to be read again ------------------------------------------------------------------------------


def test_of_a_long_log_every_nth_key_is_read_whole(look, monkeypatch):
    from twotower.data.doctor import evidence

    pairs, items = people_world()
    monkeypatch.setattr(evidence, "MOST_PAIRS", 2500)
    found = look([*pairs, *pairs], items, PEOPLE)
    assert only(found).code == "repeated_pairs" and only(found).share == 0.5 and 1000 < only(found).counts["rows"] < 1500
    assert found.facts["log_read"] == "one in 5 keys, with all their pairs"


def test_few_keys_with_most_pairs(look):
    pairs, items = people_world()
    crowd = [f"u{n}" for n in range(3)]
    titles = [{"sku": f"t{n}", "title": " ".join(np.random.default_rng(n).choice(WORDS, 8, replace=False))} for n in range(2500)]
    at = pairs[-1]["at"]
    rows = pairs + [{"user": user, "item": f"t{n}", "at": at + dt.timedelta(minutes=n)} for user in crowd for n in range(2500)]
    schema = schema_of(PEOPLE, item=(Id(column="sku"), Text(column="title")))
    told = [{"sku": item["sku"], "title": " ".join(np.random.default_rng(9000 + n).choice(WORDS, 8, replace=False))} for n, item in enumerate(items)]
    assert alarms(look(rows, told + titles, schema)) == {"head_of_keys", "outsized_keys"}


def test_items_known_by_an_id_that_is_hardly_seen(look):
    pairs, _ = people_world()
    rows = [row | {"item": f"{row['item']}x{n % 8}"} for n, row in enumerate(pairs)]
    finding = only(look(rows, [{"sku": sku} for sku in sorted({row["item"] for row in rows})], PEOPLE))
    assert finding.code == "few_pairs_per_item" and finding.severity == "warning"
