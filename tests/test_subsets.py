"""Nested subsets: the smaller within the larger, the same validation queries for all, nothing of the test part."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.data.splits import TEST, TRAIN, VALIDATION
from twotower.learning.subsets import AXES, enough, matched

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    generator = np.random.default_rng(0)
    rows = [{"u": f"u{n}", "i": f"i{item}"} for n in range(120) for item in generator.choice(40, int(generator.integers(2, 12)), replace=False)]
    config = {"query": {"key": "u", "features": [{"column": "u", "type": "id"}]}, "item": {"id": "i", "features": [{"column": "i", "type": "id"}]}}
    chosen = from_values(config | {"split": {"by": "random", "test": 0.15, "validation": 0.15}})
    return prepare(open_source(rows, "pairs"), None, chosen.schema, chosen.split, tmp_path_factory.mktemp("prepared"))


def pairs_of(prepared, subset, part):
    """(key, item id) of the pairs of a part, by their place in the log."""
    names = subset.prepared.items.column("_id").to_pylist()
    which = np.flatnonzero(subset.prepared.parts == part)
    return {(int(n), int(prepared.log.query_keys[n]), names[subset.prepared.log.item_rows[n]]) for n in which}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("seed", [0, 1])
def test_subsets_are_nested_and_asked_the_same(prepared, axis, seed):
    names = prepared.items.column("_id").to_pylist()
    found = [AXES[axis](prepared, share, SHARES[0], seed) for share in SHARES]
    training = [pairs_of(prepared, subset, TRAIN) for subset in found]
    assert all(small < large for small, large in itertools.pairwise(training))
    log = zip(range(len(prepared.parts)), prepared.log.query_keys, prepared.log.item_rows, strict=True)
    assert training[-1] == {(n, key, names[item]) for n, key, item in log if prepared.parts[n] == TRAIN}
    held = [pairs_of(prepared, subset, VALIDATION) for subset in found]
    assert all(one == held[0] for one in held) and held[0]
    assert [subset.size for subset in found] == sorted({subset.size for subset in found})
    for subset in found:
        assert (subset.prepared.parts[prepared.parts == TEST] == TEST).all()


def test_who_asks_in_validation_is_known_to_the_smallest(prepared):
    ever = set(prepared.log.query_keys[prepared.parts == TRAIN].tolist())
    for seed in range(3):
        small = AXES["queries"](prepared, SHARES[0], SHARES[0], seed)
        known = set(prepared.log.query_keys[small.prepared.parts == TRAIN].tolist())
        asked = set(prepared.log.query_keys[small.prepared.parts == VALIDATION].tolist())
        assert asked & ever and asked & ever <= known and small.size == len(known)
    first, other = (AXES["queries"](prepared, 0.5, SHARES[0], seed) for seed in (0, 1))
    assert (first.prepared.parts != other.prepared.parts).any()
    held = [np.flatnonzero(one.prepared.parts == VALIDATION) for one in (first, other)]
    assert np.array_equal(*held)  # other training pairs, the same questions


def test_thinned_out_everybody_keeps_a_share(prepared):
    half = AXES["pairs"](prepared, 0.5, SHARES[0], 0)
    for key in np.unique(prepared.log.query_keys[prepared.parts == TRAIN]):
        own = prepared.log.query_keys == key
        all_of, kept = (int((own & (parts == TRAIN)).sum()) for parts in (prepared.parts, half.prepared.parts))
        assert kept == max(1, round(all_of / 2))


def test_what_was_passed_over_is_no_match(prepared):
    labels = np.where(np.arange(len(prepared.parts)) % 3 == 0, 1.0, 0.0).astype(np.float32)
    passed = replace(prepared, log=prepared.log._replace(labels=labels))
    assert AXES["pairs"](passed, 1.0, SHARES[0], 0).size == matched(passed).sum() == ((prepared.parts == TRAIN) & (labels > 0)).sum()


def test_a_smaller_catalogue_holds_its_own_items_alone(prepared):
    half = AXES["items"](prepared, 0.5, SHARES[0], 0)
    assert half.prepared.n_items == half.size == 20
    for subset in (half, AXES["items"](prepared, SHARES[0], SHARES[0], 0)):
        for part in (TRAIN, VALIDATION):
            rows = subset.prepared.log.item_rows[subset.prepared.parts == part]
            assert rows.max() < subset.prepared.n_items
        (column,) = subset.prepared.columns["item"].values()
        assert len(column) == subset.prepared.n_items


def test_whether_there_is_enough(prepared):
    assert enough(AXES["queries"](prepared, 1.0, 1.0, 0)) and not enough(AXES["queries"](prepared, 0.01, 0.01, 0))


def test_new_queries_are_asked_whatever_is_left(world, tmp_path):
    from conftest import WORLD_CONFIG

    chosen = from_values(WORLD_CONFIG)
    data = prepare(open_source(world[0], "pairs"), open_source(world[1], "items"), chosen.schema, chosen.split, tmp_path)
    small = AXES["queries"](data, 1 / 8, 1 / 8, 0)
    assert int((small.prepared.parts == VALIDATION).sum()) == int((data.parts == VALIDATION).sum())
