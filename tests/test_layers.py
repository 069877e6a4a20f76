"""Layers and tables: gathered gradients, the padded form, row-wise Adagrad, all against plain second versions."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from twotower.data.columns import Ragged, pad, ragged, take
from twotower.data.features import Categories, Category, History, Id, Number, Text, Time, Vector
from twotower.errors import ConfigError
from twotower.model.layers import LAYERS, Bag, Place, Prefixes, Table, blocks, tensors, text_table
from twotower.model.layers.dropout import Dropout, lighter
from twotower.model.layers.history import POOLS
from twotower.model.layers.inputs import summed
from twotower.model.layers.measures import Head
from twotower.model.layers.text import HashedText, thinned
from twotower.model.optimizers import dense_optimizer

TEXTS = ["red shoe", "blue shoe", "red hat of wool", "green"]


def counted(values):
    """Values as one part of training rows, each in one pair."""
    return pa.array(values), np.ones(len(values), np.int64)


@pytest.fixture
def text():
    torch.manual_seed(0)
    feature = Text(column="t", buckets=512)
    state = feature.fit([counted(TEXTS)])
    return feature, state, HashedText(text_table([(feature, state)], 8))


def place(dimensions=8, content=False, name="query a", tables=None, ids=None):
    return Place(name, dimensions, {} if tables is None else tables, "", content, ids)


def bag(feature, state, texts):
    return tensors(feature.encode(pa.array(texts, pa.string()), state))


def test_gathered_gradients_equal_those_of_the_whole_table():
    torch.manual_seed(1)
    table = Table(20, 4)
    torch.nn.init.normal_(table.weight)
    ids, mixing = torch.tensor([3, 7, 3, 19, 0]), torch.randn(5, 4)
    whole = table.weight.detach().clone().requires_grad_()
    ((whole[ids] * mixing).tanh().sum()).backward()
    table.gather(ids)
    ((table(ids) * mixing).tanh().sum()).backward()
    assert table.touched.tolist() == [0, 3, 7, 19]
    torch.testing.assert_close(table.leaf.grad, whole.grad[table.touched])
    assert whole.grad[[1, 2, 4]].abs().sum() == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_rows_and_their_gradients_equal_a_loop(weighted):
    positions, offsets = torch.tensor([4, 1, 4, 0, 4, 2]), torch.tensor([0, 3, 3, 6])  # row 3 is nowhere, one span is empty
    rows = torch.randn(5, 3, requires_grad=True)
    weights = torch.randn(6, requires_grad=True) if weighted else None
    spans = [slice(0, 3), slice(3, 3), slice(3, 6)]
    factors = torch.ones(6) if weights is None else weights
    plain = torch.stack([(rows[positions[span]] * factors[span].unsqueeze(1)).sum(0) for span in spans])
    ours = summed(positions, rows, offsets, weights)
    asked = [rows] if weights is None else [rows, weights]
    of = torch.randn(3, 3)
    wanted, found = (torch.autograd.grad((one * of).sum(), asked) for one in (plain, ours))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(found, wanted)


def test_gathered_gradients_of_texts_equal_those_of_the_whole_table(text):
    feature, state, layer = text
    column = bag(feature, state, [*TEXTS, "red unknownword", ""])
    mixing = torch.randn(6, 8, generator=torch.manual_seed(2))
    table = layer.table
    table.weight.requires_grad_()
    (layer(column) * mixing).sum().backward()
    dense = table.weight.grad.clone()
    table.weight.requires_grad_(False)
    table.gather(layer.ids(column.values))
    (layer(column) * mixing).sum().backward()
    torch.testing.assert_close(table.leaf.grad, dense[table.touched], rtol=1e-4, atol=1e-6)
    table.release()
    assert table.leaf is None


def test_a_padded_column_equals_a_bag(text):
    feature, state, layer = text
    encoded = feature.encode(pa.array([*TEXTS, None, "hat never seen"]), state)
    padded = torch.as_tensor(pad(encoded)).long()
    torch.testing.assert_close(layer(tensors(encoded)), layer(padded), rtol=1e-5, atol=1e-6)
    wider = torch.cat([padded, torch.zeros(len(padded), 7, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(layer(wider), layer(padded), rtol=1e-5, atol=1e-6)


def test_words_never_trained_on_say_nothing(text):
    feature, state, layer = text
    known = layer(bag(feature, state, ["red shoe"]))
    assert (layer(bag(feature, state, ["qqq"])) == 0).all()
    assert (layer(bag(feature, state, [None])) == 0).all()
    trained = set(state["buckets"].tolist())
    values = feature.encode(pa.array(["red shoe"]), state).values
    strange = [bucket for bucket in range(1, 512) if bucket not in trained][:9]
    more = tensors(Ragged(np.concatenate([values, strange]), np.array([0, len(values) + 9])))
    torch.testing.assert_close(layer(more), known)


def test_a_row_does_not_depend_on_its_batch(text):
    feature, state, layer = text
    together = layer(bag(feature, state, TEXTS))
    for number, one in enumerate(TEXTS):
        torch.testing.assert_close(layer(bag(feature, state, [one]))[0], together[number], rtol=0, atol=1e-6)


def test_a_bucket_takes_four_bytes(text):
    feature, state, layer = text
    assert layer.table.row_of.nbytes == 4 * 512 and sorted(layer.table.row_of.tolist())[-1] == len(state["buckets"])
    assert layer.ids(bag(feature, state, TEXTS).values).dtype == torch.int64


def test_rare_words_weigh_more_than_common_ones(text):
    feature, state, layer = text
    lengths = []
    for word in ("red", "green"):  # in two texts of four, in one
        values = feature.encode(pa.array([word]), state).values
        lengths.append(layer.table.scale[layer.table.row_of[int(values[0])]].item())
    assert lengths[0] < lengths[1]
    assert lengths == pytest.approx([np.sqrt(np.log(5 / 2.5)), np.sqrt(np.log(5 / 1.5))], rel=1e-5)


def test_before_training_alike_texts_are_near():
    feature = Text(column="t", buckets=4096)
    texts = ["show disk usage of each folder", "disk usage of a folder", "rename many pictures at once"]
    state = feature.fit([counted(texts)])
    torch.manual_seed(0)
    layer = HashedText(text_table([(feature, state)], 256))
    vectors = torch.nn.functional.normalize(layer(bag(feature, state, texts)), dim=1)
    assert vectors[0] @ vectors[1] > 0.3 > abs(vectors[0] @ vectors[2])


@pytest.mark.parametrize(
    "feature", [Id(column="a"), Category(column="a"), Categories(column="a"), Number(column="a"), Time(column="a")], ids=lambda f: f.type
)
def test_a_name_or_measure_begins_at_zero_beside_content_and_apart_without(feature):
    values = [1, 2, 6]
    state = feature.fit([counted(values)])
    column = tensors(feature.encode(pa.array([1, 2, 77, None]), state))
    beside, without = (LAYERS[feature.type](feature, state, place(content=content))(column) for content in (True, False))
    assert (beside == 0).all()
    assert (without[:2].norm(dim=1) > 0.1).all()
    if feature.type in ("id", "category", "categories"):
        assert (without[2:] == 0).all()  # what is unknown and what is missing say nothing


def test_a_mapped_slice_becomes_a_bag_of_its_own():
    whole = ragged([[1, 2], [3], [], [4, 5, 6]], np.int32)
    part = Ragged(whole.values, whole.offsets[1:])
    found = tensors(part)
    assert isinstance(found, Bag)
    assert found.values.tolist() == [3, 4, 5, 6]
    assert found.offsets.tolist() == [0, 1, 1, 4]


def test_gains_and_biases_do_not_decay_and_each_weight_has_its_rate():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    rates = {parameter: (0.1 if number < 2 else 0.2) for number, parameter in enumerate(model.parameters())}
    optimizer = dense_optimizer(rates, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model[0].weight.flatten().tolist() == [pytest.approx(1 - 0.1 * 0.5)] * 9
    assert model[1].weight.flatten().tolist() == [pytest.approx(1 - 0.2 * 0.5)] * 9
    assert model[0].bias.tolist() == model[1].bias.tolist() == [1.0, 1.0, 1.0]


# --- the forms of a column, for every layer -----------------------------------------------------------------------

D, ROWS, ITEM_CODES = 8, 7, 12
LAYERED = {
    "id": Id(column="a", buckets=2),
    "id with dropout": Id(column="a", dropout=0.5),
    "categories mean": Categories(column="a"),
    "categories sum": Categories(column="a", pool="sum", dropout=0.5),
    "categories weighted": Categories(column="a", pool="weighted"),
    "text": Text(column="a", buckets=512),
    **{
        f"history {pool} of {items}": History(column="a", items=items, pool=pool, last=6, dropout=0.3, forget=0.3)
        for pool in POOLS
        for items in ("tower", "ids")
    },
}
SETS = [["x", "y"], ["y"], [], ["x", "new"], ["z", "z", "x"], None, ["x", "y", "z", "new"]]


def made(name, seed=0):
    """(layer, its column as encoded, its tables) of trained weights, rows of unequal length and one empty."""
    feature = LAYERED[name]
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    tables = {"item sku:id": Table(ITEM_CODES, D)}
    torch.nn.init.normal_(tables["item sku:id"].weight)
    if feature.type == "history":
        lengths = [3, 0, 6, 1, 2, 5, 4]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        values = (
            generator.integers(1, ITEM_CODES, offsets[-1]) if feature.items == "ids" else generator.normal(size=(offsets[-1], D)).astype(np.float32)
        )
        state, column = {}, Ragged(values, offsets)
    else:
        raw = {
            "id": pa.array(["x", "y", None, "new", "x", "z", "newer"]),
            "text": pa.array(["red shoe", None, "blue", "a b c d", "shoe shoe", "?", "red"]),
        }.get(feature.type, pa.array(SETS))
        if getattr(feature, "pool", "") == "weighted":
            raw = pa.array([None if row is None else "|".join(f"{value}:{0.5 * n - 1.3}" for n, value in enumerate(row)) for row in SETS])
        state = feature.fit([(raw, np.ones(len(raw), np.int64))])
        column = feature.encode(raw, state)
        if feature.type == "text":
            tables["text_512_pairs_3-4-5"] = text_table([(feature, state)], D)
    layer = LAYERS[feature.type](feature, state, place(D, tables=tables, ids="item sku:id"))
    for tensor in [*layer.parameters(), *(table.weight for table in tables.values())]:
        tensor.data += 0.3 * torch.randn(tensor.shape)
    return layer.eval(), column, tables


def as_padded(column):
    return tensors(pad(column)) if isinstance(column, Ragged) else tensors(column)


@pytest.mark.parametrize("name", LAYERED)
def test_padded_rows_equal_bags_and_the_width_of_the_padding_does_not_matter(name):
    layer, column, _ = made(name)
    found = layer(tensors(column))
    assert found.shape == (ROWS, D)
    padded = as_padded(column)
    torch.testing.assert_close(layer(padded), found, rtol=1e-5, atol=1e-5)
    if isinstance(column, Ragged) and not name.startswith(("history transformer", "history attention")):
        wider = torch.cat([padded, padded.new_zeros(ROWS, 5, *padded.shape[2:])], dim=1)
        torch.testing.assert_close(layer(wider), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERED)
def test_a_row_does_not_depend_on_the_others(name):
    layer, column, _ = made(name)
    together = layer(tensors(column))
    for number in range(ROWS):
        alone = layer(tensors(take(column, np.array([number]))))
        torch.testing.assert_close(alone[0], together[number], rtol=1e-5, atol=1e-5)
    order = np.array([6, 0, 3, 3, 1])
    torch.testing.assert_close(layer(tensors(take(column, order))), together[torch.as_tensor(order)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LAYERED if not name.startswith("id")])
def test_empty_rows_are_zero(name):
    layer, column, _ = made(name)
    lengths = torch.as_tensor(np.diff(column.offsets))
    found = layer(tensors(column))
    assert (found[lengths == 0] == 0).all() and (found[lengths > 0] != 0).any(dim=1).sum() >= 4
    none = take(column, np.flatnonzero(lengths.numpy() == 0))
    assert (layer(tensors(none)) == 0).all() and (layer(as_padded(none)) == 0).all()
    assert layer(tensors(take(column, np.empty(0, np.int64)))).shape == (0, D)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [name for name in LAYERED if not name.endswith("of tower")])
def test_gathered_rows_give_the_same_vectors_and_gradients(name, training):
    layer, column, _ = made(name)
    layer.train(training)
    inputs = tensors(column)
    mixing = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(1))

    def run():
        torch.manual_seed(7)  # the same ids are dropped
        found = layer(inputs)
        (found * mixing).sum().backward()
        return found

    asked = list(layer.lookups(inputs))
    (table,) = {table for table, _ in asked}
    table.weight.requires_grad_()
    plain = run()
    dense = table.weight.grad.clone()
    table.weight.requires_grad_(False)
    table.gather(torch.cat([ids.reshape(-1) for _, ids in asked]))
    found = run()
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(table.leaf.grad, dense[table.touched], rtol=1e-4, atol=1e-5)
    untouched = torch.ones(len(dense), dtype=torch.bool)
    untouched[table.touched] = False
    assert (dense[untouched] == 0).all()
    table.release()


# --- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", [Id(column="a", dropout=0.4, buckets=3), Categories(column="a", dropout=0.4, buckets=3)])
def test_dropped_ids_are_taken_for_unknown_in_training_only(feature):
    n = 4000
    values = [str(v % 10) for v in range(n)]
    state = feature.fit([counted(values)])
    layer = LAYERS[feature.type](feature, state, place())
    codes = tensors(feature.encode(pa.array(values), state))
    with torch.no_grad():
        layer.table.weight.copy_(torch.arange(len(layer.table.weight)).unsqueeze(1).expand(-1, 8))
    flat = codes.values if isinstance(codes, Bag) else codes
    assert torch.equal(layer.eval()(codes)[:, 0].long(), flat)
    found = layer.train()(codes)[:, 0].long()
    moved = found != flat
    assert set(found[moved].tolist()) == {1, 2, 3}
    assert moved.float().mean().item() == pytest.approx(0.4, abs=0.04)
    missing = tensors(feature.encode(pa.nulls(50), state))
    assert (layer(missing) == 0).all()  # what is missing stays missing


def test_a_set_is_pooled_as_by_hand():
    raw = [["x", "y"], ["y"], [], ["x", "x", "z"]]
    weights = [[0.5, -2.0], [0.0], [], [1.0, 2.0, 3.0]]
    single = Id(column="a")
    for pool in ("mean", "sum", "weighted"):
        feature = Categories(column="a", pool=pool)
        column = (
            pa.array(raw)
            if pool != "weighted"
            else pa.array(["|".join(f"{v}:{w}" for v, w in zip(*row, strict=True)) for row in zip(raw, weights, strict=True)])
        )
        state = feature.fit([(column, np.ones(4, np.int64))])
        layer = LAYERS["categories"](feature, state, place())
        table = layer.table.weight
        found = layer(tensors(feature.encode(column, state)))
        for number, values in enumerate(raw):
            if not values:
                assert (found[number] == 0).all()
                continue
            vectors = [table[int(single.encode(pa.array([value]), state)[0])] for value in values]
            own = weights[number] if pool == "weighted" else [1.0] * len(values)
            total = {"mean": len(values), "sum": 1.0, "weighted": sum(map(abs, own)) or 1.0}[pool]
            torch.testing.assert_close(found[number], sum(v * w for v, w in zip(vectors, own, strict=True)) / total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-12, 1e-300, 1e20, 1e39, 1e300])
def test_the_size_of_all_weights_together_changes_no_mean(size):
    feature = Categories(column="a", pool="weighted")
    state = feature.fit([(pa.array(["x|y|z"]), np.ones(1, np.int64))])
    layer = LAYERS["categories"](feature, state, Place("item a:categories", 4, {}, "", False))

    def pooled(size):
        rows = pa.array([f"x:{2 * size}|y:{-size}", "z", None, f"x:0|y:{size}|z:{size / 2}", "x:0"])
        column = feature.encode(rows, state)
        bag, padded = layer(tensors(column)), layer(torch.as_tensor(pad(column)))
        torch.testing.assert_close(bag, padded)
        return bag

    torch.testing.assert_close(pooled(size), pooled(1.0))


# --- given vectors ------------------------------------------------------------------------------------------------


def unit_rows(n, width, seed):
    vectors = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    vectors[: n // 2] += 2 * vectors[n // 2 :]  # so that some are near each other
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize(("width", "dimensions", "within"), [(16, 16, 1e-6), (16, 64, 1e-6), (384, 128, 0.35)])
def test_given_vectors_keep_their_angles(width, dimensions, within):
    vectors = unit_rows(60, width, 0)
    torch.manual_seed(1)
    one = Head(width, dimensions)
    torch.manual_seed(2)
    other = Head(width, dimensions)  # of the other side, from another state of the generator
    column = torch.cat([vectors, torch.zeros(60, 1)], dim=1)
    a, b = (torch.nn.functional.normalize(layer(column), dim=1) for layer in (one, other))
    assert ((a @ b.T) - vectors @ vectors.T).abs().max() < within
    assert ((a * b).sum(1) > 1 - 1e-5).all()
    assert (one(column).norm(dim=1).mean() - 1).abs() < 0.1


def test_given_vectors_of_the_same_width_stay_as_they_are_at_first():
    column = torch.randn(5, 9)
    column[:, -1] = 0
    layer = Head(8, 8)
    torch.testing.assert_close(layer(column), column[:, :8])
    (layer(column) * torch.randn(5, 8)).sum().backward()
    assert layer.change.weight.grad.abs().sum() > 0  # and can be trained from there


def test_that_a_vector_is_missing_can_be_learnt():
    feature = Vector(column="a")
    state = feature.fit([counted([[1.0, 2.0]])])
    layer = LAYERS["vector"](feature, state, place())
    column = tensors(feature.encode(pa.array([None, [1.0, 2.0]]), state))
    assert (layer(column)[0] == 0).all()
    layer.change.weight.data[:, -1] = 1.0
    assert (layer(column)[0] == 1).all()


# --- histories ----------------------------------------------------------------------------------------------------


def prefixed(column, items):
    """Every beginning of every row, and the same written out as rows of their own."""
    rows, cuts, plain = [], [], []
    for number in range(len(column.offsets) - 1):
        own = column.values[column.offsets[number] : column.offsets[number + 1]]
        for cut in range(len(own) + 1):
            rows.append(number)
            cuts.append(cut)
            plain.append(own[:cut])
    order = np.random.default_rng(0).permutation(len(rows))
    rows, cuts = np.array(rows)[order], np.array(cuts)[order]
    offsets = np.concatenate([[0], np.cumsum([len(plain[n]) for n in order])])
    return Prefixes(tensors(column), torch.as_tensor(rows), torch.as_tensor(cuts)), Ragged(np.concatenate([plain[n] for n in order]), offsets)


@pytest.mark.parametrize("items", ["tower", "ids"])
@pytest.mark.parametrize("pool", POOLS)
def test_beginnings_of_one_window_equal_rows_of_their_own(pool, items):
    layer, column, _ = made(f"history {pool} of {items}")
    shared, plain = prefixed(column, items)
    found, expected = layer(shared), layer(tensors(plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(found) == len(plain.offsets) - 1 > ROWS


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_of_beginnings_equal_those_of_rows_of_their_own(pool):
    layer, column, _ = made(f"history {pool} of tower")
    shared, plain = prefixed(column, "tower")
    mixing = torch.randn(len(plain.offsets) - 1, D, generator=torch.Generator().manual_seed(1))
    found = []
    for one in (shared, tensors(plain)):
        layer.zero_grad()
        (layer(one) * mixing).sum().backward()
        found.append([parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None])
    assert len(found[0]) >= 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", POOLS)
def test_what_comes_later_changes_nothing_earlier(pool):
    layer, column, _ = made(f"history {pool} of tower")
    shared, _ = prefixed(column, "tower")
    before = layer(shared)
    values = shared.bag.values.clone()
    last = shared.bag.offsets[1:][shared.bag.offsets.diff() > 0] - 1
    values[last] += torch.randn(D, generator=torch.Generator().manual_seed(3))
    after = layer(shared._replace(bag=shared.bag._replace(values=values)))
    whole = shared.cuts == shared.bag.offsets.diff()[shared.rows]
    torch.testing.assert_close(after[~whole], before[~whole], rtol=0, atol=1e-6)
    changed = (after[whole & (shared.cuts > 0)] - before[whole & (shared.cuts > 0)]).abs().amax(dim=1)
    assert (changed > 1e-3).all()


@pytest.mark.parametrize("pool", ["recency", "attention", "transformer"])
def test_the_order_matters_where_it_should(pool):
    layer, column, _ = made(f"history {pool} of tower")
    flipped = Ragged(np.concatenate([column.values[a:b][::-1] for a, b in zip(column.offsets, column.offsets[1:], strict=False)]), column.offsets)
    difference = (layer(tensors(flipped)) - layer(tensors(column))).abs().amax(dim=1)
    assert (difference[torch.as_tensor(np.diff(column.offsets)) > 1] > 1e-3).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_items_may_be_named_by_their_place_among_vectors(pool, training):
    """As in a batch, where each candidate is encoded once and stands in many histories."""
    layer, column, _ = made(f"history {pool} of tower")
    layer.train(training)
    outcomes = []
    places = torch.tensor(np.random.default_rng(0).integers(0, 5, len(column.values)))
    for named in (True, False):
        vectors = torch.randn(5, D, generator=torch.Generator().manual_seed(2)).requires_grad_()
        offsets = torch.as_tensor(column.offsets)
        torch.manual_seed(5)
        found = layer(Bag(places, offsets, vectors) if named else Bag(vectors[places], offsets))
        found.square().sum().backward()
        outcomes.append((found, vectors.grad))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_mean_and_the_fading_mean_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
    whole = Bag(vectors, torch.tensor([0, 3]))
    mean = LAYERS["history"](History(pool="mean"), {}, place(2))
    assert mean(whole).tolist() == [[pytest.approx(5 / 3), pytest.approx(5 / 3)]]
    recency = LAYERS["history"](History(pool="recency"), {}, place(2))
    fade = 1 / (1 + np.exp(-2.0))  # exp(-softplus(-2))
    weights = np.array([fade**2, fade, 1.0])
    expected = weights @ vectors.numpy() / weights.sum()
    assert recency(whole)[0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_attention_and_mean_start_alike():
    column = Bag(torch.randn(7, 4), torch.tensor([0, 3, 3, 7]))
    found = [LAYERS["history"](History(pool=pool), {}, place(4))(column) for pool in ("mean", "attention")]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("pool", POOLS)
def test_an_item_that_says_nothing_is_passed_over(pool):
    """Its vector is zero: in a padded tensor it could not be told from padding, so it counts nowhere."""
    layer, column, _ = made(f"history {pool} of tower")
    zero = np.zeros((1, D), np.float32)
    rows = [column.values[a:b] for a, b in zip(column.offsets, column.offsets[1:], strict=False)]
    holed = [np.concatenate([row[:1], zero, row[1:], zero])[-6:] for row in rows if len(row) <= 4]
    plain = [row[(row != 0).any(axis=1)] for row in holed]
    torch.testing.assert_close(layer(tensors(ragged(holed, np.float32))), layer(tensors(ragged(plain, np.float32))), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("items", ["tower", "ids"])
@pytest.mark.parametrize("pool", POOLS)
def test_forgetting_is_for_training_and_leaves_a_shorter_history(pool, items):
    layer, column, _ = made(f"history {pool} of {items}")
    one = take(column, np.array([4]))  # of two items
    values = tensors(one).values
    shorter = [layer(Bag(part, torch.tensor([0, len(part)])))[0] for part in (values, values[:1], values[1:], values[:0])]
    layer.train()
    for module in layer.modules():  # dropout apart
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    met = set()
    for seed in range(40):
        torch.manual_seed(seed)
        found = layer(tensors(one))[0]
        near = [n for n, other in enumerate(shorter) if torch.allclose(found, other, atol=1e-5)]
        assert near
        met.add(near[0])
    assert met == {0, 1, 2, 3}


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="3 attention heads"):
        LAYERS["history"](History(pool="transformer", heads=3), {}, place(8))
    with pytest.raises(ConfigError, match='no feature of type "id"'):
        LAYERS["history"](History(items="ids"), {}, place(8))


def test_word_dropout_leaves_out_its_share_of_each_text_in_training_only(text):
    torch.manual_seed(3)
    kept = thinned(Bag(torch.arange(10_000), torch.arange(0, 10_001, 100)), 0.3)
    assert 0.68 < len(kept.values) / 10_000 < 0.72
    for row in range(100):  # each value still in its own text
        assert (kept.values[kept.offsets[row] : kept.offsets[row + 1]] // 100 == row).all()
    feature, state, plain = text
    column, layer = bag(feature, state, TEXTS), HashedText(plain.table, 0.5)
    assert not torch.allclose(layer(column), plain(column))
    assert torch.equal(layer.eval()(column), plain(column))


def test_dropout_leaves_out_its_share_and_scales_what_stays():
    layer, x = Dropout(0.3), torch.full((211, 333), 2.0, requires_grad=True)
    torch.manual_seed(0)
    out = layer(x)
    out.sum().backward()
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.006)  # four deviations
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 2 / 0.7), rtol=1e-4, atol=0)
    torch.testing.assert_close(x.grad, out.detach() / 2)
    assert kept.float().mean(0).std() < 0.05 and kept.float().mean(1).std() < 0.04  # no row or column is left out as a whole
    torch.manual_seed(0)
    assert torch.equal(layer(x), out) and not torch.equal(layer(x), out)
    assert torch.equal(layer.eval()(x), x) and torch.equal(Dropout(0.0)(x), x)
    assert Dropout(1.0)(x).count_nonzero() < 20


def test_a_network_of_somebody_elses_gets_lighter_dropout():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.25)))
    assert isinstance(lighter(network)[1][0], Dropout) and network[1][0].p == 0.25


@pytest.mark.parametrize(("shorter", "enough"), [(0.9, 1), (0.5, 20), (0.0, 1 << 20)])
def test_rows_come_out_the_same_in_any_blocks(shorter, enough, monkeypatch):
    monkeypatch.setattr(blocks, "SHORTER", shorter)
    monkeypatch.setattr(blocks, "ENOUGH_TOKENS", {"cpu": enough})
    lengths = torch.tensor([3, 0, 9, 1, 9, 4, 2, 8, 0])
    bag = Bag(torch.arange(1, int(lengths.sum()) + 1), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))
    seen = []

    def work(codes):
        seen.append(codes.shape)
        return torch.stack([codes.sum(1), (codes != 0).sum(1)], dim=1).float()

    wanted = torch.stack([torch.tensor([part.sum(), len(part)]).float() for part in bag.values.split(lengths.tolist())])
    assert torch.equal(blocks.in_blocks(bag, 2, work), wanted)
    assert (len(seen) == 1) == (shorter == 0.0) and sum(shape[0] for shape in seen) == 7
