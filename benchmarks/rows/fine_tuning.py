"""Tuning all-MiniLM-L6-v2 on tldr (a task -> the description of a page), 64 pairs a batch, windows of 64: pairs a second, in turns with
sentence-transformers on the same pairs, threads and precision. The steps after the first ones are counted, reading included.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import quality, sets, speed
from benchmarks.environments import MADE, ask
from benchmarks.rows import HERE, Asked, Figure
from twotower import config as configs

TURNS, WARM, STEPS, WINDOW = 3, 3, 20, 64


def measure(asked: Asked) -> Iterator[Figure]:
    """In turns."""
    turns, warm, steps = (1, 1, 1) if asked.smoke else (TURNS, WARM, STEPS)
    sets.made("tldr")
    chosen = configs.read(HERE / "recipes" / "fine_tuning.toml", asked.settings)
    prepared = quality.prepared_of(chosen, MADE / "prepared")
    log, words = quality.log_of(prepared), quality.words_of(prepared)
    for precision in ("float32", "bfloat16"):
        rates: dict[str, list[float]] = {"twotower": [], "sentence-transformers": []}
        for _ in range(turns):
            settings = {"batch_size": chosen.train.batch_size, "warm": warm, "steps": steps, "precision": precision, "window": WINDOW}
            rates["twotower"].append(speed.rate("fine_tuning", [f"train.precision='{precision}'", *asked.settings], warm, steps))
            facts = ask("tuning_speed", settings, {"rows": log["rows"], "items": log["items"]}, **words).facts
            rates["sentence-transformers"].append(facts["pairs"] / facts["seconds"])
        ratio = float(np.median(np.divide(rates["twotower"], rates["sentence-transformers"])))
        told = " and ".join(f"{np.median(found):.1f} ({name})" for name, found in rates.items())
        yield Figure(f"pairs a second, {precision}", f"{told}; {ratio:.2f}x", "1x", {"rates": rates, "ratio": ratio})
