"""What gradient caching costs and saves: python benchmarks/chunks.py

One move of two text towers, small transformers over pieces with dropout, by 65,536 pairs: encoded 64 rows at a time, and the growth of
memory beside that of a batch of 64 encoded at once, each in a process of its own. Then, by 512 pairs, the time of chunks beside that of none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from blockwise import peak_of_this
from first_light import Rows, keep
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


def grow(pairs: int, chunk: int, folder: Path) -> None:
    """Print by how much a move raises the peak of this process, after another of eight pairs has loaded what it needs; and its seconds."""
    moves(config_of(8, 0), folder)()
    move = moves(config_of(pairs, chunk), folder)
    before, began = peak_of_this(), time.perf_counter()
    move()
    print(json.dumps({"bytes": peak_of_this() - before, "seconds": time.perf_counter() - began}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/RESULTS.md")
    parser.add_argument("--grow", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.grow:
        grow(int(asked.grow[0]), int(asked.grow[1]), Path(asked.grow[2]))
        return
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        ways = {chunk: moves(config_of(BESIDE, chunk), Path(folder)) for chunk in (0, CHUNK)}
        took: dict[int, list[float]] = {chunk: [] for chunk in ways}
        for turn in range(TURNS + 1):
            for chunk, move in ways.items():
                began = time.perf_counter()
                move()
                if turn:  # the first warms caches up
                    took[chunk].append(time.perf_counter() - began)
        grown = {}
        for pairs, chunk in ((CHUNK, 0), (BESIDE, 0), (PAIRS, CHUNK)):
            command = [sys.executable, __file__, "--grow", str(pairs), str(chunk), folder]
            grown[pairs] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    rows.append((f"{BESIDE} pairs in chunks of {CHUNK}, time against all at once", f"{np.median(took[CHUNK]) / np.median(took[0]):.2f}x", ""))
    for pairs, chunk in ((CHUNK, "at once"), (BESIDE, "at once"), (PAIRS, f"in chunks of {CHUNK}")):
        wanted = f"as {CHUNK} pairs at once" if pairs == PAIRS else ""
        figures = f"{grown[pairs]['bytes'] / 1e6:.0f} MB, {grown[pairs]['seconds']:.1f} s"
        rows.append((f"growth of memory by a move, {pairs:,} pairs {chunk}", figures, wanted))
    vectors = 2 * PAIRS * config_of(PAIRS, CHUNK).model.dimensions * 4
    rows.append((f"of that, the vectors of {PAIRS:,} pairs and their gradients", f"{2 * vectors / 1e6:.0f} MB", ""))
    table = ["| what | measured | wanted |", "|---|---|---|", *(f"| {what} | {figure} | {want} |" for what, figure, want in rows)]
    keep("python benchmarks/chunks.py", table, asked.write)


if __name__ == "__main__":
    main()
