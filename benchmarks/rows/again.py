"""Training again against a cold start, over eight rolling weeks of two logs with times.

Each week both get the whole log so far: its last week chooses the epoch, the week to come is the test. A cold start begins from nothing;
training again begins from what training again made the week before, the first time from a cold start of a week earlier. Time is of the
processor, from the first step to the weights that are kept, validation included. The logs: ml-100k, which is mostly of new users each
week, so that what is known of these counts; and a made one, in which what users like and what is popular drifts, and new
users and items arrive.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks import sets
from benchmarks.rows import Asked, Figure
from twotower import config as configs
from twotower.config import Config
from twotower.data.columns import Array
from twotower.data.encoder import Encoder
from twotower.data.preparation import prepare
from twotower.data.prepared import Prepared
from twotower.data.sources import open_source
from twotower.data.splits import TEST
from twotower.learning import training
from twotower.learning.checkpoints import TrainState
from twotower.learning.evaluation import cases_of, dot_scorer, evaluate
from twotower.learning.inheritance import inherit
from twotower.learning.statistics import interval
from twotower.learning.views import before, blocks, encoded, reading
from twotower.model.optimizers import TABLES
from twotower.model.towers import build

WEEKS = 8
WEEK = 7 * 86_400
METRIC = "ndcg@20"


COMMON: dict[str, Any] = {
    "split": {"by": "column", "column": "part"},
    "model": {"dimensions": 32},
    "train": {"epochs": 10},
    "evaluate": {"metrics": [METRIC], "select": METRIC, "per": "pair"},
}


class Log(NamedTuple):
    """A log with times, and its catalogue."""

    pairs: pa.Table  # with a column `week`, from 0
    items: pa.Table  # with a column `since`, the week from which it is there
    config: dict[str, Any]


def ml_100k(folder: Path) -> Log:
    """What users rated, by week; a film is there from the first week that anybody rates it."""
    with gzip.open(folder / "u.data.gz", "rt") as file:
        rated = np.array([line.split() for line in file], np.int64)
    rated = rated[np.argsort(rated[:, 3], kind="stable")]
    people = [line.split("|") for line in (folder / "u.user").read_text("latin-1").splitlines()]
    known = {int(number): (int(age), sex, job) for number, age, sex, job, _ in people}
    week = (rated[:, 3] - rated[0, 3]) // WEEK
    columns = {"user": rated[:, 0], "film": rated[:, 1], "time": rated[:, 3], "week": week}
    columns |= {name: [known[user][n] for user in rated[:, 0].tolist()] for n, name in enumerate(("age", "sex", "job"))}
    films = [line.split("|") for line in (folder / "u.item").read_text("latin-1").splitlines()]
    since = dict(zip(rated[::-1, 1].tolist(), week[::-1].tolist(), strict=True))
    genres = [[f"g{n}" for n, there in enumerate(film[5:]) if there == "1"] for film in films]
    number = [int(film[0]) for film in films]
    items = {"film": number, "title": [film[1] for film in films], "genres": genres, "since": [since[n] for n in number]}
    person = [{"column": "age", "type": "number"}, {"column": "sex", "type": "category"}, {"column": "job", "type": "category"}]
    config = {
        "pairs": {"time": "time"},
        "query": {"key": "user", "features": [{"column": "user", "type": "id"}, *person]},
        "item": {
            "id": "film",
            "features": [
                {"column": "film", "type": "id"},
                {"column": "title", "type": "text", "pairs": False, "pieces": []},
                {"column": "genres", "type": "categories"},
            ],
        },
        "train": COMMON["train"] | {"table_learning_rate": 0.01},  # a cold start's best, of 0.1, 0.03 and 0.01, on validation pairs
    }
    return Log(pa.table(columns), pa.table(items), config)


def made(seed: int = 0, first: int = 6, users: int = 1500, items: int = 800, pairs: int = 8000) -> Log:
    """Tastes and popularity that walk at random from week to week; each week a fiftieth more users and items arrive."""
    generator = np.random.default_rng(seed)
    weeks, d = first + WEEKS + 1, 8
    user_since = np.concatenate([np.zeros(users, int), np.repeat(np.arange(1, weeks), users // 50)])
    item_since = np.concatenate([np.zeros(items, int), np.repeat(np.arange(1, weeks), items // 50)])
    taste, nature = generator.normal(size=(len(user_since), d)), generator.normal(size=(len(item_since), d))
    liked, activity = generator.normal(size=len(item_since)), generator.gamma(1.0, size=len(user_since))
    rows = []
    for week in range(weeks):
        there = item_since <= week
        drawn = generator.choice(len(taste), pairs, p=np.where(user_since <= week, activity, 0) / activity[user_since <= week].sum())
        logits = np.where(there, 1.2 * taste[drawn] @ nature.T / d**0.5 * 2 + liked, -np.inf)
        chosen = (logits + generator.gumbel(size=logits.shape)).argmax(1)
        rows.append(np.stack([drawn, chosen, week * WEEK + np.sort(generator.integers(0, WEEK, pairs)), np.full(pairs, week)], axis=1))
        taste += 0.15 * generator.normal(size=taste.shape)
        liked = 0.97 * liked + 0.25 * generator.normal(size=liked.shape)
    log = np.concatenate(rows)
    kinds = [[f"k{n}" for n in np.argsort(-one)[:2]] for one in nature]
    config = {
        "pairs": {"time": "time"},
        "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
        "item": {"id": "thing", "features": [{"column": "thing", "type": "id"}, {"column": "kinds", "type": "categories"}]},
    }
    pairs_table = pa.table(dict(zip(("user", "thing", "time", "week"), log.T, strict=True)))
    return Log(pairs_table, pa.table({"thing": np.arange(len(nature)), "kinds": kinds, "since": item_since}), config)


LOGS = {"ml-100k": lambda: ml_100k(sets.RAW / "ml-100k"), "made": made}


class Trained(NamedTuple):
    """A model at its best epoch, and what it took."""

    state: TrainState
    encoder: Encoder
    values: Array  # of the metric, one a ranking
    keys: Array  # who asked each
    seconds: float
    steps: int


def week_of(log: Log, week: int) -> tuple[pa.Table, pa.Table]:
    """The pairs up to the end of a week, each with its part, and the items that are there by then."""
    number = log.pairs["week"].to_numpy()
    pairs = log.pairs.filter(pa.array(number <= week))
    part = np.select([number[number <= week] == week, number[number <= week] == week - 1], ["test", "validation"], "train")
    items = log.items.filter(pa.array(log.items["since"].to_numpy() <= week))
    return pairs.append_column("part", pa.array(part)), items.drop_columns(["since"])


def train(pairs: pa.Table, items: pa.Table, chosen: Config, cache: Path, last: Trained | None) -> Trained:
    """A model of these data, from nothing or from the last one."""
    sources = open_source(pairs, "pairs"), open_source(items, "items")
    prepared = prepare(*sources, chosen.schema, chosen.split, cache, last=None if last is None else last.encoder)
    options = chosen.train if last is None else chosen.train.continued()
    data = training.data_of(prepared, options, chosen.evaluate)
    state = training.start(build(prepared.encoder, chosen.model, options.seed), data, options)
    begun = time.process_time()
    if last is not None:
        inherit(state, prepared.encoder, last.state, last.encoder, TABLES[options.table_optimizer].kept)
    training.fit(state, data, options, chosen.evaluate, known=last is not None)
    seconds = time.process_time() - begun
    values, keys = measured(prepared, state, chosen)
    return Trained(state, prepared.encoder, values, keys, seconds, state.step)


def measured(prepared: Prepared, state: TrainState, chosen: Config) -> tuple[Array, Array]:
    """(the metric of every pair of the week to come, the user of each)."""
    read = reading(prepared.encoder, prepared.columns["item"])
    seen = before(prepared, TEST, read)
    asked = cases_of(prepared, TEST, chosen.evaluate, seen)
    vectors = state.model.encode("item", prepared.columns["item"]).numpy()
    parts = blocks(prepared.encoder, prepared.columns["query"], asked, seen, read, vectors)
    queries = encoded(asked, chosen.model.dimensions, parts, lambda columns: state.model.encode("query", columns).numpy())
    found = evaluate(dot_scorer(queries, vectors), asked, prepared.n_items, chosen.evaluate)
    return found.values[METRIC], np.repeat(prepared.key_names[asked.query_keys], np.diff(asked.relevant.offsets))


class Week(NamedTuple):
    """One week of both."""

    week: int
    cold: Trained
    again: Trained


def rolled(log: Log, settings: Sequence[str], cache: Path, weeks: int) -> Iterator[Week]:
    """Both, for each of the last weeks."""
    chosen = configs.from_values(configs.override(COMMON | log.config, settings))
    newest = int(log.pairs["week"].to_numpy().max())
    last = train(*week_of(log, newest - weeks), chosen, cache, None)
    for week in range(newest - weeks + 1, newest + 1):
        tables = week_of(log, week)
        cold, last = train(*tables, chosen, cache, None), train(*tables, chosen, cache, last)
        yield Week(week, cold, last)


def measure(asked: Asked) -> Iterator[Figure]:
    """Each week of both logs, and their means."""
    for name, make in LOGS.items():
        weeks = []
        for one in rolled(make(), asked.settings, asked.folder / "again", 1 if asked.smoke else WEEKS):
            weeks.append(one)
            told = f"{METRIC} {one.cold.values.mean():.4f} cold, {one.again.values.mean():.4f} again"
            yield Figure(f"{name}, week {one.week}", f"{told}; {one.again.steps} steps against {one.cold.steps}")
        ratio = sum(one.again.seconds for one in weeks) / sum(one.cold.seconds for one in weeks)
        yield Figure(f"{name}, time of training again over that of a cold start", f"{ratio:.2f}", "0.25", {"ratio": ratio})
        difference = np.concatenate([one.again.values - one.cold.values for one in weeks])
        users = np.unique(np.concatenate([one.again.keys for one in weeks]), return_inverse=True)[1]
        found = interval(difference[:, None], groups=users, generator=np.random.default_rng(0))
        told = f"{METRIC} {found.value[0]:+.4f} [{found.low[0]:+.4f}, {found.high[0]:+.4f}]"
        yield Figure(f"{name}, again against cold, paired by user", told, "not below 0", {"difference": float(found.value[0])})
