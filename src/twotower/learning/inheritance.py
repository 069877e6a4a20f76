"""Training again: what a model takes over from the one before it, so that it begins where that one ended.

Rows of tables are matched by what they stand for - an id, a bucket of words - and never by their number; everything else is copied. What
an optimiser remembers goes with the weights that it is of. A row that is new begins as what the last model took it for, the unknown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.data.columns import Array
from twotower.data.encoder import Encoder
from twotower.data.schema import SIDES
from twotower.errors import ConfigError
from twotower.learning.checkpoints import TrainState
from twotower.learning.moving import tables
from twotower.model.layers import Layer, Named, Table
from twotower.model.towers import TwoTower


class Inherited(NamedTuple):
    """How many rows of the tables were known to the last model, and how many are new; whether its optimiser's memory came along."""

    known: int
    new: int
    moments: bool


class _Matched(NamedTuple):
    """Rows of a table [n] and the rows of the last model's table that stand for the same."""

    table: Table
    last: Table
    rows: Tensor  # int64 [n]
    last_rows: Tensor  # int64 [n]
    new: Tensor  # int64 [m], the rows of names that the last model did not know
    strangers: Tensor | None  # int64 [m], what it took them for


def inherit(state: TrainState, encoder: Encoder, last: TrainState, last_encoder: Encoder, kept: float = 1.0) -> Inherited:
    """Give a fresh state the weights of the last one, and what its optimisers remember. Raises ConfigError if the models are built differently.

    Both encoders read the same features, and `encoder` was fitted after `last_encoder`, so that it knows all that this one does. The last state
    without moments - of a bundle - leaves those of the fresh one as they are. A learned temperature comes along, a fixed one stays what it is.
    kept: the share of what is remembered of each row that comes along.
    """
    _check(state.model, last.model)
    matched = _matches(state.model, encoder, last.model, last_encoder)
    with torch.no_grad():
        for one in matched.values():
            for own, theirs in zip(one.table.per_row(), one.last.per_row(), strict=True):
                own[one.rows] = theirs[one.last_rows]
            if one.strangers is not None:
                one.table.weight[one.new] = one.table.weight[one.strangers]
        _copy_dense(state.model, last.model, {id(part) for one in matched.values() for part in one.table.per_row()})
        carried = _carry_moments(state, last, matched, kept) and _carry_optimizer(state, last)
    return Inherited(sum(len(one.rows) for one in matched.values()), sum(len(one.new) for one in matched.values()), carried)


def _check(model: TwoTower, last: TwoTower) -> None:
    """Raise ConfigError where other weights are there, or of another shape, but for how many rows a table has."""
    own, theirs = model.state_dict(keep_vars=True), last.state_dict(keep_vars=True)
    by_row = {id(part) for table in tables(model).values() for part in table.per_row()}
    odd = sorted(own.keys() ^ theirs.keys())
    odd += [name for name, one in own.items() if name in theirs and one.shape[id(one) in by_row :] != theirs[name].shape[id(one) in by_row :]]
    if odd:
        raise ConfigError(f"the last model is built differently, so its weights do not fit: {', '.join(odd[:3])}. Start anew, without the last run.")


def _named(model: TwoTower, encoder: Encoder) -> dict[str, Named]:
    """Each table whose rows the data name, by its name in the model."""
    names = {table: name for name, table in tables(model).items()}
    found: dict[str, Named] = {}
    for side in SIDES:
        tower = model.tower(side)
        for name, layer in zip(tower.names, tower.layers, strict=True):
            assert isinstance(layer, Layer)
            named = layer.named(encoder.states[side][name])
            if named is not None:
                found[names[named.table]] = named
    return found


def _matches(model: TwoTower, encoder: Encoder, last: TwoTower, last_encoder: Encoder) -> dict[str, _Matched]:
    """How the rows of every table match, by its name in the model."""
    own, theirs = _named(model, encoder), _named(last, last_encoder)
    last_tables = tables(last)
    found: dict[str, _Matched] = {}
    for name, table in tables(model).items():
        if name in own:
            found[name] = _match(own[name], theirs[name])
        else:  # its rows are the same in both, as those of word pieces
            every = torch.arange(len(table.weight))
            found[name] = _Matched(table, last_tables[name], every, every, every[:0], None)
    return found


def _match(own: Named, last: Named) -> _Matched:
    place = np.searchsorted(last.names, own.names)
    there: Array = np.zeros(len(own.names), bool)
    inside = place < len(last.names)
    there[inside] = last.names[place[inside]] == own.names[inside]
    first = np.arange(own.first)
    rows = np.concatenate([first, own.first + np.flatnonzero(there)])
    last_rows = np.concatenate([first, last.first + place[there]])
    strangers = None if own.strangers is None else torch.as_tensor(own.strangers[~there])
    new = torch.as_tensor(own.first + np.flatnonzero(~there))
    return _Matched(own.table, last.table, torch.as_tensor(rows), torch.as_tensor(last_rows), new, strangers)


def _copy_dense(model: TwoTower, last: TwoTower, left_out: set[int]) -> None:
    """Copy all weights but the rows of tables and a temperature that does not learn."""
    theirs = last.state_dict()
    kept = {id(tensor) for name, tensor in model.named_buffers() if name.endswith("row_of")}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in left_out | kept or (tensor is model.log_scale and not model.log_scale.requires_grad):
            continue
        tensor.copy_(theirs[name])


def _carry_moments(state: TrainState, last: TrainState, matched: dict[str, _Matched], share: float) -> bool:
    """Put what is remembered of each row that is known beside that row; False where another optimiser remembered other things."""
    if any(last.moments.get(name, {}).keys() != kept.keys() for name, kept in state.moments.items()):
        return False
    for name, kept in state.moments.items():
        for part, tensor in kept.items():
            tensor[matched[name].rows] = share * last.moments[name][part][matched[name].last_rows].to(tensor.device)
    return True


def _carry_optimizer(state: TrainState, last: TrainState) -> bool:
    """Put what AdamW remembers of each parameter beside it."""
    named = dict(last.model.named_parameters())
    for name, parameter in state.model.named_parameters():
        remembered = last.optimizer.state.get(named[name])
        if parameter.requires_grad and remembered:
            state.optimizer.state[parameter] = {part: tensor.detach().clone() for part, tensor in remembered.items()}
    return True
