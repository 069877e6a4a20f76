"""What `torch.compile` would bring a step: the same steps as they are and with the towers compiled, and what compiling costs.

Towers alone are compiled, since the loss has its gradient written out; shapes differ from batch to batch, so they are left open.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.environments import THREADS
from benchmarks.rows import Asked, Figure
from twotower.config import from_values
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning import allocation, training
from twotower.model.towers import build

STEPS = 12
WORDS = [f"word{n}" for n in range(3000)]


def log(users: int = 3000, items: int = 3000, length: int = 60, seed: int = 0) -> pa.Table:
    """A made log in order: users, the items they took, and some words about each."""
    generator = np.random.default_rng(seed)
    taken = generator.zipf(1.3, users * length) % items
    texts = [" ".join(generator.choice(WORDS, 12)) for _ in range(items)]
    return pa.table({"user": np.repeat(np.arange(users), length), "item": taken, "text": [texts[item] for item in taken]})


def config(query: list[dict[str, Any]], item: list[dict[str, Any]], **blocks: dict[str, Any]) -> dict[str, Any]:
    return {
        "pairs": {"ordered": True, "repeats": "first"},
        "query": {"key": "user", "features": query},
        "item": {"id": "item", "features": item},
        "split": {"by": "last"},
        "model": {"dimensions": 64},
        "train": {"batch_size": 2048},
    } | blocks


ITEM = [{"column": "item", "type": "id"}]
PIECES = {"type": "pieces", "network": "transformer", "layers": 2, "length": 32}
KINDS = {
    "ids": config([{"column": "user", "type": "id"}], ITEM),
    "history, a causal transformer": config([{"type": "history", "last": 50, "pool": "transformer", "items": "ids"}], ITEM),
    "pieces, a transformer": config([{"column": "user", "type": "id"}], [{"column": "text", **PIECES}], train={"batch_size": 256}),
}


def seconds(values: dict[str, Any], folder: Path, compiled: bool) -> tuple[list[float], float]:
    """(the seconds of each step, those of the first)."""
    chosen = from_values(values)
    prepared = prepare(open_source(log()), None, chosen.schema, chosen.split, folder)
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    model = build(prepared.encoder, chosen.model, 0)
    if compiled:
        for tower in (model.query, model.item):
            for layer in tower.layers:
                inner = getattr(layer, "pool", getattr(layer, "network", layer))
                inner.compile(dynamic=True)
    state = training.start(model, data, chosen.train)
    begun = time.perf_counter()
    with allocation.kept():
        steps = training.steps(state, data, chosen.train)
        next(steps)
        first = time.perf_counter() - begun
        return [step.seconds for step in islice(steps, STEPS)], first


def measure(asked: Asked) -> Iterator[Figure]:
    """Each kind of tower, as it is and compiled."""
    torch.set_num_threads(THREADS)
    for name, values in KINDS.items():
        (plain, _), (fast, first) = (seconds(values, asked.folder, compiled) for compiled in (False, True))
        before, after = statistics.median(plain), statistics.median(fast)
        earned = f"earned back after {first / (before - after):,.0f} steps" if after < before else "never earned back"
        told = f"{before * 1e3:.0f} ms as it is, {after * 1e3:.0f} ms compiled: {before / after:.2f} x; the first step {first:.0f} s, {earned}"
        yield Figure(f"a step of towers of {name}", told, "", {"plain": plain, "compiled": fast, "first": first})
