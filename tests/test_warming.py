"""Warm starts: the factorisation is numpy's, a planted world is ranked before the first step, what is learnt of it sooner, and resume is exact."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from test_training import all_of, assert_same, changed
from twotower import train
from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import ConfigError
from twotower.learning import training, warming
from twotower.learning.factors import balanced, factorise
from twotower.learning.training import Validation
from twotower.model.towers import build
from twotower.runs.progress import Progress

OTHERS = itertools.count()
BLOCKS, USERS, ITEMS = 6, 20, 8  # of each block


def blocks(seed=0):
    """Users and items in blocks: a user has all items of their block."""
    generator = np.random.default_rng(seed)
    pairs = []
    for block, user in itertools.product(range(BLOCKS), range(USERS)):
        chosen = block * ITEMS + generator.permutation(ITEMS)
        pairs += [(f"u{block * USERS + user}", int(item)) for item in chosen]
    order = generator.permutation(len(pairs))
    return pa.table({"who": [pairs[n][0] for n in order], "what": [pairs[n][1] for n in order], "note": [f"n{n % 3}" for n in order]})


QUERIES = {
    "ids": [{"column": "who", "type": "id"}],
    "history of ids": [{"type": "history", "items": "ids"}],
    "history of the tower": [{"type": "history"}],
    "both": [{"column": "who", "type": "id"}, {"type": "history"}],
}


def configured(asks, **blocks):
    values = {
        "query": {"key": "who", "features": QUERIES[asks]},
        "item": {"id": "what", "features": [{"column": "what", "type": "id"}]},
        "split": {"by": "random", "test": 0, "validation": 0.2},
        "model": {"dimensions": 8},
        "train": {"epochs": 3, "batch_size": 64, "warm_start": "factors", "table_learning_rate": 0.02},
        "evaluate": {"per": "query", "metrics": ["recall@10"], "select": "ndcg@10", "exclude_seen": True},
    }
    return from_values({name: values.get(name, {}) | blocks.get(name, {}) for name in {**values, **blocks}})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, kept = tmp_path_factory.mktemp("prepared"), {}

    def of(config):
        return kept.setdefault(str(config.schema), prepare(open_source(blocks(), "pairs"), None, config.schema, config.split, folder))

    return of


def begin(prepared, config, cold=False):
    torch.manual_seed(next(OTHERS))
    data = training.data_of(prepared, config.train, config.evaluate)
    state = training.start(build(prepared.encoder, config.model, config.train.seed), data, config.train)
    assert cold or warming.warm(state, data, prepared, config.train)
    return state, data


def quality(state, data, config):
    return training.validate(state.model, data, config.evaluate)[0]["ndcg@10"]


def test_the_factorisation_is_that_of_numpy():
    """Of a small dense matrix: the same product, the same singular values, and the best there is of so many directions."""
    dense = np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32)
    left, values, right = np.linalg.svd(dense, full_matrices=False)
    for k in (5, 20):
        found = factorise(sparse.csr_matrix(dense), k, np.random.default_rng(1), rounds=6)
        np.testing.assert_allclose(found.values, values[:k], rtol=1e-4)
        np.testing.assert_allclose((found.left * found.values) @ found.right.T, (left[:, :k] * values[:k]) @ right[:k], atol=1e-2 if k < 20 else 1e-4)
        np.testing.assert_allclose(found.left.T @ found.left, np.eye(k), atol=1e-4)


def test_directions_that_are_not_there_are_not_made_up():
    dense = np.outer(np.arange(1, 9), np.arange(1, 6)).astype(np.float32)
    assert factorise(sparse.csr_matrix(dense), 4, np.random.default_rng(0)).values == pytest.approx([np.linalg.norm(dense)], rel=1e-4)
    assert len(factorise(sparse.csr_matrix((3, 2), dtype=np.float32), 4, np.random.default_rng(0)).values) == 0


def test_a_log_is_balanced_by_the_roots_of_its_sums():
    rows, columns, weights = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([1.0, 3.0, 1.0, 1.0])
    matrix, sums = balanced(rows, columns, weights, (2, 3))
    logs = np.log([[2.0, 4.0], [1.0, 4.0]])  # the repeated pair is the sum of two
    by_hand = logs / np.sqrt(np.outer(logs.sum(1), logs.sum(0)))
    np.testing.assert_allclose(matrix.toarray()[:, :2], by_hand, rtol=1e-6)
    np.testing.assert_allclose(sums, [*logs.sum(0), 0], rtol=1e-6)
    less, _ = balanced(rows, columns, weights, (2, 3), 0.25)
    np.testing.assert_allclose(less.toarray()[:, :2], by_hand * logs.sum(0) ** 0.25, rtol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("query", QUERIES)
def test_a_planted_world_is_ranked_by_the_factors_alone(made, query, similarity):
    """Before the first step: the rest of a user's block stands before everything else, where random rows know nothing."""
    config = configured(query, model={"similarity": similarity})
    (cold, data), (warmed, _) = (begin(made(config), config, cold) for cold in (True, False))
    assert quality(cold, data, config) < 0.5 < 0.8 < quality(warmed, data, config)


@pytest.mark.parametrize("query", QUERIES)
def test_a_warm_start_is_ahead_after_an_epoch(made, query):
    config = configured(query)
    found = []
    for cold in (True, False):
        state, data = begin(made(config), config, cold)
        list(training.steps(state, data, config.train))
        found.append(quality(state, data, config))
    assert found[1] > max(0.8, found[0])


def test_the_same_seed_gives_the_same_bits_and_the_optimiser_begins_anew(made):
    config = configured("ids")
    one, same, other = (begin(made(config), c)[0] for c in (config, config, changed(config, train={"seed": 1})))
    assert_same(one, same)
    assert any(not torch.equal(left, right) for left, right in zip(all_of(one)[0].values(), all_of(other)[0].values(), strict=True))
    assert one.step == 0 and all(not kept["squares"].any() for kept in one.moments.values())


def test_rows_are_as_long_as_random_ones(made):
    config = configured("history of ids")
    warmed, _ = begin(made(config), config)
    table = warmed.model.item.layers[0].table.weight
    known = table[2:].square().sum(1).mean().sqrt()
    assert known == pytest.approx(4, rel=0.1) and not table[:2].any()  # what is unknown says nothing


@pytest.mark.parametrize("warm_start", ["factors", "catalogue"])
def test_resume_after_a_warm_start_is_exact(made, worded, tmp_path, warm_start):
    config = configured("ids", train={"warm_start": "factors"}) if warm_start == "factors" else worded[0]
    prepared = made(config) if warm_start == "factors" else worded[1]
    expected, data = begin(prepared, config)
    assert training.fit(expected, data, config.train, config.evaluate)
    state, data = begin(prepared, config)
    assert not training.fit(state, data, config.train, config.evaluate, folder=tmp_path, stop=lambda: state.step >= 4)
    again, data = begin(prepared, config, cold=True)
    training.resume(again, tmp_path)
    assert warming.warm(again, data, prepared, config.train)  # which does nothing after the first step
    assert training.fit(again, data, config.train, config.evaluate, folder=tmp_path)
    assert_same(expected, again)


@pytest.mark.parametrize("start", ["none", "factors"])
def test_a_run_is_warmed(tmp_path, monkeypatch, start):
    """Through the front door, up to what follows training."""
    monkeypatch.setattr("twotower.runs.run.finish", lambda *given: None)
    seen = []
    told = Progress(training=lambda event: seen.append(event.metrics["ndcg@10"]) if isinstance(event, Validation) else None)
    train(blocks(), config=configured("ids", train={"warm_start": start, "epochs": 1}), output=tmp_path / start, progress=told)
    assert (seen[0] > 0.8) == (start == "factors")


# --- from the catalogue ---------------------------------------------------------------------------------------------


TOPICS = 12


def shop(seed=0):
    """(pairs, items): what is asked has words of titles, which say the same as descriptions do in other words; few pairs tell how."""
    generator = np.random.default_rng(seed)
    items = [
        {"sku": n, "title": f"alpha{n % TOPICS} beta{n // TOPICS}", "about": f"gamma{n % TOPICS} delta{n // TOPICS} epsilon", "kind": f"k{n % 2}"}
        for n in range(TOPICS * 8)
    ]
    chosen = generator.permutation(len(items))[::2]
    for n in chosen:
        items[n]["title"] = None  # to be found by their descriptions alone
    pairs = [{"asked": f"alpha{n % TOPICS} beta{n // TOPICS} please", "sku": int(n)} for n in chosen]
    return pa.Table.from_pylist(pairs), pa.Table.from_pylist(items)


def shop_config(**train):
    text = {"type": "text", "buckets": 4096}
    return from_values(
        {
            "query": {"features": [{"column": "asked", **text}]},
            "item": {
                "id": "sku",
                "features": [
                    {"column": "sku", "type": "id"},
                    {"column": "title", **text},
                    {"column": "kind", "type": "category"},
                    {"column": "about", **text},
                ],
            },
            "split": {"by": "random", "test": 0, "validation": 0.5},
            "model": {"dimensions": 32},
            "train": {"epochs": 2, "batch_size": 16, "correction": False, "patience": 0, "warm_start": "catalogue", "warm_epochs": 10, **train},
        }
    )


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    config = shop_config()
    pairs, items = shop()
    return config, prepare(open_source(pairs, "pairs"), open_source(items, "items"), config.schema, config.split, tmp_path_factory.mktemp("worded"))


def test_a_catalogue_teaches_the_words(worded):
    config, prepared = worded
    (cold, data), (warmed, _) = (begin(prepared, config, cold) for cold in (True, False))
    before, after = (training.validate(state.model, data, config.evaluate)[0]["mrr"] for state in (cold, warmed))
    assert after > 0.5 > 0.3 > before


def test_it_leaves_alone_what_is_not_of_words(worded):
    config, prepared = worded
    (cold, _), (warmed, _) = (begin(prepared, config, cold) for cold in (True, False))
    moved = {name for name, tensor in cold.model.state_dict().items() if not torch.equal(tensor, warmed.model.state_dict()[name])}
    assert moved == {"query.layers.0.table.weight", "item.layers.1.table.weight", "item.layers.3.table.weight"}  # one table, by its three names
    assert warmed.step == 0 and all(not kept["squares"].any() for kept in warmed.moments.values())


def test_the_shortest_text_is_asked_and_the_others_are_read(worded):
    config, prepared = worded
    data = training.data_of(prepared, config.train, config.evaluate)
    taught = warming.lesson(prepared.encoder, prepared.columns["item"])
    assert taught.column == "title" and taught.readers == {"asked:text": "title:text"}
    material, pairs = warming._material(data, prepared, 32, config.train)
    assert pairs == TOPICS * 4  # those without a title teach nothing
    assert not len(material.columns["item"]["title:text"].values) and len(material.columns["item"]["about:text"].values)
    assert not material.columns["item"]["sku:id"].any()


def test_a_stop_within_it_leaves_the_state_as_it_was(worded, tmp_path):
    config, prepared = worded
    expected, _ = begin(prepared, config)
    state, data = begin(prepared, config, cold=True)
    asked = itertools.count()
    assert not warming.warm(state, data, prepared, config.train, folder=tmp_path, stop=lambda: next(asked) > 3)
    assert_same(state, begin(prepared, config, cold=True)[0])
    again, data = begin(prepared, config, cold=True)
    training.resume(again, tmp_path)
    assert warming.warm(again, data, prepared, config.train)
    assert_same(expected, again)


def test_what_is_held_out_is_not_read(worded):
    """Items that only held-out pairs name; those that no pair names may be known."""
    _, prepared = worded
    held = set(prepared.log.item_rows[prepared.parts != 0].tolist()) - set(prepared.log.item_rows[prepared.parts == 0].tolist())
    assert held and set(np.flatnonzero(~warming._shown(prepared)).tolist()) == held


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"query": {"features": [{"column": "note", "type": "category"}]}}, 'a feature of type "id"'),
        ({"item": {"id": "what", "features": [{"column": "note", "type": "category"}]}}, 'a feature of type "id"'),
        ({"query": {"key": "who", "features": [{"type": "history", "pool": "transformer"}]}, "pairs": {"ordered": True}}, "transformer"),
        ({"model": {"body": "mlp"}}, "mlp"),
        (
            {
                "query": {"key": "who", "features": [{"column": "who", "type": "id", "table": "t"}]},
                "item": {"id": "what", "features": [{"column": "what", "type": "id", "table": "t"}]},
            },
            "share a table",
        ),
        ({"train": {"warm_epochs": 5}}, "warm_epochs"),
        ({"train": {"warm_start": "catalogue"}}, "two texts of the items"),
        ({"train": {"warm_start": "catalog"}}, "none of"),
    ],
)
def test_a_warm_start_that_would_do_nothing_is_refused(values, told):
    with pytest.raises(ConfigError, match=told):
        configured("ids", **values)


def test_texts_that_hash_otherwise_are_refused():
    features = [{"column": "title", "type": "text"}, {"column": "about", "type": "text"}]
    query = {"features": [{"column": "asked", "type": "text", "buckets": 4096}]}
    with pytest.raises(ConfigError, match="reads words alike"):
        from_values({"query": query, "item": {"features": features}, "train": {"warm_start": "catalogue"}})
