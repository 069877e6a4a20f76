"""From gradients to moves: what some batches gave together, kept within bounds, and given to the optimisers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from twotower.data.schema import SIDES, Side
from twotower.errors import DataError
from twotower.learning.checkpoints import TrainState
from twotower.learning.options import TrainOptions
from twotower.model.layers import Table, is_pretrained
from twotower.model.optimizers import TABLES, Moments, Rows
from twotower.model.towers import TwoTower

FLOOR = 0.02  # of the learning rates, where their decay ends


def tables(model: TwoTower) -> dict[str, Table]:
    """The tables of a model by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Table)}


def moments_of(model: TwoTower, options: TrainOptions) -> dict[str, Moments]:
    """What the optimiser of tables remembers of each before the first step."""
    return {name: TABLES[options.table_optimizer].moments(table.weight) for name, table in tables(model).items()}


def dense_rates(model: TwoTower, options: TrainOptions) -> dict[torch.nn.Parameter, float]:
    """The highest learning rate of every parameter that is no table."""
    tuned = {p for module in model.modules() if is_pretrained(module) for p in module.parameters()}
    of_side = {side: set(model.tower(side).parameters()) for side in SIDES}
    return {
        parameter: (options.pretrained_learning_rate if parameter in tuned else options.learning_rate) * _factor(parameter, of_side, options)
        for parameter in model.parameters()
        if parameter.requires_grad
    }


def _factor(part: object, of_side: Mapping[Side, Collection[object]], options: TrainOptions) -> float:
    """What the rates of a parameter or table are multiplied by: what its tower says, 1 where both own it."""
    query, item = part in of_side["query"], part in of_side["item"]
    return 1.0 if query == item else options.query_rate if query else options.item_rate


def rate_of(move: int, moves: int, options: TrainOptions) -> float:
    """What the learning rates are multiplied by at one of all moves: a rise to 1, then a fall in a line, along a cosine, or none."""
    warm = options.warmup * moves
    if move < warm:
        return (move + 1) / (warm + 1)
    if options.schedule == "constant":
        return 1.0
    gone = (move - warm) / (moves - warm)
    left = 1 - gone if options.schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2
    return FLOOR + (1 - FLOOR) * left


class Gathered:
    """The gradients of the tables, summed over some batches. Those of everything else gather where torch keeps them."""

    def __init__(self) -> None:
        self.parts: dict[Table, list[Rows]] = {}

    def add(self, gathered: list[Table]) -> None:
        """Take those of one batch, before its rows are let go."""
        for table in gathered:
            if table.leaf is not None and table.touched is not None and table.leaf.grad is not None:
                self.parts.setdefault(table, []).append(Rows(table.touched, table.leaf.detach(), table.leaf.grad))

    def rows(self) -> dict[Table, Rows]:
        """Of each table the rows that any batch touched, each once, with the sum of their gradients."""
        return {table: parts[0] if len(parts) == 1 else _summed(table, parts) for table, parts in self.parts.items()}


def _summed(table: Table, parts: list[Rows]) -> Rows:
    touched, places = torch.unique(torch.cat([part.touched for part in parts]), return_inverse=True)
    gradient = torch.zeros(len(touched), table.weight.shape[1], device=table.weight.device)
    gradient.index_add_(0, places, torch.cat([part.gradient for part in parts]))
    return Rows(touched, table.weight[touched], gradient)


def move(state: TrainState, gathered: Gathered, weight: Tensor, options: TrainOptions, rate: float) -> None:
    """Change the weights by their gradients, which are sums over pairs of this weight. Raises DataError before anything moves.

    `clip_norm` bounds the length of the whole gradient, tables included (Pascanu et al. 2013).
    """
    rows = gathered.rows()
    dense = [p.grad for parameters in state.optimizer.param_groups for p in parameters["params"] if p.grad is not None]
    scale = 1 / weight.clamp(min=1e-12)
    norm = torch.stack([torch.linalg.vector_norm(one) for one in (*dense, *(part.gradient for part in rows.values()))]).norm() * scale
    if not torch.isfinite(norm):
        raise DataError(f"a gradient is {norm.item()} at step {state.step + 1}; nothing was changed by this step. {ADVICE}")
    if options.clip_norm:
        scale = scale * (options.clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
    torch._foreach_mul_(dense, scale.item())
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = parameters["peak"] * rate
    state.optimizer.step()
    names = {table: name for name, table in tables(state.model).items()}
    of_side = {side: set(state.model.tower(side).modules()) for side in SIDES}
    for table, part in rows.items():
        own = options.table_learning_rate * rate * _factor(table, of_side, options)
        scaled = part._replace(gradient=part.gradient * scale)
        TABLES[options.table_optimizer].step(table.weight, scaled, state.moments[names[table]], own)


ADVICE = "Lower [train] learning_rate and table_learning_rate, set clip_norm, or raise [model] temperature."
