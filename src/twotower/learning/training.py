"""The training loop: a generator over one explicit state.

`steps(state, ...)` yields one Step a batch and owns nothing: whoever runs it reports, validates, saves or stops. `fit` is the
runner used by default. All that must survive a kill is in `TrainState`, so a checkpoint is that object and resume is exact.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower import files
from twotower.data.batches import Epochs, Taught
from twotower.data.columns import Array, Ragged, group
from twotower.data.encoder import Encoder
from twotower.data.histories import Histories
from twotower.data.prepared import Log, Prepared
from twotower.data.scores import pair_scores
from twotower.data.splits import TRAIN, VALIDATION
from twotower.errors import DataError
from twotower.learning import allocation
from twotower.learning.caching import Encoded, Shared, part, together
from twotower.learning.checkpoints import HISTORY, TrainState, resume, save
from twotower.learning.distributed import ALONE, Team, shares
from twotower.learning.evaluation import Cases, cases_of, dot_scorer, measure, ranks_of, sample
from twotower.learning.health import collapse
from twotower.learning.material import Material, Past
from twotower.learning.memory import Memory, kept_batches, memory
from twotower.learning.mining import Judge, Mining, content, due, first_epoch, mine
from twotower.learning.moving import Gathered, NoNumber, alike, dense_rates, exchange, mined_alike, moments_of, move, rate_of, refuse
from twotower.learning.options import EvaluateOptions, TrainOptions
from twotower.learning.reader import Ready, ahead, on, read
from twotower.learning.views import before, blocks, encoded, reading
from twotower.model.blockwise import Share
from twotower.model.layers import Input
from twotower.model.negatives import log_prob, sampler_state
from twotower.model.optimizers import dense_optimizer
from twotower.model.probabilities import Meetings, Span, meetings
from twotower.model.towers import TwoTower, Vectors, distinct, restore

__all__ = ["Data", "NoNumber", "Step", "TrainState", "Validation", "data_of", "fit", "held_out", "resume", "save", "start", "steps", "validate"]

SHARE_OF_VALIDATION = 0.1  # of the work of training, as far as the two bounds below allow
FEWEST_QUERIES = 500  # ranked in a validation: with fewer, luck would pick the epoch
VALIDATIONS = 3  # in a run of so many epochs, at least: with fewer, patience would mean nothing
STEP_IN_ROWS = 6  # a pair trained on is both sides encoded and differentiated
ROW_IN_SCORES = 4000  # encoding a row against one score of a ranking; both grow with the dimensions


class Data(NamedTuple):
    """What the loop reads."""

    material: Material
    encoder: Encoder
    validation: Cases
    before_validation: Histories | None
    n_items: int
    validate_every: int  # epochs
    team: Team = ALONE  # the processes that share the work
    judge: Judge | None = None  # a teacher of what may be a negative


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

    epoch: int  # that it follows; 0 before the first step
    metrics: dict[str, float]
    select: str  # the metric that decides
    best: bool
    seconds: float
    fault: str = ""  # a sentence, where the towers tell nothing apart


def data_of(
    prepared: Prepared,
    train: TrainOptions,
    options: EvaluateOptions,
    taught: Taught | None = None,
    team: Team = ALONE,
    queries: int | None = None,
) -> Data:
    """The loop's view of a prepared folder.

    taught: the vectors of a teacher, of all query rows and all items. team: the processes that share the work. queries: how many a
    validation ranks, by default as many as its share of the time allows.
    """
    read = reading(prepared.encoder, prepared.columns["item"])
    whole = prepared.part(TRAIN)
    log = whole.take(np.flatnonzero(whole.labels > 0))
    if train.positives != "graded":
        log = log._replace(weights=log.weights * log.labels)  # a better match weighs more
    rejected = _rejected(whole, int(prepared.report["keys"]))
    if train.loss == "pointwise" and rejected is None:
        raise DataError(
            'loss = "pointwise" learns what does not match from labels of 0, and among the training pairs there is none: every vector would go the '
            "same way. Log such pairs, raise [pairs] match if lower labels are none, or take another loss."
        )
    seen = before(prepared, VALIDATION, read)
    asked = cases_of(prepared, VALIDATION, options, seen)
    planned, every = plan(len(log.query_rows), prepared.n_items, min(len(asked.query_rows), options.queries), train.epochs)
    groups = None
    if seen is not None and read is not None and read.feature.pool == "transformer":
        assert log.history_keys is not None
        groups = seen.groups(log.history_keys, seen.cuts(log.history_keys, log.moments))
    return Data(
        Material(
            Epochs(log, train.batch_size, train.seed, seen, groups, train.together),
            prepared.known(TRAIN),
            rejected,
            prepared.columns,
            read,
            sampler_state(
                log.item_rows,
                prepared.n_items,
                train,
                groups=groups,
                keys=log.query_keys,
                parts=train.together,
                batch_size=train.batch_size,
            ),
            pair_scores(whole, int(prepared.report["keys"]), prepared.n_items),
            taught,
        ),
        prepared.encoder,
        sample(asked, planned if queries is None else queries, options.seed),
        seen,
        prepared.n_items,
        every,
        team,
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
    optimizer = dense_optimizer(dense_rates(model, options), options.weight_decay)
    state = TrainState(model, optimizer, moments_of(model, options))
    if options.memory:
        state.memory = memory(model.dimensions, model.device)
    if options.probabilities == "streaming":
        state.meetings = _expected(data, options)
    if options.mined:
        state.mine_first, state.content = first_epoch(model, data.encoder, options), content(model, data.material, data.encoder, options)
    return state


def _expected(data: Data, options: TrainOptions) -> Meetings:
    """How often items will be met, by the formulas: where streaming begins."""
    sampler, items, kept = data.material.sampler, np.arange(data.n_items), kept_batches(options)
    size = min(options.batch_size, sampler.counts.pairs)
    batch, there = (log_prob(options.negatives, sampler, items, Span((size * (1 + before),), 1 + before)) for before in (0, kept))
    return meetings(batch, there)


def renew(state: TrainState, data: Data, options: TrainOptions) -> Mining:
    """Mine the hard negatives of the epochs to come, by the towers as they are. Its time counts as training."""
    material = data.material
    state.mined, told = mine(state.model, material, data.encoder, options, state.epoch, state.content, data.judge)
    mined_alike(state.mined, data.team)
    state.seconds += told.seconds
    return told


def steps(state: TrainState, data: Data, options: TrainOptions) -> Iterator[Step]:
    """Train on the rest of the current epoch, a Step a move. The state is whole whenever it yields."""
    count = data.material.epochs.batches
    moves = options.epochs * -(-count // options.accumulate)
    begun = time.perf_counter()
    past = Past(state.mined, None if state.memory is None else state.memory.entries)
    reader = ahead(read(data.material, options, state.epoch, state.batch, past, data.team))
    while group := list(islice(reader, options.accumulate)):
        loss = learn(state, group, options, rate_of(state.step, moves, options), data.team)
        state.step, state.batch, state.losses = state.step + 1, state.batch + len(group), state.losses + loss * len(group)
        seconds = time.perf_counter() - begun
        state.seconds += seconds
        pairs = sum(len(ready.batch.positives.positions) for ready in group)
        yield Step(state.step, state.epoch, state.batch, count, options.epochs, loss, pairs, seconds)
        begun = time.perf_counter()
    state.epoch, state.batch = state.epoch + 1, 0


def learn(state: TrainState, group: Sequence[Ready], options: TrainOptions, rate: float, team: Team = ALONE) -> float:
    """One move by the gradients of some batches, at this share of the learning rates; returns the loss, sum(weight x loss) / sum(weight).

    A loss or a gradient that is no number stops before anything moves.
    """
    model, gathered, remembered = state.model, Gathered(), state.memory
    wrong: list[Array] = []
    model.train()
    state.optimizer.zero_grad(set_to_none=True)
    total = weight = torch.zeros((), device=model.device)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        for ready in group:
            lost, own, remembered = _differentiate(state, ready, options, gathered, remembered, team, wrong)
            total, weight = total + lost, weight + own
    total = exchange(state, gathered, total, team)
    if not torch.isfinite(total):
        refuse(state, wrong, sum(len(ready.batch.positives.positions) for ready in group), team)
    move(state, gathered, weight, options, rate)
    state.memory = remembered
    if state.meetings is not None:
        for ready in group:
            state.meetings.note(ready.met, ready.now, kept_batches(options))
    return (total / weight.clamp(min=1e-12)).item()


def _differentiate(
    state: TrainState,
    ready: Ready,
    options: TrainOptions,
    gathered: Gathered,
    remembered: Memory | None,
    team: Team,
    wrong: list[Array],
) -> tuple[Tensor, Tensor, Memory | None]:
    """Add the gradients of this rank's share of a batch; returns its sum(weight x loss), sum(weight) of all pairs, and the memory after it.

    wrong: where the pairs are noted whose loss is no number.
    """
    model, batch = state.model, ready.batch
    if state.meetings is not None:
        met = np.where(batch.alone, batch.log_prob, state.meetings.log_prob(batch.item_rows))
        batch = batch._replace(log_prob=met)
    query, item = on(ready.query, model.device), on(ready.item, model.device)
    views, rows = team.own(ready.view_shares), team.own(ready.item_shares)
    if ready.history is not None and not ready.history.by_vector:
        query[ready.history.name] = _of_share(ready.history.input(model.device), views, team)
    looked_up = model.gather(query, item)
    try:
        with together(model, options):
            items = _shared(Encoded(model, "item", item, rows.stop - rows.start, options, ready.seed + rows.start), ready.item_shares, team)
            if ready.history is not None and ready.history.by_vector:
                query[ready.history.name] = _of_share(ready.history.input(model.device, items.vectors), views, team)
            own = Encoded(model, "query", query, views.stop - views.start, options, ready.seed + ready.items + views.start)
            queries = _shared(own, ready.view_shares, team) if options.symmetric else own
        known = items.vectors if remembered is None else torch.cat([items.vectors, remembered.vectors])
        candidates = known if ready.candidates is None else known[ready.candidates.to(model.device)]
        share = Share(team.rank, team.count, views.start, views.stop)
        lost = model.loss(Vectors(queries.vectors, candidates), batch, options, half=options.precision == "bfloat16", share=share)
        if not torch.isfinite(lost.mean):
            pairs = batch.positives.pair_rows[batch.positives.offsets[views.start] : batch.positives.offsets[views.stop]]
            wrong.append(pairs[~torch.isfinite(lost.each).cpu().numpy()])
        weight = torch.as_tensor(batch.positives.weights).sum().to(model.device)
        total = lost.mean * weight
        total.backward()  # type: ignore[no-untyped-call]
        queries.backward()  # first: a history may read the vectors of the items
        items.backward()
        gathered.add(looked_up)
        after = None if remembered is None or ready.recall is None else remembered.after(ready.recall, items.vectors)
        return total.detach(), weight, after
    finally:
        for table in looked_up:
            table.release()


def _of_share(column: Input, own: slice, team: Team) -> Input:
    return column if team.count == 1 else part(column, own.start, own.stop)


def _shared(encoded: Encoded, bounds: Array, team: Team) -> Encoded | Shared:
    """The vectors of all shares, where there are several."""
    return encoded if team.count == 1 else Shared(encoded, bounds, team)


def validate(model: TwoTower, data: Data, options: EvaluateOptions) -> tuple[dict[str, float], str]:
    """The metrics of the validation cases over the whole catalogue, and what is wrong with the vectors, if anything is.

    Each rank encodes its share of the catalogue and of the cases, and ranks the whole catalogue for these.
    """
    team, bounds = data.team, shares(len(data.validation.query_rows), data.team.count)
    asked, queries, items = held_out(model, data)
    ranked = ranks_of(dot_scorer(queries, items), asked, data.n_items, options)
    found = measure(ranked, (*options.metrics, options.select))
    rankings = np.asarray(data.validation.relevant.offsets)[bounds] if options.per == "pair" else bounds
    values = team.gather(torch.as_tensor(np.stack(list(found.values()), axis=1)), rankings).numpy()
    means = team.agreed([float(np.ascontiguousarray(one).mean()) for one in values.T])
    return dict(zip(found, means, strict=True)), collapse(team.gather(torch.as_tensor(queries), bounds).numpy(), items)


def held_out(model: TwoTower, data: Data) -> tuple[Cases, Array, Array]:
    """(this rank's share of the validation cases, their vectors [q, d], those of the whole catalogue [n, d])."""
    team, columns = data.team, data.material.columns
    rows, bounds = shares(data.n_items, team.count), shares(len(data.validation.query_rows), team.count)
    own, mine = team.own(rows), team.own(bounds)
    items = team.gather(model.encode("item", columns["item"], span=own), rows).numpy()
    asked = data.validation if team.count == 1 else data.validation.take(np.arange(mine.start, mine.stop))
    parts = blocks(data.encoder, columns["query"], asked, data.before_validation, data.material.reading, items)
    return asked, encoded(asked, model.dimensions, parts, lambda columns: model.encode("query", columns).numpy()), items


@allocation.kept()
def fit(
    state: TrainState,
    data: Data,
    train: TrainOptions,
    options: EvaluateOptions,
    *,
    known: bool = False,
    folder: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Step | Validation | Mining], None] = lambda _: None,
) -> bool:
    """Run the loop to its end, keep the best epoch, and put its weights back; False if it was asked to stop.

    known: the state begins as a model that was trained before, so that epoch 0, to change nothing, may be the best. folder: where
    `checkpoint.safetensors` and `history.jsonl` go; of several processes the first alone has one. stop: asked after every step and once
    at the end, since a long validation comes last; the state is then done, and what follows training is left to a later run.
    """
    saved = time.monotonic()
    if known and not state.step:
        report(_look(state, data, options))
    while not state.done:
        if due(train, state.mine_first, state.epoch, state.mined):
            report(renew(state, data, train))
        for step in steps(state, data, train):
            report(step)
            stopped = data.team.stopping(stop)
            if folder is not None and (stopped or time.monotonic() - saved > 60 * train.checkpoint_minutes):
                save(state, folder)
                saved = time.monotonic()
            if stopped:
                return False
        loss, state.losses = state.losses / data.material.epochs.batches, 0.0
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
    return not data.team.any(stop())


def _look(state: TrainState, data: Data, options: EvaluateOptions) -> Validation:
    begun = time.perf_counter()
    alike(state.model, data.team)
    metrics, fault = validate(state.model, data, options)
    better = metrics[options.select] > state.best
    if better:
        state.best, state.best_epoch, state.since_best = metrics[options.select], state.epoch, 0
        for name, tensor in distinct(state.model)[0].items():
            if name in state.best_weights:  # into the same memory: the tables need not be there three times
                state.best_weights[name].copy_(tensor.detach())
            else:
                state.best_weights[name] = tensor.detach().clone()
    else:
        state.since_best += 1
    return Validation(state.epoch, metrics, options.select, better, time.perf_counter() - begun, fault)
