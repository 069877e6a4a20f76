"""What moves the weights: row-wise Adagrad for tables, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from twotower.model.layers import Table


@torch.no_grad()
def rowwise_adagrad(table: Table, accumulator: Tensor, learning_rate: float) -> None:
    """One step on the rows that the gathered leaf of a table holds; no other row moves.

    accumulator: float32 [rows], the sum of each row's mean squared gradients (Duchi et al. 2011; one number a row as in
    Mudigere et al. 2022). A row without a gradient this time stays where it is.
    """
    if table.leaf is None or table.touched is None or table.leaf.grad is None:
        return
    gradient = table.leaf.grad
    total = accumulator[table.touched] + gradient.square().mean(dim=1)
    accumulator[table.touched] = total
    # Assignment by index: the rows are distinct, and adding by index costs four times as much.
    table.weight[table.touched] = table.leaf - gradient * (learning_rate / (total.sqrt() + 1e-10)).unsqueeze(1)


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
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.99))
