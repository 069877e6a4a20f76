"""MovieLens 100k split by time: towers of every type of feature at once, against ids alone and the baselines.

Most users of the last weeks are new, so what is popular is hard to beat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import twotower as tt
from benchmarks import quality, sets
from benchmarks.rows import Asked, Figure

ML_100K: dict[str, Any] = {
    "pairs": {"time": "at", "repeats": "first"},
    "query": {
        "key": "user",
        "features": [
            {"column": "user", "type": "id", "dropout": 0.2},
            {"column": "age", "type": "number", "scale": "quantile"},
            {"column": "sex", "type": "category"},
            {"column": "occupation", "type": "category"},
            {"column": "at", "type": "time", "cycles": ["day", "week"]},
            {"column": "history", "type": "history", "last": 50},
        ],
    },
    "item": {
        "id": "movie",
        "features": [
            {"column": "movie", "type": "id"},
            {"column": "title", "type": "text"},
            {"column": "genres", "type": "categories"},
            {"column": "released", "type": "time", "cycles": ["year", "age"]},
        ],
    },
    "split": {"by": "time", "test": 0.1, "validation": 0.1},
    "model": {"dimensions": 64},
    "train": {"epochs": 8, "batch_size": 512},
    "evaluate": {"metrics": ["recall@10", "ndcg@10"], "select": "ndcg@10", "baselines": ["item_knn", "popularity"]},
}
IDS: dict[str, Any] = {
    **ML_100K,
    "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
    "item": {"id": "movie", "features": [{"column": "movie", "type": "id"}]},
}


def measure(asked: Asked) -> Iterator[Figure]:
    """Both runs, the baselines and the difference."""
    folder = sets.made("ml100k")
    settings = ["train.epochs=1"] if asked.smoke else []
    data = {"pairs": str(folder / "pairs.parquet"), "items": str(folder / "items.parquet"), "overwrite": True}
    every = tt.train(config=ML_100K, settings=settings, output=asked.folder / "every", **data)
    alone = tt.train(config=IDS, settings=settings, output=asked.folder / "ids", **data)
    yield Figure("every type of feature", quality.told(every.metrics["model"]), "", every.metrics["model"])
    yield Figure("ids alone", quality.told(alone.metrics["model"]), "", alone.metrics["model"])
    for name, figures in every.metrics["baselines"].items():
        yield Figure(name, quality.told(figures), "", figures)
    yield quality.difference("against ids alone", tt.compare(every.folder, alone.folder), "ndcg@10")
