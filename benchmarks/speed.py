"""Steps of a recipe in a process of their own: how many pairs a second, and where the time of a step goes.

The first steps are not counted; batches are read as in training.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from benchmarks import quality
from benchmarks.environments import MADE, THREADS
from benchmarks.processes import told_by
from benchmarks.rows import HERE
from twotower import config as configs
from twotower.learning import allocation, training
from twotower.model.towers import build

FEW = 10  # steps that a CUDA device is watched for
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")


def rate(recipe: str, settings: Sequence[str], warm: int, steps: int) -> float:
    """Pairs a second."""
    return float(told_by("benchmarks.speed", recipe, str(warm), str(steps), "rate", *settings)["rate"])


def profile(recipe: str, settings: Sequence[str], warm: int, steps: int) -> dict[str, Any]:
    """The share of a step that matrix products take, its seconds, and what takes most of the rest."""
    return dict(told_by("benchmarks.speed", recipe, str(warm), str(steps), "profile", *settings))


def card(recipe: str, settings: Sequence[str], warm: int, steps: int) -> dict[str, Any]:
    """Pairs a second, the share of the next steps in which a CUDA device works, and what takes most of that."""
    return dict(told_by("benchmarks.speed", recipe, str(warm), str(steps), "card", *settings))


def _here(recipe: str, warm: int, steps: int, way: str, settings: Sequence[str]) -> dict[str, Any]:
    """What that process does."""
    import torch

    torch.set_num_threads(THREADS)
    chosen = configs.read(HERE / "recipes" / f"{recipe}.toml", settings)
    prepared = quality.prepared_of(chosen, MADE / "prepared")
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    state = training.start(build(prepared.encoder, chosen.model, 0).to("cuda" if torch.cuda.is_available() else "cpu"), data, chosen.train)
    taken = training.steps(state, data, chosen.train)
    with allocation.kept():
        for _ in islice(taken, warm):
            pass
        if way == "profile":
            return _profiled(taken, steps)
        begun, pairs = time.perf_counter(), 0
        for step in islice(taken, steps):
            pairs += step.pairs
        rate = pairs / (time.perf_counter() - begun)
        return {"rate": rate} | (_card(taken, FEW) if way == "card" else {})


def _profiled(taken: Iterator[training.Step], steps: int) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    begun = time.perf_counter()
    with recording(activities=[ProfilerActivity.CPU]) as seen:
        for _ in islice(taken, steps):
            pass
        seconds = time.perf_counter() - begun
    own = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 / seconds for event in seen.key_averages()}
    rest = sorted((name for name in own if name not in PRODUCTS), key=lambda name: -own[name])[:6]
    return {"products": sum(own.get(name, 0.0) for name in PRODUCTS), "step": seconds / steps, "others": {name: own[name] for name in rest}}


def _card(taken: Iterator[training.Step], steps: int) -> dict[str, Any]:
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    with recording(activities=[ProfilerActivity.CUDA]) as seen:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in islice(taken, steps):
            pass
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    own = {event.key[:40]: event.self_device_time_total / 1e6 / seconds for event in seen.key_averages()}
    return {"busy": sum(own.values()), "watched": seconds / steps, "kernels": dict(sorted(own.items(), key=lambda kernel: -kernel[1])[:8])}


if __name__ == "__main__":
    print(json.dumps(_here(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])))
