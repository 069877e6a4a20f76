"""Whether `drift` asks for training again when it should: on a made log whose tastes stand still or walk, and on the weeks of ml-100k.

The made log stands still for six weeks, of which the last two are validation and test. Then come weeks drawn like these, and others in which what
users like and what is popular has walked at random for one week to eight, as in the row of training again; each from seeds of its own. On
ml-100k, a model of the first weeks is asked about each week to come, most of it of new users.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks import sets
from benchmarks.rows import Asked, Figure
from benchmarks.rows.again import COMMON, ml_100k, week_of
from twotower.data.columns import Array
from twotower.runs import Run, drift, train
from twotower.runs.progress import Progress

SEEDS = 20
WALKS = (1, 2, 4, 8)  # weeks
FIRST, MORE = 14, 8  # the week of ml-100k that is tested, and how many come after it


class World(NamedTuple):
    """What users like, what things are like, and how popular and active they are."""

    taste: Array  # [users, d]
    nature: Array  # [items, d]
    liked: Array  # [items]
    activity: Array  # [users]


def world(seed: int, users: int = 1500, items: int = 800, d: int = 8) -> World:
    generator = np.random.default_rng(seed)
    taste, nature = generator.normal(size=(users, d)), generator.normal(size=(items, d))
    return World(taste, nature, generator.normal(size=items), generator.gamma(1.0, size=users))


def week(there: World, seed: int, pairs: int = 8000) -> pa.Table:
    """A week of choices."""
    generator = np.random.default_rng((1, seed))
    users = generator.choice(len(there.taste), pairs, p=there.activity / there.activity.sum())
    logits = 2.4 * there.taste[users] @ there.nature.T / there.nature.shape[1] ** 0.5 + there.liked
    return pa.table({"user": users, "thing": (logits + generator.gumbel(size=logits.shape)).argmax(1)})


def walked(there: World, weeks: int, seed: int) -> World:
    """The world some weeks later."""
    generator, taste, liked = np.random.default_rng((2, seed)), there.taste, there.liked
    for _ in range(weeks):
        taste = taste + 0.15 * generator.normal(size=taste.shape)
        liked = 0.97 * liked + 0.25 * generator.normal(size=liked.shape)
    return there._replace(taste=taste, liked=liked)


def trained(there: World, asked: Asked) -> Run:
    """A run on six weeks of a world that stands still."""
    weeks = [week(there, -seed - 1 + (1 << 20)) for seed in range(6)]
    parts = np.repeat(["train"] * 4 + ["validation", "test"], [each.num_rows for each in weeks])
    kinds = [[f"k{n}" for n in np.argsort(-one)[:2]] for one in there.nature]
    items = pa.table({"thing": np.arange(len(there.nature)), "kinds": kinds})
    config: dict[str, Any] = COMMON | {
        "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
        "item": {"id": "thing", "features": [{"column": "thing", "type": "id"}, {"column": "kinds", "type": "categories"}]},
    }
    return _train(pa.concat_tables(weeks).append_column("part", pa.array(parts)), items, config, asked, "made")


def _train(pairs: pa.Table, items: pa.Table, config: dict[str, Any], asked: Asked, name: str) -> Run:
    evaluate = COMMON["evaluate"] | {"baselines": []}
    folder = asked.folder / "drift" / name
    return train(pairs, items, config=config | {"evaluate": evaluate}, settings=asked.settings, output=folder, overwrite=True, progress=Progress())


def measure(asked: Asked) -> Iterator[Figure]:
    """How often it asks for training again."""
    there, seeds = world(0), range(2 if asked.smoke else SEEDS)
    run = trained(there, asked)
    like = [drift(run.retriever, week(there, seed)) for seed in seeds]
    quiet = float(np.mean([not each.pays for each in like]))
    fell = np.mean([float(each.figures[each.select].difference.value) / float(each.figures[each.select].launch.value) for each in like])  # type: ignore[union-attr]
    told = f"{quiet:.0%} of {len(like)} weeks no reason; metric {fell:+.1%} on average"
    yield Figure("made, weeks like launch", told, "90%", {"quiet": quiet})
    for weeks in WALKS[-1:] if asked.smoke else WALKS:
        found = [drift(run.retriever, week(walked(there, weeks, seed), seed)) for seed in seeds]
        pays = float(np.mean([each.pays for each in found]))
        change = np.mean([float(each.figures[each.select].difference.value) / float(each.figures[each.select].launch.value) for each in found])  # type: ignore[union-attr]
        told = f"{pays:.0%} of {len(found)} weeks a reason; metric {change:+.1%} on average"
        yield Figure(f"made, after walking for {weeks} week{'s' if weeks > 1 else ''}", told, "90%" if weeks == WALKS[-1] else "", {"pays": pays})
    log = ml_100k(sets.RAW / "ml-100k")
    pairs, items = week_of(log, FIRST)
    run = _train(pairs, items, COMMON | log.config, asked, "ml-100k")
    number = log.pairs["week"].to_numpy()
    for later in range(FIRST + 1, FIRST + (2 if asked.smoke else MORE) + 1):
        one = drift(run.retriever, log.pairs.filter(pa.array(number == later)))
        figure = one.figures[one.select]
        assert figure.launch is not None
        told = f"{'pays' if one.pays else 'no'} ({one.verdict}): {one.select} {float(figure.launch.value):.4f} to {float(figure.now.value):.4f}"
        yield Figure(f"ml-100k, week {later} after launch in week {FIRST}", f"{told}; {one.pairs:,} pairs of {one.keys:,} users")
