"""What reading batches costs beside a step.

Batches of 4,096 pairs of goodbooks, and of MovieLens 100k with every type of feature. First the processor
time of reading one; then steps whose batches are read ahead by a thread, against the same steps whose batches were read before, in
turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import sets
from benchmarks.environments import THREADS
from benchmarks.rows import Asked, Figure
from benchmarks.rows.ml100k import ML_100K
from twotower import config as configs
from twotower.data.preparation import prepare
from twotower.data.samples import load_sample
from twotower.data.sources import open_source
from twotower.learning import training
from twotower.learning.reader import Ready, ahead, read
from twotower.model.towers import build

STEPS = 12  # in one turn
TURNS = 8


def measured(name: str, pairs: Any, items: Any, config: configs.Config, folder: Path, turns: int) -> Iterator[Figure]:
    """The lines of one set of data."""
    prepared = prepare(open_source(pairs, "pairs"), open_source(items, "items"), config.schema, config.split, folder)
    data = training.data_of(prepared, config.train, config.evaluate)
    state = training.start(build(prepared.encoder, config.model, config.train.seed), data, config.train)

    def batches() -> Iterator[Ready]:
        """The same ones each time, from epochs without end."""
        epoch = 0
        while True:
            yield from read(data.material, config.train, epoch)
            epoch += 1

    seconds, begun = [], time.thread_time()
    for _ in islice(batches(), 2 * STEPS):  # let go at once, as in training: what is kept takes fresh memory for each
        seconds.append(time.thread_time() - begun)
        begun = time.thread_time()
    kept = list(islice(batches(), STEPS))
    took: dict[str, list[float]] = {"ahead": [], "before": []}
    for turn in range(turns + 1):
        for way, source in (("ahead", ahead(islice(batches(), STEPS))), ("before", iter(kept))):
            began = time.perf_counter()
            for ready in source:
                training.learn(state, [ready], config.train, 1.0)
            if turn:  # the first warms caches up
                took[way].append((time.perf_counter() - began) / STEPS)
    added = np.array(took["ahead"]) / np.array(took["before"]) - 1
    read_in = float(np.median(seconds[STEPS:]))
    yield Figure(f"{name}: a batch of 4,096 pairs read, processor time, median", f"{read_in * 1000:.1f} ms", "10 ms", {"seconds": read_in})
    yield Figure(f"{name}: a step whose batch was read before, median", f"{np.median(took['before']) * 1000:.0f} ms")
    told = f"{np.median(added):+.1%} ({added.min():+.1%} to {added.max():+.1%})"
    yield Figure(f"{name}: a step beside the reader, against that", told, "5%", {"added": added.tolist()})


def measure(asked: Asked) -> Iterator[Figure]:
    """Both sets."""
    torch.set_num_threads(THREADS)
    large, turns = ["train.batch_size=4096"], 1 if asked.smoke else TURNS
    sample = load_sample("goodbooks")
    yield from measured("goodbooks", sample.pairs, sample.items, configs.read(sample.config, large), asked.folder, turns)
    folder = sets.made("ml100k")
    config = configs.from_values(configs.override(ML_100K, large))
    pairs, items = str(folder / "pairs.parquet"), str(folder / "items.parquet")
    yield from measured("ml-100k, every type of feature", pairs, items, config, asked.folder, turns)
