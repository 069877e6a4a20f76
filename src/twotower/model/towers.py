"""The two towers: features of a side, summed, through a body, into one space.

To add a body: a module [n, d] -> [n, d] and its entry in `BODIES`. The towers meet only in `TwoTower.logits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.columns import Columns, row_count, take_rows
from twotower.data.encoder import Encoder
from twotower.data.schema import SIDES, Side, feature_name
from twotower.model.layers import LAYERS, Input, Layer, Table, Tables, table_name, tensors, text_table
from twotower.model.options import ModelOptions


class Residual(nn.Module):
    """x + mlp(norm(x)), the mlp's last layer at zero: training starts from the plain sum of the features."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        widths = [options.dimensions, *options.hidden]
        steps: list[nn.Module] = [nn.LayerNorm(options.dimensions)]
        for width, following in pairwise(widths):
            steps += [nn.Linear(width, following), nn.GELU(), nn.Dropout(options.dropout)]
        last = nn.Linear(widths[-1], options.dimensions)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.steps = nn.Sequential(*steps, last)

    def forward(self, x: Tensor) -> Tensor:
        """[n, d] -> [n, d]"""
        changed: Tensor = self.steps(x)
        return x + changed


NEAR_ZERO = 0.5  # the length below which a vector's gradient no longer grows


def unit(vectors: Tensor) -> Tensor:
    """[n, d] -> [n, d], each of length 1, a vector of zeros left as it is.

    The gradient of a direction grows as one over the length. An id beside an empty text starts at zero, and there it would be
    so large that an optimiser which adapts its rates to what it has seen would never move that row again.
    """
    if vectors.requires_grad:
        lengths = vectors.detach().norm(dim=-1, keepdim=True).clamp(min=1e-12)
        vectors.register_hook(lambda gradient: gradient * (lengths / NEAR_ZERO).clamp(max=1.0))  # type: ignore[no-untyped-call]
    return functional.normalize(vectors, dim=-1)


BODIES: dict[str, Callable[[ModelOptions], nn.Module]] = {"none": lambda _: nn.Identity(), "mlp": Residual}


class Tower(nn.Module):
    """The network of one side: encoded columns of n rows -> vectors [n, d]."""

    def __init__(self, layers: Mapping[str, Layer], body: nn.Module, similarity: str) -> None:
        super().__init__()
        self.names = tuple(layers)
        self.layers = nn.ModuleList(layers.values())
        self.gains = nn.Parameter(torch.ones(len(layers)))
        self.body = body
        self.similarity = similarity

    def forward(self, columns: Mapping[str, Input]) -> Tensor:
        """Columns by name -> [n, d]; of unit length where the similarity is cosine."""
        parts = [layer(columns[name]) * gain for name, layer, gain in zip(self.names, self.layers, self.gains, strict=True)]
        vectors: Tensor = self.body(torch.stack(parts).sum(0))
        return unit(vectors) if self.similarity == "cosine" else vectors

    def lookups(self, columns: Mapping[str, Input]) -> Iterator[tuple[Table, Tensor]]:
        """Each table of this tower and the ids that these columns will ask it for."""
        for name, layer in zip(self.names, self.layers, strict=True):
            assert isinstance(layer, Layer)
            yield layer.table, layer.ids(columns[name]).reshape(-1)


class Vectors(NamedTuple):
    """What the towers make of a batch."""

    queries: Tensor  # [b, d]
    items: Tensor  # [c, d]


class TwoTower(nn.Module):
    """Two towers, a similarity and a temperature."""

    def __init__(self, query: Tower, item: Tower, options: ModelOptions) -> None:
        super().__init__()
        self.query, self.item = query, item
        self.dimensions = options.dimensions
        self.log_scale = nn.Parameter(torch.tensor(options.temperature).log().neg(), requires_grad=options.learn_temperature)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_scale.device

    @property
    def temperature(self) -> float:
        """What similarities are divided by before the loss."""
        return float((-self.log_scale.detach()).exp())

    def tower(self, side: Side) -> Tower:
        """The tower of one side."""
        return self.query if side == "query" else self.item

    def logits(self, vectors: Vectors) -> Tensor:
        """[b, c]: similarities over the temperature."""
        return vectors.queries @ vectors.items.T * self.log_scale.exp()

    def gather(self, query: Mapping[str, Input], item: Mapping[str, Input]) -> list[Table]:
        """Make ready the table rows that these columns touch; returns the tables, each once, to update and release."""
        wanted: dict[Table, list[Tensor]] = {}
        for table, ids in (*self.query.lookups(query), *self.item.lookups(item)):
            wanted.setdefault(table, []).append(ids)
        for table, asked in wanted.items():
            table.gather(torch.cat(asked))
        return list(wanted)

    @torch.no_grad()
    def encode(self, side: Side, columns: Columns, block: int = 4096) -> Tensor:
        """Vectors [n, d] of all rows, on the CPU, without gradients."""
        was_training = self.training
        self.eval()
        n = row_count(next(iter(columns.values())))
        parts = []
        for start in range(0, n, block):
            rows = np.arange(start, min(n, start + block))
            part = {name: tensors(column, self.device) for name, column in take_rows(columns, rows).items()}
            parts.append(self.tower(side)(part).float().cpu())
        self.train(was_training)
        return torch.cat(parts) if parts else torch.empty(0, self.dimensions)


def distinct(model: TwoTower) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model, each once, and for every further name of a shared one the name it is kept under."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in model.state_dict().items():
        kept = first.setdefault((tensor.data_ptr(), tensor.shape), name)
        if kept == name:
            tensors[name] = tensor
        else:
            aliases[name] = kept
    return tensors, aliases


def restore(model: TwoTower, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `distinct` gave. Raises RuntimeError if names or shapes do not fit."""
    _, aliases = distinct(model)
    model.load_state_dict({**tensors, **{name: tensors[kept] for name, kept in aliases.items() if kept in tensors}})


def build(encoder: Encoder, options: ModelOptions, seed: int = 0) -> TwoTower:
    """The model for the features of an encoder; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tables = _text_tables(encoder, options)
        bodies = {side: BODIES[options.body](options) for side in SIDES}
        if options.shared_body:
            bodies["item"] = bodies["query"]
        towers = {}
        for side in SIDES:
            features = encoder.features[side]
            worded = any(f.type == "text" for f in features)
            layers = {
                feature_name(f): LAYERS[f.type](f, encoder.states[side][feature_name(f)], options.dimensions, tables[side], worded) for f in features
            }
            towers[side] = Tower(layers, bodies[side], options.similarity)
        return TwoTower(towers["query"], towers["item"], options)


def _text_tables(encoder: Encoder, options: ModelOptions) -> dict[Side, Tables]:
    """The tables of hashed text that each side reads: common to both, or one set a side."""
    found = {side: [(f, encoder.states[side][feature_name(f)]) for f in encoder.features[side] if f.type == "text"] for side in SIDES}
    if options.shared_tables:
        both = found["query"] + found["item"]
        found = {"query": both, "item": both}
    tables: dict[Side, Tables] = {}
    for side in SIDES:
        if options.shared_tables and side == "item":
            tables[side] = tables["query"]
            continue
        names = dict.fromkeys(table_name(feature) for feature, _ in found[side])
        alike = {name: [(f, state) for f, state in found[side] if table_name(f) == name] for name in names}
        tables[side] = {name: text_table(features, options.dimensions) for name, features in alike.items()}
    return tables
