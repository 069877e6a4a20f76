"""Text towers from nothing on tldr, beside sentence-transformers' static embeddings trained on the same pairs: speed and quality.

Pairs a second of training: ours hashed its texts when the data were prepared, sentence-transformers cuts them in every step; so ours is
also counted with its whole preparation. Static embeddings have the settings that their authors train with.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import numpy as np

from benchmarks import quality, sets
from benchmarks.environments import ask
from benchmarks.rows import HERE, Asked, Figure
from benchmarks.sentences import STATIC
from twotower import config as configs

TURNS = 3


def measure(asked: Asked) -> Iterator[Figure]:
    """In turns."""
    sets.made("tldr")
    tiny = ("train.epochs=1", "model.dimensions=16")
    rates: dict[str, list[float]] = {"ours": [], "with preparation": [], "static": []}
    for _ in range(1 if asked.smoke else TURNS):
        prepared_in = preparation(asked)
        test = quality.trained("tldr", asked, tiny, settings=("evaluate.baselines=[]", "search.mode='vectors'"), fresh=True)
        facts = test.run.metrics["training"]
        log = quality.log_of(test.prepared)
        chosen = configs.read(test.run.folder / "config.toml").train
        pairs = facts["steps"] * chosen.batch_size
        rates["ours"].append(pairs / facts["training_seconds"])
        rates["with preparation"].append(pairs / (facts["training_seconds"] + prepared_in))
        less = {"steps": 3, "dimensions": 64, "few": 64} if asked.smoke else {}
        settings = {"model": "static", **STATIC, **less}
        answer = ask("sentences", settings, {"rows": log["rows"], "items": log["items"]}, **quality.words_of(test.prepared))
        done = 3 * STATIC["batch_size"] if asked.smoke else len(log["rows"]) * STATIC["epochs"]
        rates["static"].append(done / answer.facts["seconds"])
    for name, what in (
        ("ours", "twotower, training"),
        ("with preparation", "twotower, its whole preparation counted too"),
        ("static", "static embeddings"),
    ):
        ratio = float(np.median(np.divide(rates[name], rates["static"])))
        told = f"{np.median(rates[name]):,.0f} pairs a second, {ratio:.1f}x static embeddings"
        yield Figure(what, told, "2x, same quality or better" if name == "ours" else "", {"rates": rates[name], "ratio": ratio})
    yield from quality.of_model(test, "twotower from nothing")
    yield from quality.of_peer(test, "static embeddings by sentence-transformers", answer)


def preparation(asked: Asked) -> float:
    """The seconds that preparing takes from nothing."""
    folder = asked.folder / "fresh"
    shutil.rmtree(folder, ignore_errors=True)
    chosen = configs.read(HERE / "recipes" / "tldr.toml")
    begun = time.perf_counter()
    quality.prepared_of(chosen, folder)
    return time.perf_counter() - begun
