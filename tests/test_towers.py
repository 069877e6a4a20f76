"""Towers: built from a seed, sharing what they should, at first the plain sum of their features."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from twotower.data.batches import complete, draft
from twotower.data.columns import Ragged, ragged
from twotower.data.encoder import Encoder
from twotower.data.features import Categories, Category, History, Id, Text
from twotower.data.prepared import Log
from twotower.data.schema import ItemSide, QuerySide, Schema
from twotower.model.layers import tensors
from twotower.model.options import LossOptions, ModelOptions
from twotower.model.towers import Vectors, build, distinct, restore

QUERIES = pa.table({"asked": ["red shoe", "hat of wool", "blue", "a red hat"], "device": ["pc", "tv", "pc", None]})
ITEMS = pa.table({"name": ["i1", "i2", "i3"], "title": ["Red shoes", "Blue hats", "wool"], "kind": ["a", "b", "a"]})


def encoder(query=None, item=None):
    query = query or [Text(column="asked", buckets=1024), Category(column="device")]
    item = item or [Id(column="name"), Text(column="title", buckets=1024), Category(column="kind")]
    schema = Schema(query=QuerySide(features=tuple(query)), item=ItemSide(features=tuple(item), id="name"))

    def rows(side):
        return [(batch, np.ones(len(batch), np.int64)) for batch in (QUERIES if side == "query" else ITEMS).to_batches()]

    return Encoder.fit(schema, rows)


def options(**given):
    return ModelOptions(**{"dimensions": 16, **given})


def vectors(model, encoder, side, rows):
    return model.encode(side, encoder.encode(side, rows))


def test_the_same_seed_gives_the_same_weights():
    made = encoder()
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    one, same, other = (build(made, options(body="mlp"), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())  # the user's own generator is left alone
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("body", ["none", "linear", "mlp", "residual", "cross"])
def test_a_row_alone_equals_the_row_in_a_batch(similarity, body):
    made = encoder()
    model = build(made, options(similarity=similarity, body=body))
    for side, rows in (("query", QUERIES), ("item", ITEMS)):
        together = vectors(model, made, side, rows)
        alone = torch.cat([vectors(model, made, side, rows.slice(n, 1)) for n in range(rows.num_rows)])
        torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)
        assert vectors(model, made, side, rows.slice(0, 0)).shape == (0, 16)
        blocks = model.encode(side, made.encode(side, rows), block=2)
        torch.testing.assert_close(blocks, together, rtol=0, atol=1e-6)


def test_a_tower_without_a_body_is_the_sum_of_its_features():
    made = encoder()
    plain, residual = (build(made, options(similarity="dot", body=body), 5) for body in ("none", "residual"))
    for side, rows in (("query", QUERIES), ("item", ITEMS)):
        columns = made.encode(side, rows)
        tower = plain.tower(side)
        tower.gains.data[0] = 0.5
        parts = [layer(tensors(columns[name])) for name, layer in zip(tower.names, tower.layers, strict=True)]
        torch.testing.assert_close(plain.encode(side, columns), 0.5 * parts[0] + sum(parts[1:]))
    assert set(plain.state_dict()) < set(residual.state_dict())


def test_cosine_has_length_one_and_dot_has_not():
    made = encoder()
    cosine, dot = (build(made, options(similarity=s)) for s in ("cosine", "dot"))
    lengths = vectors(cosine, made, "query", QUERIES).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))
    free = vectors(dot, made, "query", QUERIES)
    assert (free.norm(dim=1) - 1).abs().max() > 1e-3
    torch.testing.assert_close(torch.nn.functional.normalize(free, dim=1), vectors(cosine, made, "query", QUERIES))


def test_the_loss_is_of_similarities_over_the_temperature():
    made = encoder()
    model = build(made, options(temperature=0.25))
    met = Vectors(vectors(model, made, "query", QUERIES)[:3], vectors(model, made, "item", ITEMS))
    rows = np.arange(3)
    part = draft(Log(rows, rows, rows, *np.ones((2, 3), np.float32)), rows)
    batch = complete(part, rows, np.zeros(3, np.float32), ragged([[0], [1], [2]]))
    expected = torch.nn.functional.cross_entropy(met.queries @ met.items.T / 0.25, torch.arange(3))
    torch.testing.assert_close(model.loss(met, batch, LossOptions()).mean.detach(), expected)
    assert model.temperature == pytest.approx(0.25)
    assert model.log_scale.requires_grad
    assert not build(made, options(learn_temperature=False)).log_scale.requires_grad


def test_shared_tables_are_one_and_separate_ones_two():
    made = encoder()
    shared, apart = (build(made, options(shared_tables=value)) for value in (True, False))
    assert shared.query.layers[0].table is shared.item.layers[1].table
    assert apart.query.layers[0].table is not apart.item.layers[1].table
    # Moving a word on one side moves it on the other, and only there where the table is shared.
    for model, moves in ((shared, True), (apart, False)):
        before = vectors(model, made, "item", ITEMS)
        model.query.layers[0].table.weight[1:] += 1
        assert bool((vectors(model, made, "item", ITEMS) != before).any()) == moves


def test_texts_that_hash_otherwise_have_tables_of_their_own():
    made = encoder(query=[Text(column="asked", buckets=2048)])
    model = build(made, options())
    assert model.query.layers[0].table is not model.item.layers[1].table


def test_every_tensor_is_kept_once_and_comes_back():
    made = encoder(item=[Text(column="title", buckets=1024), Category(column="kind")])
    model, other = (build(made, options(body="mlp", shared_body=True), seed) for seed in (1, 2))
    kept, aliases = distinct(model)
    assert len({tensor.data_ptr() for tensor in kept.values()}) == len(kept)
    assert {*kept, *aliases} == set(model.state_dict())
    assert any("body" in name for name in aliases) and any("table" in name for name in aliases)
    restore(other, {name: tensor.clone() for name, tensor in kept.items()})
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError):
        restore(other, {name: tensor for name, tensor in kept.items() if "gains" not in name})


@pytest.mark.parametrize("body", ["none", "linear", "mlp", "residual", "cross"])
def test_gathered_gradients_equal_those_of_the_whole_model(body):
    """Both sides read one table: the rows that both touch collect the gradients of both."""
    made = encoder()
    model = build(made, options(body=body), 3)
    columns = {side: {n: tensors(c) for n, c in made.encode(side, rows).items()} for side, rows in (("query", QUERIES), ("item", ITEMS))}

    def loss():
        return (model.query(columns["query"]) @ model.item(columns["item"]).T).square().sum()

    found = {id(layer.table): layer.table for side in ("query", "item") for layer in model.tower(side).layers}
    for table in found.values():
        table.weight.requires_grad_()
    loss().backward()
    dense = {key: table.weight.grad.clone() for key, table in found.items()}
    gains = model.query.gains.grad.clone()
    model.zero_grad()
    for table in found.values():
        table.weight.requires_grad_(False)
    gathered = model.gather(columns["query"], columns["item"])
    assert {id(table) for table in gathered} == set(found)
    assert len(gathered) == len(found)
    loss().backward()
    for table in gathered:
        torch.testing.assert_close(table.leaf.grad, dense[id(table)][table.touched], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.query.gains.grad, gains, rtol=1e-4, atol=1e-6)


def test_a_vector_that_starts_at_zero_gets_a_gradient_of_common_size():
    """An item with an id and no words: its first step must not be the last that it can make."""
    from twotower.model.towers import unit

    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    y = unit(x * 1.0)
    assert y.tolist() == [[0.0, 0.0], [pytest.approx(0.6), pytest.approx(0.8)]]
    (y * torch.tensor([[1.0, 0.0], [1.0, 0.0]])).sum().backward()
    assert 0.1 < x.grad[0].norm() < 10
    # Far from zero it is the gradient of x / |x|: (e - y (y . e)) / |x|.
    torch.testing.assert_close(x.grad[1], torch.tensor([(1 - 0.36) / 5, -0.48 / 5]))


def test_two_ids_do_not_start_at_zero():
    made = encoder(item=[Id(column="name"), Category(column="kind")])
    assert (vectors(build(made, options(similarity="dot")), made, "item", ITEMS).norm(dim=1) > 0.1).all()


def test_features_of_one_table_are_tied():
    made = encoder(
        query=[Id(column="asked", table="words"), Categories(column="device", table="words")],
        item=[Id(column="name", table="words"), Category(column="kind")],
    )
    model = build(made, options(similarity="dot"))
    tables = [model.query.layers[0].table, model.query.layers[1].table, model.item.layers[0].table]
    assert all(table is tables[0] for table in tables)
    assert model.item.layers[1].table is not tables[0]
    assert len(tables[0].weight) == 2 + 4 + 2 + 3  # missing, unknown, and every value of the three columns
    before = vectors(model, made, "item", ITEMS)
    code = int(made.encode("item", ITEMS)["name:id"][0])
    tables[0].weight[code] += 1
    moved = vectors(model, made, "item", ITEMS) - before
    assert moved[0].abs().min() > 0.5 and (moved[1:] == 0).all()
    kept, _ = distinct(model)
    assert sum("table.weight" in name for name in kept) == 2


@pytest.mark.parametrize("table", [None, "things"])
def test_a_history_of_ids_reads_the_table_of_the_items(table):
    made = encoder(item=[Id(column="name", table=table), Text(column="title", buckets=1024)])
    features = {"query": (History(items="ids"),), "item": made.features["item"]}
    made = Encoder(features, {"query": {"history:history": {}}, "item": made.states["item"]})
    model = build(made, options())
    assert model.query.layers[0].table is model.item.layers[0].table


def test_a_query_that_is_a_history_alone_meets_the_items_it_holds():
    made = encoder(item=[Text(column="title", buckets=1024)])
    made = Encoder({"query": (History(),), "item": made.features["item"]}, {"query": {"history:history": {}}, "item": made.states["item"]})
    model = build(made, options())
    items = vectors(model, made, "item", ITEMS)
    history = {"history:history": Ragged(items.numpy()[[0, 2, 1]], np.array([0, 1, 1, 3]))}
    queries = model.encode("query", history)
    torch.testing.assert_close(queries[0], items[0])
    assert (queries[1] == 0).all()
    torch.testing.assert_close(queries[2], torch.nn.functional.normalize(items[2] + items[1], dim=0))


def test_embeddings_are_plain_numbers():
    made = encoder()
    found = vectors(build(made, options()), made, "query", QUERIES)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert np.isfinite(found.numpy()).all()
