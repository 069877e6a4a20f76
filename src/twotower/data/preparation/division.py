"""Divides the written log into parts, and counts what that made: what is in training, what is new to it, what straddles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower import files
from twotower.data.columns import Array
from twotower.data.preparation.intake import Sources
from twotower.data.schema import Schema, Side
from twotower.data.splits import PARTS, TEST, TRAIN, Made, SplitLog, SplitOptions, split
from twotower.errors import DataError


class Divided(NamedTuple):
    """For each row of a side, in how many training matches it is, and whether an encoder may learn from it."""

    pairs_of: dict[Side, Array]  # int64 [n]
    learnt: dict[Side, Array]  # bool [n]


def divide(folder: Path, log: SplitLog, sources: Sources, schema: Schema, options: SplitOptions, report: dict[str, Any]) -> Divided:
    """Give each pair of the log in a folder its part, and add to the report. Non-matches outside training are no targets: dropped."""
    parts, made = split(log, options)
    if log.matches is not None:
        outside = ~log.matches & (parts != TRAIN)
        asked = np.bincount(log.keys[log.matches], minlength=report["keys"])
        report |= {"non_matches": int((~log.matches).sum()), "non_matches_outside_train": int(outside.sum())}
        report["keys_without_match"] = int((asked == 0).sum())
        if outside.any():
            parts, log = parts[~outside], _keep(folder, log, ~outside)
            report["pairs"] = len(parts)
    if log.times is not None or schema.pairs.ordered:
        files.write_array(folder / "moments.npy", _moments(log.times, len(parts)))
    files.write_array(folder / "parts.npy", parts)
    report["split"] = {"by": options.by} | {name: int(n) for name, n in zip(PARTS, np.bincount(parts, minlength=3), strict=True)} | made
    train = (parts == TRAIN) if log.matches is None else (parts == TRAIN) & log.matches
    weights = files.read_array(folder / "weights.npy", mapped=False)
    if not float(weights[train].sum()):
        raise DataError(f"{sources.pairs.name}: the weights of the training pairs sum to 0, so there is nothing to learn from")
    del weights
    report |= _straddling(log, parts, train, report)
    if options.by == "files":
        _check_files(report, sources)
    return _rows(folder, log, parts, train, options, report)


def _keep(folder: Path, log: SplitLog, chosen: Array) -> SplitLog:
    """The log with these pairs alone, in its files too."""
    for path in sorted(folder.glob("*.npy")):
        files.write_array(path, files.read_array(path, mapped=False)[chosen])

    def kept(values: Array | None) -> Array | None:
        return None if values is None else values[chosen]

    return SplitLog(log.keys[chosen], log.items[chosen], kept(log.times), kept(log.named), log.groups, kept(log.matches))


def _moments(times: Array | None, n: int) -> Array:
    """The first position of the same time, int64 [n]; each pair its own where the log is only in order."""
    places = np.arange(n)
    if times is None:
        return places
    places[1:][times[1:] == times[:-1]] = 0
    return np.asarray(np.maximum.accumulate(places))


def _straddling(log: SplitLog, parts: Array, train: Array, report: dict[str, Any]) -> Made:
    """What the test part shares with training. train: the matches trained on, bool [n]."""
    keys, items, tested = log.keys, log.items, parts == TEST
    names = keys.astype(np.int64) * (int(items.max()) + 1) + items
    both = _among(names[tested], names[train])
    del names
    n_keys, n_items = report["keys"], report["items"]
    asked, asked_in_test = np.bincount(keys[parts == TRAIN], minlength=n_keys), np.bincount(keys[tested], minlength=n_keys)
    trained = np.bincount(items[train], minlength=n_items)
    return {
        "test_pairs_in_train": both,
        "test_keys_in_train": int(((asked > 0) & (asked_in_test > 0)).sum()),
        "test_keys": int((asked_in_test > 0).sum()),
        "test_pairs_of_item_new_to_train": int((trained[items[tested]] == 0).sum()),
        "items_without_pairs": int((np.bincount(items, minlength=n_items) == 0).sum()),
    }


def _check_files(report: dict[str, Any], sources: Sources) -> None:
    """A few pairs may well occur again; most of them do only by mistake."""
    both, tested = report["test_pairs_in_train"], report["split"]["test"]
    if both > tested / 2:
        raise DataError(
            f"{both:,} of the {tested:,} pairs of {sources.named['test_source']} stand in {sources.pairs.name} too, so they test nothing. "
            "Take them out of one of the two."
        )


def _rows(folder: Path, log: SplitLog, parts: Array, train: Array, options: SplitOptions, report: dict[str, Any]) -> Divided:
    """What each row of both sides is to an encoder."""
    rows = files.read_array(folder / "query_rows.npy", mapped=False)
    n_queries, n_items = report["query_rows"], report["items"]
    pairs_of: dict[Side, Array] = {"query": np.bincount(rows[train], minlength=n_queries), "item": np.bincount(log.items[train], minlength=n_items)}
    learnt: dict[Side, Array] = {"query": np.bincount(rows[parts == TRAIN], minlength=n_queries) > 0, "item": np.ones(n_items, bool)}
    if options.by == "cold_items":
        learnt["item"] = np.bincount(log.items[parts != TRAIN], minlength=n_items) == 0
    report["query_rows_in_train"] = int(learnt["query"].sum())
    return Divided(pairs_of, learnt)


def _among(some: Array, all_: Array) -> int:
    """How many of some are among all; by sorting, in place where it may."""
    all_.sort()
    some.sort()
    if not len(all_):
        return 0
    place = np.minimum(np.searchsorted(all_, some), len(all_) - 1)
    return int((all_[place] == some).sum())
