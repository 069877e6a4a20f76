"""How a history of a log with times is best read where nobody says so: ML-100k without a config, on validation pairs; the test pairs stay closed.

Each way is the mean of two seeds. The first is what a user gets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import environments, sets
from benchmarks.rows import Asked, Figure
from twotower import config as configs
from twotower.data.inference import infer
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.learning import training
from twotower.model.towers import build
from twotower.runs.settings import infer_config

SEEDS = (0, 1)
BESIDE = "{column='age',type='number'},{column='sex',type='category'},{column='occupation',type='category'}"
HISTORY = f"query.features=[{{column='history',type='history',%s}},{BESIDE}]"
WAYS: dict[str, list[str]] = {
    "by default": [],
    "the mean": [HISTORY % "pool='mean'"],
    "by recency": [HISTORY % "pool='recency'"],
    "a transformer, items by their ids": [HISTORY % "pool='transformer',items='ids'"],
    "by default, against all films": ["train.negatives='full'"],
}


def measure(asked: Asked) -> Iterator[Figure]:
    """Each way."""
    import torch

    torch.set_num_threads(environments.THREADS)
    folder = sets.made("ml100k")
    pairs, items = (open_source(folder / f"{name}.parquet", name) for name in ("pairs", "items"))
    usual = configs.to_values(infer_config(infer(pairs, items)))
    tiny = ["train.epochs=1", "model.dimensions=16"] if asked.smoke else []
    for name in ["by default"] if asked.smoke else WAYS:
        found, seconds = [], []
        for seed in SEEDS:
            chosen = configs.from_values(configs.override(usual, [*WAYS[name], *tiny, f"train.seed={seed}", *asked.settings]))
            data = prepare(pairs, items, chosen.schema, chosen.split, environments.MADE / "prepared")
            material = training.data_of(data, chosen.train, chosen.evaluate)
            state = training.start(build(data.encoder, chosen.model, seed), material, chosen.train)
            training.fit(state, material, chosen.train, chosen.evaluate)
            found.append(training.validate(state.model, material, chosen.evaluate)[0])
            seconds.append(state.seconds)
        means = {metric: float(np.mean([one[metric] for one in found])) for metric in found[0]}
        told = ", ".join(f"{metric} {value:.4f}" for metric, value in means.items())
        yield Figure(name, f"{told}; {np.mean(seconds):.0f} s of training", "", means | {"seconds": seconds})
