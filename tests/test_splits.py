"""What each split promises, checked pair by pair."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.preparation.groups import components, said
from twotower.data.splits import SPLITS, SplitLog, SplitOptions, parts_named, split
from twotower.errors import ConfigError, DataError

TRAIN, VALIDATION, TEST = 0, 1, 2
DAY = 86400.0


def log(keys, times=None, named=None, items=None, **more):
    items = range(len(keys)) if items is None else items  # by default no pair is met twice
    kinds = {"groups": np.int64, "matches": bool}
    extra = {name: np.array(values, kinds[name]) for name, values in more.items()}
    return SplitLog(
        np.array(keys, np.int32),
        np.array(items, np.int32),
        None if times is None else np.array(times, float),
        None if named is None else np.array(named, np.int8),
        **extra,
    )


def parts_of(*arguments, **options):
    return split(arguments[0], SplitOptions(**options))[0]


def counts(parts):
    return np.bincount(parts, minlength=3).tolist()


def straddles(things, parts):
    found = defaultdict(set)
    for thing, part in zip(things, parts, strict=True):
        found[thing].add(int(part))
    return any(len(each) > 1 for each in found.values())


PAIRS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 25)), min_size=150, max_size=400)
OPTIONS = {"last": {}, "time": {"test": 0.1}, "column": {"column": "s"}}


@pytest.mark.parametrize("by", [by for by in SPLITS if by not in ("column", "files")])
@given(PAIRS, st.integers(0, 5))
def test_every_split_divides_all_pairs_and_does_it_again(by, pairs, seed):
    keys, items = zip(*[*pairs, *[(31, n) for n in range(26)], *[(n, 25) for n in range(32)]], strict=True)
    options = OPTIONS.get(by, {"seed": seed})
    given_log = log(keys, items=items, times=np.arange(len(keys)))
    parts, made = split(given_log, SplitOptions(by=by, **options))
    again, told = split(given_log, SplitOptions(by=by, **options))
    assert np.array_equal(parts, again) and made == told and made
    assert parts.dtype == np.int8 and len(parts) == len(keys) and set(parts.tolist()) == {TRAIN, VALIDATION, TEST}
    whole = {"random": list(zip(keys, items, strict=True)), "group": keys, "cold_queries": keys, "cold_items": items}
    if by in whole:
        assert not straddles(whole[by], parts)


@given(st.integers(20, 500), st.integers(0, 5))
def test_random_deals_out_shares(n, seed):
    assert counts(parts_of(log(range(n)), test=0.2, validation=0.1, seed=seed))[1:] == [round(n * 0.1), round(n * 0.2)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=40, max_size=200), st.integers(0, 3))
def test_random_keeps_the_repeats_of_a_pair_together(pairs, seed):
    pairs = [*pairs, *[(10, n) for n in range(10)]]
    keys, items = zip(*pairs, strict=True)
    parts = parts_of(log(keys, items=items), test=0.2, validation=0.1, seed=seed)
    part_of = dict(zip(pairs, parts.tolist(), strict=True))
    assert [part_of[pair] for pair in pairs] == parts.tolist()
    n = len(part_of)
    assert counts(list(part_of.values()))[1:] == [round(n * 0.1), round(n * 0.2)]


@pytest.mark.parametrize("by", ["random", "group", "cold_items", "cold_queries"])
def test_another_seed_is_another_split(by):
    one, two = (parts_of(log(range(200)), by=by, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_random_parts_are_fair():
    parts = parts_of(log(np.arange(20_000) // 4, items=np.arange(20_000) % 4), test=0.25)
    for which in (np.arange(20_000) % 4 == 0, np.arange(20_000) < 5000):
        assert abs((parts[which] == TEST).mean() - 0.25) < 0.02


def test_keys_of_a_group_stay_together():
    keys = np.arange(60)
    parts, made = split(log(keys, groups=keys // 3), SplitOptions(by="group"))
    assert not straddles(keys // 3, parts) and made == {"groups": 20, "keys_joined": 40}
    with pytest.raises(DataError, match='finds 1 group of equal "team"'):
        split(log(keys, groups=keys * 0), SplitOptions(by="group", column="team"))


def test_what_is_asked_in_the_same_words_is_one():
    texts = ["How to cook rice?", "rice, cook how TO", "how to cook rice rice", "how to boil rice", "", None, "??", "Straße", "STRASSE"]
    hashes = said(pa.record_batch({"q": texts}), ["q"]).tolist()
    assert len(set(hashes[:3])) == 1 and hashes[3] not in hashes[:3] and hashes[4:7] == [0, 0, 0] and hashes[7] == hashes[8] != 0
    two = pa.record_batch({"a": ["red", "shoes"], "b": ["shoes", "red"]})
    assert len(set(said(two, ["a", "b"]).tolist())) == 1


@given(
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 9)), max_size=40), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 9)), max_size=20)
)
def test_components_equal_a_plain_search(first, second):
    near = defaultdict(set)
    for number, ends in enumerate((first, second)):
        for thing, value in ends:
            near["t", thing].add((number, value))
            near[number, value].add(("t", thing))
    plain, label = {}, 0
    for start in range(20):
        if start not in plain:
            todo, seen = [("t", start)], set()
            while todo:
                node = todo.pop()
                if node not in seen:
                    seen.add(node)
                    todo += near[node]
            plain |= {node[1]: label for node in seen if node[0] == "t"}
            label += 1
    ends = [tuple(np.array([pair[side] for pair in part], np.int64) for side in (0, 1)) for part in (first, second)]
    assert components(20, ends).tolist() == [plain[thing] for thing in range(20)]


@given(st.lists(st.integers(0, 15), min_size=60, max_size=200))
def test_held_out_keys_are_whole(keys):
    keys = np.unique([*keys, *range(100, 120)], return_inverse=True)[1]
    assert not straddles(keys, parts_of(log(keys), by="cold_queries"))


@given(st.lists(st.integers(0, 15), min_size=60, max_size=200), st.integers(0, 3))
def test_held_out_items_have_no_pair_in_training(items, seed):
    items = [*items, *range(100, 120)]
    parts, made = split(log(range(len(items)), items=items), SplitOptions(by="cold_items", seed=seed))
    assert not straddles(items, parts)
    n = len(set(items))
    assert (made["test_items"], made["validation_items"]) == (max(1, round(n * 0.1)),) * 2 and made["train_items"] == n - 2 * made["test_items"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40), st.integers(0, 2), st.integers(1, 2))
def test_last_holds_out_the_latest_of_each_key(pairs, test, validation):
    pairs = sorted([*pairs, *[(9, n) for n in range(9)]], key=lambda pair: pair[1])  # one key certainly has enough
    keys, times = zip(*pairs, strict=True)
    parts = parts_of(log(keys, times), by="last", test=test, validation=validation)
    rows = defaultdict(list)
    for place, (key, time) in enumerate(pairs):
        rows[key].append((time, place))
    for placed in rows.values():
        ordered = [int(parts[place]) for _, place in sorted(placed)]
        n = len(ordered)
        if n <= test + validation:
            assert ordered == [TRAIN] * n
        else:
            assert ordered == [TRAIN] * (n - test - validation) + [VALIDATION] * validation + [TEST] * test


def test_last_follows_the_log_and_counts_matches_alone():
    assert parts_of(log([5, 5, 6, 5, 6, 6, 7]), by="last").tolist() == [0, 1, 0, 2, 1, 2, 0]
    # Non-matches before what is held out stay in training; those among and behind it fall with it.
    keys, matches = [0] * 7, [1, 0, 1, 0, 1, 0, 0]
    assert parts_of(log(keys, matches=matches), by="last").tolist() == [0, 0, 1, 1, 2, 2, 2]


@given(st.lists(st.integers(0, 40), min_size=30, max_size=200), st.floats(0.05, 0.4), st.floats(0.05, 0.4))
def test_time_never_divides_a_moment_and_holds_out_the_latest(times, test, validation):
    times = sorted([*times, *range(100, 130)])
    parts = parts_of(log(range(len(times)), times), by="time", test=test, validation=validation)
    assert not straddles(times, parts) and (np.diff(parts) >= 0).all()
    # Ties may make a part larger than its share, and never smaller by more than rounding.
    assert counts(parts)[TEST] >= max(1, round(len(times) * test))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"test": "2d", "validation": "3d"}, [5, 3, 3]),
        ({"test": "1970-01-09", "validation": "1970-01-06"}, [5, 3, 3]),
        ({"test": "48h", "validation": "1970-01-06"}, [5, 3, 3]),
        ({"test": 0, "validation": "1w"}, [3, 8, 0]),
    ],
)
def test_spans_and_dates(options, expected):
    parts, made = split(log(range(11), np.arange(11) * DAY), SplitOptions(by="time", **options))
    assert counts(parts) == expected and made["validation_from"] == expected[0] * DAY


def test_times_that_no_span_fits_are_said():
    with pytest.raises(DataError, match="no seconds since 1970"):
        parts_of(log(range(11), np.arange(11) * DAY * 1000 + 1.7e12), by="time", test="7d")
    with pytest.raises(DataError, match="Name an earlier moment"):
        parts_of(log(range(11), np.arange(11) * DAY), by="time", test="1970-01-03", validation="1970-01-06")
    with pytest.raises(ConfigError, match=r"needs .* time"):
        parts_of(log(range(11)), by="time", test="7d")
    assert counts(parts_of(log(range(10)), by="time", test=0.2)) == [7, 1, 2]


def test_a_column_says_it():
    named = ["train", "Train", "TEST", "dev", "val", "validation"]
    assert parts_named(pa.array(named), "s", "pairs", 0).tolist() == [0, 0, 2, 1, 1, 1]
    for value in ("holdout", None):
        with pytest.raises(DataError, match=f"pairs row 12: .* holds {value!r}"):
            parts_named(pa.array(["train", value], pa.string()), "s", "pairs", 10)


@pytest.mark.parametrize("by", ["column", "files"])
def test_validation_is_drawn_where_none_is_named_and_repeats_stay_together(by):
    pairs = [(n % 10, n % 4) for n in range(80)]
    keys, items = zip(*pairs, strict=True)
    named = [TRAIN] * 60 + [TEST] * 20
    parts = parts_of(log(keys, items=items, named=named), by=by, validation=0.25, **({"column": "s"} if by == "column" else {}))
    assert (parts[60:] == TEST).all() and set(parts[:60].tolist()) == {TRAIN, VALIDATION} and not straddles(pairs[:60], parts[:60])
    assert len({pair for pair, part in zip(pairs, parts, strict=True) if part == VALIDATION}) == 5  # a quarter of 20 different pairs
    assert parts_of(log(keys, named=[0, 1] * 40), by=by, **({"column": "s"} if by == "column" else {})).tolist() == [0, 1] * 40


@pytest.mark.parametrize(
    "options",
    [
        {"by": "column"},
        {"by": "random", "column": "s"},
        {"by": "time", "column": "s"},
        {"by": "column", "column": "s", "test": 0.2},
        {"by": "files", "test": 0.2},
        {"by": "last", "test": 0.1},
        {"by": "last", "validation": 0},
        {"by": "last", "test": float("inf")},
        {"by": "last", "seed": 1},
        {"by": "time", "seed": 1},
        {"by": "time", "test": "soon"},
        {"by": "time", "validation": "7"},
        {"by": "random", "test": "7d"},
        {"test": 0.6, "validation": 0.4},
        {"validation": 0},
    ],
)
def test_options_that_cannot_be_meant(options):
    with pytest.raises(ConfigError, match="split"):
        SplitOptions(**options).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"test": 1.5}, 'test = 1.5: by = "random" takes a share .* test = 0.1'),
        ({"by": "group", "validation": -0.1}, 'validation = -0.1: by = "group" takes a share'),
        ({"test": float("nan")}, "test = nan"),
        ({"test": 0.6, "validation": 0.5}, "test = 0.6 and validation = 0.5 leave nothing to train on"),
        ({"validation": 0}, "validation = 0 leaves nothing .* validation = 0.1"),
        ({"by": "last", "validation": 0}, "validation = 0 leaves nothing .* validation = 1"),
        ({"by": "last", "test": 0.5}, 'test = 0.5: by = "last" takes a whole number .* test = 1'),
        ({"by": "last", "test": -1}, "test = -1: "),
        ({"by": "last", "validation": "7d"}, 'validation = "7d": .* validation = 1'),
        ({"by": "time", "test": "7d", "validation": 1.0}, "validation = 1: "),
    ],
)
def test_a_share_that_cannot_be_meant_is_named_with_its_value(options, said):
    with pytest.raises(ConfigError, match=said):
        SplitOptions(**options).check()


def test_a_log_without_a_match_is_said_as_such():
    with pytest.raises(DataError, match=r"none of the 3 pairs is a match: no label reaches \[pairs\] match.*Lower it"):
        parts_of(log([1, 2, 3], matches=np.zeros(3, bool)), by="random")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "last", "test": 5, "validation": 2}, "test = 5 and validation = 2 are given away only by keys with more"),
        ({"by": "time", "test": "2030-01-01", "validation": 0.1}, 'change .split. test = "2030-01-01", or set test = 0'),
        ({"by": "time", "test": "30d", "validation": "1d"}, 'test = "30d" and validation = "1d" ask for less'),
    ],
)
def test_an_empty_part_names_the_options_that_made_it(options, said):
    with pytest.raises(DataError, match=said):
        parts_of(log(range(11), np.arange(11) * DAY), **options)


def test_a_part_that_would_be_empty_is_said():
    with pytest.raises(DataError, match="leaves no pairs to validation"):
        parts_of(log([1, 2, 3]), by="last")
    with pytest.raises(DataError, match="leaves no pairs to train"):
        parts_of(log([1, 2], named=[TEST, VALIDATION]), by="column", column="s")
    with pytest.raises(DataError, match="leaves no pairs to test"):
        parts_of(log(range(11), np.arange(11) * DAY), by="time", test="2030-01-01", validation="2d")
