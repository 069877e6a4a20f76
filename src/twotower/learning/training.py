"""The training loop: a generator over one explicit state.

`steps(state, ...)` yields one Step a batch and owns nothing: whoever runs it reports, validates, saves or stops. `fit` is the
runner used by default. All that must survive a kill is in `TrainState`, so a checkpoint is that object and resume is exact.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower import files
from twotower.data.batches import Batch, Epochs, complete
from twotower.data.columns import Array, Columns, Ragged, take_rows
from twotower.data.prepared import Prepared
from twotower.data.schema import Side
from twotower.data.splits import TRAIN, VALIDATION
from twotower.errors import BundleError, DataError
from twotower.learning.evaluation import Cases, cases, dot_scorer, left_out, measure, rank, sample
from twotower.learning.options import EvaluateOptions, TrainOptions
from twotower.model.layers import Table, tensors
from twotower.model.losses import LOSSES, relation
from twotower.model.negatives import NEGATIVES, SamplerState, sampler_state
from twotower.model.optimizers import dense_optimizer, rowwise_adagrad
from twotower.model.towers import TwoTower, Vectors, distinct, restore

logger = logging.getLogger("twotower")

FORMAT = 1
FLOOR = 0.02  # of the learning rates, where their decay ends
SECONDS_BETWEEN_CHECKPOINTS = 60.0
SHARE_OF_VALIDATION = 0.1  # of the work of training, as far as the two bounds below allow
FEWEST_QUERIES = 500  # ranked in a validation: with fewer, luck would pick the epoch
VALIDATIONS = 3  # in a run of so many epochs, at least: with fewer, patience would mean nothing
STEP_IN_ROWS = 6  # a pair trained on is both sides encoded and differentiated
ROW_IN_SCORES = 4000  # encoding a row against one score of a ranking; both grow with the dimensions


@dataclass
class TrainState:
    """Everything that training changes."""

    model: TwoTower
    optimizer: torch.optim.AdamW
    accumulators: dict[str, Tensor]  # float32 [rows], for each table by its name in the model
    sampler: SamplerState
    epoch: int = 0
    batch: int = 0  # the next one of this epoch
    step: int = 0
    best: float = -np.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    since_best: int = 0  # validations
    losses: float = 0.0  # summed over the batches of this epoch
    seconds: float = 0.0  # of training, validation left out
    done: bool = False


class Data(NamedTuple):
    """What the loop reads."""

    epochs: Epochs
    known: Ragged  # for every key, its training matches
    columns: dict[Side, Columns]
    validation: Cases
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
    log = prepared.part(TRAIN)
    asked = cases(prepared.part(VALIDATION), prepared.known(*left_out(options, VALIDATION)), options.per)
    queries, every = plan(len(log.query_rows), prepared.n_items, min(len(asked.query_rows), options.queries), train.epochs)
    validation = sample(asked, queries, options.seed)
    return Data(Epochs(log, train.batch_size, train.seed), prepared.known(TRAIN), prepared.columns, validation, prepared.n_items, every)


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
    optimizer = dense_optimizer(model, options.learning_rate, options.weight_decay)
    return TrainState(model, optimizer, accumulators, sampler_state(data.epochs.log.item_rows, data.n_items))


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
        batch = complete(part, candidates.item_rows, candidates.log_prob, data.known)
        with torch.random.fork_rng([state.model.device] if state.model.device.type == "cuda" else []):
            torch.manual_seed(int(generator.integers(1 << 62)))  # dropout, too, is a function of the step
            loss = _learn(state, batch, data.columns, options, _rate(state.step, options, batches))
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


def _learn(state: TrainState, batch: Batch, columns: dict[Side, Columns], options: TrainOptions, rate: float) -> float:
    """One step; returns the loss. A loss that is no number stops before anything moves."""
    model = state.model
    model.train()
    query = {name: tensors(c, model.device) for name, c in take_rows(columns["query"], batch.query_rows).items()}
    item = {name: tensors(c, model.device) for name, c in take_rows(columns["item"], batch.item_rows).items()}
    gathered = model.gather(query, item)
    try:
        logits = model.logits(Vectors(model.query(query), model.item(item)))
        related = relation(batch, model.device)
        losses = LOSSES[options.loss](logits, related, correction=options.correction, correct_positive=options.correct_positive)
        loss = (losses * related.weights).sum() / related.weights.sum().clamp(min=1e-12)
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss is {loss.item()} at step {state.step + 1}, first pair {int(batch.positives.pair_rows[0])} of the training log; nothing "
                "was changed by this step. Lower [train] learning_rate and table_learning_rate, or raise [model] temperature."
            )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _move(state, gathered, options, rate)
        return loss.item()
    finally:
        for table in gathered:
            table.release()


def _move(state: TrainState, gathered: list[Table], options: TrainOptions, rate: float) -> None:
    """Change the weights by their gradients."""
    for group in state.optimizer.param_groups:
        group["lr"] = options.learning_rate * rate
    state.optimizer.step()
    names = {table: name for name, table in tables(state.model).items()}
    for table in gathered:
        rowwise_adagrad(table, state.accumulators[names[table]], options.table_learning_rate * rate)


def validate(model: TwoTower, data: Data, options: EvaluateOptions) -> dict[str, float]:
    """The metrics of the validation cases over the whole catalogue."""
    asked = data.validation
    rows, of_case = np.unique(asked.query_rows, return_inverse=True)
    queries = model.encode("query", take_rows(data.columns["query"], rows)).numpy()[of_case]
    items = model.encode("item", data.columns["item"]).numpy()
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


# --- checkpoints --------------------------------------------------------------------------------------------------

_NUMBERS = ("epoch", "batch", "step", "best", "best_epoch", "since_best", "losses", "seconds", "done")
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"


def save(state: TrainState, folder: Path) -> None:
    """Write the whole state as one file, atomically."""
    arrays: dict[str, Array] = {}
    for name, tensor in distinct(state.model)[0].items():
        arrays[f"model/{name}"] = tensor.cpu().numpy()
    for name, tensor in state.best_weights.items():
        arrays[f"best/{name}"] = tensor.cpu().numpy()
    for name, tensor in state.accumulators.items():
        arrays[f"accumulator/{name}"] = tensor.cpu().numpy()
    for number, entry in state.optimizer.state_dict()["state"].items():
        for name, tensor in entry.items():
            arrays[f"optimizer/{number}/{name}"] = tensor.cpu().numpy()
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    numbers["best"] = None if state.best == -np.inf else state.best
    files.write_tensors(folder / CHECKPOINT, arrays, {"format": str(FORMAT), "state": json.dumps(numbers)})


def resume(state: TrainState, folder: Path) -> None:
    """Bring a fresh state to where the checkpoint was. Raises BundleError if there is none or it does not fit."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise BundleError(f"{folder} holds no {CHECKPOINT}, so there is nothing to resume. Start anew with --overwrite.")
    arrays, metadata = files.read_tensors(path), files.tensor_metadata(path)
    number = metadata.get("format", "")
    if not number.isdecimal() or "state" not in metadata:
        raise BundleError(f"{path} is no checkpoint of ours. Start anew with --overwrite.")
    if int(number) > FORMAT:
        raise BundleError(f"{path} was written by a newer version. Upgrade: pip install -U twotower")
    try:
        _restore(state, {name: torch.from_numpy(array).to(state.model.device) for name, array in arrays.items()}, json.loads(metadata["state"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise BundleError(f"{path} does not fit this config: {error}") from None
    # What was learnt after the checkpoint is learnt again, and told again.
    kept = [line for line in files.read_lines(folder / HISTORY) if line["epoch"] <= state.epoch]
    files.write_text(folder / HISTORY, "".join(files.json_text(line, indent=None) + "\n" for line in kept))


def _restore(state: TrainState, arrays: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Put the arrays and numbers of a checkpoint into a fresh state. Raises RuntimeError, ValueError or KeyError if they do not fit."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    restore(state.model, under("model/"))
    accumulators = under("accumulator/")
    if {name: a.shape for name, a in accumulators.items()} != {name: a.shape for name, a in state.accumulators.items()}:
        raise ValueError("its tables are others")
    loaded: dict[int, dict[str, Tensor]] = {}
    for place, tensor in under("optimizer/").items():
        number, name = place.split("/")
        loaded.setdefault(int(number), {})[name] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": loaded})
    state.accumulators, state.best_weights = accumulators, under("best/")
    for name in _NUMBERS:
        setattr(state, name, numbers[name])
    state.best = -np.inf if numbers["best"] is None else numbers["best"]
