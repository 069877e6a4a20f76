"""The optimisers of tables: against plain ones row by row, touched rows alone; and how gradients come to them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from twotower.learning.moving import FLOOR, Gathered, rate_of
from twotower.learning.options import TrainOptions
from twotower.model.layers import Table
from twotower.model.optimizers import TABLES, Rows


class PlainAdagrad:
    """Row by row in plain Python; a row without a gradient stays."""

    def __init__(self, rows):
        self.total = [0.0] * rows

    def step(self, weight, row, gradient, rate):
        self.total[row] += sum(g * g for g in gradient) / len(gradient)
        for column, g in enumerate(gradient):
            weight[row, column] -= rate * g / (self.total[row] ** 0.5 + 1e-10)


class PlainAdam:
    """The same for Adam, whose means know how often a row has moved."""

    def __init__(self, rows):
        self.moves, self.squares = [0] * rows, [0.0] * rows
        self.mean = [None] * rows

    def step(self, weight, row, gradient, rate):
        self.moves[row] += 1
        mean = self.mean[row] or [0.0] * len(gradient)
        self.mean[row] = [0.9 * m + 0.1 * g for m, g in zip(mean, gradient, strict=True)]
        self.squares[row] = 0.99 * self.squares[row] + 0.01 * sum(g * g for g in gradient) / len(gradient)
        long = (self.squares[row] / (1 - 0.99 ** self.moves[row])) ** 0.5 + 1e-8
        for column, m in enumerate(self.mean[row]):
            weight[row, column] -= rate * m / (1 - 0.9 ** self.moves[row]) / long


@pytest.mark.parametrize(("name", "plain"), [("adagrad", PlainAdagrad), ("adam", PlainAdam)])
def test_a_step_equals_a_plain_one_and_moves_touched_rows_only(name, plain):
    torch.manual_seed(3)
    table, reference = Table(10, 3), plain(10)
    torch.nn.init.normal_(table.weight)
    moments = TABLES[name].moments(table.weight)
    expected = table.weight.detach().clone()
    for ids in ([1, 4, 4], [4, 9, 2], [0, 1, 1], [5, 5, 5], [4, 4, 1]):
        before = table.weight.detach().clone()
        table.gather(torch.tensor(ids))
        ((table(torch.tensor(ids)) - torch.randn(3, 3)) ** 2).sum().backward()
        for row, gradient in zip(table.touched.tolist(), table.leaf.grad.tolist(), strict=True):
            reference.step(expected, row, gradient, 0.1)
        TABLES[name].step(table.weight, Rows(table.touched, table.leaf.detach(), table.leaf.grad), moments, 0.1)
        table.release()
        torch.testing.assert_close(table.weight.detach(), expected)
        assert (table.weight != before).any(dim=1).nonzero()[:, 0].tolist() == sorted(set(ids))


@pytest.mark.parametrize("name", TABLES)
def test_a_row_without_gradient_stays(name):
    """And is remembered as it was, whatever moved it before."""
    table = Table(4, 2)
    torch.nn.init.ones_(table.weight)
    moments = TABLES[name].moments(table.weight)
    TABLES[name].step(table.weight, Rows(torch.tensor([0, 1]), table.weight[:2].clone(), torch.ones(2, 2)), moments, 0.5)
    moved, kept = table.weight.detach().clone(), {part: tensor.clone() for part, tensor in moments.items()}
    TABLES[name].step(table.weight, Rows(torch.tensor([0, 1]), table.weight[:2].clone(), torch.tensor([[0.0, 0.0], [1.0, 1.0]])), moments, 0.5)
    assert moved[0].tolist() == table.weight[0].tolist() and moved[0, 0].item() == pytest.approx(0.5)
    assert table.weight[1, 0] < moved[1, 0] and torch.isfinite(table.weight).all()
    assert all(torch.equal(tensor[0], kept[part][0]) for part, tensor in moments.items())


def test_gradients_of_several_batches_are_summed_by_row():
    table, gathered = Table(6, 2), Gathered()
    torch.nn.init.normal_(table.weight)
    for ids, factor in (([1, 4], 1.0), ([4, 5, 5], 10.0)):
        table.gather(torch.tensor(ids))
        (factor * table(torch.tensor(ids)).sum()).backward()
        gathered.add([table])
        table.release()
    rows = gathered.rows[table]
    assert rows.touched.tolist() == [1, 4, 5]
    assert rows.gradient[:, 0].tolist() == [1.0, 11.0, 20.0]
    assert torch.equal(rows.values, table.weight[[1, 4, 5]])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_rates_rise_and_fall(schedule):
    options = TrainOptions(schedule=schedule, warmup=0.2)
    rates = [rate_of(move, 100, options) for move in range(100)]
    assert rates[:20] == pytest.approx([(n + 1) / 21 for n in range(20)]) and max(rates) == rates[20] == 1
    half = {"linear": FLOOR + (1 - FLOOR) / 2, "cosine": FLOOR + (1 - FLOOR) / 2, "constant": 1.0}[schedule]
    assert rates[60] == pytest.approx(half)
    quarter = {"linear": 0.75, "cosine": (2 + 2**0.5) / 4, "constant": 1.0}[schedule]
    assert rates[40] == pytest.approx(FLOOR + (1 - FLOOR) * quarter)
    assert rate_of(0, 100, replace(options, warmup=0.0)) == 1
    assert np.all(np.diff(rates[20:]) <= 0)
