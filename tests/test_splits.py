"""What each split promises, checked pair by pair."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.splits import SplitLog, SplitOptions, split
from twotower.errors import ConfigError, DataError

TRAIN, VALIDATION, TEST = 0, 1, 2


def log(keys, times=None, named=None, items=None):
    items = range(len(keys)) if items is None else items  # by default no pair is met twice
    return SplitLog(np.array(keys, np.int64), np.array(items, np.int64), None if times is None else np.array(times, float), named)


def counts(parts):
    return np.bincount(parts, minlength=3).tolist()


@given(st.integers(20, 500), st.integers(0, 5))
def test_random_deals_out_shares(n, seed):
    options = SplitOptions(by="random", test=0.2, validation=0.1, seed=seed)
    parts = split(log(range(n)), options)
    assert counts(parts)[1:] == [round(n * 0.1), round(n * 0.2)]
    assert np.array_equal(parts, split(log([0] * n), options))  # nothing but the number of pairs matters


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=40, max_size=200), st.integers(0, 3))
def test_random_keeps_the_repeats_of_a_pair_together(pairs, seed):
    pairs = [*pairs, *[(10, n) for n in range(10)]]
    keys, items = zip(*pairs, strict=True)
    parts = split(log(keys, items=items), SplitOptions(test=0.2, validation=0.1, seed=seed))
    part_of = dict(zip(pairs, parts.tolist(), strict=True))
    assert [part_of[pair] for pair in pairs] == parts.tolist()
    n = len(part_of)
    assert counts(list(part_of.values()))[1:] == [round(n * 0.1), round(n * 0.2)]


def test_another_seed_is_another_split():
    one, two = (split(log(range(200)), SplitOptions(seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one, two)


@given(st.lists(st.integers(0, 15), min_size=60, max_size=200))
def test_a_group_stays_together(keys):
    keys = [*keys, *range(100, 120)]
    parts = split(log(keys), SplitOptions(by="group"))
    assert all(len({int(p) for k, p in zip(keys, parts, strict=True) if k == key}) == 1 for key in keys)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=40), st.integers(0, 2), st.integers(1, 2))
def test_last_holds_out_the_latest_of_each_key(pairs, test, validation):
    pairs = [*pairs, *[(9, n) for n in range(9)]]  # one key that certainly has enough
    keys, times = zip(*pairs, strict=True)
    parts = split(log(keys, times), SplitOptions(by="last", test=test, validation=validation))
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


def test_last_without_times_follows_the_log():
    assert split(log([5, 5, 6, 5, 6, 6, 7]), SplitOptions(by="last")).tolist() == [0, 1, 0, 2, 1, 2, 0]


def test_a_column_says_it_and_validation_is_drawn_where_it_names_none():
    named = ["train", "Train ", "TEST", "dev", "val", "validation"]
    assert split(log(range(6), named=named), SplitOptions(by="column", column="s")).tolist() == [0, 0, 2, 1, 1, 1]
    parts = split(log(range(50), named=["train"] * 40 + ["test"] * 10), SplitOptions(by="column", column="s", validation=0.25))
    assert counts(parts) == [30, 10, 10] and (parts[40:] == TEST).all()
    with pytest.raises(DataError, match="holds 'holdout'"):
        split(log([0], named=["holdout"]), SplitOptions(by="column", column="s"))
    with pytest.raises(DataError, match="holds None"):
        split(log([0], named=[None]), SplitOptions(by="column", column="s"))


@pytest.mark.parametrize(
    "options",
    [
        {"by": "column"},
        {"by": "random", "column": "s"},
        {"by": "column", "column": "s", "test": 0.2},
        {"by": "last", "test": 0.1},
        {"by": "last", "validation": 0},
        {"by": "last", "test": float("inf")},
        {"test": 0.6, "validation": 0.4},
        {"validation": 0},
    ],
)
def test_options_that_cannot_be_meant(options):
    with pytest.raises(ConfigError, match="split"):
        SplitOptions(**options).check()


def test_a_part_that_would_be_empty_is_said():
    with pytest.raises(DataError, match="leaves no pairs to validation"):
        split(log([1, 2, 3]), SplitOptions(by="last"))
    with pytest.raises(DataError, match="leaves no pairs to train"):
        split(log([1, 2], named=["test", "val"]), SplitOptions(by="column", column="s"))
