"""What moves the weights: row-wise Adagrad for tables, AdamW for everything else."""

from __future__ import annotations

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


def dense_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over all that is no table; gains, biases, norms and the temperature do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=(0.9, 0.99))
