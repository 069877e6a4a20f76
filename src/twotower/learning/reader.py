"""Reading batches: all that a step needs and that no weight decides, made ready by a thread while the step before it is worked on.

What a batch holds is a pure function of the seed, the epoch, its number and what was mined and remembered before, all of it saved, so
that reading ahead changes nothing but the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from twotower.data.batches import Batch, BatchDraft, Taught, complete, places, united
from twotower.data.columns import Array, Ragged, ragged_rows, take_rows
from twotower.learning.distributed import ALONE, Team, shares
from twotower.learning.material import Material, Mined, Past, drawn, merged, of_views, some
from twotower.learning.memory import Entries, Recall, kept_batches, recall, standing
from twotower.learning.options import TrainOptions
from twotower.model.layers import Bag, Input, Prefixes, tensors
from twotower.model.negatives import NEGATIVES, Candidates, log_prob
from twotower.model.probabilities import span

DEPTH = 2  # batches that wait, at most
T = TypeVar("T")


class Views(NamedTuple):
    """The histories of a batch: whole, or as beginnings of windows that views share."""

    name: str
    values: Tensor  # int64: the codes of the items, or their positions among the items of the batch
    offsets: Tensor  # int64 [n + 1]
    windows: tuple[Tensor, Tensor] | None  # (window [b], how much of it [b])
    by_vector: bool  # whether the items stand there by the vectors of the item tower

    def input(self, device: torch.device, items: Tensor | None = None) -> Input:
        """What the layer takes; items: the vectors [c, d] of the items of the batch, where histories are read by them."""
        bag = Bag(self.values.to(device), self.offsets.to(device), items)
        return bag if self.windows is None else Prefixes(bag, *(part.to(device) for part in self.windows))


Inputs = dict[str, Tensor | Bag]


class Ready(NamedTuple):
    """A batch with what the towers read of it, on the CPU."""

    batch: Batch
    query: Inputs  # of this rank's share of the views, histories left out
    item: Inputs  # of its share of the candidates and of what histories need beside them
    items: int  # rows of that, all shares together
    candidates: Tensor | None  # int64 [c]: where the candidates stand in these rows; None where they are all of them
    history: Views | None
    seed: int  # of what is drawn in the step itself, as dropout is
    view_shares: Array  # int64 [ranks + 1]: where the views begin that each rank encodes
    item_shares: Array  # int64 [ranks + 1]: and the items
    met: Array  # int64 [s]  the shared candidates that the batch brought
    now: int  # its number, counted from the first of the training
    recall: Recall | None  # what the memory gives, and takes: with one, candidates stand in the rows and its entries behind them


def read(material: Material, options: TrainOptions, epoch: int, start: int = 0, past: Past | None = None, team: Team = ALONE) -> Iterator[Ready]:
    """The batches of an epoch from the one numbered `start` on: all of each, but columns of this rank's share alone."""
    past = past or Past()
    for number, part in enumerate(material.epochs.drafts(epoch, start), start):
        ready = _ready(part, material, options, epoch, number, past, team)
        if ready.recall is not None:
            past = past._replace(entries=ready.recall.entries)
        yield ready


def _ready(part: BatchDraft, material: Material, options: TrainOptions, epoch: int, number: int, past: Past, team: Team) -> Ready:
    generator = np.random.default_rng([options.seed, epoch, number])
    candidates = NEGATIVES[options.negatives](part, material.sampler, generator)
    met = candidates.item_rows[~candidates.alone]
    rejected = _rejected(part, material, options, generator, past.mined)
    fresh = candidates.item_rows if rejected is None else united(candidates.item_rows, rejected.values)
    if past.entries is not None:
        candidates = remembered(candidates, past.entries, material, options, epoch, number)
    batch = complete(part, candidates.item_rows, candidates.log_prob, material.known, rejected, candidates.alone)
    batch = _with_lesson(batch, material)
    history, item_rows = _history(batch, material, fresh)
    now = epoch * material.epochs.batches + number
    recalled = None if past.entries is None else recall(past.entries, met, item_rows, now, kept_batches(options))
    views, items = shares(len(batch.query_rows), team.count, _whole(history)), shares(len(item_rows), team.count)
    columns = {name: column for name, column in material.columns["query"].items() if history is None or name != history.name}
    return Ready(
        batch,
        {name: tensors(column) for name, column in take_rows(columns, batch.query_rows[team.own(views)]).items()},
        {name: tensors(column) for name, column in take_rows(material.columns["item"], item_rows[team.own(items)]).items()},
        len(item_rows),
        _standing(batch, item_rows, past.entries),
        history,
        int(generator.integers(1 << 62)),
        views,
        items,
        met,
        now,
        recalled,
    )


def _with_lesson(batch: Batch, material: Material) -> Batch:
    """The batch with what a teacher says of it."""
    if material.taught is not None:
        queries, items = material.taught.queries[batch.query_rows], material.taught.items[batch.item_rows]
        return batch._replace(taught=Taught(np.asarray(queries), np.asarray(items)))
    return batch if material.scores is None else batch._replace(scored=material.scores.of(batch))


def _whole(history: Views | None) -> Array | None:
    """Where a view begins that reads another window than the one before it: no window is worked on twice."""
    if history is None or history.windows is None:
        return None
    window = history.windows[0].numpy()
    return np.append(0, np.flatnonzero(window[1:] != window[:-1]) + 1)


def _standing(batch: Batch, item_rows: Array, entries: Entries | None) -> Tensor | None:
    if entries is not None:
        return torch.as_tensor(standing(entries, item_rows, batch.item_rows))
    return None if len(item_rows) == len(batch.item_rows) else torch.as_tensor(places(item_rows, batch.item_rows))


def remembered(candidates: Candidates, entries: Entries, material: Material, options: TrainOptions, epoch: int, number: int) -> Candidates:
    """The candidates of a batch and those of the ones before it, each once."""
    item_rows = united(candidates.item_rows, entries.item_rows)
    alone = np.zeros(len(item_rows), bool)
    alone[places(item_rows, candidates.item_rows[candidates.alone])] = True
    alone[places(item_rows, entries.item_rows)] = False
    epochs = material.epochs
    over = span(epoch, number, kept_batches(options), material.sampler.counts.pairs, epochs.batch_size)
    return Candidates(item_rows, log_prob(options.negatives, material.sampler, item_rows, over), alone)


def _rejected(part: BatchDraft, material: Material, options: TrainOptions, generator: np.random.Generator, mined: Mined | None) -> Ragged | None:
    """The negatives of each view's own: what the log says its key does not match, and what was mined for it."""
    rejected = None if material.rejected is None else drawn(material.rejected, part.query_keys, options.non_matches, generator)
    if mined is None:
        return rejected
    found = some(of_views(mined, part), options.mined, generator)
    if rejected is None:
        return found
    views = np.concatenate([ragged_rows(rejected), ragged_rows(found)])
    return merged(views, np.concatenate([rejected.values, found.values]), len(part.query_rows))


def on(inputs: Inputs, device: torch.device) -> dict[str, Input]:
    """The same on a device."""
    return {name: one.to(device) if isinstance(one, Tensor) else Bag(one.values.to(device), one.offsets.to(device)) for name, one in inputs.items()}


def _history(batch: Batch, material: Material, fresh: Array) -> tuple[Views | None, Array]:
    """The histories of a batch, and the items to encode: its fresh candidates, and what histories need of the item tower."""
    read, seen = material.reading, material.epochs.histories
    if read is None or seen is None:
        return None, fresh
    assert batch.history_keys is not None and batch.cuts is not None
    windows = None
    if material.epochs.groups is not None:
        rows, *windows_of = seen.windows(batch.history_keys, batch.cuts)
        windows = (torch.as_tensor(windows_of[0]), torch.as_tensor(windows_of[1]))
    else:
        asked = Ragged(batch.item_rows[batch.positives.positions], batch.positives.offsets)
        rows = seen.of(batch.history_keys, batch.cuts, asked)
    item_rows = fresh if read.codes is not None else united(fresh, rows.values)
    values = places(item_rows, rows.values) if read.codes is None else read.codes[rows.values].astype(np.int64)
    return Views(read.name, torch.as_tensor(values), torch.as_tensor(rows.offsets), windows, read.codes is None), item_rows


def ahead(made: Iterator[T]) -> Iterator[T]:
    """What an iterator gives, in its order, asked for by a thread that is a little ahead; its errors are raised here."""
    with ThreadPoolExecutor(1, "reader") as reader:
        waiting = deque(reader.submit(next, made, None) for _ in range(DEPTH))
        while (one := waiting.popleft().result()) is not None:
            waiting.append(reader.submit(next, made, None))
            yield one
