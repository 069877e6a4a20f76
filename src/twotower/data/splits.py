"""Which pairs are trained on, validated on and tested on.

To add a split: a function from the log to parts and to what is worth reporting, and its entry in `SPLITS`. Every split is a pure
function of the log, its options and the seed. Non-matches count for no share; those that fall outside training are dropped later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge

from twotower.data.columns import Array
from twotower.data.hashes import mix
from twotower.data.quantities import moment, span
from twotower.errors import ConfigError, DataError

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
WRITTEN = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "test": TEST}
By = Literal["random", "last", "group", "time", "cold_items", "cold_queries", "column", "files"]
_NAMING = ("column", "files")  # splits in which the data name the part
_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How the log is divided.

    by: `random` pairs (the repeats of a key and item stay together); the `last` pairs of each key; what comes after a `time`; whole
    keys, `group`ed with those that ask with the same words or share a value of `column`; whole keys alone (`cold_queries`); whole
    items (`cold_items`); what a `column` says; `files` of their own. test, validation: a share of the pairs, keys or items; for
    `last` a number of pairs of each key; for `time` a share of the pairs, a span such as "7d", or a date. By default 0.1, for `last`
    1. column: holds train, validation or test; for `group`, what must not be divided. Where the data name no validation part, that
    share of the training pairs is drawn.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    by: By = "random"
    test: float | str | None = None
    validation: float | str | None = None
    column: str | None = None
    seed: Annotated[int, Ge(0)] = 0

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        if self.by == "column" and self.column is None:
            raise ConfigError('[split] by = "column" needs column = "...": the one that holds train, validation or test')
        if self.column is not None and self.by not in ("column", "group"):
            raise ConfigError(f'[split] column = "..." goes with by = "column" or "group", and by is "{self.by}". Leave it out.')
        if self.by in _NAMING and self.test is not None:
            raise ConfigError(f'[split] test = ... says nothing with by = "{self.by}": the data name the test pairs. Leave it out.')
        if self.by in ("last", "time") and self.seed:
            raise ConfigError(f'[split] seed draws, and by = "{self.by}" draws nothing. Leave it out.')
        if self.by == "time":
            for name in ("test", "validation"):
                self._check_moment(name)
        elif isinstance(self.test, str) or isinstance(self.validation, str):
            name, text = ("test", self.test) if isinstance(self.test, str) else ("validation", self.validation)
            like = 1 if self.by == "last" else 0.1
            raise ConfigError(f'[split] {name} = "{text}": spans and dates go with by = "time", and by is "{self.by}". Write {name} = {like}.')
        self._check_numbers()

    def _check_numbers(self) -> None:
        """Raise ConfigError for a number of pairs or a share that cannot be meant."""
        given = {name: value for name, value in _given(self) if not isinstance(value, str)}
        like = 1 if self.by == "last" else 0.1
        for name, value in given.items():
            if self.by == "last" and not (value >= 0 and float(value).is_integer()):
                raise ConfigError(f'[split] {name} = {value:g}: by = "last" takes a whole number of pairs of each key, such as {name} = 1')
            if self.by != "last" and not 0 <= value < 1:
                raise ConfigError(f'[split] {name} = {value:g}: by = "{self.by}" takes a share of at least 0 and below 1, such as {name} = 0.1')
        if given.get("validation") == 0:
            raise ConfigError(f"[split] validation = 0 leaves nothing to choose the best epoch by. Write validation = {like}, say.")
        if self.by != "last" and sum(given.values()) >= 1:
            listed = " and ".join(f"{name} = {value:g}" for name, value in given.items())
            raise ConfigError(f"[split] {listed} leave nothing to train on. Write shares whose sum is below 1: test = 0.1, validation = 0.1.")

    def _check_moment(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str) and span(value) is None and moment(value) is None:
            raise ConfigError(f'[split] {name} = "{value}" is no span like "7d" or "12h" and no date like "2024-05-01"; a share is a number like 0.1')

    def shares(self) -> tuple[float | str, float | str]:
        """(test, validation), the defaults filled in."""
        usual = 1.0 if self.by == "last" else 0.1
        return (usual if self.test is None else self.test, usual if self.validation is None else self.validation)


class SplitLog(NamedTuple):
    """What a split may look at: one entry a pair, in the order of the log."""

    keys: Array  # ints [n], numbered from 0 without gaps
    items: Array  # ints [n]
    times: Array | None = None  # float64 [n], rising
    named: Array | None = None  # int8 [n], the part that the data name
    groups: Array | None = None  # ints [keys]: keys of one group must not be divided
    matches: Array | None = None  # bool [n], all where it is None


Made = dict[str, Any]  # what a split reports of itself


def split(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """The part of each pair, int8 [n] of TRAIN, VALIDATION and TEST, and what was made. Raises DataError where a part would be empty."""
    if log.matches is not None and not log.matches.any():
        raise DataError(
            f"none of the {len(log.matches):,} pairs is a match: no label reaches [pairs] match, which is anything above 0 where it is not set. "
            "Lower it, or leave it out."
        )
    parts, made = SPLITS[options.by](log, options)
    counts = np.bincount(parts if log.matches is None else parts[log.matches], minlength=3)
    needed = {TEST: options.shares()[0] != 0 and options.by not in (*_NAMING, "last"), TRAIN: True, VALIDATION: True}
    empty = [PARTS[part] for part, wanted in needed.items() if wanted and not counts[part]]
    if empty:
        raise DataError(
            f'the split by "{options.by}" leaves no pairs to {empty[0]}: of {counts.sum():,} pairs {_counts(counts)}. {_remedy(options, empty[0])}'
        )
    return parts, made


def _remedy(options: SplitOptions, empty: str) -> str:
    """What would give the empty part some pairs."""
    if options.by == "column":
        return f'Correct the column "{options.column}", or bring more pairs.'
    if options.by == "files":
        return "Bring more pairs."
    test, validation = (f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value:g}" for name, value in _given(options))
    if options.by == "last":
        return f'{test} and {validation} are given away only by keys with more matches than that. Lower them, or set [split] by = "random".'
    if empty == "train":
        return f"Bring more pairs, or let [split] {test} and {validation} ask for less."
    return (
        f"Bring more pairs, or change [split] {test}, or set test = 0." if empty == "test" else f"Bring more pairs, or change [split] {validation}."
    )


def _given(options: SplitOptions) -> Iterable[tuple[str, float | str]]:
    return zip(("test", "validation"), options.shares(), strict=True)


def _counts(counts: Array) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in zip(PARTS, counts, strict=True))


def parts_named(texts: pa.Array, column: str, source: str, start: int) -> Array:
    """The parts int8 [n] that a column names. Raises DataError naming the first row that holds something else."""
    names = pa.array(list(WRITTEN))
    place = pc.index_in(pc.utf8_lower(pc.fill_null(texts, "")), names)
    if place.null_count:
        row = int(np.flatnonzero(np.asarray(place.is_null()))[0])
        raise DataError(
            f'{source} row {start + row + 1}: the split column "{column}" holds {texts[row].as_py()!r}; it may hold train, validation or test'
        )
    return np.asarray(np.array(list(WRITTEN.values()), np.int8)[np.asarray(place)])


# --- draws --------------------------------------------------------------------------------------------------------


def _random(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """Different pairs of a key and an item, dealt out by shares; their repeats go with them."""
    names = _pair_names(log, options.seed)
    ordered = _different(names if log.matches is None else names[log.matches])
    n_test, n_validation = _numbers(len(ordered), options)
    parts = np.full(len(names), TRAIN, np.int8)
    if n_test + n_validation:
        parts[names <= ordered[min(len(ordered), n_test + n_validation) - 1]] = VALIDATION
    if n_test:
        parts[names <= ordered[n_test - 1]] = TEST
    return parts, {"different_pairs": len(ordered)}


def _pair_names(log: SplitLog, seed: int) -> Array:
    """A scrambled name uint64 [n] of each key and item: pairs in the order of their names are in random order."""
    names = np.empty(len(log.keys), np.uint64)
    start = mix(np.array([seed + 1], np.uint64))
    for low in range(0, len(names), _AT_ONCE):
        rows = slice(low, low + _AT_ONCE)
        names[rows] = mix(mix(log.keys[rows].astype(np.uint64) + start) + log.items[rows].astype(np.uint64))
    return names


def _different(values: Array) -> Array:
    """The values each once, in rising order, in little memory: sorted in place."""
    ordered = values.copy()
    ordered.sort()
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered if new.all() else ordered[new]


def _numbers(n: int, options: SplitOptions) -> tuple[int, int]:
    """How many of n things are (test, validation), at least one each where the share is not 0."""
    test, validation = (float(share) for share in options.shares())
    return (max(1, round(n * test)) if test else 0, max(1, round(n * validation)) if validation else 0)


def _drawn(n: int, options: SplitOptions) -> Array:
    """n things dealt out by shares: int8 [n]."""
    order = np.random.default_rng(options.seed).permutation(n)
    n_test, n_validation = _numbers(n, options)
    parts = np.full(n, TRAIN, np.int8)
    parts[order[:n_test]] = TEST
    parts[order[n_test : n_test + n_validation]] = VALIDATION
    return parts


def _group(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """Whole keys, and with them those that ask with the same words or share a value of the column."""
    n_keys = int(log.keys.max(initial=-1)) + 1
    groups = np.arange(n_keys) if log.groups is None else log.groups
    n = int(groups.max(initial=-1)) + 1
    if n < 3:
        column = f' of equal "{options.column}"' if options.column else ""
        raise DataError(
            f'the split by "group" finds {n} group{"s" * (n != 1)}{column}, which cannot be divided. Name another column, or another split.'
        )
    return _drawn(n, options)[groups[log.keys]], {"groups": n, "keys_joined": n_keys - n}


def _cold_queries(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """Whole keys: those of one part occur in no other."""
    n = int(log.keys.max(initial=-1)) + 1
    parts = _drawn(n, options)
    return parts[log.keys], {f"{name}_keys": int((parts == part).sum()) for part, name in enumerate(PARTS)}


def _cold_items(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """Whole items: those held out have no pair in training."""
    occurring = np.flatnonzero(np.bincount(log.items))
    parts = np.full(int(log.items.max(initial=-1)) + 1, TRAIN, np.int8)
    parts[occurring] = _drawn(len(occurring), options)
    return parts[log.items], {f"{name}_items": int((parts[occurring] == part).sum()) for part, name in enumerate(PARTS)}


# --- orders -------------------------------------------------------------------------------------------------------


def _last(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """The latest matches of each key; one with too few to give some away stays whole in training."""
    test, validation = (int(float(share)) for share in options.shares())
    order = np.argsort(log.keys, kind="stable")  # the log is in order of time
    matches = np.ones(len(order), bool) if log.matches is None else log.matches[order]
    counts = np.bincount(log.keys[order][matches], minlength=int(log.keys.max(initial=-1)) + 1)
    until = np.cumsum(counts)[log.keys[order]]  # matches up to the end of this key
    left = until - np.cumsum(matches)  # matches of this key that come later
    enough = (counts > test + validation)[log.keys[order]]
    parts = np.full(len(order), TRAIN, np.int8)
    parts[order[enough & (left < test + validation)]] = VALIDATION
    parts[order[enough & (left < test)]] = TEST
    return parts, {"keys_whole_in_train": int(((counts > 0) & (counts <= test + validation)).sum())}


def _time(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """What comes at or after a moment; pairs of one moment are never divided."""
    times = np.arange(len(log.keys), dtype=np.float64) if log.times is None else log.times
    matched = times if log.matches is None else times[log.matches]
    test, validation = options.shares()
    starts, until, number = {}, float(times[-1]), len(matched)
    for name, share in (("test", test), ("validation", validation)):
        starts[name] = _start(share, until, matched[:number], len(matched), ordered=log.times is None)
        number = int(np.searchsorted(matched, starts[name]))
        until = starts[name] if share != 0 else until
    if starts["validation"] > starts["test"]:
        raise DataError(f'[split] validation = "{validation}" begins after test = "{test}" does. Name an earlier moment.')
    parts = np.full(len(times), TRAIN, np.int8)
    parts[times >= starts["validation"]] = VALIDATION
    parts[times >= starts["test"]] = TEST
    return parts, {f"{name}_from": start for name, start in starts.items() if np.isfinite(start)}


def _start(share: float | str, until: float, matched: Array, total: int, *, ordered: bool) -> float:
    """Where a part begins that ends at `until`. matched: the times of the matches before that end."""
    if isinstance(share, str):
        if ordered:
            raise ConfigError(f'[split] "{share}" needs [pairs] time; a log that is only ordered is split by shares like test = 0.1')
        seconds, date = span(share), moment(share)
        if seconds is not None:
            reckoned(until)
            return until - seconds
        assert date is not None
        return date
    if not share or not len(matched):
        return float("inf")
    return float(matched[max(0, len(matched) - max(1, round(total * share)))])


def reckoned(latest: float) -> None:
    """Raise DataError where times are no seconds, so that no span can be counted back in them."""
    if abs(latest) > 1e11:  # the year 5138
        raise DataError(f"the times go up to {latest:.0f}, so they are no seconds since 1970, and a span cannot be counted in them. Divide them.")


# --- what the data name -------------------------------------------------------------------------------------------


def _named(log: SplitLog, options: SplitOptions) -> tuple[Array, Made]:
    """What a column or the files say; where they name no validation part, its share of the training pairs is drawn."""
    assert log.named is not None
    parts = log.named.astype(np.int8)
    if (parts == VALIDATION).any():
        return parts, {}
    chosen = parts == TRAIN if log.matches is None else (parts == TRAIN) & log.matches
    names = _pair_names(log, options.seed)
    ordered = _different(names[chosen])
    if len(ordered):
        limit = ordered[max(1, round(len(ordered) * float(options.shares()[1]))) - 1]
        parts[(parts == TRAIN) & (names <= limit)] = VALIDATION
    return parts, {"validation_drawn": True}


SPLITS: dict[str, Callable[[SplitLog, SplitOptions], tuple[Array, Made]]] = {
    "random": _random,
    "last": _last,
    "group": _group,
    "time": _time,
    "cold_items": _cold_items,
    "cold_queries": _cold_queries,
    "column": _named,
    "files": _named,
}
