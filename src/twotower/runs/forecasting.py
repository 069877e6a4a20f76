"""Whether more data would help: trainings on nested subsets, the curve that they lie on, and what else would help.

forecast/   config.toml  data.json  trainings.jsonl  values/  suspects.safetensors  forecast.json  prepared/

Everything is measured on validation pairs, by vectors; the test pairs stay closed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import twotower.runs.suspicion as suspicion
from twotower import config as configs
from twotower import files
from twotower.config import Config
from twotower.data.columns import Array
from twotower.data.prepared import Prepared
from twotower.data.splits import TRAIN, VALIDATION
from twotower.errors import BundleError, ConfigError, DataError
from twotower.learning import curves, distributed, suspects
from twotower.learning.evaluation import dot_scorer, list_keys, measure, ranks_of
from twotower.learning.options import seconds_of
from twotower.learning.statistics import holm, paired_test
from twotower.learning.subsets import AXES, Subset, enough, matched
from twotower.runs.estimates import probe
from twotower.runs.progress import Progress, telling
from twotower.runs.remedies import DROPPED, MENDED, changed_by, heavier, remedies_of
from twotower.runs.resumption import same_config
from twotower.runs.run import Stopped, begun_of
from twotower.runs.settings import settle
from twotower.runs.signals import interrupts
from twotower.runs.starved import starved
from twotower.runs.study import spoken
from twotower.runs.suspicion import asked_as
from twotower.runs.trials import Shop, Tried, fitted, prepared_for

if TYPE_CHECKING:
    from twotower.learning.training import Data
    from twotower.model.towers import TwoTower

OURS = {"config.toml", "data.json", "trainings.jsonl", "values", "suspects.safetensors", "forecast.json", "report.html"}
CACHE = "prepared"
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
TIMES = (2, 5, 10)  # the data
SEEDS = 3
MOST_PAIRS_ALONE = 1.5  # pairs a query, up to which thinning them out says nothing
SUSPECTED = "suspects.safetensors"
OVERHEAD = 1.5  # seconds of a training beside its steps
ENCODED = 80  # texts a second by a pretrained encoder, which reads each once


class Work(NamedTuple):
    """One training to do."""

    axis: str
    share: float
    seed: int
    remedy: str = ""  # by name, or none


class Done(NamedTuple):
    """What it came to."""

    work: Work
    size: int  # of what its axis counts
    value: float
    seconds: float
    key: str  # names its values


@dataclass(frozen=True)
class Forecasted:
    """A finished forecast."""

    folder: Path

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of `forecast.json`."""
        return dict(files.read_json(self.folder / "forecast.json"))

    def __repr__(self) -> str:
        return f"<Forecasted {self.folder}: {len(self.result['trainings'])} trainings>"


def forecast(
    pairs: Any = None,
    items: Any = None,
    *,
    queries: Any = None,
    validation: Any = None,
    test: Any = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    settings: Sequence[str] = (),
    budget: str = "20m",
    target: float | None = None,
    output: str | Path = "runs/forecast",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Forecasted:
    """What more data would bring, and what else would.

    Data, config and settings are those of `train`. budget: of time, once the data are prepared. target: a value of the selecting metric to
    reach. resume: go on with the trainings that are there. Raises ConfigError for a budget without room for one curve or a forecast of another
    config, BundleError for one of other data, DataError for data whose smallest part says nothing; Stopped where it was asked to stop.
    """
    if distributed.several():
        raise ConfigError("a forecast trains many small models, one after another: start it without torchrun")
    limit = seconds_of(budget)
    if target is not None and not 0 < target < 1:
        raise ConfigError(f"a target is a value of the selecting metric, between 0 and 1, and it is {target}")
    given = {"pairs": pairs, "items": items, "queries": queries, "validation": validation, "test": test}
    chosen, sources, _ = settle(given, config, settings)
    if chosen.model.body == "custom":
        raise ConfigError('a forecast knows no modules of your own: set another [model] body than "custom"')
    folder = Path(output)
    with telling(progress) as told, files.held(folder):
        if resume:
            same_config(folder, chosen)
        else:
            files.claim_folder(folder, overwrite=overwrite, ours=OURS | {CACHE}, room=100 << 20)
        with interrupts() as event:
            bench = _Bench(folder, chosen, Shop(sources, folder / CACHE, None, None, told), event.is_set)
            works = bench.open(limit, fresh=not resume)
            for work in works:
                bench.do(work)
            files.write_json(folder / "forecast.json", bench.told(target, budget))
    return Forecasted(folder)


class _Bench:
    """Where trainings are done, each once."""

    def __init__(self, folder: Path, chosen: Config, shop: Shop, asked: Any) -> None:
        self.folder, self.chosen, self.shop, self.asked = folder, chosen, shop, asked
        self.done: list[Done] = []

    def open(self, limit: float, fresh: bool) -> list[Work]:
        """Prepare the data, plan what fits into the time, and say so."""
        existed = self.shop.cache.exists()
        try:
            works = self._plan(limit)
        except Exception:
            if fresh and not existed:
                files.remove_folder(self.shop.cache)
            raise
        if fresh:
            files.empty_folder(self.folder, OURS)
            files.write_text(self.folder / "config.toml", configs.to_toml(self.chosen))
            files.write_json(self.folder / "data.json", {"prepared": self.prepared.folder.name})
        elif files.read_json(self.folder / "data.json")["prepared"] != self.prepared.folder.name:
            raise BundleError(f"the data of {self.folder} have changed since it was begun, so it cannot be continued. Start anew with --overwrite.")
        files.make_folder(self.folder / "values")
        for line in files.read_lines(self.folder / "trainings.jsonl"):
            self.done.append(Done(Work(**line["work"]), *(line[name] for name in Done._fields[1:])))
        return works

    def _plan(self, limit: float) -> list[Work]:
        progress, begun = self.shop.progress, time.monotonic()
        progress.stage("preparing the data")
        self.prepared = prepared_for(self.shop, self.chosen)
        progress.stage("trying some steps")
        model, data, state = begun_of(self.prepared, self.chosen, None, Progress())
        took = probe(self.prepared, model, data, state, self.chosen.train)
        self.shop = self.shop._replace(queries=len(data.validation.query_rows))
        whole = took.epochs * took.epoch_seconds + took.catalogue_seconds
        self.shares = _shares(self.prepared)
        self.remedies = dict(remedies_of(self.chosen))
        found, spent, looked = list[Work](), 0.0, False
        by_items = enough(AXES["items"](self.prepared, self.shares[-4], self.shares[0], 0))
        for work in _wanted(self.shares, list(self.remedies), _pairs_a_query(self.prepared)):
            if work.axis == "items" and not by_items:
                continue
            looks = work.remedy in (DROPPED, MENDED) and not looked
            takes = OVERHEAD + whole * (work.share * heavier(work.remedy) + looks)
            if "pretrained" in self.remedies.get(work.remedy, ()) and not work.seed:
                takes += (self.prepared.n_items + self.prepared.queries.num_rows) / ENCODED
            if spent + takes > limit and len(found) < len(self.shares):
                needed = sum(OVERHEAD + whole * share for share in self.shares)
                raise ConfigError(
                    f"one curve takes {len(self.shares)} trainings, about {spoken(needed)}, and the budget is {spoken(limit)}. "
                    f"Give --budget {max(1, round(2 * needed / 60 + 0.5))}m or more."
                )
            if spent + takes <= limit:
                found.append(work)
                spent += takes
                looked |= looks
        progress.note(f"{len(found)} trainings, about {spoken(spent)}; the data took {spoken(time.monotonic() - begun)}")
        return found

    def do(self, work: Work) -> None:
        """Train, measure and keep, unless that was done."""
        named = work.remedy or f"{work.share:.3g} of the {work.axis}"
        try:
            self._do(work, f"{named}, seed {work.seed + 1}")
        except (ConfigError, DataError) as error:
            if not work.remedy:
                raise
            self.shop.progress.note(f"{named}: cannot be trained: {str(error).splitlines()[0]}")

    def _do(self, work: Work, named: str) -> None:
        if any(done.work == work for done in self.done):
            return
        self.shop.progress.stage(named)
        chosen = self.chosen if not work.remedy else changed_by(self.chosen, self.remedies[work.remedy])
        chosen = replace(chosen, train=replace(chosen.train, seed=self.chosen.train.seed + work.seed))
        prepared = self.prepared if not work.remedy else prepared_for(self.shop, chosen)
        subset = AXES[work.axis](prepared, work.share, self.shares[0], work.seed if work.share < 1 else 0)
        if work.remedy in (DROPPED, MENDED):
            wrong = self._suspects()
            rows, items = wrong["rows"], wrong["instead"]
            if not len(rows):
                self.shop.progress.note("no pair looks wrong")
                return
            changed = suspects.without(prepared, rows) if work.remedy == DROPPED else suspects.mended(prepared, rows, items)
            subset = subset._replace(prepared=changed)
        key = _key(subset, work)
        same = next((done for done in self.done if done.key == key), None)
        if same is None:
            model, data, found = self._fitted(subset.prepared, chosen)
            if work.remedy in (DROPPED, MENDED):
                data = asked_as(prepared, data, chosen.evaluate, self.shop.queries)
            values, keys, items = _values(model, data, chosen)
            files.write_tensors(self.folder / "values" / f"{key}.safetensors", {"values": values, "keys": keys, "items": items})
            same = Done(work, subset.size, float(values.mean()), found.seconds, key)
        done = same._replace(work=work, size=subset.size)
        self.done.append(done)
        files.append_line(self.folder / "trainings.jsonl", done._asdict())
        self.shop.progress.note(f"{named}  {self.chosen.evaluate.select} {done.value:.4f}  {done.seconds:.0f} s")

    def _fitted(self, prepared: Prepared, chosen: Config) -> tuple[TwoTower, Data, Tried]:
        model, data, found = fitted(self.shop, prepared, chosen, self.shop.queries, self.asked)
        if not found.finished:
            raise Stopped(f"stopped; the trainings that were finished are kept in {self.folder}. Go on with --resume and the same config.")
        return model, data, found

    def _suspects(self) -> dict[str, Array]:
        """The pairs that look wrong, the worst first; found once."""
        found = self._looked()
        if found is None:
            self.shop.progress.stage("looking for pairs that look wrong")
            found = suspicion.suspected(self.prepared, self.chosen, self._fitted)
            files.write_tensors(self.folder / SUSPECTED, found)
        return found

    def _looked(self) -> dict[str, Array] | None:
        """What was found, or None where nobody looked for all of it."""
        place = self.folder / SUSPECTED
        found = files.read_tensors(place) if place.exists() else {}
        return found if "instead" in found else None

    # --- what it says ---------------------------------------------------------------------------------------------

    def told(self, target: float | None, budget: str) -> dict[str, Any]:
        """All that there is to say, in numbers."""
        generator = np.random.default_rng(self.chosen.evaluate.seed)
        whole = [done for done in self.done if done.work.axis == "queries" and done.work.share == 1 and not done.work.remedy]
        axes = {axis: curve for axis in AXES if (curve := self._axis(axis, target, generator)) is not None}
        return {
            "metric": self.chosen.evaluate.select,
            "budget": budget,
            "target": target,
            "now": {
                "value": float(np.mean([done.value for done in whole])),
                "pairs": int(matched(self.prepared).sum()),
                "queries": whole[0].size,
                "items": self.prepared.n_items,
                "rankings": len(self._kept(whole[0])["values"]),
                "seeds": len(whole),
            },
            "axes": axes,
            "remedies": _corrected(
                [self._remedy(name, whole, generator) for name in self.remedies if any(done.work.remedy == name for done in self.done)]
            ),
            "slices": self._starved(whole, generator),
            "suspects": self._told_suspects(),
            "trainings": [done._asdict() | {"work": done.work._asdict()} for done in self.done],
        }

    def _axis(self, axis: str, target: float | None, generator: np.random.Generator) -> dict[str, Any] | None:
        points = [done for done in self.done if done.work.axis == axis and not done.work.remedy]
        sizes = np.array([done.size for done in points], np.float64)
        if len(np.unique(sizes)) < curves.FEWEST_SIZES:
            return None
        values = np.array([done.value for done in points])
        told: dict[str, Any] = {"points": [{"size": done.size, "seed": done.work.seed, "value": done.value} for done in points]}
        if axis == "items":
            # A larger catalogue makes it harder: what falls with the logarithm is told as it is, and nothing beyond.
            return told | {"shape": "falling" if values[sizes == sizes.max()].mean() < values[sizes == sizes.min()].mean() else "rising"}
        curve = curves.fit(sizes, values, generator)
        now, largest = curves.forecast(curve, curve.largest, generator), curve.largest
        told |= {"shape": "power law", "off": curve.off, "sound": curve.is_sound, "noise": curve.noise, "here": now._asdict()}
        told |= {"smallest": curve.smallest, "largest": largest}
        if not curve.is_sound:
            return told
        told["at"] = {str(times): curves.forecast(curve, times * largest, generator)._asdict() for times in TIMES}
        told["ceiling"] = dict(zip(("low", "value", "high"), np.quantile(curve.ceilings, (0.05, 0.5, 0.95)).tolist(), strict=True))
        if target is not None:
            reached = curves.needed(curve, target)
            told["needed"] = None if reached is None else {name: value if np.isfinite(value) else None for name, value in reached._asdict().items()}
        return told

    def _kept(self, done: Done) -> dict[str, Array]:
        return files.read_tensors(self.folder / "values" / f"{done.key}.safetensors")

    def _remedy(self, name: str, whole: Sequence[Done], generator: np.random.Generator) -> dict[str, Any]:
        """How much better a change makes it with all the data, paired by ranking."""
        tried = [done for done in self.done if done.work.remedy == name]
        seeds = {done.work.seed for done in tried}
        beside = [done for done in whole if done.work.seed in seeds]
        with_it, without = (np.mean([self._kept(done)["values"] for done in some], axis=0) for some in (tried, beside))
        test = paired_test(with_it, without, groups=self._kept(whole[0])["keys"], generator=generator)
        told = {part: float(value) for part, value in test._asdict().items()}
        return {"name": name, "settings": self.remedies[name], "seeds": len(seeds), "value": float(with_it.mean()), **told}

    def _told_suspects(self) -> dict[str, Any] | None:
        """How many pairs look wrong, and the worst of them; None where nobody looked."""
        found = self._looked()
        return None if found is None else suspicion.told(found, self.prepared)

    def _starved(self, whole: Sequence[Done], generator: np.random.Generator) -> list[dict[str, Any]]:
        """What the second half of the data brought, and to whom; nothing where no training was on the first, or a ranking has no one item."""
        half = [done for done in self.done if done.work.axis == "queries" and done.work.share == SHARES[-2] and not done.work.remedy]
        if not half or self.chosen.evaluate.per != "pair":
            return []
        now, before = (np.mean([self._kept(done)["values"] for done in some], axis=0) for some in (whole, half))
        matches = np.bincount(np.asarray(self.prepared.log.item_rows)[matched(self.prepared)], minlength=self.prepared.n_items)
        kept = self._kept(whole[0])
        return starved(now, before, kept["keys"], kept["items"], matches, generator)


def _corrected(remedies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each remedy with the p-value that holds for all of them together (Holm 1979): the best of many would else be so by luck."""
    raised = holm(np.array([row["p_value"] for row in remedies])).tolist()
    return [row | {"holm": float(p_value)} for row, p_value in zip(remedies, raised, strict=True)]


def _values(model: Any, data: Any, chosen: Config) -> tuple[Array, Array, Array]:
    """The selecting metric of each validation ranking, whose it is, and the item asked for (of several the first)."""
    from twotower.learning import training

    held, queries, items = training.held_out(model, data)
    options = chosen.evaluate
    scores = dot_scorer(queries, items)
    values = measure(ranks_of(scores, held, len(items), options), (options.select,))[options.select]
    wanted = held.relevant.values if options.per == "pair" else held.relevant.values[held.relevant.offsets[:-1]]
    return np.ascontiguousarray(values), np.ascontiguousarray(list_keys(held, options.per)), np.ascontiguousarray(wanted)


def _key(subset: Subset, work: Work) -> str:
    """Names what is trained: on which pairs of which catalogue, with which seed and change."""
    digest = hashlib.sha256(subset.prepared.parts.tobytes())
    digest.update(f"{subset.prepared.n_items} {work.seed} {work.remedy} {subset.prepared.folder.name}".encode())
    return digest.hexdigest()[:16]


# --- what is trained ----------------------------------------------------------------------------------------------


def _wanted(shares: Sequence[float], remedies: Sequence[str], pairs_a_query: float) -> Iterator[Work]:
    """What is worth training, the most telling first."""
    yield from (Work("queries", share, 0) for share in shares)
    yield from (Work("queries", share, 1) for share in shares)
    yield from (Work("queries", 1.0, 0, remedy) for remedy in remedies)
    yield from (Work("queries", share, 2) for share in shares)
    if pairs_a_query > MOST_PAIRS_ALONE:
        yield from (Work("pairs", share, seed) for seed in range(2) for share in shares[-4:])
    yield from (Work("queries", 1.0, 1, remedy) for remedy in remedies)
    yield from (Work("items", share, 0) for share in shares[-4:])


def _shares(prepared: Prepared) -> tuple[float, ...]:
    """The parts of the data that are large enough. Raises DataError where there are too few of them for a curve."""
    for start in range(len(SHARES) - curves.FEWEST_SIZES + 1):
        shares = SHARES[start:]
        if enough(AXES["queries"](prepared, shares[0], shares[0], 0)):
            return shares
    training, held = (int((prepared.parts == part).sum()) for part in (TRAIN, VALIDATION))
    raise DataError(
        f"an eighth of these data is too little to train and measure on: there are {training:,} training pairs and {held:,} validation pairs in all. "
        "A forecast needs some hundreds of each; `twotower forecast --like` says what other sets came to."
    )


def _pairs_a_query(prepared: Prepared) -> float:
    keys = np.asarray(prepared.log.query_keys)[prepared.parts == TRAIN]
    return len(keys) / max(1, len(np.unique(keys)))
