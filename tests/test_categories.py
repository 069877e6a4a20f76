"""Popularity within categories, on logs made by hand."""

import numpy as np
import pytest

from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning.baselines import popularity, popularity_by_category
from twotower.learning.evaluation import cases

ITEMS = [
    {"i": "a1", "kind": "a", "tags": ["x", "y"], "noise": "n1", "own": "1"},
    {"i": "a2", "kind": "a", "tags": ["x"], "noise": "n2", "own": "2"},
    {"i": "a3", "kind": "a", "tags": ["x"], "noise": "n1", "own": "3"},
    {"i": "b1", "kind": "b", "tags": ["y"], "noise": "n2", "own": "4"},
    {"i": "b2", "kind": "b", "tags": ["y"], "noise": "n1", "own": "5"},
    {"i": "c1", "kind": None, "tags": [], "noise": "n2", "own": "6"},
]
TRAIN = [("u", "a1"), ("u", "a2"), ("v", "b1"), ("v", "b2"), ("v", "a1"), ("w", "b1"), ("w", "b2"), ("x", "a2"), ("x", "a1"), ("x", "c1")]
HELD = [("u", "a3"), ("v", "b1"), ("stranger", "a2")]


def made(folder, features, items=ITEMS, query="id", train=TRAIN, held=HELD, **extra):
    rows = [
        {"u": user, "i": item, "part": part, **{name: of(user) for name, of in extra.items()}}
        for part, some in (("train", train), ("validation", [("validated9", held[0][1])]), ("test", held))
        for user, item in some
    ]
    sides = {
        "query": {"key": "u", "features": [{"column": "u", "type": query}, *({"column": name, "type": "category"} for name in extra)]},
        "item": {"id": "i", "features": [{"column": "i", "type": "id"}, *features]},
        "split": {"by": "column", "column": "part"},
    }
    chosen = from_values(sides)
    prepared = prepare(open_source(rows, "pairs"), open_source(items, "items"), chosen.schema, chosen.split, folder)
    asked = cases(prepared.part(2), None, "pair")
    users = prepared.queries.column("u").to_pylist()
    order = [[users[row] for row in asked.query_rows].index(user) for user, _ in held]
    names = prepared.items.column("_id").to_pylist()
    return prepared, asked.take(np.array(order)), [names.index(item["i"]) for item in items]


def test_an_item_counts_by_how_much_its_category_is_the_askers(tmp_path):
    prepared, asked, rows = made(tmp_path, [{"column": "kind", "type": "category"}])
    scores = popularity_by_category(prepared, asked)(slice(0, 3))[:, rows]
    # Everybody: a .5, b .4, none .1. u has two of a, and one more dealt out; v has one of a and two of b.
    u = [(2 + 0.5) / 3 / 0.5, (0 + 0.4) / 3 / 0.4, (0 + 0.1) / 3 / 0.1]
    v = [(1 + 0.5) / 4 / 0.5, (2 + 0.4) / 4 / 0.4, (0 + 0.1) / 4 / 0.1]
    counts = np.array([3, 2, 0, 2, 2, 1])
    for row, lifts in zip(scores, (u, v, [1, 1, 1]), strict=True):
        np.testing.assert_allclose(row, counts * np.array(lifts)[[0, 0, 0, 1, 1, 2]], rtol=1e-6)
    np.testing.assert_allclose(scores[2], popularity(prepared, asked)(slice(2, 3))[0, rows], rtol=1e-6)  # who is not known


def test_an_item_of_several_categories_is_in_each_by_an_equal_part(tmp_path):
    prepared, asked, rows = made(tmp_path, [{"column": "tags", "type": "categories"}])
    scores = popularity_by_category(prepared, asked)(slice(0, 1))[0, rows]
    share = np.array([3 / 2 + 2, 3 / 2 + 4, 1]) / 10  # x, y, none: a1 three times, by halves
    x, y, none = ((has + part) / 3 / part for has, part in zip((1.5, 0.5, 0), share, strict=True))
    np.testing.assert_allclose(scores, [3 * (x + y) / 2, 2 * x, 0, 2 * y, 2 * y, none], rtol=1e-6)


def world(generator, users=60, per=8):
    """Each user has one kind of three. `own` names each item by itself, `noise` says nothing."""
    items = [{"i": f"i{n}", "kind": f"k{n % 3}", "noise": f"n{n // 3 % 3}", "own": f"o{n}"} for n in range(90)]
    train = [(f"u{user}", f"i{3 * generator.integers(30) + user % 3}") for user in range(users) for _ in range(per)]
    return items, list(dict.fromkeys(train))


@pytest.mark.parametrize("order", [("kind", "noise", "own"), ("own", "noise", "kind")])
def test_the_column_is_taken_that_predicts_training_best(tmp_path, order):
    """A column in which each item is alone repeats what it saw, and predicts nothing of what it left out."""
    items, train = world(np.random.default_rng(0))
    held = [("u0", "i0"), ("u1", "i1"), ("u2", "i2")]
    train = [pair for pair in train if pair not in held]
    prepared, asked, rows = made(tmp_path, [{"column": name, "type": "category"} for name in order], items, train=train, held=held)
    scores = popularity_by_category(prepared, asked)(slice(0, 3))[:, rows]
    assert (scores.argmax(axis=1) % 3).tolist() == [0, 1, 2]
    alone, asked, rows = made(tmp_path, [{"column": "kind", "type": "category"}], items, train=train, held=held)
    np.testing.assert_array_equal(popularity_by_category(alone, asked)(slice(0, 3))[:, rows], scores)


def test_what_a_query_says_of_itself_tells_where_its_key_cannot(tmp_path):
    """Keys that were never seen, in departments that were."""
    items, train = world(np.random.default_rng(1))
    held = [("new0", "i0"), ("new1", "i1"), ("new2", "i2")]
    department = {"department": lambda user: f"d{int(user.lstrip('abcdefghijklmnopqrstuvwxyz')) % 3}"}
    prepared, asked, rows = made(tmp_path, [{"column": "kind", "type": "category"}], items, train=train, held=held, **department)
    scores = popularity_by_category(prepared, asked)(slice(0, 3))[:, rows]
    assert (scores.argmax(axis=1) % 3).tolist() == [0, 1, 2]


def test_it_needs_categories_and_askers_that_training_knows(tmp_path):
    prepared, asked, _ = made(tmp_path, [])
    assert popularity_by_category(prepared, asked) is None
    strangers, asked, _ = made(tmp_path, [{"column": "kind", "type": "category"}], held=[("stranger", "a1"), ("other", "b1")])
    assert popularity_by_category(strangers, asked) is None
