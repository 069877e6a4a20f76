"""What a run will take: memory, time, disk, said before it begins."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twotower.data.columns import Ragged, take_rows
from twotower.data.features import History, Text
from twotower.data.prepared import Prepared
from twotower.data.schema import SIDES, feature_name
from twotower.errors import ConfigError
from twotower.learning import allocation
from twotower.learning.options import TrainOptions
from twotower.model.options import ModelOptions

if TYPE_CHECKING:
    from twotower.learning.checkpoints import TrainState
    from twotower.learning.training import Data
    from twotower.model.towers import TwoTower

STEPS = 20  # of the probe
ITEMS = 8192  # of the catalogue that the probe embeds, at most
FLOAT = 4  # bytes


class Estimate(NamedTuple):
    """What training would take here."""

    pairs: int
    queries: int
    items: int
    batches: int  # of an epoch
    epochs: int
    tables: dict[str, int]  # bytes of each embedding table
    parameters: int  # bytes of everything else that is learned
    memory: int  # bytes, at most, beside what the libraries take
    available: int | None  # bytes free on this machine, where it says so
    step_seconds: float
    epoch_seconds: float
    catalogue_seconds: float  # to embed it
    prepared_bytes: int  # on disk
    run_bytes: int  # on disk, about: the bundle, and the checkpoint
    beside: tuple[str, ...] = ()  # what the run does beside its epochs, and these figures leave out


def table_bytes(prepared: Prepared, dimensions: int) -> dict[str, int]:
    """The bytes of each table that the features will need, by the feature."""
    found: dict[str, int] = {}
    for side in SIDES:
        for feature in prepared.encoder.features[side]:
            state = prepared.encoder.states[side][feature_name(feature)]
            rows = next((len(state[name]) for name in ("hashes", "buckets") if name in state), 0)
            if rows:
                found[f"{side} {feature_name(feature)}"] = rows * dimensions * FLOAT
    return found


def peak_memory(prepared: Prepared, model: ModelOptions, train: TrainOptions) -> int:
    """Bytes at most: tables with their best copy, the vectors of a batch with their gradients, the catalogue's vectors."""
    tables = sum(table_bytes(prepared, model.dimensions).values())
    longest = max([_mean_length(column) for side in SIDES for column in prepared.columns[side].values()], default=1.0)
    longest = max(longest, _longest_history(prepared))
    more = {"in_batch": 0, "full": prepared.n_items}.get(train.negatives, train.draws)  # candidates beside the batch's own
    rows = train.batch_size + more
    batch = 6 * min(train.chunk_size or rows, rows) * model.dimensions * FLOAT * max(1, math.ceil(longest))
    batch += 2 * 2 * rows * model.dimensions * FLOAT if train.chunk_size else 0  # the vectors of either side and their gradients
    batch += 4 * train.memory * model.dimensions * FLOAT  # what is remembered: before and after a step, beside the candidates, and its gradient
    catalogue = prepared.n_items * model.dimensions * FLOAT
    # The weights, the best of them so far, and a checkpoint on its way to the disk, which is mapped rather than copied.
    moments = tables if train.table_optimizer == "adam" else tables // model.dimensions
    return 2 * tables + moments + batch + 2 * catalogue


def _mean_length(column: object) -> float:
    return len(column.values) / max(1, len(column.offsets) - 1) if isinstance(column, Ragged) else 1.0


def _longest_history(prepared: Prepared) -> int:
    """How many items the longest history that a view can have holds, which all of a batch are padded to."""
    last = max([feature.last for feature in prepared.encoder.features["query"] if isinstance(feature, History)], default=0)
    return 0 if prepared.log.history_keys is None else min(last, int(np.bincount(prepared.log.history_keys).max(initial=0)))


def enough_memory(prepared: Prepared, model: ModelOptions, train: TrainOptions, processes: int = 1) -> None:
    """Raise ConfigError where the run cannot fit into memory as often as there are processes here, and say what would help."""
    free, needed = available_memory(), processes * peak_memory(prepared, model, train)
    if free is None or needed <= free:
        return
    name, size = max(table_bytes(prepared, model.dimensions).items(), key=lambda entry: entry[1], default=("none", 0))
    worded = {f"{side} {feature_name(feature)}" for side in SIDES for feature in prepared.encoder.features[side] if isinstance(feature, Text)}
    smaller = "lower the `buckets`" if name in worded else "raise the `minimum`"
    raise ConfigError(
        f"training needs about {needed / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free; the largest table is that of {name}, {size / 1e9:,.1f} GB. "
        f"Lower [model] dimensions, [train] batch_size or chunk_size, or {smaller} of that feature."
    )


def available_memory() -> int | None:
    """The bytes that are free here, by the system and by the limit of a container; None where neither says so."""
    found = []
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        counts = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines())
        cached = int(counts.get("active_file", 0)) + int(counts.get("inactive_file", 0))  # of files that were read: given back when asked for
        found += [int(limit) - used + cached] if limit.isdecimal() else []
    except (OSError, ValueError):
        pass
    return min(found, default=None)


@allocation.kept()
def probe(prepared: Prepared, model: TwoTower, data: Data, state: TrainState, options: TrainOptions) -> Estimate:
    """Try some steps and embed some items. The state is changed by it: it is one to throw away."""
    from twotower.learning.moving import tables
    from twotower.learning.training import steps
    from twotower.model.towers import distinct

    epochs = data.material.epochs
    seconds = [step.seconds for step, _ in zip(steps(state, data, options), range(STEPS), strict=False)]
    # The first ones warm caches up.
    step = float(np.median(seconds[len(seconds) // 4 :]))
    some = np.arange(min(prepared.n_items, ITEMS))
    begun = time.perf_counter()
    model.encode("item", take_rows(prepared.columns["item"], some))
    embedding = (time.perf_counter() - begun) * prepared.n_items / max(1, len(some))
    named = {name: table.weight.numel() * FLOAT for name, table in tables(model).items()}
    learned = sum(tensor.numel() * tensor.element_size() for tensor in distinct(model)[0].values())
    on_disk = sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.is_file())
    shown = sum(path.stat().st_size for path in prepared.folder.glob("items.arrow"))
    return Estimate(
        pairs=len(epochs.log.query_rows),
        queries=prepared.queries.num_rows,
        items=prepared.n_items,
        batches=epochs.batches,
        epochs=options.epochs,
        tables=named,
        parameters=learned - sum(named.values()),
        memory=peak_memory(prepared, _options(model), options),
        available=available_memory(),
        step_seconds=step,
        epoch_seconds=step * epochs.batches,
        catalogue_seconds=embedding,
        prepared_bytes=on_disk,
        run_bytes=2 * learned + shown + prepared.n_items * model.dimensions * FLOAT,
        beside=_beside(options),
    )


def _beside(options: TrainOptions) -> tuple[str, ...]:
    parts = {
        "the warm start": options.warm_start != "none",
        "mining hard negatives": options.mined,
        "encoding by the teacher": options.teacher is not None,
    }
    return tuple(name for name, done in parts.items() if done)


def _options(model: TwoTower) -> ModelOptions:
    return ModelOptions(dimensions=model.dimensions)
