"""The two towers: features of a side, through a body, into one space. They meet only in `TwoTower.loss`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.batches import Batch
from twotower.data.columns import Columns, row_count, take_rows
from twotower.data.encoder import Encoder
from twotower.data.features import State, Text
from twotower.data.schema import SIDES, Side, feature_name
from twotower.errors import ConfigError
from twotower.model.blockwise import Lost, Share, loss_of
from twotower.model.bodies import BODIES, Custom, custom
from twotower.model.layers import LAYERS, Input, Layer, Place, Table, Tables, names_table, table_name, tensors, text_table
from twotower.model.options import CONTENT, LossOptions, ModelOptions

NEAR_ZERO = 0.5  # the length below which a vector's gradient no longer grows


def unit(vectors: Tensor) -> Tensor:
    """[n, d] -> [n, d], each of length 1, a vector of zeros left as it is.

    The gradient of a direction grows as one over the length. An id beside an empty text starts at zero, and there it would be
    so large that an optimiser which adapts its rates to what it has seen would never move that row again.
    """
    if vectors.requires_grad:
        lengths = vectors.detach().norm(dim=-1, keepdim=True).clamp(min=1e-12)
        vectors.register_hook(lambda gradient: gradient * (lengths / NEAR_ZERO).clamp(max=1.0).to(gradient.dtype))  # type: ignore[no-untyped-call]
    return functional.normalize(vectors, dim=-1)


class Tower(nn.Module):
    """The network of one side: encoded columns of n rows -> vectors [n, d]."""

    def __init__(self, layers: Mapping[str, Layer], body: nn.Module, similarity: str, feature_dropout: float = 0.0) -> None:
        super().__init__()
        self.names = tuple(layers)
        self.layers = nn.ModuleList(layers.values())
        self.gains = nn.Parameter(torch.ones(len(layers)))
        self.body = body
        self.similarity = similarity
        self.feature_dropout = feature_dropout

    def forward(self, columns: Mapping[str, Input]) -> Tensor:
        """Columns by name -> [n, d]; of unit length where the similarity is cosine."""
        parts = [layer(columns[name]) * gain for name, layer, gain in zip(self.names, self.layers, self.gains, strict=True)]
        seen = torch.stack(parts, dim=1)
        if self.training and self.feature_dropout:
            seen = seen * shown(len(seen), len(self.names), self.feature_dropout, seen.device).unsqueeze(2)
        vectors: Tensor = self.body(seen)
        return unit(vectors) if self.similarity == "cosine" else vectors

    def lookups(self, columns: Mapping[str, Input]) -> Iterator[tuple[Table, Tensor]]:
        """Each table of this tower and the ids that these columns will ask it for."""
        for name, layer in zip(self.names, self.layers, strict=True):
            assert isinstance(layer, Layer)
            # A history of item vectors is there only once the items are encoded, and asks no table.
            for table, ids in layer.lookups(columns[name]) if name in columns else ():
                yield table, ids.reshape(-1)


def shown(rows: int, features: int, dropout: float, device: torch.device) -> Tensor:
    """Which features bool [n, f] of each row a training step shows: each is hidden with this probability, but never the last one."""
    drawn = torch.rand(rows, features, device=device)
    return (drawn >= dropout) | (drawn == drawn.amax(1, keepdim=True))


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

    def loss(self, vectors: Vectors, batch: Batch, options: LossOptions, half: bool = False, share: Share | None = None) -> Lost:
        """The loss of a batch, or a share of it; half: its matrix products in bfloat16."""
        unit = self.query.similarity == "cosine"
        return loss_of(vectors.queries, vectors.items, self.log_scale, batch, options, unit=unit, half=half, share=share)

    def gather(self, query: Mapping[str, Input], item: Mapping[str, Input]) -> list[Table]:
        """Make ready the table rows that these columns touch; returns the tables, each once, to update and release."""
        wanted: dict[Table, list[Tensor]] = {}
        for table, ids in (*self.query.lookups(query), *self.item.lookups(item)):
            wanted.setdefault(table, []).append(ids)
        for table, asked in wanted.items():
            table.gather(torch.cat(asked))
        return list(wanted)

    @torch.no_grad()
    def encode(self, side: Side, columns: Columns, block: int = 4096, span: slice = slice(None)) -> Tensor:
        """Vectors [n, d] of all rows or a span of them, on the CPU, without gradients."""
        was_training = self.training
        self.eval()
        first, last, _ = span.indices(row_count(next(iter(columns.values()))))
        vectors = torch.empty(max(0, last - first), self.dimensions)
        for start in range(first, last, block):
            rows = np.arange(start, min(last, start + block))
            part = {name: tensors(column, self.device) for name, column in take_rows(columns, rows).items()}
            vectors[start - first : start - first + len(rows)] = self.tower(side)(part)
        self.train(was_training)
        return vectors


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


def build(encoder: Encoder, options: ModelOptions, seed: int = 0, bodies: Mapping[Side, Custom] | None = None) -> TwoTower:
    """The model for the features of an encoder; the same seed gives the same weights.

    bodies: for `body = "custom"`, a function of (features, dimensions) for each side that makes its body.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tables = _text_tables(encoder, options)
        towers: dict[Side, Tower] = {}
        for side in reversed(SIDES):  # items first: a history may read the table of their ids
            layers = _layers(encoder, side, options, tables)
            # Residual blocks see the sum of the parts alone, however many there are.
            if options.shared_body and towers and options.body != "residual" and len(layers) != len(towers["item"].names):
                raise ConfigError("[model] shared_body needs as many features on the query side as on the item side")
            body = towers["item"].body if options.shared_body and towers else _body(side, len(layers), options, bodies)
            towers[side] = Tower(layers, body, options.similarity, options.feature_dropout)
        if options.feature_dropout and max(len(tower.names) for tower in towers.values()) < 2:
            raise ConfigError("[model] feature_dropout hides some features of a row: it needs a side with two or more. Set it to 0, or add features")
        return TwoTower(towers["query"], towers["item"], options)


def _layers(encoder: Encoder, side: Side, options: ModelOptions, tables: Tables) -> dict[str, Layer]:
    features = encoder.features[side]
    content = any(feature.type in CONTENT for feature in features)
    named = encoder.item_id
    ids = None if named is None else names_table("item " + feature_name(named), named)
    layers = {}
    for feature in features:
        name = feature_name(feature)
        place = Place(f"{side} {name}", options.dimensions, tables, _texts(side, options), content, ids)
        layers[name] = LAYERS[feature.type](feature, encoder.states[side][name], place)
    return layers


def _body(side: Side, features: int, options: ModelOptions, bodies: Mapping[Side, Custom] | None) -> nn.Module:
    if options.body != "custom":
        return BODIES[options.body](features, options)
    if bodies is None or side not in bodies:
        raise ConfigError(
            f'[model] body = "custom" needs the module of the {side} side, which only Python can pass: twotower.train(..., bodies={{"{side}": ...}})'
        )
    return custom(bodies[side], features, options.dimensions)


def _texts(side: Side, options: ModelOptions) -> str:
    """Whose the tables of hashed text are: both sides' or one's."""
    return "" if options.shared_tables else f"{side} "


def _text_tables(encoder: Encoder, options: ModelOptions) -> Tables:
    """A table for all the texts that hash alike, on both sides or on each."""
    alike: dict[str, list[tuple[Text, State]]] = {}
    for side in SIDES:
        for feature in encoder.features[side]:
            if isinstance(feature, Text):
                alike.setdefault(_texts(side, options) + table_name(feature), []).append((feature, encoder.states[side][feature_name(feature)]))
    return {name: text_table(features, options.dimensions) for name, features in alike.items()}
