"""ML-1M, leave-one-out: the last film of each user is the test pair, the second last the validation pair, all films ranked.

What the user saw before is left out of the ranking, as the published lines have it (`filter_rated` of gSASRec-pytorch); at the test the
history holds the validation film too. The mean of three seeds: its interval is of each user's mean over the seeds. RecTools' SASRec
trains on the validation films too, since its settings are fixed; one seed of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import quality
from benchmarks.environments import remembered
from benchmarks.rows import Asked, Figure

SEEDS = (0, 1, 2)
TINY = ("train.epochs=1", "query.features=[{type='history',last=20,pool='mean',items='ids'}]", "model.dimensions=16")
# As its documentation has it, but for the width, there 256, so that it trains in an hour or two on two cores, and for the epochs, there three:
# too few steps for so small a set. It ends after so many minutes, where it has not done them all; how many it did stands beside its figures.
SASREC = {
    "n_blocks": 2,
    "n_heads": 4,
    "n_factors": 128,
    "session_max_len": 200,
    "dropout_rate": 0.2,
    "loss": "softmax",
    "batch_size": 128,
    "lr": 0.001,
    "epochs": 60,
    "minutes": 150,
    "seed": 0,
}


def measure(asked: Asked) -> Iterator[Figure]:
    """Three seeds, their mean, the baselines and the peer."""
    tests = [quality.trained("ml1m", asked, TINY, f"seed{seed}", (f"train.seed={seed}",)) for seed in (SEEDS[:1] if asked.smoke else SEEDS)]
    first = tests[0]
    values = {name: np.mean([test.ours.values[name] for test in tests], axis=0) for name in first.ours.values}
    mean = first._replace(ours=quality.summarise_values(values, first.keys, first.options))
    each = "; ".join(", ".join(f"{f.value:.4f}" for f in test.ours.figures.values()) for test in tests)
    seconds = sum(test.run.metrics["training"]["training_seconds"] for test in tests)
    wanted = "recall@10 .308, ndcg@10 .180; go for .320, .188"
    told = f"{quality.told(mean.ours.figures)}; by seed {each}; {seconds:.0f} s of training in all"
    yield Figure(f"twotower, mean of {len(tests)} seeds", told, wanted, quality.numbers(mean.ours))
    yield from quality.of_baselines(first, "baseline")
    log = quality.log_of(first.prepared)
    tiny = {"epochs": 1, "n_factors": 16, "n_blocks": 1, "n_heads": 1, "session_max_len": 20} if asked.smoke else {}
    answer = remembered("sequences", {**SASREC, **tiny, **quality.sizes(first.prepared)}, {"keys": log["keys"], "items": log["items"]}, "rectools")
    yield from quality.of_peer(mean, "RecTools SASRec", answer)
