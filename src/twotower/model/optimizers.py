"""What moves the weights: row-wise optimisers for tables, AdamW for everything else.

To add one for tables: two functions, what it remembers of a table and one step on some of its rows, and their entry in `TABLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

Moments = dict[str, Tensor]  # what an optimiser remembers of a table, by name
BETAS = (0.9, 0.99)


class Rows(NamedTuple):
    """The rows of a table that a step touches: each once, no other row moves."""

    touched: Tensor  # int64 [t]
    values: Tensor  # float32 [t, d]
    gradient: Tensor  # float32 [t, d]


def adagrad_moments(weight: Tensor) -> Moments:
    """One number a row."""
    return {"squares": torch.zeros(len(weight), device=weight.device)}


@torch.no_grad()
def rowwise_adagrad(weight: Tensor, rows: Rows, moments: Moments, learning_rate: float) -> None:
    """One step of Adagrad (Duchi et al. 2011) with the sum of each row's mean squared gradients (as in Mudigere et al. 2022).

    A row without a gradient this time stays where it is.
    """
    squares = moments["squares"]
    total = squares[rows.touched] + rows.gradient.square().mean(dim=1)
    squares[rows.touched] = total
    # Assignment by index: the rows are distinct, and adding by index costs four times as much.
    weight[rows.touched] = rows.values - rows.gradient * (learning_rate / (total.sqrt() + 1e-10)).unsqueeze(1)


def adam_moments(weight: Tensor) -> Moments:
    """As much as the table, and two numbers a row."""
    counts = {name: torch.zeros(len(weight), device=weight.device) for name in ("squares", "moves")}
    return {"mean": torch.zeros_like(weight), **counts}


@torch.no_grad()
def rowwise_adam(weight: Tensor, rows: Rows, moments: Moments, learning_rate: float) -> None:
    """One step of Adam (Kingma and Ba 2015) on the touched rows alone, their mean squared gradients taken by row.

    A row that is not touched neither moves nor forgets, so that both means are corrected by how often the row itself has moved. A row
    without a gradient this time stays where it is.
    """
    squared = rows.gradient.square().mean(dim=1)
    there = squared > 0
    if not there.all():
        rows, squared = Rows(rows.touched[there], rows.values[there], rows.gradient[there]), squared[there]
    moves = moments["moves"][rows.touched] + 1
    mean = torch.lerp(moments["mean"].index_select(0, rows.touched), rows.gradient, 1 - BETAS[0])
    squares = torch.lerp(moments["squares"][rows.touched], squared, 1 - BETAS[1])
    moments["moves"][rows.touched], moments["mean"][rows.touched], moments["squares"][rows.touched] = moves, mean, squares
    rate = learning_rate / (1 - BETAS[0] ** moves) / ((squares / (1 - BETAS[1] ** moves)).sqrt() + 1e-8)
    weight[rows.touched] = rows.values - mean * rate.unsqueeze(1)


class TableOptimizer(NamedTuple):
    """What it remembers of a table, and one step on some of its rows. kept: the share of it that a run takes over which trains again."""

    moments: Callable[[Tensor], Moments]
    step: Callable[[Tensor, Rows, Moments, float], None]
    kept: float = 1.0


TABLES: dict[str, TableOptimizer] = {
    # Sums only grow: carried whole they would let rows follow what drifts ever more slowly (benchmarks/rows/again.py).
    "adagrad": TableOptimizer(adagrad_moments, rowwise_adagrad, kept=0.1),
    "adam": TableOptimizer(adam_moments, rowwise_adam),
}


def dense_optimizer(rates: Mapping[nn.Parameter, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over parameters, each with its rate; gains, biases, norms and the temperature do not decay.

    The highest rate of a group is its `peak`.
    """
    groups = []
    for rate in dict.fromkeys(rates.values()):
        members = [parameter for parameter, own in rates.items() if own == rate]
        groups += [
            {"params": [p for p in members if p.ndim > 1], "weight_decay": weight_decay, "lr": rate, "peak": rate},
            {"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0, "lr": rate, "peak": rate},
        ]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=BETAS, fused=True)
