"""The training loop: a generator over one explicit state.

`steps(state, ...)` yields one Step a batch and owns nothing: whoever runs it reports, validates, saves or stops. `fit` is the
runner used by default. All that must survive a kill is in `TrainState`, so a checkpoint is that object and resume is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower import files
from twotower.data.batches import Batch, Epochs, complete
from twotower.data.columns import Array, Columns, Ragged, group, lengths_of, offsets_of, ragged_rows, take_ragged, take_rows
from twotower.data.encoder import Encoder
from twotower.data.histories import Histories
from twotower.data.prepared import Log, Prepared
from twotower.data.schema import SIDES, Side
from twotower.data.splits import TRAIN, VALIDATION
from twotower.errors import DataError
from twotower.learning.checkpoints import HISTORY, TrainState, resume, save
from twotower.learning.evaluation import Cases, cases, dot_scorer, left_out, measure, rank, sample
from twotower.learning.options import EvaluateOptions, TrainOptions
from twotower.learning.views import Reading, before, blocks, encoded, reading
from twotower.model.layers import Bag, Input, Prefixes, Table, is_pretrained, tensors
from twotower.model.losses import LOSSES, relation
from twotower.model.negatives import NEGATIVES, sampler_state
from twotower.model.optimizers import dense_optimizer, rowwise_adagrad
from twotower.model.towers import TwoTower, Vectors, distinct, restore

__all__ = ["Data", "Step", "TrainState", "Validation", "data_of", "fit", "resume", "save", "start", "steps", "validate"]

FLOOR = 0.02  # of the learning rates, where their decay ends
SECONDS_BETWEEN_CHECKPOINTS = 60.0
SHARE_OF_VALIDATION = 0.1  # of the work of training, as far as the two bounds below allow
FEWEST_QUERIES = 500  # ranked in a validation: with fewer, luck would pick the epoch
VALIDATIONS = 3  # in a run of so many epochs, at least: with fewer, patience would mean nothing
STEP_IN_ROWS = 6  # a pair trained on is both sides encoded and differentiated
ROW_IN_SCORES = 4000  # encoding a row against one score of a ranking; both grow with the dimensions


class Data(NamedTuple):
    """What the loop reads."""

    epochs: Epochs
    known: Ragged  # for every key, its training matches
    rejected: Ragged | None  # for every key, what the training log says it does not match, where the log says so
    encoder: Encoder
    columns: dict[Side, Columns]
    reading: Reading | None  # how histories are read
    validation: Cases
    before_validation: Histories | None
    n_items: int
    validate_every: int  # epochs


class Step(NamedTuple):
    """What one batch did."""

    step: int
    epoch: int
    batch: int
    batches: int
    epochs: int
    loss: float
    pairs: int
    seconds: float


class Validation(NamedTuple):
    """What one look at the validation pairs showed."""

    epoch: int
    metrics: dict[str, float]
    select: str  # the metric that decides
    best: bool
    seconds: float


def data_of(prepared: Prepared, train: TrainOptions, options: EvaluateOptions) -> Data:
    """The loop's view of a prepared folder."""
    read = reading(prepared.encoder, prepared.columns["item"])
    whole = prepared.part(TRAIN)
    log = whole.take(np.flatnonzero(whole.labels > 0))
    log = log._replace(weights=log.weights * log.labels)  # a better match weighs more
    seen = before(prepared, VALIDATION, read)
    asked = cases(prepared.part(VALIDATION), prepared.known(*left_out(options, VALIDATION)), options.per, seen)
    queries, every = plan(len(log.query_rows), prepared.n_items, min(len(asked.query_rows), options.queries), train.epochs)
    groups = None
    if seen is not None and read is not None and read.feature.pool == "transformer":
        assert log.history_keys is not None
        groups = seen.groups(log.history_keys, seen.cuts(log.history_keys, log.moments))
    return Data(
        Epochs(log, train.batch_size, train.seed, seen, groups),
        prepared.known(TRAIN),
        _rejected(whole, int(prepared.report["keys"])),
        prepared.encoder,
        prepared.columns,
        read,
        sample(asked, queries, options.seed),
        seen,
        prepared.n_items,
        every,
    )


def _rejected(log: Log, keys: int) -> Ragged | None:
    """For every key the items of its explicit non-matches, or None if the log has none."""
    which = np.flatnonzero(log.labels == 0)
    return group(log.query_keys[which], log.item_rows[which], keys) if len(which) else None


def plan(pairs: int, items: int, queries: int, epochs: int) -> tuple[int, int]:
    """How many queries a validation ranks, and every how many epochs there is one, so that training takes most of the time.

    First fewer queries are ranked, then validations are rarer. Counts, not seconds, decide: a seed gives the same run everywhere.
    """
    room = SHARE_OF_VALIDATION * STEP_IN_ROWS * max(1, pairs)  # rows that may be encoded to validate an epoch
    row = 1 + items / ROW_IN_SCORES  # a query is encoded, and scored against every item
    fewest = min(queries, FEWEST_QUERIES)
    every = min(max(1, epochs // VALIDATIONS), math.ceil((items + fewest * row) / room))
    return min(queries, max(fewest, int((every * room - items) / row))), every


def described(data: Data) -> str:
    """What is about to be done, in a few words; how often it is validated, where that is not after every epoch."""
    queries = f"{len(data.validation.query_rows):,} queries"
    return "training" if data.validate_every == 1 else f"training, validated every {data.validate_every} epochs on {queries}"


def start(model: TwoTower, data: Data, options: TrainOptions) -> TrainState:
    """The state before the first step."""
    accumulators = {name: torch.zeros(len(table.weight), device=model.device) for name, table in tables(model).items()}
    optimizer = dense_optimizer(dense_rates(model, options), options.weight_decay)
    return TrainState(model, optimizer, accumulators, sampler_state(data.epochs.log.item_rows, data.n_items))


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


def tables(model: TwoTower) -> dict[str, Table]:
    """The tables of a model by name, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Table)}


def steps(state: TrainState, data: Data, options: TrainOptions) -> Iterator[Step]:
    """Train on the rest of the current epoch, a Step a batch. The state is whole whenever it yields."""
    sampler = NEGATIVES[options.negatives]
    batches = data.epochs.batches
    for part in data.epochs.drafts(state.epoch, state.batch):
        begun = time.perf_counter()
        generator = np.random.default_rng([options.seed, state.epoch, state.batch])
        candidates, state.sampler = sampler(part, state.sampler, generator)
        rejected = None if data.rejected is None else drawn(data.rejected, part.query_keys, options.non_matches, generator)
        batch = complete(part, candidates.item_rows, candidates.log_prob, data.known, rejected)
        with torch.random.fork_rng([state.model.device] if state.model.device.type == "cuda" else []):
            torch.manual_seed(int(generator.integers(1 << 62)))  # dropout, too, is a function of the step
            loss = _learn(state, batch, data, options, _rate(state.step, options, batches))
        state.step, state.batch, state.losses = state.step + 1, state.batch + 1, state.losses + loss
        seconds = time.perf_counter() - begun
        state.seconds += seconds
        yield Step(state.step, state.epoch, state.batch, batches, options.epochs, loss, len(part.item_rows), seconds)
    state.epoch, state.batch = state.epoch + 1, 0


def _rate(step: int, options: TrainOptions, batches: int) -> float:
    """What the learning rates are multiplied by: a rise to 1, then a fall in a line."""
    total = options.epochs * batches
    warm = options.warmup * total
    return (step + 1) / (warm + 1) if step < warm else 1 - (1 - FLOOR) * (step - warm) / (total - warm)


def drawn(rejected: Ragged, keys: Array, most: int, generator: np.random.Generator) -> Ragged:
    """For each view [b] at most so many of the items that its key is known not to match."""
    found = take_ragged(rejected, keys)
    order = np.lexsort((generator.random(len(found.values)), ragged_rows(found)))
    kept = order[np.arange(len(order)) - np.repeat(found.offsets[:-1], lengths_of(found)) < most]
    return Ragged(found.values[kept], offsets_of(np.minimum(lengths_of(found), most)))


def _learn(state: TrainState, batch: Batch, data: Data, options: TrainOptions, rate: float) -> float:
    """One step; returns the loss. A loss that is no number stops before anything moves."""
    model = state.model
    model.train()
    history, item_rows = _history(batch, data)
    columns = {name: column for name, column in data.columns["query"].items() if history is None or name != history.name}
    query: dict[str, Input] = {name: tensors(c, model.device) for name, c in take_rows(columns, batch.query_rows).items()}
    item = {name: tensors(c, model.device) for name, c in take_rows(data.columns["item"], item_rows).items()}
    if history is not None and history.codes is not None:
        query[history.name] = history.input(torch.as_tensor(history.codes[history.rows.values]), model.device)
    gathered = model.gather(query, item)
    try:
        items = model.item(item)
        if history is not None and history.codes is None:
            query[history.name] = history.input(_places(item_rows, history.rows.values, model.device), model.device, items)
        candidates = items if len(item_rows) == len(batch.item_rows) else items[_places(item_rows, batch.item_rows, model.device)]
        logits = model.logits(Vectors(model.query(query), candidates))
        related = relation(batch, model.device)
        losses = LOSSES[options.loss](logits, related, correction=options.correction, correct_positive=options.correct_positive)
        loss = (losses * related.weights).sum() / related.weights.sum().clamp(min=1e-12)
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss is {loss.item()} at step {state.step + 1}, first pair {int(batch.positives.pair_rows[0])} of the training matches; "
                "nothing was changed by this step. Lower [train] learning_rate and table_learning_rate, or raise [model] temperature."
            )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _move(state, gathered, options, rate)
        return loss.item()
    finally:
        for table in gathered:
            table.release()


class _History(NamedTuple):
    """The histories of a batch: whole, or as beginnings of windows that views share."""

    name: str
    rows: Ragged  # item rows of each view, or of each window
    codes: Array | None
    windows: tuple[Array, Array] | None  # (window [b], how much of it [b])

    def input(self, values: Tensor, device: torch.device, source: Tensor | None = None) -> Input:
        """What the layer takes, given the codes of all its items, or their positions in a source of vectors."""
        bag = Bag(values.to(device), torch.as_tensor(self.rows.offsets).to(device), source)
        if self.windows is None:
            return bag
        return Prefixes(bag, *(torch.as_tensor(part).to(device) for part in self.windows))


def _history(batch: Batch, data: Data) -> tuple[_History | None, Array]:
    """The histories of a batch, and the items to encode: its candidates, and what histories need of the item tower."""
    read, seen = data.reading, data.epochs.histories
    if read is None or seen is None:
        return None, batch.item_rows
    assert batch.history_keys is not None and batch.cuts is not None
    windows = None
    if data.epochs.groups is not None:
        rows, *windows_of = seen.windows(batch.history_keys, batch.cuts)
        windows = (windows_of[0], windows_of[1])
    else:
        asked = Ragged(batch.item_rows[batch.positives.positions], batch.positives.offsets)
        rows = seen.of(batch.history_keys, batch.cuts, asked)
    item_rows = batch.item_rows if read.codes is not None else np.union1d(batch.item_rows, rows.values)
    return _History(read.name, rows, read.codes, windows), item_rows


def _places(rows: Array, wanted: Array, device: torch.device) -> Tensor:
    """Where these item rows stand among those, which are in rising order."""
    return torch.as_tensor(np.searchsorted(rows, wanted)).to(device)


def _move(state: TrainState, gathered: list[Table], options: TrainOptions, rate: float) -> None:
    """Change the weights by their gradients."""
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = parameters["peak"] * rate
    state.optimizer.step()
    names = {table: name for name, table in tables(state.model).items()}
    of_side = {side: set(state.model.tower(side).modules()) for side in SIDES}
    for table in gathered:
        rowwise_adagrad(table, state.accumulators[names[table]], options.table_learning_rate * rate * _factor(table, of_side, options))


def validate(model: TwoTower, data: Data, options: EvaluateOptions) -> dict[str, float]:
    """The metrics of the validation cases over the whole catalogue."""
    asked = data.validation
    items = model.encode("item", data.columns["item"]).numpy()
    parts = blocks(data.encoder, data.columns["query"], asked, data.before_validation, data.reading, items)
    queries = encoded(asked, model.dimensions, parts, lambda columns: model.encode("query", columns).numpy())
    ranks = rank(dot_scorer(queries, items), asked.relevant, asked.excluded, per=options.per, n_items=data.n_items)
    return {name: float(values.mean()) for name, values in measure(ranks, (*options.metrics, options.select)).items()}


def fit(
    state: TrainState,
    data: Data,
    train: TrainOptions,
    options: EvaluateOptions,
    *,
    folder: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Step | Validation], None] = lambda _: None,
) -> bool:
    """Run the loop to its end, keep the best epoch, and put its weights back; False if it was asked to stop.

    folder: where `checkpoint.safetensors` and `history.jsonl` go. stop: asked after every step and once at the end, since a
    long validation comes last; the state is then done, and what follows training is left to a later run.
    """
    saved = time.monotonic()
    while not state.done:
        for step in steps(state, data, train):
            report(step)
            stopped = stop()
            if folder is not None and (stopped or time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS):
                save(state, folder)
                saved = time.monotonic()
            if stopped:
                return False
        loss, state.losses = state.losses / data.epochs.batches, 0.0
        last = state.epoch >= train.epochs
        if last or state.epoch % data.validate_every == 0:
            seen = _look(state, data, options)
            state.done = last or (train.patience > 0 and state.since_best >= train.patience)
            if folder is not None:
                line = {"epoch": seen.epoch, "step": state.step, "loss": loss, **seen.metrics}
                files.append_line(folder / HISTORY, line | {"temperature": state.model.temperature, "seconds": round(state.seconds, 3)})
            report(seen)
    if state.best_weights:
        restore(state.model, state.best_weights)
        state.best_weights = {}
        if folder is not None:
            save(state, folder)
    return not stop()


def _look(state: TrainState, data: Data, options: EvaluateOptions) -> Validation:
    begun = time.perf_counter()
    metrics = validate(state.model, data, options)
    better = metrics[options.select] > state.best
    if better:
        state.best, state.best_epoch, state.since_best = metrics[options.select], state.epoch, 0
        state.best_weights = {name: tensor.detach().clone() for name, tensor in distinct(state.model)[0].items()}
    else:
        state.since_best += 1
    return Validation(state.epoch, metrics, options.select, better, time.perf_counter() - begun)
