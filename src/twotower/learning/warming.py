"""A warm start: what towers know before the first step, of the log as a whole or of the catalogue alone.

To add one: a function that changes the weights of a fresh state and says whether it came to its end, and its entry in `WARM_STARTS`. The
optimisers begin anew afterwards, so that all that is left of it are the weights; a run that is resumed past its first step is not warmed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from twotower.data.batches import Epochs
from twotower.data.columns import Array, Column, Ragged, group, lengths_of, take
from twotower.data.columns import distinct as distinct_values
from twotower.data.encoder import Encoder
from twotower.data.features import FeatureOptions, History, Id, State
from twotower.data.prepared import Log, Prepared
from twotower.data.schema import SIDES, Side, feature_name, read_alike
from twotower.data.splits import TRAIN
from twotower.errors import ConfigError
from twotower.learning import allocation
from twotower.learning.checkpoints import TrainState, save
from twotower.learning.factors import balanced, factorise
from twotower.learning.material import Material
from twotower.learning.options import TrainOptions
from twotower.learning.training import Data, start, steps
from twotower.model.layers.names import Embedding
from twotower.model.negatives import sampler_state
from twotower.model.towers import TwoTower, distinct, restore

LONG = 4.0  # times a random row, where the similarity is cosine and the id alone: directions then turn as much more slowly
FAINT = 0.1  # of the length of a row: in directions of which the log says nothing, so that training finds something there to move
# What the steps over the catalogue have of the options; the rest is as by default.
SHARED = (
    "seed", "batch_size", "learning_rate", "table_optimizer", "table_learning_rate", "pretrained_learning_rate", "query_rate", "item_rate",
    "weight_decay", "accumulate", "chunk_size", "clip_norm", "precision",
)  # fmt: skip


@allocation.kept()
def warm(
    state: TrainState,
    data: Data,
    prepared: Prepared,
    options: TrainOptions,
    *,
    folder: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Give a state that has made no step yet the start that the options name; False if it was asked to stop.

    A start that was broken off leaves the state as it was before, saved in the folder: a resumed run begins it again.
    """
    if state.step:
        return True
    if WARM_STARTS[options.warm_start](state, data, prepared, options, stop):
        return True
    if folder is not None:
        save(state, folder)
    return False


def nothing(state: TrainState, data: Data, prepared: Prepared, options: TrainOptions, stop: Callable[[], bool]) -> bool:
    """Random rows, as the seed has them."""
    return True


@torch.no_grad()
def factors(state: TrainState, data: Data, prepared: Prepared, options: TrainOptions, stop: Callable[[], bool]) -> bool:
    """Ids start from a factorisation of the training log, so that the first step already ranks what belongs together.

    Where the query side has a history, the ids of the items alone do: the mean of a history is then about where its owner would stand.
    """
    log, encoder, model = data.material.epochs.log, data.encoder, state.model
    of_items = _ids(encoder, "item")
    assert of_items is not None
    columns = np.asarray(data.material.columns["item"][feature_name(of_items)])[log.item_rows]
    history = next((feature for feature in encoder.features["query"] if isinstance(feature, History)), None)
    of_queries = None if history is not None else _ids(encoder, "query")
    if of_queries is None:
        assert log.history_keys is not None
        rows = np.asarray(log.history_keys)
    else:
        rows = np.asarray(data.material.columns["query"][feature_name(of_queries)])[log.query_rows]
    known = (columns >= of_items.first_known) & (rows >= (0 if of_queries is None else of_queries.first_known))
    rows, columns = rows[known], columns[known]
    if not len(rows):
        return True
    # Only of what occurs: of an empty column the singular vectors are zero but for rounding.
    codes, asked = distinct_values(columns), distinct_values(rows)
    power = 0.5 if model.item.similarity == "cosine" else 0.25
    matrix, sums = balanced(
        np.searchsorted(asked, rows), np.searchsorted(codes, columns), np.asarray(log.weights)[known], (len(asked), len(codes)), power
    )
    generator = np.random.default_rng([options.seed, 1])
    found = factorise(matrix, model.dimensions, generator)
    right = found.right * found.values
    if of_queries is not None:
        _place(model, "query", of_queries, asked, found.left * found.values, generator)
    else:
        # By a power of how often an item occurs, as the matrix is: the sum over a history is then that of its row of the matrix.
        right = right / (sums**power)[:, None]
    _place(model, "item", of_items, codes, right, generator)
    return True


def _ids(encoder: Encoder, side: Side) -> Id | None:
    """The first feature of a side that is an id."""
    return next((feature for feature in encoder.features[side] if isinstance(feature, Id) and feature.type == "id"), None)


def _place(model: TwoTower, side: Side, feature: Id, codes: Array, vectors: Array, generator: np.random.Generator) -> None:
    """Put vectors [c, k] into the rows of these codes [c] of an id's table; their mean length is that of random rows, or LONG."""
    tower = model.tower(side)
    length = LONG if tower.similarity == "cosine" and len(tower.names) == 1 else 1.0
    layer = tower.layers[tower.names.index(feature_name(feature))]
    assert isinstance(layer, Embedding)
    if tower.similarity == "cosine" and side == "query":
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    rows = generator.standard_normal((len(codes), model.dimensions), dtype=np.float32) * np.float32(FAINT * length * model.dimensions**-0.5)
    rows[:, : vectors.shape[1]] = vectors * (length / np.sqrt(max(np.square(vectors).sum(1).mean(), 1e-12)))
    layer.table.weight[torch.as_tensor(codes, device=model.device)] = torch.as_tensor(rows, device=model.device)


class Lesson(NamedTuple):
    """What the catalogue teaches by: a column of the items, and which features of the query side read it as which features of the items do."""

    column: str
    readers: dict[str, str]  # the names of their columns: of the query side, of the item side


def lesson(encoder: Encoder, columns: dict[str, Column]) -> Lesson:
    """The shortest text of the items that the query side can read, where another one is left. Raises ConfigError where there is none."""
    worded = [feature for feature in encoder.features["item"] if feature.worded]
    found: list[tuple[float, Lesson]] = []
    for column in dict.fromkeys(feature.column for feature in worded):
        own = [feature for feature in worded if feature.column == column]
        if len(own) == len(worded):
            continue
        pairs = [(asks, told) for asks in encoder.features["query"] for told in own if read_alike(asks, told)]
        if pairs:
            readers = {feature_name(asks): feature_name(told) for asks, told in reversed(pairs)}
            lengths = [len(part.values) for part in map(columns.get, readers.values()) if isinstance(part, Ragged)]
            found.append((min(lengths), Lesson(column, readers)))
    if not found:
        raise ConfigError('[train] warm_start = "catalogue" finds no text of the items that the query side reads alike. Set it to "none".')
    return min(found, key=lambda one: one[0])[1]


def catalogue(state: TrainState, data: Data, prepared: Prepared, options: TrainOptions, stop: Callable[[], bool]) -> bool:
    """Items teach the words: the query side reads the shortest text of an item, and the item tower has to find it by the others.

    In-batch softmax over the items that training may know. All that is not of words says nothing meanwhile, and stays as it was.
    """
    model = state.model
    before = {name: tensor.clone() for name, tensor in distinct(model)[0].items()}
    material, pairs = _material(data, prepared, model.dimensions, options)
    if pairs < 2:
        return True
    shared = {name: getattr(options, name) for name in SHARED}
    own = replace(TrainOptions(), epochs=options.warm_epochs, correction=False, **shared)
    scratch, told = start(model, data, own), data._replace(material=material)
    for _ in range(own.epochs):
        for _step in steps(scratch, told, own):
            if data.team.stopping(stop):
                restore(model, before)
                return False
    learnt = _of_words(data.encoder)
    restore(model, {name: tensor if name.startswith(learnt) else before[name] for name, tensor in distinct(model)[0].items()})
    return True


def _of_words(encoder: Encoder) -> tuple[str, ...]:
    """What the names of weights begin with that words teach: the layers that read them, and what follows the features."""
    layers = [f"{side}.layers.{n}." for side in SIDES for n, feature in enumerate(encoder.features[side]) if feature.worded]
    return (*layers, *(f"{side}.body." for side in SIDES))


def _material(data: Data, prepared: Prepared, dimensions: int, options: TrainOptions) -> tuple[Material, int]:
    """The catalogue as pairs of an item with itself, and how many there are. Items of equal texts share a key: neither is a wrong answer."""
    encoder, items = data.encoder, dict(data.material.columns["item"])
    taught, n = lesson(encoder, items), data.n_items
    asked = {query: items[item] for query, item in taught.readers.items()}
    rows = np.flatnonzero(_shown(prepared) & _said(asked.values()) & _said(_others(encoder, items, taught)))
    query = {
        feature_name(f): asked.get(feature_name(f), blank(f, encoder.states["query"][feature_name(f)], n, dimensions))
        for f in encoder.features["query"]
    }
    for feature in encoder.features["item"]:
        if feature.type == "id" or (feature.worded and feature.column == taught.column):
            items[feature_name(feature)] = blank(feature, encoder.states["item"][feature_name(feature)], n, dimensions)
    keys = _alike(next(iter(asked.values())), rows)
    ones = np.ones(len(rows), np.float32)
    log = Log(rows, keys, rows, ones, ones)
    known = group(keys, rows, int(keys.max(initial=-1)) + 1)
    epochs = Epochs(log, options.batch_size, options.seed)
    return Material(epochs, known, None, {"query": query, "item": items}, None, sampler_state(rows, n, options)), len(rows)


def _others(encoder: Encoder, items: dict[str, Column], taught: Lesson) -> list[Column]:
    """The texts of the items that are left to find them by."""
    return [items[feature_name(feature)] for feature in encoder.features["item"] if feature.worded and feature.column != taught.column]


def _said(columns: Iterable[Column]) -> Array:
    """Which rows bool [n] say something in any of these columns; what is no list of words always does."""
    return np.asarray(
        np.logical_or.reduce([lengths_of(column) > 0 if isinstance(column, Ragged) else np.ones(len(column), bool) for column in columns])
    )


def _shown(prepared: Prepared) -> Array:
    """Which items bool [n] training may know: those of training pairs, and those of no pair at all."""
    of_training, of_others = (np.zeros(prepared.n_items, bool) for _ in range(2))
    of_training[prepared.log.item_rows[prepared.parts == TRAIN]] = True
    of_others[prepared.log.item_rows[prepared.parts != TRAIN]] = True
    return of_training | ~of_others


def _alike(column: Column, rows: Array) -> Array:
    """A number int64 [r] for each of these rows, the same for equal ones."""
    assert isinstance(column, Ragged)
    numbers: dict[bytes, int] = {}
    texts = (column.values[column.offsets[row] : column.offsets[row + 1]] for row in rows)
    return np.array([numbers.setdefault(one.tobytes(), len(numbers)) for one in texts], np.int64)


def blank(feature: FeatureOptions, state: State, n: int, dimensions: int) -> Column:
    """The column of n rows that say nothing."""
    form = feature.form(state, dimensions)
    if form.ragged:
        width = () if form.width is None else (form.width,)
        return Ragged(np.empty((0, *width), form.dtype), np.zeros(n + 1, np.int64))
    return take(feature.encode(pa.nulls(1), state), np.zeros(n, np.int64))


WARM_STARTS: dict[str, Callable[[TrainState, Data, Prepared, TrainOptions, Callable[[], bool]], bool]] = {
    "none": nothing,
    "factors": factors,
    "catalogue": catalogue,
}
