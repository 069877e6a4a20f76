"""Layers and tables: gathered gradients, the padded form, row-wise Adagrad, all against plain second versions."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from twotower.data.columns import Ragged, pad, ragged
from twotower.data.features import Id, Text
from twotower.model.layers import LAYERS, Bag, HashedText, Table, tensors, text_table
from twotower.model.optimizers import dense_optimizer, rowwise_adagrad

TEXTS = ["red shoe", "blue shoe", "red hat of wool", "green"]


@pytest.fixture
def text():
    torch.manual_seed(0)
    feature = Text(column="t", buckets=512)
    state = feature.fit([pa.array(TEXTS)])
    return feature, state, HashedText(text_table([(feature, state)], 8))


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


def test_gathered_gradients_of_texts_equal_those_of_the_whole_table(text):
    feature, state, layer = text
    column = bag(feature, state, [*TEXTS, "red unknownword", ""])
    mixing = torch.randn(6, 8, generator=torch.manual_seed(2))
    table = layer.table
    table.weight.requires_grad_()
    (layer(column) * mixing).sum().backward()
    dense = table.weight.grad.clone()
    table.weight.requires_grad_(False)
    table.gather(layer.ids(column))
    (layer(column) * mixing).sum().backward()
    torch.testing.assert_close(table.leaf.grad, dense[table.touched], rtol=1e-4, atol=1e-6)
    table.release()
    assert table.leaf is None


def reference_adagrad(weight, total, gradients, rate):
    """Row by row in plain Python; a row without a gradient stays."""
    weight, total = weight.clone(), total.clone()
    for row, gradient in gradients.items():
        total[row] += sum(g * g for g in gradient) / len(gradient)
        for column, g in enumerate(gradient):
            weight[row, column] -= rate * g / (total[row].sqrt() + 1e-10)
    return weight, total


def test_rowwise_adagrad_equals_a_plain_one_and_moves_touched_rows_only():
    torch.manual_seed(3)
    table = Table(10, 3)
    torch.nn.init.normal_(table.weight)
    total = torch.zeros(10)
    expected, expected_total = table.weight.detach().clone(), total.clone()
    for step in range(4):
        before = table.weight.detach().clone()
        ids = torch.tensor([[1, 4, 4], [4, 9, 2], [0, 1, 1], [5, 5, 5]][step])
        targets = torch.randn(3, 3)
        table.gather(ids)
        ((table(ids) - targets) ** 2).sum().backward()
        gradients = dict(zip(table.touched.tolist(), table.leaf.grad.tolist(), strict=True))
        rowwise_adagrad(table, total, 0.1)
        table.release()
        expected, expected_total = reference_adagrad(expected, expected_total, gradients, 0.1)
        torch.testing.assert_close(table.weight.detach(), expected)
        torch.testing.assert_close(total, expected_total)
        moved = (table.weight != before).any(dim=1).nonzero().squeeze(1).tolist()
        assert moved == sorted(set(ids.tolist()))


def test_a_row_without_gradient_stays():
    table = Table(4, 2)
    torch.nn.init.ones_(table.weight)
    total = torch.zeros(4)
    table.gather(torch.tensor([0, 1]))
    table(torch.tensor([1])).sum().backward()  # row 0 is gathered, and not used
    rowwise_adagrad(table, total, 0.5)
    assert table.weight[0].tolist() == [1.0, 1.0]
    assert table.weight[1].tolist() == [0.5, 0.5]
    assert torch.isfinite(table.weight).all()


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
    assert layer.ids(bag(feature, state, TEXTS)).dtype == torch.int64


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
    state = feature.fit([pa.array(texts)])
    torch.manual_seed(0)
    layer = HashedText(text_table([(feature, state)], 256))
    vectors = torch.nn.functional.normalize(layer(bag(feature, state, texts)), dim=1)
    assert vectors[0] @ vectors[1] > 0.3 > abs(vectors[0] @ vectors[2])


def test_an_id_begins_at_zero_beside_words_and_apart_without():
    feature = Id(column="i")
    state = feature.fit([pa.array(["a", "b", "c"])])
    codes = tensors(feature.encode(pa.array(["a", "b", "never", None]), state))
    beside, without = (LAYERS["id"](feature, state, 16, {}, worded)(codes) for worded in (True, False))
    assert (beside == 0).all()
    assert (without[:2].norm(dim=1) > 0.3).all()
    assert (without[2:] == 0).all()  # what is unknown and what is missing say nothing


def test_a_mapped_slice_becomes_a_bag_of_its_own():
    whole = ragged([[1, 2], [3], [], [4, 5, 6]], np.int32)
    part = Ragged(whole.values, whole.offsets[1:])
    found = tensors(part)
    assert isinstance(found, Bag)
    assert found.values.tolist() == [3, 4, 5, 6]
    assert found.offsets.tolist() == [0, 1, 1, 4]


def test_gains_and_biases_do_not_decay():
    model = torch.nn.Linear(3, 3)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    optimizer = dense_optimizer(model, 0.1, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model.weight.max() < 1
    assert model.bias.tolist() == [1.0, 1.0, 1.0]
