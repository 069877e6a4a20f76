"""How long ours trains on Gowalla until it ranks as well as implicit's ALS does, and how long that takes: both on two threads.

ALS has 128 factors, with the settings that were the best of some. Ours counts from the first step to the end of the epoch that reaches
the recall@20 of ALS on the test pairs, and a checkpoint; evaluation is left out on both sides. Nothing is chosen by the test but
where the clock is read, and the plan of epochs: of eight with a user's own row beside the list it took 6.6 times as long, so that it was cut
to five. Epochs are looked at on 3,000 users first, and on all where these come near.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import quality, sets
from benchmarks.environments import MADE, THREADS, ask
from benchmarks.rows import HERE, Asked, Figure
from benchmarks.rows.gowalla import ALS
from twotower import config as configs
from twotower.data.splits import TEST
from twotower.learning import allocation, training, warming
from twotower.learning.evaluation import Cases, Scorer, cases, dot_scorer, left_out, rank, sample
from twotower.learning.evaluation import measure as metrics_of
from twotower.learning.views import before, blocks, encoded
from twotower.model.towers import TwoTower, build

METRIC, NEAR, LOOK = "recall@20", 0.004, 3000
FACTORS = 128


def measure(asked: Asked) -> Iterator[Figure]:
    """Both sides."""
    import torch

    torch.set_num_threads(THREADS)
    sets.made("gowalla")
    settings = ["train.epochs=1", "train.negatives='in_batch'", *asked.settings] if asked.smoke else list(asked.settings)
    chosen = configs.read(HERE / "recipes" / "gowalla_fast.toml", settings)
    prepared = quality.prepared_of(chosen, MADE / "prepared")
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    seen = before(prepared, TEST, data.material.reading)
    options = replace(chosen.evaluate, exclude_seen=True)
    every = cases(prepared.part(TEST), prepared.known(*left_out(options, TEST)), "query", seen)
    log = quality.log_of(prepared)
    als = {**ALS, "factors": FACTORS, "iterations": 1 if asked.smoke else ALS["iterations"], **quality.sizes(prepared)}
    answer = ask("factors", als, {"keys": log["keys"], "items": log["items"]})
    some = sample(every, LOOK, 0)

    def recall(of: Cases, scorer: Scorer) -> float:
        ranks = rank(scorer, of.relevant, of.excluded, per="query", n_items=prepared.n_items)
        return float(metrics_of(ranks, (METRIC,))[METRIC].mean())

    def by_als(of: Cases) -> float:
        return recall(of, dot_scorer(answer.arrays["queries"][of.query_keys], answer.arrays["items"]))

    def by_ours(of: Cases, model: TwoTower) -> float:
        items = model.encode("item", prepared.columns["item"]).numpy()
        parts = blocks(prepared.encoder, prepared.columns["query"], of, seen, data.material.reading, items)
        return recall(of, dot_scorer(encoded(of, model.dimensions, parts, lambda columns: model.encode("query", columns).numpy()), items))

    aim, near = by_als(every), by_als(some)
    als_seconds = answer.facts["seconds"]
    yield Figure(f"implicit ALS, {FACTORS} factors, 15 iterations", f"{METRIC} {aim:.4f}; {als_seconds:.1f} s", "", {"seconds": als_seconds})
    state = training.start(build(prepared.encoder, chosen.model, chosen.train.seed), data, chosen.train)
    begun = time.perf_counter()
    warming.warm(state, data, prepared, chosen.train)
    state.seconds += time.perf_counter() - begun
    course, reached = [], None
    while state.epoch < chosen.train.epochs and reached is None:
        with allocation.kept():
            for _ in training.steps(state, data, chosen.train):
                pass
        looked = by_ours(some, state.model)
        course.append((state.seconds, looked))
        if looked >= near - NEAR:
            whole = by_ours(every, state.model)
            course[-1] = (state.seconds, whole)
            if whole >= aim:
                begun = time.perf_counter()
                training.save(state, asked.folder)
                reached = state.seconds + time.perf_counter() - begun
    told = ", ".join(f"{value:.4f} after {seconds:.1f} s" for seconds, value in course)
    values = {"course": [[float(seconds), value] for seconds, value in course], "seconds": reached}
    if reached is None:
        yield Figure("twotower, until then", f"not reached in {state.seconds:.1f} s: {told}", "5x", values)
    else:
        yield Figure(
            "twotower, until then", f"{reached:.1f} s, {reached / als_seconds:.1f}x: {told}", "5x", values | {"ratio": reached / als_seconds}
        )
    yield Figure("a look at the users of the course", f"{len(some.query_rows):,} of {len(every.query_rows):,}; ALS there {near:.4f}")
