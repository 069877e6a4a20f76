"""Forecasts tried: each from a half or a quarter of what there is, or less, of what twice or four times as much then came to.

Trainings on nested subsets of a set are done once; a forecast from a share of it sees those of this share and less, as `forecast` would, three
trainings a size. Its interval should hold the truth - the mean of the trainings on the larger share - nine times in ten. Beside it stand
"nothing changes" and a straight line over the logarithm of the size. Measured by hit@10 (hit@1 where there are 77 items), by vectors, on
validation queries.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import quality, sets
from benchmarks.environments import MADE, THREADS
from benchmarks.fingerprints import digest, modules
from benchmarks.rows import Asked, Figure
from twotower import config as configs
from twotower.data.samples import load_sample
from twotower.data.sources import open_source
from twotower.learning import curves, subsets, training
from twotower.learning.subsets import AXES
from twotower.runs.progress import Progress
from twotower.runs.trials import Shop, fitted

SHARES = tuple(2.0**-n for n in range(6, -1, -1))
SIZES = 5  # that a forecast sees, where there are so many
GROUPS, EACH = 3, 3  # forecasts of a share, and trainings a size of each
TIMES = (2, 4)
FEWEST = 100  # training pairs


class Kind(NamedTuple):
    """A set and how it is read."""

    metric: str
    settings: tuple[str, ...]
    recipe: str = ""  # of recipes/, or else the config of a sample
    sample: str = ""


IDS = ("query.features=[{column='user_id',type='id'}]", "item.features=[{column='book_id',type='id'}]", "train.epochs=10", "evaluate.per='pair'")
FILMS = """
[data]
pairs = "{folder}/pairs.parquet"
[query]
key = "user"
features = [ {{ column = "user", type = "id" }} ]
[item]
id = "movie"
features = [ {{ column = "movie", type = "id" }} ]
[split]
by = "random"
[model]
dimensions = 64
"""
KINDS: dict[str, Kind] = {
    "tldr": Kind("hit@10", (), "tldr"),
    "banking77": Kind("hit@1", (), "banking77"),
    "insuranceqa": Kind("hit@10", (), "insuranceqa"),
    "goodbooks": Kind("hit@10", IDS, sample="goodbooks"),
    "ml100k": Kind("hit@10", ()),
}


def trainings(name: str, asked: Asked) -> list[dict[str, Any]]:
    """What every training on a part of a set came to: its share, number, size and value; those that the same code did before are kept."""
    kind = KINDS[name]
    measured = [
        f"evaluate.metrics=['{kind.metric}']",
        f"evaluate.select='{kind.metric}'",
        f"machine.threads={THREADS}",
        *kind.settings,
        *asked.settings,
    ]
    if kind.sample:
        sample = load_sample(kind.sample)
        chosen = configs.read(sample.config, measured)
        from twotower.data.preparation import prepare

        prepared = prepare(open_source(sample.pairs, "pairs"), open_source(sample.items, "items"), chosen.schema, chosen.split, MADE / "prepared")
    elif kind.recipe:
        for each in sets.read_by(kind.recipe):
            sets.made(each)
        chosen = configs.read(quality.HERE / "recipes" / f"{kind.recipe}.toml", measured)
        prepared = quality.prepared_of(chosen, MADE / "prepared")
    else:
        text = asked.folder / f"{name}.toml"
        text.write_text(FILMS.format(folder=sets.made(name)), encoding="utf-8")
        chosen = configs.read(text, measured)
        prepared = quality.prepared_of(chosen, MADE / "prepared")
    code = {digest(path) for module in (training, subsets) for path in modules(Path(module.__file__))}
    told = json.dumps([sorted(code), configs.to_toml(chosen, locations=False), prepared.folder.name])
    place = asked.folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.jsonl"
    done = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() and not asked.smoke else []
    known = {(one["share"], one["number"]) for one in done}
    shop = Shop(None, MADE / "prepared", None, None, Progress())  # type: ignore[arg-type]
    for share in SHARES[-2:] if asked.smoke else SHARES:
        for number in range(1 if asked.smoke else GROUPS * EACH):
            subset = AXES["queries"](prepared, share, SHARES[0], number)
            pairs = int((subset.prepared.parts == 0).sum())
            if (share, number) in known or pairs < FEWEST:
                continue
            own = configs.from_values(configs.override(configs.to_values(chosen), [f"train.seed={number}", *(["train.epochs=1"] * asked.smoke)]))
            _, _, found = fitted(shop, subset.prepared, own, 2000, lambda: False)
            done.append({"share": share, "number": number, "size": subset.size, "pairs": pairs, "value": found.value, "seconds": found.seconds})
            with place.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[-1]) + "\n")
    return done


class Tried(NamedTuple):
    """One forecast, and what became of it."""

    name: str
    times: int
    value: float
    low: float
    high: float
    truth: float
    same: float  # what "nothing changes" says
    line: float  # what a straight line says
    sound: bool


def tried(name: str, done: list[dict[str, Any]]) -> Iterator[Tried]:
    """All forecasts of a set."""
    shares = sorted({one["share"] for one in done})
    for times in TIMES:
        for goal in shares:
            seen = [share for share in shares if share <= goal / times][-SIZES:]
            if len(seen) < curves.FEWEST_SIZES or seen[-1] != goal / times:
                continue
            truths = [one for one in done if one["share"] == goal]
            truth, size = float(np.mean([one["value"] for one in truths])), truths[0]["size"]
            for group in range(GROUPS):
                own = [one for one in done if one["share"] in seen and one["number"] // EACH == group]
                sizes, values = (np.array([one[what] for one in own], np.float64) for what in ("size", "value"))
                generator = np.random.default_rng(group)
                curve = curves.fit(sizes, values, generator)
                found = curves.forecast(curve, size, generator)
                last = float(values[sizes == sizes.max()].mean())
                slope, start = np.polyfit(np.log(sizes), values, 1)
                line = float(np.clip(start + slope * np.log(size), 0, 1))
                yield Tried(name, times, found.value, found.low, found.high, truth, last, line, curve.is_sound)


def measure(asked: Asked) -> Iterator[Figure]:
    """The sets, then all of them together."""
    found: list[Tried] = []
    for name in ("banking77",) if asked.smoke else KINDS:
        done = trainings(name, asked)
        points = {share: np.mean([one["value"] for one in done if one["share"] == share]) for share in sorted({one["share"] for one in done})}
        told = ", ".join(f"{share:.3g}: {value:.3f}" for share, value in points.items())
        yield Figure(f"{name}, {KINDS[name].metric} by share of the queries", told, "", {"trainings": done})
        found += tried(name, done)
    yield from summary(found)


def summary(found: list[Tried]) -> Iterator[Figure]:
    """How often intervals hold the truth, and how far off forecasts are."""
    sound = [one for one in found if one.sound]
    yield Figure("forecasts", f"{len(sound)}, and {len(found) - len(sound)} refused since no power law fits", "40")
    for times in TIMES:
        own = [one for one in sound if one.times == times]
        if not own:
            continue
        off, same, line = (np.median([abs(getattr(one, what) - one.truth) for one in own]) for what in ("value", "same", "line"))
        wanted = {2: "under .015", 4: "under .03"}[times] + ", under half of both"
        told = f"{off:.4f}; nothing changes {same:.4f}, a straight line {line:.4f}; {len(own)} forecasts"
        yield Figure(
            f"median absolute error at {times} times the data", told, wanted, {"error": float(off), "same": float(same), "line": float(line)}
        )
    if sound:
        held = float(np.mean([one.low <= one.truth <= one.high for one in sound]))
        yield Figure("90% intervals that hold the truth", f"{held:.0%}", "80-97%", {"held": held, "forecasts": [one._asdict() for one in found]})
