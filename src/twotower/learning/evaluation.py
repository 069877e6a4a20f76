"""Ranks of the relevant items in the whole catalogue, for whatever gives scores: vectors, words, popularity.

A scorer gives the scores of a block of queries for all items. It is asked block by block, so memory stays bounded, and by several threads at
once. `cases` says what is asked and what is right, `rank` ranks, `summarise` turns ranks into figures with their intervals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from twotower.data.batches import draft
from twotower.data.columns import Array, Ragged, lengths_of, ragged_rows, row_count, take_ragged
from twotower.data.histories import Histories
from twotower.data.prepared import Log, Prepared
from twotower.data.splits import TEST, TRAIN, VALIDATION
from twotower.errors import ConfigError, DataError
from twotower.learning.metrics import METRICS, Ranks, parse
from twotower.learning.options import EvaluateOptions, Gain
from twotower.learning.statistics import Interval, interval

T = TypeVar("T")

Scorer = Callable[[slice], Array]  # a block of queries -> float32 [block, n_items], which may be overwritten when the same thread asks again

SCORES_AT_ONCE = 1 << 21  # 8 MB of float32, in each thread
EVEN = 8  # rows
LARGEST_GRADE = 30  # of exponential gains
FEW = 8  # targets up to which counting beats sorting the row; the crossing lies at 5 to 20, by machine


class Cases(NamedTuple):
    """What is asked, and which items are right."""

    query_rows: Array  # int64 [q]
    query_keys: Array  # int64 [q]
    relevant: Ragged  # [q] item rows
    excluded: Ragged | None  # [q] item rows that are not ranked
    history_keys: Array | None = None  # int64 [q]
    cuts: Array | None = None  # int64 [q]  history = the log of that key before this position
    pair_rows: Array | None = None  # int64 [p]  the pair of the log that each relevant item comes from, the first of several
    gains: Array | None = None  # float64 [p]  what each relevant item counts in ndcg; 1 where there are none
    histories: Histories | None = None  # what the cuts are of

    def take(self, which: Array) -> Cases:
        """The chosen cases."""
        excluded = None if self.excluded is None else take_ragged(self.excluded, which)
        history_keys, cuts = (None if part is None else part[which] for part in (self.history_keys, self.cuts))
        beside = (self.pair_rows, self.gains)
        pair_rows, gains = (None if part is None else take_ragged(Ragged(part, self.relevant.offsets), which).values for part in beside)
        relevant = take_ragged(self.relevant, which)
        return Cases(self.query_rows[which], self.query_keys[which], relevant, excluded, history_keys, cuts, pair_rows, gains, self.histories)


def cases_of(prepared: Prepared, part: int, options: EvaluateOptions, histories: Histories | None = None) -> Cases:
    """What a part of the log asks, by the options."""
    found = cases(prepared.part(part), prepared.known(*left_out(options, part)), options.per, histories)
    return with_gains(found, prepared.part(part).labels, options.gain)


def with_gains(asked: Cases, labels: Array, gain: Gain) -> Cases:
    """The cases with what each relevant item counts in ndcg, by the labels [n] of the log that they come from.

    `label`: its label; `exponential`: 2^label - 1 (Burges et al. 2005). Raises DataError for labels whose powers mean nothing.
    """
    if gain == "equal":
        return asked
    assert asked.pair_rows is not None
    own = np.asarray(labels, np.float64)[asked.pair_rows]
    if gain == "exponential" and own.max(initial=0) > LARGEST_GRADE:
        raise DataError(
            f'[evaluate] gain = "exponential" makes 2^label - 1 of a label, and they go up to {own.max():g}: use gain = "label", or grades up to '
            f"{LARGEST_GRADE}"
        )
    return asked._replace(gains=own if gain == "label" else np.exp2(own) - 1)


def cases(log: Log, known: Ragged | None, per: Literal["pair", "query"], histories: Histories | None = None) -> Cases:
    """The pairs of a log as cases, one for each query row, key and history.

    known: for every key, the items left out of its rankings unless they are the ones asked for, or None to rank everything;
    `left_out` says which parts of a log they come from.
    """
    part = draft(log, np.arange(len(log.query_rows)), histories)
    relevant, pair_rows = Ragged(part.item_rows, part.offsets), part.pair_rows
    if per == "query":
        n = 1 + int(part.item_rows.max(initial=0))
        keys, first = np.unique(ragged_rows(relevant) * n + relevant.values, return_index=True)
        relevant, pair_rows = Ragged(keys % n, np.searchsorted(keys, np.arange(row_count(relevant) + 1) * n)), pair_rows[first]
    excluded = None if known is None else take_ragged(known, part.query_keys)
    return Cases(part.query_rows, part.query_keys, relevant, excluded, part.history_keys, part.cuts, pair_rows, histories=histories)


def left_out(options: EvaluateOptions, part: int) -> tuple[int, ...]:
    """The parts of the log whose matches of a key are no candidates when it is ranked for this part, but for those asked for."""
    if options.per == "query":
        return tuple(each for each in (TRAIN, VALIDATION) if each < part and options.exclude_seen)
    return tuple(each for each in (TRAIN, VALIDATION, TEST) if each <= part and (each != TRAIN or options.exclude_seen is not False))


def sample(asked: Cases, most: int, seed: int) -> Cases:
    """At most so many of the cases, the same ones for the same seed."""
    if len(asked.query_rows) <= most:
        return asked
    return asked.take(np.sort(np.random.default_rng(seed).permutation(len(asked.query_rows))[:most]))


class Evaluated(NamedTuple):
    """A model's figures: by metric one value a ranking, and their mean with its interval."""

    values: dict[str, Array]  # float64 [rankings]
    figures: dict[str, Interval]
    ranks: Ranks | None = None  # that they come from


def list_keys(asked: Cases, per: Literal["pair", "query"]) -> Array:
    """The key of each ranking: rankings that share one are resampled together."""
    return np.repeat(asked.query_keys, lengths_of(asked.relevant)) if per == "pair" else asked.query_keys


def evaluate(scorer: Scorer, asked: Cases, n_items: int, options: EvaluateOptions) -> Evaluated:
    """Rank the whole catalogue for every case, and summarise. The scorer is asked by the position of a case, not its row."""
    return summarise(ranks_of(scorer, asked, n_items, options), list_keys(asked, options.per), options)


def ranks_of(scorer: Scorer, asked: Cases, n_items: int, options: EvaluateOptions) -> Ranks:
    """Where the relevant items of every case stand in the whole catalogue."""
    return rank(scorer, asked.relevant, asked.excluded, per=options.per, n_items=n_items)._replace(gains=asked.gains)


def summarise(ranks: Ranks, keys: Array, options: EvaluateOptions) -> Evaluated:
    """Every metric of the options, with 95% intervals from resampling keys."""
    values = measure(ranks, (*options.metrics, options.select))
    generator = np.random.default_rng(options.seed)
    found = interval(np.stack(list(values.values()), axis=1), groups=keys, generator=generator)
    figures = {name: Interval(*(part[n] for part in found)) for n, name in enumerate(values)}
    return Evaluated(values, figures, ranks)


def macro(evaluated: Evaluated, asked: Cases, options: EvaluateOptions) -> dict[str, dict[str, Interval]]:
    """Means of means by metric, with intervals from resampling what is counted alike: every `item` that is asked for, every `key` that asks.

    Only where rankings are of pairs, and not where each would count as it does in the plain mean.
    """
    if options.per == "query":
        return {}
    values, found = np.stack(list(evaluated.values.values()), axis=1), {}
    for name, groups in (("item", asked.relevant.values), ("key", list_keys(asked, options.per))):
        _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
        if counts.min(initial=1) < counts.max(initial=1):
            told = interval(values, weights=1 / counts[member], groups=member, generator=np.random.default_rng(options.seed))
            found[name] = {metric: Interval(*(part[n] for part in told)) for n, metric in enumerate(evaluated.values)}
    return found


def measure(ranks: Ranks, names: tuple[str, ...]) -> dict[str, Array]:
    """One value a ranking for each named metric."""
    measured = {}
    for full in names:
        name, k = parse(full)
        measured[full] = METRICS[name](ranks, k)
    return measured


def dot_scorer(query_vectors: Array, item_vectors: Array) -> Scorer:
    """Scores by inner product of vectors [q, d] and [n, d], those of a thread always in the same memory: new pages cost as much as the product.

    BLAS may round the products of equal vectors differently by where they stand in the matrix, so items with the same
    vector are not sure to tie; their scores then differ in the last bits.
    """
    items, own = np.asarray(item_vectors, np.float32), threading.local()

    def scores(block: slice) -> Array:
        queries = np.asarray(query_vectors[block], np.float32)
        if not hasattr(own, "scores") or len(queries) > len(own.scores):
            own.scores = np.empty((len(queries), len(items)), np.float32)
        return np.asarray(np.matmul(queries, items.T, out=own.scores[: len(queries)]))  # [block, n]

    return scores


def rows_at_once(n_items: int) -> int:
    """How many queries are scored at once. Products of a height that the processor's registers divide are faster."""
    rows = max(1, SCORES_AT_ONCE // max(1, n_items))
    return rows - rows % EVEN if rows > EVEN else rows


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def in_threads(work: Callable[[T], None], parts: Sequence[T]) -> None:
    """Do the work on every part, in as many threads as a product may take, each of which then multiplies by itself.

    So all that follows a product is shared by the cores as well. Of what fails the first part's is raised.
    """
    threads = min(len(parts), max((pool["num_threads"] or 1 for pool in _pools().info()), default=1))
    if threads < 2:
        for part in parts:
            work(part)
        return
    # Where BLAS is built on OpenMP its limit is of each thread; elsewhere it is of the process, and put back at the end.
    with _pools().limit(limits=1), ThreadPoolExecutor(threads, initializer=lambda: _pools().limit(limits=1)) as executor:
        for _ in executor.map(work, parts):
            pass


def rank(
    scorer: Scorer,
    relevant: Ragged,
    excluded: Ragged | None = None,
    *,
    per: Literal["pair", "query"] = "pair",
    n_items: int,
    block: int | None = None,
) -> Ranks:
    """Ranks the relevant items [q] of every query among all items but the excluded ones [q].

    With `per="query"` a query is a row of the result and its relevant items are ranked in one list. With `per="pair"`
    each entry of `relevant`, in its order, is a row of its own, and the other relevant items of the query are left out
    of its list. An item that is both relevant and excluded is relevant. Scores tie where the floats are equal.
    `block`: queries scored at once, by default as many as make 8 MB of scores.
    """
    _check(relevant, excluded, per, n_items)
    block = rows_at_once(n_items) if block is None else block
    if block < 1:
        raise ConfigError(f"a block is at least one query, not {block}")
    q, p = row_count(relevant), len(relevant.values)
    above, tied = np.empty(p, np.int64), np.empty(p, np.int64)
    candidates = np.full(p if per == "pair" else q, n_items, np.int64)

    def count(start: int) -> None:
        stop = min(start + block, q)
        scores = _scored(scorer, start, stop, n_items)
        wanted, unwanted = _left_out(relevant, excluded, start, stop, n_items)
        for query in range(start, stop):
            mine = slice(relevant.offsets[query], relevant.offsets[query + 1])
            row = scores[query - start]  # [n]
            targets = row[relevant.values[mine]]  # [r]
            others = row[_row(unwanted, query - start)]  # [e]
            counts = _counts(row, targets) - _counts(others, targets)  # [2, r]
            lists = mine if per == "pair" else query
            candidates[lists] -= len(others)
            if per == "pair":
                alike = row[_row(wanted, query - start)]
                counts -= _counts(alike, targets)
                counts[1] += 1  # the target itself was among them
                candidates[lists] -= len(alike) - 1
            above[mine], tied[mine] = counts

    in_threads(count, range(0, q, block))
    offsets = np.arange(p + 1) if per == "pair" else np.asarray(relevant.offsets, np.int64)
    return Ranks(above, tied, offsets, candidates)


def _counts(values: Array, targets: Array) -> Array:
    """For each of the targets [r] how many of the values [n] are higher, and how many equal: int64 [2, r]."""
    if len(targets) <= FEW:
        counts = [(np.count_nonzero(values > target), np.count_nonzero(values == target)) for target in targets]
        return np.array(counts, np.int64).reshape(-1, 2).T
    ordered = np.sort(values)
    low, high = np.searchsorted(ordered, targets, "left"), np.searchsorted(ordered, targets, "right")
    return np.stack([len(values) - high, high - low])


def _scored(scorer: Scorer, start: int, stop: int, n_items: int) -> Array:
    """The scores [block, n_items] of the queries from start to stop, all of them numbers."""
    scores = scorer(slice(start, stop))
    if scores.shape != (stop - start, n_items):
        raise DataError(f"a scorer gave {scores.shape} for {stop - start} queries and {n_items} items")
    if np.isnan(scores.max(initial=-np.inf)):
        query, item = np.argwhere(np.isnan(scores))[0]
        raise DataError(f"the score of query row {start + query} for item row {item} is not a number")
    return scores


def _left_out(relevant: Ragged, excluded: Ragged | None, start: int, stop: int, n_items: int) -> tuple[Ragged, Ragged]:
    """The relevant and the excluded items of a block of queries, each once, and none of them in both."""
    wanted = _keys(relevant, start, stop, n_items)
    unwanted = wanted[:0]
    if excluded is not None:
        unwanted = np.setdiff1d(_keys(excluded, start, stop, n_items), wanted, assume_unique=True)
    edges = np.arange(stop - start + 1) * n_items
    lists = [Ragged(keys % max(1, n_items), np.searchsorted(keys, edges)) for keys in (wanted, unwanted)]
    return lists[0], lists[1]


def _keys(items: Ragged, start: int, stop: int, n_items: int) -> Array:
    """The items of a block of queries as query * n_items + item, sorted, each once."""
    offsets = items.offsets[start : stop + 1]
    query = np.repeat(np.arange(stop - start), np.diff(offsets))
    return np.unique(query * n_items + items.values[offsets[0] : offsets[-1]])


def _row(items: Ragged, query: int) -> Array:
    return items.values[items.offsets[query] : items.offsets[query + 1]]


def _check(relevant: Ragged, excluded: Ragged | None, per: str, n_items: int) -> None:
    if per not in ("pair", "query"):
        raise ConfigError(f'ranks are per "pair" or per "query", not per "{per}"')
    for name, items in (("relevant", relevant), ("excluded", excluded)):
        if items is None or len(items.values) == 0:
            continue
        if items.values.min() < 0 or items.values.max() >= n_items:
            raise DataError(f"there are {name} items outside the rows 0 to {n_items - 1} of the catalogue")
    if excluded is not None and row_count(excluded) != row_count(relevant):
        raise DataError(f"{row_count(relevant)} queries came with exclusions for {row_count(excluded)}")
    if per == "query":
        _check_query_lists(relevant, n_items)


def _check_query_lists(relevant: Ragged, n_items: int) -> None:
    """A list per query needs relevant items, and each once: otherwise no metric has a meaning."""
    empty = np.flatnonzero(lengths_of(relevant) == 0)
    if len(empty):
        raise DataError(f"query row {empty[0]} has no relevant item and cannot be ranked: leave such queries out")
    if len(_keys(relevant, 0, row_count(relevant), n_items)) < len(relevant.values):
        raise DataError("a query has the same relevant item more than once: merge such pairs first")
