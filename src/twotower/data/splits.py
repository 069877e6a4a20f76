"""Which pairs are trained on, validated on and tested on.

To add a split: a function from the log to parts, and its entry in `SPLITS`. Every split is a pure function of the log, its
options and the seed. What straddles and what may not is reported by the preparation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge

from twotower.data.columns import Array
from twotower.errors import ConfigError, DataError

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")
_NAMES = {"train": TRAIN, "training": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "test": TEST}


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How the log is divided.

    by: `random` pairs (the repeats of a key and item stay together), the `last` pairs of each key, whole keys (`group`), or what
    a `column` says. test, validation: a share of the pairs or keys, for `last` a number of pairs of each key; by default 0.1, for
    `last` 1. column: holds train, validation or test; where it names no validation, that share of its training pairs is drawn.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    by: Literal["random", "last", "group", "column"] = "random"
    test: Annotated[float, Ge(0)] | None = None
    validation: Annotated[float, Ge(0)] | None = None
    column: str | None = None
    seed: Annotated[int, Ge(0)] = 0

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        if (self.by == "column") != (self.column is not None):
            raise ConfigError('[split] column = "..." goes with by = "column", and only with it')
        if self.by == "column" and self.test is not None:
            raise ConfigError('[split] test = ... says nothing with by = "column": the column names the test pairs. Leave it out.')
        if self.by == "last" and self.seed:
            raise ConfigError('[split] seed draws, and by = "last" draws nothing. Leave it out.')
        if self.by == "last":
            whole = [share for share in (self.test, self.validation) if share is not None]
            if not all(float(share).is_integer() for share in whole) or self.validation == 0:
                raise ConfigError('[split] by = "last" takes whole numbers of pairs: test = 1, validation = 1 (at least 1 for validation)')
        elif self.shares()[0] + self.shares()[1] >= 1 or self.shares()[1] == 0:
            raise ConfigError("[split] test and validation are shares whose sum is below 1, and validation is above 0: test = 0.1, validation = 0.1")

    def shares(self) -> tuple[float, float]:
        """(test, validation), the defaults filled in."""
        usual = 1.0 if self.by == "last" else 0.1
        return (usual if self.test is None else self.test, usual if self.validation is None else self.validation)


class SplitLog(NamedTuple):
    """What a split may look at: one entry a pair, in the order of the log."""

    keys: Array  # int64 [n]
    items: Array  # int64 [n]
    times: Array | None  # float64 [n]
    named: list[str | None] | None  # [n], the values of the split column


def split(log: SplitLog, options: SplitOptions) -> Array:
    """The part of each pair: int8 [n] of TRAIN, VALIDATION and TEST. Raises DataError where a part would be empty."""
    parts = SPLITS[options.by](log, options)
    counts = np.bincount(parts, minlength=3)
    if not counts[TRAIN] or not counts[VALIDATION]:
        empty = "train" if not counts[TRAIN] else "validation"
        raise DataError(
            f'the split by "{options.by}" leaves no pairs to {empty}: of {len(parts):,} pairs {_counts(counts)}. Bring more pairs or change [split].'
        )
    return parts


def _counts(counts: Array) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in zip(PARTS, counts, strict=True))


def _random(log: SplitLog, options: SplitOptions) -> Array:
    _, first, pair_of = np.unique(log.keys * (log.items.max(initial=0) + 1) + log.items, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # pairs are numbered as they first occur
    return _drawn(len(first), options)[order[pair_of]]


def _drawn(n: int, options: SplitOptions) -> Array:
    """n things dealt out by shares, at least one each where the share is not 0."""
    test, validation = options.shares()
    order = np.random.default_rng(options.seed).permutation(n)
    n_test, n_validation = (max(1, round(n * share)) if share else 0 for share in (test, validation))
    parts = np.full(n, TRAIN, np.int8)
    parts[order[:n_test]] = TEST
    parts[order[n_test : n_test + n_validation]] = VALIDATION
    return parts


def _group(log: SplitLog, options: SplitOptions) -> Array:
    keys, key_of = np.unique(log.keys, return_inverse=True)
    return _drawn(len(keys), options)[key_of]


def _last(log: SplitLog, options: SplitOptions) -> Array:
    """A key with too few pairs to give some away stays whole in training."""
    test, validation = (int(share) for share in options.shares())
    times = np.zeros(len(log.keys)) if log.times is None else log.times
    order = np.lexsort((np.arange(len(times)), times, log.keys))
    _, starts, counts = np.unique(log.keys[order], return_index=True, return_counts=True)
    left = np.repeat(starts + counts, counts) - 1 - np.arange(len(order))  # pairs of this key that come later
    enough = np.repeat(counts > test + validation, counts)
    parts = np.full(len(order), TRAIN, np.int8)
    parts[order[enough & (left < test + validation)]] = VALIDATION
    parts[order[enough & (left < test)]] = TEST
    return parts


def _column(log: SplitLog, options: SplitOptions) -> Array:
    assert log.named is not None
    parts = np.empty(len(log.named), np.int8)
    for number, name in enumerate(log.named):
        part = _NAMES.get((name or "").strip().lower())
        if part is None:
            raise DataError(f'the split column "{options.column}" holds {name!r}; it may hold train, validation or test')
        parts[number] = part
    if VALIDATION not in parts:
        train = np.flatnonzero(parts == TRAIN)
        drawn = np.random.default_rng(options.seed).permutation(train)
        parts[drawn[: max(1, round(len(train) * options.shares()[1]))]] = VALIDATION
    return parts


SPLITS: dict[str, Callable[[SplitLog, SplitOptions], Array]] = {"random": _random, "last": _last, "group": _group, "column": _column}
