"""What gradient caching costs and saves.

One move of two text towers, small transformers over pieces with dropout, by 65,536 pairs: encoded 64 rows at a time, and the growth of
memory beside that of a batch of 64 encoded at once, each in a process of its own. Then, by 512 pairs, the time of chunks beside that of none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.environments import THREADS
from benchmarks.processes import peak, told_by
from benchmarks.rows import Asked, Figure
from twotower.config import Config, from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning import training
from twotower.learning.reader import read
from twotower.model.towers import build

PAIRS, CHUNK, BESIDE, TURNS = 65_536, 64, 512, 5
WORDS, LENGTH = 2000, 24
TEXT = {"column": "words", "type": "pieces", "network": "transformer", "layers": 2, "width": 128, "dropout": 0.1, "length": 64}


def texts(count: int, seed: int) -> list[str]:
    """Of made words, each sentence another."""
    drawn = np.random.default_rng(seed).zipf(1.3, (count, LENGTH)) % WORDS
    return [" ".join(f"w{word}" for word in line) for line in drawn]


def config_of(pairs: int, chunk: int) -> Config:
    """Steps of so many pairs."""
    names = {"query": "key", "item": "id"}
    sides = {side: {name: side, "features": [TEXT | {"column": f"{side}.words"}]} for side, name in names.items()}
    split = {"by": "column", "column": "part"}
    return from_values({**sides, "split": split, "train": {"batch_size": pairs, "chunk_size": chunk, "precision": "float32"}})


def made() -> pa.Table:
    """The pairs: every text another."""
    words = {f"{side}.words": texts(PAIRS + CHUNK, seed) for seed, side in enumerate(("query", "item"))}
    part = ["train"] * PAIRS + ["validation"] * (CHUNK // 2) + ["test"] * (CHUNK // 2)
    return pa.table({"query": np.arange(PAIRS + CHUNK), "item": np.arange(PAIRS + CHUNK), "part": part, **words})


def moves(config: Config, folder: Path) -> Any:
    """A function that makes one move."""
    prepared = prepare(open_source(made(), "pairs"), None, config.schema, config.split, folder)
    data = training.data_of(prepared, config.train, config.evaluate)
    state = training.start(build(prepared.encoder, config.model, 0), data, config.train)
    ready = next(iter(read(data.material, config.train, 0)))
    return lambda: training.learn(state, [ready], config.train, 1.0)


def grow(pairs: int, chunk: int, folder: Path) -> dict[str, float]:
    """By how much a move raises the peak of this process, after another of eight pairs has loaded what it needs; and its seconds."""
    moves(config_of(8, 0), folder)()
    move = moves(config_of(pairs, chunk), folder)
    before, began = peak(), time.perf_counter()
    move()
    return {"bytes": peak() - before, "seconds": time.perf_counter() - began}


def measure(asked: Asked) -> Iterator[Figure]:
    """The time in turns; then the memory."""
    torch.set_num_threads(THREADS)
    pairs = BESIDE if asked.smoke else PAIRS
    ways = {chunk: moves(config_of(BESIDE, chunk), asked.folder) for chunk in (0, CHUNK)}
    took: dict[int, list[float]] = {chunk: [] for chunk in ways}
    for turn in range(2 if asked.smoke else TURNS + 1):
        for chunk, move in ways.items():
            began = time.perf_counter()
            move()
            if turn:  # the first warms caches up
                took[chunk].append(time.perf_counter() - began)
    ratio = float(np.median(np.divide(took[CHUNK], took[0])))
    yield Figure(f"{BESIDE} pairs in chunks of {CHUNK}, time against all at once", f"{ratio:.2f}x", "", {"ratio": ratio})
    for count, chunk, how in ((CHUNK, 0, "at once"), (BESIDE, 0, "at once"), (pairs, CHUNK, f"in chunks of {CHUNK}")):
        grown = told_by("benchmarks.rows.chunks", str(count), str(chunk), str(asked.folder))
        wanted = f"as {CHUNK} pairs at once" if chunk else ""
        figures = f"{grown['bytes'] / 1e6:.0f} MB, {grown['seconds']:.1f} s"
        yield Figure(f"growth of memory by a move, {count:,} pairs {how}", figures, wanted, grown)
    vectors = 2 * pairs * config_of(pairs, CHUNK).model.dimensions * 4
    yield Figure(f"of that, the vectors of {pairs:,} pairs and their gradients", f"{2 * vectors / 1e6:.0f} MB")


if __name__ == "__main__":
    print(json.dumps(grow(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
