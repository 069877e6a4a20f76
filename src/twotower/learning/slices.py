"""Where a model does well and where it does not: its figures on parts of the rankings, by what is known of the item or of who asks.

A cut deals all relevant items to slices, and each slice is measured with its own alone: other matches of the same query are left out
of its rankings. To add a cut: a function from `Facts` to cuts, and its entry in `CUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array, Ragged, ragged_rows
from twotower.data.features import Feature
from twotower.data.schema import SIDES, Side
from twotower.data.values import to_text
from twotower.learning.evaluation import Evaluated, measure
from twotower.learning.metrics import Ranks
from twotower.learning.options import EvaluateOptions
from twotower.learning.statistics import Interval, holm, interval, paired_test
from twotower.search.lexical import tokenize

FEW = 30  # keys; below, an interval from resampling is too narrow to be believed
STEPS = 3  # slices of a quantity, about equally full
MOST = 8  # categories with a slice of their own
SURE = 0.05


class Facts(NamedTuple):
    """What is known of the rankings; p is how many relevant items they have together."""

    features: Mapping[Side, Sequence[Feature]]
    queries: pa.Table  # [q] what was asked
    items: pa.Table  # [n] the catalogue
    relevant: Ragged  # [q] item rows
    item_matches: Array | None = None  # int64 [n] in training
    key_matches: Array | None = None  # int64 [q] in training, of the key that asks
    moments: Array | None = None  # int64 [p] places in time

    def table(self, side: Side) -> pa.Table:
        """The rows of a side."""
        return self.queries if side == "query" else self.items

    def rows(self, side: Side) -> Array:
        """Of that table, the row of each relevant item: int64 [p]."""
        return ragged_rows(self.relevant) if side == "query" else np.asarray(self.relevant.values)


class Cut(NamedTuple):
    """One way to deal relevant items to slices."""

    by: str
    names: tuple[str, ...]
    of: Array  # int64 [p] the slice of each


class Slice(NamedTuple):
    """What a slice came to. against: the value of the best baseline, and how often luck alone would give the difference to it, of its own."""

    name: str
    rankings: int
    keys: int
    figures: dict[str, Interval]
    baseline: float | None
    p_value: float | None
    verdict: str  # "better" or "worse" than that baseline, "unclear", "too few" to say, or nothing without one


# --- cuts ---------------------------------------------------------------------------------------------------------


def by_popularity(facts: Facts) -> Iterator[Cut]:
    """Head: the fewest items that hold half of the matches of training; tail: the others that training saw."""
    if facts.item_matches is None:
        return
    counts = np.asarray(facts.item_matches)
    ordered = np.argsort(-counts, kind="stable")
    head = int(np.searchsorted(np.cumsum(counts[ordered]), counts.sum() / 2)) + 1
    of = np.where(counts > 0, 1, 2)
    of[ordered[:head]] = 0
    tail = int((of == 1).sum())
    names = (f"head: the {head:,} with half of the training matches", f"tail: the other {tail:,} that training saw", "never in training")
    yield Cut("item: how often it matched", names, of[facts.rows("item")])


def by_familiarity(facts: Facts) -> Iterator[Cut]:
    """How much training saw of the key."""
    if facts.key_matches is None:
        return
    counts = np.asarray(facts.key_matches)[facts.rows("query")].astype(np.float64)
    names, of = steps(np.where(counts > 0, counts, np.nan), "never in training", whole=True)
    yield Cut("query: how often its key matched", names, of)


def by_words(facts: Facts) -> Iterator[Cut]:
    """How many words a query has, by text column."""
    for name in dict.fromkeys(feature.column for feature in facts.features["query"] if feature.worded):
        texts = to_text(facts.queries.column(name), exact=False).to_pylist()
        counts = np.array([len(tokenize(text)) if text else np.nan for text in texts], np.float64)
        yield Cut(f"query: words of {name}", *steps(counts[facts.rows("query")], "missing", whole=True))


def by_time(facts: Facts) -> Iterator[Cut]:
    """When the match was made."""
    if facts.moments is not None and len(facts.moments):
        edges = np.quantile(facts.moments, np.arange(1, STEPS) / STEPS)
        yield Cut("time", ("the first third", "the second", "the last"), np.searchsorted(edges, facts.moments, side="left"))


def by_value(facts: Facts) -> Iterator[Cut]:
    """Each category and number that a side reads."""
    for side in SIDES:
        for feature in facts.features[side]:
            if feature.type not in ("category", "number"):
                continue
            column = facts.table(side).column(feature.column)
            column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            name, rows = f"{side}: {feature.column}", facts.rows(side)
            if feature.type == "category":
                yield Cut(name, *_categories(column, rows))
            else:  # as the feature reads them: it knows how people write that a number is missing
                yield Cut(name, *steps(np.asarray(pc.fill_null(feature.normalise(column), np.nan))[rows], "missing"))


CUTS: tuple[Callable[[Facts], Iterator[Cut]], ...] = (by_popularity, by_familiarity, by_time, by_words, by_value)


def cuts(facts: Facts) -> list[Cut]:
    """Every cut that divides these rankings: one with a single slice says nothing."""
    return [cut for find in CUTS for cut in find(facts) if len(np.unique(cut.of)) > 1]


def steps(values: Array, missing: str, whole: bool = False) -> tuple[tuple[str, ...], Array]:
    """Slices of a quantity [p] that are about equally full, and a first one for nan: their names, and of which each value is [p].

    Equal values share a slice. whole: whether they are whole numbers, which their names then tell apart to the last.
    """
    present = values[np.isfinite(values)]
    edges = np.unique(np.quantile(present, np.arange(1, STEPS) / STEPS, method="inverted_cdf")) if len(present) else np.empty(0)
    edges = edges[edges < present.max(initial=-np.inf)]  # the highest of each slice but the last
    of = np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="left"))
    told = [f"{edge:,.0f}" if whole else f"{edge:,.6g}" for edge in edges]
    names = [missing]
    for n in range(len(edges) + 1):
        low = "" if n == 0 else f"{edges[n - 1] + 1:,.0f}" if whole else told[n - 1]
        if n == len(edges):
            names.append("any" if not low else f"{low} or more" if whole else f"above {low}")
        elif n == 0:
            names.append(told[0] if present.min() == edges[0] else f"up to {told[0]}")
        else:
            names.append(f"{low} to {told[n]}" if low != told[n] else low)
    return tuple(names), of


def _categories(column: pa.Array, rows: Array) -> tuple[tuple[str, ...], Array]:
    """The commonest values among these rows [p], the others together, and what is missing."""
    codes = to_text(column, exact=False).dictionary_encode()
    of_rows = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False)[rows]
    names = codes.dictionary.to_pylist()
    counts = np.bincount(of_rows[of_rows >= 0], minlength=len(names))
    common = np.argsort(-counts, kind="stable")[:MOST]
    place = np.full(len(names) + 1, len(common))  # the last entry is that of -1
    place[common] = np.arange(len(common))
    place[-1] = len(common) + 1
    return (*(names[code] for code in common), "others", "missing"), place[of_rows]


# --- measuring ----------------------------------------------------------------------------------------------------


def restricted(ranks: Ranks, chosen: Array) -> tuple[Ranks, Array]:
    """Ranks of the chosen relevant items [p] alone, and the queries int64 that have any. The others are left out of the rankings."""
    query = np.repeat(np.arange(len(ranks.offsets) - 1), np.diff(ranks.offsets))
    # Relevant items of a query by rank: those left out that stand above an item, or beside it in its tie.
    order = np.lexsort((ranks.above, query))
    out = np.concatenate([[0], np.cumsum(~chosen[order])])
    starts = np.ones(len(order), bool)
    starts[1:] = (np.diff(query[order]) != 0) | (np.diff(ranks.above[order]) != 0)
    start = np.flatnonzero(starts)
    tie = np.cumsum(starts) - 1
    end = np.append(start[1:], len(order))
    before, beside = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    before[order] = out[start][tie] - out[ranks.offsets[query[order]]]
    beside[order] = (out[end] - out[start])[tie]
    counts = np.bincount(query[chosen], minlength=len(ranks.offsets) - 1)
    having = np.flatnonzero(counts)
    gone = np.diff(ranks.offsets) - counts
    offsets = np.concatenate([[0], np.cumsum(counts[having])])
    gains = None if ranks.gains is None else ranks.gains[chosen]
    return Ranks((ranks.above - before)[chosen], (ranks.tied - beside)[chosen], offsets, (ranks.n_candidates - gone)[having], gains), having


RESAMPLES = 2000  # of a slice's test, at least
OF_EACH = 2 / SURE  # resamples for each slice tested: with fewer the least that a test can say, taken that often (Holm), would be unsure


def sliced(cut: Cut, ours: Ranks, keys: Array, options: EvaluateOptions, other: Ranks | None = None, resamples: int = RESAMPLES) -> list[Slice]:
    """The figures of each slice of a cut that holds anything.

    ours, other: the model's ranks and those of the best baseline. keys [q]: rankings that share one are resampled together. resamples:
    of each test. Verdicts are given later, by `judged`.
    """
    found = []
    for number in np.unique(cut.of):
        ranks, having = restricted(ours, cut.of == number)
        values = measure(ranks, (*options.metrics, options.select))
        groups, generator = keys[having], np.random.default_rng(options.seed)
        parts = interval(np.stack(list(values.values()), axis=1), groups=groups, generator=generator)
        figures = {name: Interval(*(part[n] for part in parts)) for n, name in enumerate(values)}
        baseline = p_value = None
        if other is not None:
            theirs = measure(restricted(other, cut.of == number)[0], (options.select,))[options.select]
            test = paired_test(values[options.select], theirs, groups=groups, resamples=resamples, generator=generator)
            baseline, p_value = float(theirs.mean()), float(test.p_value)
        found.append(Slice(cut.names[number], len(having), len(np.unique(groups)), figures, baseline, p_value, ""))
    return found


def judged(slices: Sequence[Slice], select: str) -> list[Slice]:
    """The same slices with what can be said of them beside the baseline, all tests taken together (Holm 1979)."""
    tested = [n for n, part in enumerate(slices) if part.p_value is not None and part.keys >= FEW]
    corrected = dict(zip(tested, holm(np.array([slices[n].p_value for n in tested])).tolist(), strict=True))
    return [part._replace(verdict=_verdict(part, corrected.get(n), select)) for n, part in enumerate(slices)]


def _verdict(part: Slice, p_value: float | None, select: str) -> str:
    if part.keys < FEW:
        return "too few"
    if p_value is None or part.baseline is None:
        return ""
    if p_value >= SURE:
        return "unclear"
    return "better" if part.figures[select].value > part.baseline else "worse"


def facts_of(found: Sequence[tuple[str, Sequence[Slice]]], against: str | None) -> dict[str, Any]:
    """Slices in the form of a run's `metrics.json`."""
    return {
        "against": against,
        "cuts": [
            {
                "by": by,
                "slices": [
                    part._asdict() | {"figures": {name: {k: float(v) for k, v in f._asdict().items()} for name, f in part.figures.items()}}
                    for part in slices
                ],
            }
            for by, slices in found
        ],
    }


def slice_all(facts: Facts, ours: Evaluated, keys: Array, options: EvaluateOptions, baselines: dict[str, Evaluated]) -> dict[str, Any]:
    """Every cut measured and judged beside the baseline that is best on all rankings."""
    best = max(baselines, key=lambda name: float(baselines[name].figures[options.select].value), default=None)
    assert ours.ranks is not None
    other = None if best is None else baselines[best].ranks
    every = cuts(facts)
    resamples = max(RESAMPLES, round(OF_EACH * sum(len(np.unique(cut.of)) for cut in every)))
    measured = [sliced(cut, ours.ranks, keys, options, other, resamples) for cut in every]
    verdicts = iter(judged([part for slices in measured for part in slices], options.select))
    return facts_of([(cut.by, [next(verdicts) for _ in slices]) for cut, slices in zip(every, measured, strict=True)], best)
