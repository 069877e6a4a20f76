"""What measuring a model costs: exact ranking beside the bare matrix product, its memory, intervals and tests, a report.

Made vectors of the size of Gowalla: 29,858 users, 40,981 items, 64 dimensions, 27 items seen and 7 asked for by each user. The bare product is of the
same blocks and is thrown away. Ranking and product take turns in one process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import twotower as tt
from benchmarks.processes import forget, held, peak, told_by
from benchmarks.rows import Asked, Figure
from twotower.data.columns import Ragged
from twotower.learning.evaluation import Cases, dot_scorer, rank, rows_at_once
from twotower.learning.evaluation import measure as measured
from twotower.learning.lists import top
from twotower.learning.statistics import interval, paired_test

USERS, ITEMS, DIMENSIONS, SEEN, WANTED = 29_858, 40_981, 64, 27, 7
QUERIES, METRICS = 30_000, 4
TOP = 20
TURNS = 3


def measure(asked: Asked) -> Iterator[Figure]:
    """Rank, test, report."""
    users = 600 if asked.smoke else USERS
    found = told_by("benchmarks.rows.evaluation", "rank", str(users))
    told = f"{found['rank']:.2f} s, the bare product {found['product']:.2f} s: {found['rank'] / found['product']:.2f}x"
    yield Figure(f"ranks of {WANTED} items for each of {users:,} users among {ITEMS:,}, {SEEN} seen left out", told, "", found)
    told = f"{found['top']:.2f} s: {found['top'] / found['product']:.2f}x"
    yield Figure(f"the first {TOP} for each of them, the same left out", told, "1.5x")
    yield Figure("its peak memory, in all", f"{found['peak'] / 1e9:.2f} GB, {found['held'] / 1e9:.2f} GB of it held before", "1 GB")
    found = told_by("benchmarks.rows.evaluation", "test", str(600 if asked.smoke else QUERIES))
    yield Figure(f"metrics, intervals and a paired test of {METRICS} metrics over {QUERIES:,} queries", f"{sum(found.values()):.2f} s", "5 s", found)
    yield from _report(asked)


def _report(asked: Asked) -> Iterator[Figure]:
    """The report of a run on the sample `tldr`."""
    from twotower.app.reporting import account_of
    from twotower.app.reports import render
    from twotower.app.reports.account import account
    from twotower.data.samples import load_sample

    sample = load_sample("tldr")
    tiny = ["train.epochs=1", "model.dimensions=16"] if asked.smoke else []
    run = tt.train(sample.pairs, sample.items, config=sample.config, settings=tiny, output=asked.folder / "tldr", overwrite=True)
    begun = time.perf_counter()
    place = run.folder / "report.html"
    page = render(account(account_of(run.folder)), place)
    seconds = time.perf_counter() - begun
    yield Figure("a report of a run on tldr", f"{seconds:.1f} s, {len(page.encode()) / 1e6:.2f} MB", "10 s, 3 MB", {"seconds": seconds})


def _vectors(users: int) -> tuple[np.ndarray, np.ndarray, Ragged, Ragged]:
    generator = np.random.default_rng(0)
    made = [generator.standard_normal((n, DIMENSIONS), dtype=np.float32) for n in (users, ITEMS)]
    drawn = np.stack([generator.choice(ITEMS, SEEN + WANTED, replace=False) for _ in range(users)])
    seen, wanted = (Ragged(np.ascontiguousarray(part).reshape(-1), np.arange(users + 1) * part.shape[1]) for part in np.split(drawn, [SEEN], axis=1))
    return made[0], made[1], seen, wanted


def _taken(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ranking(users: int) -> dict[str, float]:
    """Seconds of both, the least of some turns, and bytes."""
    queries, items, seen, wanted = _vectors(users)
    scorer, block = dot_scorer(queries, items), rows_at_once(ITEMS)

    def product() -> None:
        for start in range(0, users, block):
            scorer(slice(start, min(users, start + block)))

    before = held()
    forget()
    asked, everybody = Cases(np.arange(users), np.arange(users), wanted, seen), np.arange(users)
    ways = (lambda: rank(scorer, wanted, seen, per="query", n_items=ITEMS), lambda: top(scorer, asked, everybody, ITEMS, TOP), product)
    ranked, first, bare = (min(part) for part in zip(*([_taken(way) for way in ways] for _ in range(TURNS)), strict=True))
    return {"rank": ranked, "top": first, "product": bare, "peak": peak(), "held": before}


def testing(queries: int) -> dict[str, float]:
    """Seconds of metrics, intervals and a paired test."""
    vectors, items, seen, wanted = _vectors(min(queries, 600))
    part = rank(dot_scorer(vectors, items), wanted, seen, per="query", n_items=ITEMS)
    times = -(-queries // len(vectors))
    offsets = np.arange(times * len(vectors) + 1) * WANTED
    ranks = part._replace(
        above=np.tile(part.above, times), tied=np.tile(part.tied, times), offsets=offsets, n_candidates=np.tile(part.n_candidates, times)
    )
    names = ("recall@20", "ndcg@20", "mrr", "map")
    values: dict[str, Any] = {}
    seconds = {"metrics": _taken(lambda: values.update(measured(ranks, names)))}
    stacked = np.stack(list(values.values()), axis=1)
    other = np.random.default_rng(1).permutation(stacked)
    seconds["intervals"] = _taken(lambda: interval(stacked, generator=np.random.default_rng(0)))
    seconds["test"] = _taken(lambda: paired_test(stacked, other, generator=np.random.default_rng(0)))
    return seconds


if __name__ == "__main__":
    print(json.dumps({"rank": ranking, "test": testing}[sys.argv[1]](int(sys.argv[2]))))
