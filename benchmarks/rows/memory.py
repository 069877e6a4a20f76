"""A training step on a table of 10 million rows x 64: the peak memory of a fresh process against the table and its optimiser state.

The log has 10 million items, each in one pair, and is prepared by another process. The measured one opens it, builds the model, takes
steps of 4,096 pairs, in the batch, and then ranks a hundred validation queries against all items.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import quality
from benchmarks.environments import THREADS
from benchmarks.processes import forget, held, peak, told_by
from benchmarks.rows import Asked, Figure
from twotower import config as configs

ROWS, DIMENSIONS, BATCH, STEPS = 10_000_000, 64, 4096, 3
ASKED = 100


def measure(asked: Asked) -> Iterator[Figure]:
    """Make and prepare the log, then measure."""
    rows = 100_000 if asked.smoke else ROWS
    path = asked.folder / f"pairs-{rows}.parquet"
    if not path.exists():
        write(path, rows)
    told_by("benchmarks.rows.memory", "prepare", str(path))
    found = told_by("benchmarks.rows.memory", "step", str(path))
    table = rows * DIMENSIONS * 4 + rows * 4  # and one number a row of row-wise Adagrad
    wanted = {"a step": "1.5x"}
    yield Figure("the table and its optimiser state", f"{table / 1e9:.2f} GB", "", {"bytes": table, **found})
    yield Figure("held before: libraries, the log and the encoder", f"{found['before'] / 1e9:.2f} GB")
    for name in ("building the model", "a step", "a validation"):
        told = f"{found[name] / 1e9:.2f} GB in all, {found[name] / table:.2f}x; {(found[name] - found['before']) / table:.2f}x beyond what was held"
        yield Figure(f"peak, {name}", told, wanted.get(name, ""))


def write(path: Path, rows: int) -> None:
    """Every item once, in pairs with one of a hundred thousand users."""
    generator = np.random.default_rng(0)
    part = np.full(rows, "train", object)
    part[:ASKED] = "validation"
    users = generator.integers(max(10, rows // 100), size=rows)
    pq.write_table(pa.table({"user": users, "item": generator.permutation(rows), "part": pa.array(part, pa.string())}), path)


def config_of(path: Path) -> configs.Config:
    """Ids on both sides."""
    return configs.from_values(
        {
            "data": {"pairs": str(path)},
            "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
            "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
            "split": {"by": "column", "column": "part"},
            "model": {"dimensions": DIMENSIONS},
            "train": {"batch_size": BATCH},
            "evaluate": {"metrics": ["recall@10"], "select": "recall@10", "queries": ASKED},
        }
    )


def step(path: Path) -> dict[str, int]:
    """The bytes of each stage in this process."""
    import torch

    from twotower.learning import allocation, training
    from twotower.model.towers import build

    torch.set_num_threads(THREADS)
    chosen = config_of(path)
    prepared = quality.prepared_of(chosen, path.parent / "prepared")
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    found = {"before": held()}
    forget()
    state = training.start(build(prepared.encoder, chosen.model, 0), data, chosen.train)
    found["building the model"] = peak()
    forget()
    with allocation.kept():
        for done in training.steps(state, data, chosen.train):
            if done.step == STEPS:
                break
        found["a step"] = peak()
        forget()
        training.validate(state.model, data, chosen.evaluate)
        found["a validation"] = peak()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        quality.prepared_of(config_of(Path(sys.argv[2])), Path(sys.argv[2]).parent / "prepared")
        print("{}")
    else:
        print(json.dumps(step(Path(sys.argv[2]))))
