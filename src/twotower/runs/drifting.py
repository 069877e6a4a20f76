"""Whether the data have moved far enough since launch that training again pays: by a bundle and newer pairs alone, without torch.

Two things are a reason: the selecting metric has fallen, surely and by more than a tolerance; or surely more pairs than at launch, by more than
a tolerance, are of queries or items of which the model knows nothing. That features, queries and popularity have moved is told, and is no reason
by itself: a model may well serve what has moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.loading import load
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array, lengths_of
from twotower.data.hashes import hash_texts
from twotower.data.prepared import ID
from twotower.errors import BundleError, ConfigError
from twotower.learning.binning import Bins, labels
from twotower.learning.evaluation import Evaluated, list_keys
from twotower.learning.options import EvaluateOptions
from twotower.learning.shifts import FEWEST, Cloud, Histogram, difference, needed, shift, told_apart
from twotower.learning.statistics import Interval, holm
from twotower.runs.launch import ASKED, FORMAT, LAUNCH, NOTHING, Pairs, binned, cloud, intervals, known_ids, matched, rates, values_of
from twotower.runs.measuring import NewPairs, Rows, answered, evaluation_options, ranked, read_rows, source_of

TOLERANCE, UNKNOWN = 0.05, 0.1
NEVER_SAID = "made by an earlier version, which kept nothing of launch; train again to have it"
LACKING = "item: not in the catalogue"


class Figure(NamedTuple):
    """A metric at launch and now. misses: with pairs whose item the catalogue lacks counted as missed. fallen: surely, and by more than tolerated."""

    launch: Interval | None
    now: Interval
    misses: Interval
    difference: Interval | None
    fallen: bool


class Rate(NamedTuple):
    """The share of the pairs that hold what the model does not know, at launch and now."""

    name: str
    launch: Interval | None
    now: Interval


class Moved(NamedTuple):
    """How far a feature, or which items are matched, has moved.

    distance: the share that would have to be elsewhere (total variation); floor: what luck stays below nineteen times in twenty; stability: the
    population stability index. sure: the p-value is below .05 after all of them are taken together (Holm 1979). most: where most has come or
    gone, with its share then and now. before: for items, whose first histogram is of training, how far the pairs of launch lay from it.
    """

    name: str
    distance: float
    floor: float
    stability: float
    p_value: float
    sure: bool
    most: str
    then: float
    now: float
    before: float | None = None


class Drift(NamedTuple):
    """All that there is to say of a bundle and newer pairs.

    pays: whether training again does, for these reasons. verdict: what to do. rows: of the file; pairs, keys: those of them that could be used.
    catalogues: how many items there were at launch and are now. told_apart: the area under the curve of a line between new queries and those of
    launch. needed: how many pairs such as these would show a fall as large as is tolerated, four times in five; None where no number would, or it
    cannot be worked out. lacking: what could not be told, and why.
    """

    bundle: str
    source: str
    pays: bool
    verdict: Literal["train", "refresh", "keep", "few", "unknown"]
    reasons: list[str]
    select: str
    per: str
    mode: str
    part: str | None
    tolerance: float
    unknown: float
    rows: int
    pairs: int
    keys: int
    rankings: int
    dropped: dict[str, int]
    catalogues: tuple[int | None, int]
    figures: dict[str, Figure]
    rates: list[Rate]
    moved: list[Moved]
    told_apart: Interval | None
    needed: int | None
    lacking: list[str]
    notes: list[str]


class _Launch(NamedTuple):
    """What a bundle says of its launch."""

    facts: dict[str, Any] | None  # of launch.json
    figures: dict[str, Interval]  # as new pairs are measured; empty where none are
    keys: int | None
    lacking: list[str]


def drift(bundle: Path | str | Retriever, pairs: Any, *, tolerance: float = TOLERANCE, unknown: float = UNKNOWN, seed: int = 0) -> Drift:
    """Compare newer pairs with those that a bundle was measured on.

    bundle: a bundle, a run, or a retriever. pairs: files, a data frame or a source, with the columns that the bundle's model reads. tolerance: how
    far the selecting metric may fall, as a part of what it was. unknown: how much the share of pairs may grow of which nothing is known.
    Raises DataError where the pairs cannot be read, or none names a known item; ConfigError for a tolerance that is no share.
    """
    for name, share in (("tolerance", tolerance), ("unknown", unknown)):
        if not 0 <= share < 1:
            raise ConfigError(f"{name} is a share of 0 or more and below 1, as 0.05, and not {share}")
    retriever = bundle if isinstance(bundle, Retriever) else load(bundle)
    options = evaluation_options(retriever)
    rows = read_rows(retriever, source_of(pairs))
    read = ranked(retriever, rows, options)
    launch, new = _launch(retriever, options), _pairs(retriever, rows)
    few = min(len(np.unique(new.keys)), FEWEST if launch.keys is None else launch.keys) < FEWEST
    figures = _figures(launch, rows, read, answered(retriever, read, options), options, tolerance, few)
    told = _rates(retriever, launch, new, seed)
    reasons, verdict = _reasons(retriever, figures.get(options.select), told, options.select, unknown, few)
    chosen = figures[options.select]
    enough = None
    if chosen.launch is not None:
        enough = needed(chosen.launch, chosen.now, tolerance * float(chosen.launch.value), len(read.items))
    if verdict == "keep" and few:
        verdict = "few"
    elif verdict == "keep" and chosen.launch is None:
        verdict = "unknown"
    facts = launch.facts
    return Drift(
        bundle=str(retriever.bundle.folder),
        source=rows.name,
        pays=bool(reasons),
        verdict=verdict,
        reasons=reasons,
        select=options.select,
        per=options.per,
        mode=read.mode,
        part=None if facts is None else facts["part"],
        tolerance=tolerance,
        unknown=unknown,
        rows=len(rows.items),
        pairs=len(new.items),
        keys=len(np.unique(new.keys)),
        rankings=len(list_keys(read.cases, options.per)),
        dropped=read.dropped,
        catalogues=(None if facts is None else int(facts["catalogue"]), len(retriever)),
        figures=figures,
        rates=told,
        moved=[] if facts is None else _moved(retriever, facts, new, seed),
        told_apart=None if facts is None else told_apart(_asked(retriever, facts), cloud(new, seed), seed),
        needed=enough,
        lacking=launch.lacking,
        notes=_notes(retriever, facts, read),
    )


# --- launch and now -----------------------------------------------------------------------------------------------


def _launch(retriever: Retriever, options: EvaluateOptions) -> _Launch:
    folder = retriever.bundle.folder / "model"
    if (folder / LAUNCH).exists():
        facts = dict(files.read_json(folder / LAUNCH))
        if facts.get("format") != FORMAT:
            raise BundleError(f"{folder / LAUNCH} has format {facts.get('format')}, this version reads {FORMAT}. Upgrade: pip install -U twotower")
        return _Launch(facts, _intervals(facts["figures"]), int(facts["keys"]), [])
    lacking = [f"shifts of features, queries and popularity, and what was unknown at launch: the bundle was {NEVER_SAID}"]
    if not (folder / "metrics.json").exists():
        return _Launch(None, {}, None, ["figures of launch: the bundle has no metrics.json", *lacking])
    metrics = files.read_json(folder / "metrics.json")
    # A bundle holds no training log: figures that left out what was known from it are of easier rankings than any that it can make.
    if metrics["evaluation"]["left_out"] != _left_out_now(retriever, options):
        why = f"there {metrics['evaluation']['left_out']}, which a bundle cannot do on new pairs"
        return _Launch(None, {}, None, [f"figures of launch to compare with: {why}; the bundle was {NEVER_SAID}", *lacking])
    return _Launch(None, _intervals(metrics["model"]), None, lacking)


def _left_out_now(retriever: Retriever, options: EvaluateOptions) -> str | None:
    """What a run would have said that it leaves out, had it left out what a bundle can; None where no run does."""
    if retriever.history is not None:
        return None
    if options.per == "query":
        return "nothing is left out"
    return "other known matches of the same key, but not those of training, are left out of a pair's ranking"


def _intervals(told: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
    return {name: Interval(*(np.asarray(float(each[part])) for part in Interval._fields)) for name, each in told.items()}


def _pairs(retriever: Retriever, rows: Rows) -> Pairs:
    """All pairs of the rows, those included whose item the catalogue lacks."""
    used = rows.used
    _, first, views = np.unique(np.stack([rows.query_codes[used], rows.key_codes[used]]), axis=1, return_index=True, return_inverse=True)
    asking = pa.array(used[first])
    table = rows.table.take(asking)
    memory = retriever.history
    lengths = None if memory is None else np.minimum(lengths_of(memory.known(table)), memory.feature.last)
    columns = retriever.encoder.encode("query", table, strict=False, logged=False)
    keys = hash_texts(rows.keys.take(asking).to_pylist())
    return Pairs(values_of(retriever.encoder, table, columns, lengths), retriever.embed_queries(table), keys, views.reshape(-1), rows.items[used])


def _figures(
    launch: _Launch, rows: Rows, read: NewPairs, evaluated: Evaluated, options: EvaluateOptions, tolerance: float, few: bool
) -> dict[str, Figure]:
    """Every metric, at launch and now."""
    keys = list_keys(read.cases, options.per)
    missed = _missed(rows, options)
    values = {name: np.concatenate([own, np.zeros(len(missed))]) for name, own in evaluated.values.items()}
    misses = intervals(values, np.concatenate([keys, missed]), options.seed)
    found = {}
    for name, now in evaluated.figures.items():
        old = launch.figures.get(name)
        apart = None if old is None else difference(old, now)
        fallen = not few and old is not None and apart is not None and bool(apart.high < 0 and -apart.value > tolerance * old.value)
        found[name] = Figure(old, now, misses[name], apart, fallen)
    return found


def _missed(rows: Rows, options: EvaluateOptions) -> Array:
    """The keys int64 [m] of the rankings that cannot be made, since the catalogue lacks all that they ask for."""
    used = rows.used
    lacking = used[rows.items[used] < 0]
    if options.per == "pair":
        return rows.key_codes[lacking]
    asks = np.stack([rows.query_codes, rows.key_codes])
    known = {tuple(ask) for ask in asks[:, used[rows.items[used] >= 0]].T.tolist()}
    return np.array([key for query, key in {tuple(ask) for ask in asks[:, lacking].T.tolist()} - known], np.int64)


def _rates(retriever: Retriever, launch: _Launch, new: Pairs, seed: int) -> list[Rate]:
    item_id = retriever.bundle.model["schema"]["item"]["id"]
    now = intervals({LACKING: new.items < 0}, new.keys[new.views], seed)
    now |= rates(retriever.encoder, new, known_ids(retriever.encoder, item_id, retriever.items.column(ID)), seed)
    if launch.facts is None:
        return [Rate(name, None, each) for name, each in now.items()]
    then = _intervals(launch.facts["rates"])
    share = float(launch.facts["lacking"])
    then[LACKING] = Interval(*(np.asarray(share) for _ in range(3)))
    # Pairs of items that the catalogue lacked never came as far as a part of the split.
    then[NOTHING] = Interval(*(1 - (1 - share) * (1 - part) for part in then[NOTHING]))
    return [Rate(name, then.get(name), each) for name, each in now.items()]


def _moved(retriever: Retriever, facts: Mapping[str, Any], new: Pairs, seed: int) -> list[Moved]:
    """Each feature of the query, and the items that are matched, the farthest beyond luck first."""
    generator = np.random.default_rng(seed)
    found = []
    for name, values in new.values.items():
        told = facts["features"][name]
        bins = Bins(told["edges"], told["codes"], told["names"])
        old, now = _histogram(told), binned(values, bins, new)
        moved = shift(old, now, generator)
        most = labels(values.feature, bins)[moved.bin]
        found.append(_told(f"query: {name}", moved, most, old, now))
    found.append(_items(retriever, facts["items"], new, generator))
    raised = holm(np.array([each.p_value for each in found])).tolist()
    found = [each._replace(p_value=p_value, sure=p_value < 0.05) for each, p_value in zip(found, raised, strict=True)]
    return sorted(found, key=lambda each: (not each.sure, -(each.distance - each.floor)))


def _items(retriever: Retriever, told: Mapping[str, Any], new: Pairs, generator: np.random.Generator) -> Moved:
    """How far the items that are matched lie from those of training, which is worth as much a pair as launch was."""
    there = new.items >= 0
    top = retriever.find(pa.array(told["ids"], pa.string()))
    held, now = _histogram(told), matched(new.items[there], top, new.keys[new.views[there]])
    counts = np.asarray(told["training"], np.float64)
    old = Histogram(counts, float(counts.sum()) * held.effective / max(1.0, float(held.counts.sum())))
    moved = shift(old, now, generator)
    most = told["ids"][moved.bin] if moved.bin < len(told["ids"]) else "all but the commonest"
    before = float(np.abs(old.shares - held.shares).sum() / 2)
    return _told("item: which are matched", moved, most, old, now)._replace(before=before)


def _told(name: str, moved: Any, most: str, old: Histogram, now: Histogram) -> Moved:
    then, here = float(old.shares[moved.bin]), float(now.shares[moved.bin])
    return Moved(name, moved.distance, moved.floor, moved.stability, moved.p_value, False, most, then, here)


def _histogram(told: Mapping[str, Any]) -> Histogram:
    return Histogram(np.asarray(told["counts"], np.float64), float(told["effective"]))


def _asked(retriever: Retriever, facts: Mapping[str, Any]) -> Cloud:
    vectors = np.asarray(files.read_array(retriever.bundle.folder / "model" / ASKED))
    return Cloud(vectors, np.asarray(facts["asked"]["weights"], np.float64), np.asarray(facts["asked"]["keys"], np.uint64))


# --- the verdict --------------------------------------------------------------------------------------------------


def _reasons(
    retriever: Retriever, chosen: Figure | None, told: list[Rate], select: str, unknown: float, few: bool
) -> tuple[list[str], Literal["train", "refresh", "keep", "few", "unknown"]]:
    """Why training again pays, and what to do."""
    reasons = []
    if chosen is not None and chosen.fallen:
        assert chosen.launch is not None and chosen.difference is not None
        fell = -float(chosen.difference.value) / float(chosen.launch.value)
        reasons.append(f"{select} fell by {fell:.0%}, from {chosen.launch.value:.3f} to {chosen.now.value:.3f}")
    by_name = {rate.name: rate for rate in told}
    rate = by_name[NOTHING]
    # A bundle that kept nothing of launch is taken to have held every item then; of queries it cannot be said.
    none = Interval(*(np.asarray(0.0) for _ in range(3)))
    rate = by_name[LACKING]._replace(launch=none) if rate.launch is None else rate
    assert rate.launch is not None
    grown = difference(rate.launch, rate.now)
    new_items = False
    if not few and grown.low > 0 and grown.value > unknown:
        reasons.append(f"of {rate.now.value:.0%} of the pairs the model does not know the query or the item, of {rate.launch.value:.0%} at launch")
        lacking = by_name[LACKING]
        read = any(feature.type != "id" for feature in retriever.encoder.features["item"])
        new_items = read and len(reasons) == 1 and float(lacking.now.value) > float(rate.now.value) / 2
    return reasons, "refresh" if new_items else "train" if reasons else "keep"


def _notes(retriever: Retriever, facts: Mapping[str, Any] | None, read: NewPairs) -> list[str]:
    """What to know before believing it."""
    notes = [read.strangers] if read.strangers else []
    if retriever.lexical is None and read.mode != "vectors":
        notes.append("its words cannot be searched now, so the new figures are by vectors alone, and those of launch are not")
    if facts is None:
        return notes
    if facts["part"] == "validation":
        notes.append("at launch the validation pairs were measured, by which the epoch was chosen: their figures are a little too good")
    if facts["split"] in ("random", "group"):
        notes.append("at launch pairs were held out at random, not the latest: a part of a fall may be that any newer pairs are harder")
    if int(facts["catalogue"]) != len(retriever):
        notes.append(f"the catalogue had {int(facts['catalogue']):,} items at launch and has {len(retriever):,} now: more items are harder to rank")
    return notes
