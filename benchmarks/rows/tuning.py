"""What `tune` brings to what a user gets without a config, on two cores: better on the test pairs, or left as it was.

Sets on which no default was chosen: who read which book, without a word about either; questions and answers; films by people of whom much is
known; texts of few classes; claims and abstracts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import twotower as tt
from benchmarks import quality, sets
from benchmarks.environments import THREADS
from benchmarks.rows import Asked, Figure
from twotower.config import to_values
from twotower.data.inference import infer
from twotower.data.samples import load_sample
from twotower.data.sources import open_source
from twotower.runs.settings import infer_config

BUDGETS = {"goodbooks": "30m", "insuranceqa": "30m", "ml100k": "30m", "banking77": "5m", "scifact": "3m"}
TINY = ("train.epochs=1", "model.dimensions=16")


def given(name: str) -> dict[str, Any]:
    """Data and config."""
    if name == "goodbooks":
        pairs = load_sample(name).pairs.select(["user_id", "book_id"])
        return {"pairs": pairs, "config": to_values(infer_config(infer(open_source(pairs, "pairs"), None)))}
    folder = sets.made(name)
    data = {part: str(folder / f"{part}.parquet") for part in ("pairs", "items", "validation", "test") if (folder / f"{part}.parquet").exists()}
    guess = infer(open_source(data["pairs"], "pairs"), open_source(data["items"], "items"))
    config = to_values(infer_config(guess))
    if "test" in data:
        config["split"] = {"by": "files"} | ({} if "validation" in data else {"validation": 0.1})
    return data | {"config": config}


def measure(asked: Asked) -> Iterator[Figure]:
    """A study a set."""
    for name in list(BUDGETS)[:1] if asked.smoke else BUDGETS:
        tune = [f"tune.budget='{'30s' if asked.smoke else BUDGETS[name]}'", *(["tune.trials=2", *TINY] if asked.smoke else [])]
        told = tt.tune(**given(name), settings=[f"machine.threads={THREADS}", *tune, *asked.settings], output=asked.folder / name, overwrite=True)
        result, metric = told.result, told.result["metric"]
        states = {state: sum(trial["state"] == state for trial in result["trials"]) for state in ("finished", "behind", "broken off", "failed")}
        tried = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        figures = result["figures"].get("yours") or result["figures"]["best"]
        yield Figure(f"{name}, by default", quality.told(figures), "", dict(figures))
        if result["winner"] is None:
            yield Figure(f"{name}, tuned in {BUDGETS[name]}", f"left as it was; trials {tried}", "never worse", result)
            continue
        test = result["test"][metric]
        yield Figure(f"{name}, tuned in {BUDGETS[name]}", f"{quality.told(result['figures']['best'])}; trials {tried}", "", result)
        difference = f"{metric} {test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"
        yield Figure(f"{name}, tuned against the default", difference, "above 0 on two sets, never below", dict(test))
