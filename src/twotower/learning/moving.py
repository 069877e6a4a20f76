"""From gradients to moves: what some batches gave together, kept within bounds, and given to the optimisers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from twotower.data.columns import Array
from twotower.data.schema import SIDES, Side
from twotower.errors import DataError, TwotowerError
from twotower.learning.checkpoints import TrainState
from twotower.learning.distributed import Team
from twotower.learning.material import Mined
from twotower.learning.options import TrainOptions
from twotower.model.layers import Table, is_pretrained
from twotower.model.optimizers import TABLES, Moments, Rows
from twotower.model.towers import TwoTower, distinct

FLOOR = 0.02  # of the learning rates, where their decay ends
COUNTED = 1 << 20
SUMMED_AT_ONCE = 1 << 20  # numbers of a tensor, as float64


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
        self.rows: dict[Table, Rows] = {}  # of each table those that any batch touched, each once, with the sum of their gradients

    def add(self, gathered: list[Table]) -> None:
        """Take those of one batch, before its rows are let go."""
        for table in gathered:
            if table.leaf is None or table.touched is None or table.leaf.grad is None:
                continue
            before = self.rows.get(table)
            if before is None:
                self.rows[table] = Rows(table.touched, table.leaf.detach(), table.leaf.grad)
            else:  # at once: kept apart, the gradients of all batches would stand side by side
                self.rows[table] = _summed(table, [(before.touched, before.gradient), (table.touched, table.leaf.grad)])


def _summed(table: Table, parts: Sequence[tuple[Tensor, Tensor]]) -> Rows:
    """parts: (rows int64 [t], each once, their gradients [t, d])"""
    touched, places = torch.unique(torch.cat([rows for rows, _ in parts]), return_inverse=True)
    gradient = torch.zeros(len(touched), table.weight.shape[1], device=table.weight.device)
    # One after another, each with distinct rows: a card, too, then adds in one order, and ranks come to the same bits.
    for place, (_, own) in zip(places.split([len(rows) for rows, _ in parts]), parts, strict=True):
        gradient[place] += own
    return Rows(touched, table.weight[touched], gradient)


def exchange(state: TrainState, gathered: Gathered, lost: Tensor, team: Team) -> Tensor:
    """Give every rank the gradients that all of them found, summed, those of tables by row; returns the sum of what they lost [].

    One sum carries the dense gradients and, beside them, which of them there are, how many rows of each table each rank has touched, and
    whether any was asked to stop; then the rows travel in one piece.
    """
    if team.count == 1:
        return lost
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    named = tables(state.model).values()
    own = gathered.rows
    counts = lost.new_zeros(team.count, len(named), 2)  # in two parts, since a float counts no further than 2^24
    for place, table in enumerate(named):
        counts[team.rank, place] = torch.tensor(divmod(len(own[table].touched) if table in own else 0, COUNTED))
    there = lost.new_tensor([parameter.grad is not None for parameter in parameters])
    told = [lost.reshape(1), lost.new_tensor([float(team.asked())]), counts.reshape(-1), there]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    sums = team.add(torch.cat([*told, *(gradient.reshape(-1) for gradient in gradients)]))
    lost, asked, counts, there, *found = sums.split([*(len(one) for one in told), *(p.numel() for p in parameters)])  # type: ignore[no-untyped-call]
    for parameter, there_is, gradient in zip(parameters, there.tolist(), found, strict=True):
        parameter.grad = gradient.reshape(parameter.shape) if there_is else None
    team.stopped = bool(asked.item())
    sizes = (counts.reshape(team.count, len(named), 2).cpu().numpy() @ np.array([COUNTED, 1])).astype(np.int64)
    gathered.rows = {table: _summed(table, parts) for table, parts in _of_all(list(named), own, sizes, team).items()}
    return lost.reshape(())


def _of_all(named: list[Table], own: Mapping[Table, Rows], sizes: Array, team: Team) -> dict[Table, list[tuple[Tensor, Tensor]]]:
    """The touched rows of each table and their gradients, by rank; sizes: how many rows there are, int64 [ranks, tables]."""
    moved = [place for place in range(len(named)) if sizes[:, place].any()]
    if not moved:
        return {}
    none = {place: (named[place].weight.new_empty(0, dtype=torch.int64), named[place].weight[:0]) for place in moved}
    pairs = [(own[named[place]].touched, own[named[place]].gradient) if named[place] in own else none[place] for place in moved]
    packed = [touched for touched, _ in pairs] + [gradient for _, gradient in pairs]
    parts: dict[Table, list[tuple[Tensor, Tensor]]] = {named[place]: [] for place in moved}
    for found in team.gather_packed(packed, np.tile(sizes[:, moved], 2)):
        for place, touched, gradient in zip(moved, found[: len(moved)], found[len(moved) :], strict=True):
            parts[named[place]].append((touched, gradient))
    return parts


ADVICE = "Lower [train] learning_rate and table_learning_rate, set clip_norm, or raise [model] temperature."


class NoNumber(DataError):
    """A loss that is no number; pairs: some of those at which it is none, by their place in the log that is trained on."""

    def __init__(self, message: str, pairs: Sequence[int]) -> None:
        super().__init__(message)
        self.pairs = pairs


def refuse(state: TrainState, wrong: Sequence[Array], count: int, team: Team) -> NoReturn:
    """Raise NoNumber for a loss that is none, naming pairs out of so many."""
    pairs = np.concatenate([np.empty(0, np.int64), *wrong])
    found = team.gather_all(torch.as_tensor(pairs)).tolist()
    told = f"at {len(found):,} of its {count:,} pairs" if found else "as a sum over its pairs"
    raise NoNumber(f"the loss of step {state.step + 1} is no number {told}; nothing was changed by this step. {ADVICE}", found[:5])


def move(state: TrainState, gathered: Gathered, weight: Tensor, options: TrainOptions, rate: float) -> None:
    """Change the weights by their gradients, which are sums over pairs of this weight. Raises DataError before anything moves.

    `clip_norm` bounds the length of the whole gradient, tables included (Pascanu et al. 2013).
    """
    rows = gathered.rows
    dense = [p.grad for parameters in state.optimizer.param_groups for p in parameters["params"] if p.grad is not None]
    scale = 1 / weight.clamp(min=1e-12)
    norm = torch.nn.utils.get_total_norm([*dense, *(part.gradient for part in rows.values())]) * scale
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


def alike(model: TwoTower, team: Team) -> None:
    """Raise TwotowerError where ranks hold other weights than the first, which then train different models."""
    if team.count == 1:
        return
    # Some at a time: as float64 a whole table would take twice its memory.
    sums = [float(sum(part.double().sum() for part in torch.split(tensor.flatten(), SUMMED_AT_ONCE))) for tensor in distinct(model)[0].values()]
    _same(sums, "hold different weights by now", team)


def mined_alike(mined: Mined, team: Team) -> None:
    """Raise TwotowerError where ranks have mined other negatives than the first, which then share no batch."""
    if team.count > 1:
        items = mined.items.values.astype(np.float64)
        _same([float(items.sum()), float((items * (1 + np.arange(len(items)) % 8191)).sum())], "have mined different negatives", team)


def _same(numbers: Sequence[float], otherwise: str, team: Team) -> None:
    told = np.array(team.agreed(numbers))
    if team.any(not np.array_equal(told, numbers, equal_nan=True)):
        raise TwotowerError(f"the processes that train together {otherwise}. Run them on machines of one kind.")
