"""Training throughput of id towers of 64, in-batch 4,096, on a made log: ours, TensorFlow Recommenders and a plain loop, in turns.

A turn runs each side in a process of its own on the same pairs and threads, and counts the steps after the first ones. Ours reads its
batches as in training, corrects for sampling and masks known matches; peers have their batches in memory and do neither. Then a
profile says how much of a step of ours goes into matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import quality, sets, speed
from benchmarks.environments import MADE, ask
from benchmarks.rows import HERE, Asked, Figure
from twotower import config as configs

TURNS, WARM, STEPS = 5, 10, 60
PRECISIONS = ("float32", "bfloat16")
PLAIN = "plain PyTorch, dense Adam"


def measure(asked: Asked) -> Iterator[Figure]:
    """In turns; then the profile."""
    turns, warm, steps = (1, 2, 3) if asked.smoke else (TURNS, WARM, STEPS)
    sets.made("clicks")
    chosen = configs.read(HERE / "recipes" / "throughput.toml", asked.settings)
    prepared = quality.prepared_of(chosen, MADE / "prepared")
    log = quality.log_of(prepared)
    arrays = {"keys": log["keys"], "items": log["items"]}
    common = {"dimensions": chosen.model.dimensions, "batch_size": chosen.train.batch_size, "warm": warm, "steps": steps, **quality.sizes(prepared)}
    rates: dict[str, list[float]] = {}
    for _ in range(turns):
        for precision in PRECISIONS:
            rates.setdefault(f"twotower, {precision}", []).append(speed.rate("throughput", _settings(precision, asked), warm, steps))
        for optimizer in ("adagrad", "adam"):
            answer = ask("retrieval_tf", {**common, "optimizer": optimizer}, arrays, "tensorflow").facts
            rates.setdefault(f"TensorFlow Recommenders, {optimizer}", []).append(answer["pairs"] / answer["seconds"])
        answer = ask("plain_torch", common, arrays).facts
        rates.setdefault(PLAIN, []).append(answer["pairs"] / answer["seconds"])
    fastest = max((name for name in rates if name.startswith("TensorFlow")), key=lambda name: np.median(rates[name]))
    for name, found in rates.items():
        over_tf, over_plain = (float(np.median(np.divide(found, rates[other]))) for other in (fastest, PLAIN))
        told = f"{np.median(found):,.0f} pairs a second; {over_tf:.2f}x the faster TensorFlow Recommenders, {over_plain:.2f}x plain"
        wanted = "2x and 4x; go for 3x and 6x" if name == "twotower, float32" else ""
        yield Figure(name, told, wanted, {"rates": found, "over_tensorflow": over_tf, "over_plain": over_plain})
    for precision in PRECISIONS:
        seen = speed.profile("throughput", _settings(precision, asked), warm, min(steps, 20))
        others = ", ".join(f"{name} {share:.0%}" for name, share in seen["others"].items())
        told = f"{seen['products']:.0%} of a step of {seen['step'] * 1000:.0f} ms; then {others}"
        yield Figure(f"twotower, {precision}, time in matrix products", told, "half, or the reason", seen)


def _settings(precision: str, asked: Asked) -> list[str]:
    return [f"train.precision='{precision}'", *asked.settings]
