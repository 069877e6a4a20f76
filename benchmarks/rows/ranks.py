"""What a second process brings on one machine.

Pairs a second of one process with two threads and of two processes with one thread each, by the same batches: towers of ids, and a history read
by a small transformer. The turns of the two take turns, so that what else the machine does weighs on both alike.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.rows import ROOT, Asked, Figure
from twotower.config import Config, from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning import allocation, training
from twotower.learning.distributed import Team, together
from twotower.model.towers import build

PEOPLE, EVENTS, ITEMS, BATCH = 4000, 25, 20_000, 4096
WARM, STEPS, TURNS = 3, 20, 3
KINDS = {
    "ids": {"features": [{"column": "user", "type": "id"}]},
    "transformer": {"features": [{"type": "history", "pool": "transformer", "items": "ids", "last": 50, "layers": 2, "dropout": 0.0}]},
}


def config_of(kind: str) -> Config:
    """Towers of 64 dimensions, in-batch negatives."""
    return from_values(
        {
            "pairs": {"time": "at", "repeats": "keep"},
            "query": {"key": "user"} | KINDS[kind],
            "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
            "split": {"by": "last", "test": 1, "validation": 1},
            "model": {"dimensions": 64},
            "train": {"batch_size": BATCH, "epochs": 1000},
        }
    )


def log() -> pa.Table:
    """A made log with popular items."""
    drawn = np.random.default_rng(0)
    rows = PEOPLE * EVENTS
    items = np.minimum(drawn.zipf(1.2, rows) - 1 + drawn.integers(0, ITEMS // 4, rows), ITEMS - 1)
    return pa.table({"user": np.repeat(np.arange(PEOPLE), EVENTS), "item": items, "at": np.tile(np.arange(EVENTS), PEOPLE)})


def speed(kind: str, folder: Path, threads: int, team: Team) -> float:
    """Pairs a second over some steps."""
    import torch

    torch.set_num_threads(threads)
    config = config_of(kind)
    prepared = prepare(open_source(log(), "pairs"), None, config.schema, config.split, folder)
    data = training.data_of(prepared, config.train, config.evaluate, team=team)
    state = training.start(build(prepared.encoder, config.model, 0), data, config.train)
    done, pairs, begun = 0, 0, 0.0
    with allocation.kept():
        while True:
            for step in training.steps(state, data, config.train):
                if done == WARM:
                    pairs, begun = 0, time.perf_counter()
                done, pairs = done + 1, pairs + step.pairs
                if done > WARM + STEPS:
                    return pairs / (time.perf_counter() - begun)


def one_of(kind: str, folder: Path, threads: int) -> None:
    """Print the speed, in the first of the processes that were started."""
    with together() as team:
        team.connect()
        found = speed(kind, folder, threads, team)
        if team.first:
            print(json.dumps(found))


def measured(kind: str, folder: Path, processes: int, threads: int) -> float:
    """The speed of so many processes of so many threads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    known: dict[str, Any] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.rows.ranks", kind, str(folder), str(threads)]
    started = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **known, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    said = [process.communicate()[0] for process in started]
    return float(json.loads(said[0].splitlines()[-1]))


def measure(asked: Asked) -> Iterator[Figure]:
    """Both kinds of towers, in turns."""
    for kind in KINDS:
        measured(kind, asked.folder, 1, 1)  # prepares
        ways: dict[tuple[int, int], list[float]] = {(1, 1): [], (1, 2): [], (2, 1): []}
        for _ in range(1 if asked.smoke else TURNS):
            for (processes, threads), found in ways.items():
                found.append(measured(kind, asked.folder, processes, threads))
        for (processes, threads), found in ways.items():
            what = f"{kind}: {processes} process{'es' * (processes > 1)} of {threads} thread{'s' * (threads > 1)}"
            yield Figure(what, f"{np.median(found):,.0f} pairs a second ({min(found):,.0f} to {max(found):,.0f})", "", {"rates": found})


if __name__ == "__main__":
    one_of(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
