"""Moments: where they lie in the day, the week and the year, and how long ago they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array, Column
from twotower.data.features.feature import Form, Part, State, unreadable
from twotower.data.features.measures import FAR, bounded, count_missing, logged, moments_of, with_missing
from twotower.data.features.numbers import NOTHING
from twotower.data.values import to_text

Cycle = Literal["day", "week", "year", "age"]
DAY = 86_400.0
LENGTHS = {"day": DAY, "week": 7 * DAY, "year": 365.2425 * DAY}


@dataclass(frozen=True, kw_only=True)
class Time:
    """A moment: where it lies in the day, the week and the year, and how long ago it is.

    cycles: which of them. zone: whose clocks the day is read from, like Europe/Berlin; times that name no zone are in it already.
    Age is the logarithm of the days before the newest moment of the training data.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = False
    nested: ClassVar[bool] = False

    column: str
    type: Literal["time"] = "time"
    cycles: tuple[Cycle, ...] = ("day", "week", "year", "age")
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if not self.cycles:
            raise ValueError("cycles names none; choose of day, week, year, age")
        try:
            known = bool(self.zone)
            pc.local_timestamp(pa.array([0], pa.timestamp("s", self.zone)))
        except (pa.ArrowException, UnicodeError):
            known = False
        if not known:
            raise ValueError(f"there is no time zone {self.zone!r}; write it like Europe/Berlin, America/New_York or UTC")

    def normalise(self, column: pa.Array) -> pa.Array:
        """Seconds since 1970 in UTC, float64, null where it is missing. Raises Unreadable for what is no moment."""
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            seconds = _readmoments_of(self.column, column, self.zone)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
            seconds = column.cast(pa.float64(), safe=False)
        else:
            seconds = _read_times(self.column, to_text(column), self.zone)
        seconds = pc.if_else(pc.is_nan(seconds), pa.scalar(None, pa.float64()), seconds)
        endless = np.asarray(pc.fill_null(pc.is_inf(seconds), False))
        if endless.any():
            raise unreadable(self.column, endless, column, MOMENT)
        return seconds

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The newest moment, and mean and deviation of the age, float64 [3]. Those of an earlier model stay: later moments have negative ages."""
        if last is not None:
            return last
        values = [bounded(self.normalise(column).drop_null()) for column, _ in parts]
        newest = max((float(part.max()) for part in values if len(part)), default=0.0)
        return {"age": np.concatenate([[newest], moments_of(_aged(part, newest) for part in values)])}

    def encode(self, column: pa.Array, state: State) -> Array:
        """Float32 [n, w]: sine and cosine of each cycle, the age, and whether it is missing."""
        seconds = self.normalise(column)
        missing = np.asarray(seconds.is_null())
        values = bounded(pc.fill_null(seconds, 0.0))
        local = values + self._shift(values)
        newest, mean, deviation = state["age"]
        parts = []
        for cycle in self.cycles:
            if cycle == "age":
                parts.append(np.clip((_aged(values, newest) - mean) / deviation, -FAR, FAR)[:, None])
            else:
                angle = local % LENGTHS[cycle] * (2 * np.pi / LENGTHS[cycle])
                parts.append(np.stack([np.sin(angle), np.cos(angle)], axis=1))
        return with_missing(np.concatenate(parts, axis=1), missing)

    def _shift(self, seconds: Array) -> Array:
        """How many seconds the clocks of the zone are ahead of UTC."""
        if self.zone == "UTC":
            return np.zeros(len(seconds))
        whole = pa.array(np.clip(seconds, -6e10, 2e11).astype(np.int64), pa.timestamp("s", "UTC")).cast(pa.timestamp("s", self.zone))
        return np.asarray(pc.local_timestamp(whole).cast(pa.int64()), np.float64) - np.asarray(whole.cast(pa.int64()), np.float64)

    def form(self, state: State, dimensions: int) -> Form:
        return Form(np.float32, width=1 + sum(1 if cycle == "age" else 2 for cycle in self.cycles))

    def unknown(self, encoded: Column) -> int:
        return 0

    def missing(self, encoded: Column) -> int:
        return count_missing(encoded)


MOMENT = "moment such as 2024-05-01 17:30:00 or a number of seconds"
ZONED = r"[T ]\d\d:?\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"


def _seconds(column: pa.Array, zone: str) -> pa.Array:
    """Dates and times as seconds; those without a zone are read on the clocks of the given one. Raises ArrowInvalid past what Arrow can hold."""
    exact = pa.types.is_date(column.type) or column.type.unit in ("s", "ms", "us")  # else there are digits past microseconds to cut
    if getattr(column.type, "tz", None) is None:
        naive = column.cast(pa.timestamp("us"), safe=exact)
        column = pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="earliest")
    return pc.divide(column.cast(pa.timestamp("us", "UTC"), safe=exact).cast(pa.int64()).cast(pa.float64(), safe=False), 1e6)


def _readmoments_of(column: str, moments: pa.Array, zone: str) -> pa.Array:
    """Dates and times as seconds."""
    try:
        return _seconds(moments, zone)
    except pa.ArrowInvalid:
        bad = np.array([not _is_moment(moments.slice(row, 1), zone) for row in range(len(moments))], bool)
        if not bad.any():
            raise
        raise unreadable(column, bad, moments, MOMENT) from None


def _read_times(column: str, texts: pa.Array, zone: str) -> pa.Array:
    """Times that stand as text: numbers of seconds, or dates with a zone or without."""
    texts = pc.if_else(pc.is_in(pc.utf8_lower(texts), pa.array(NOTHING)), pa.scalar(None, pa.string()), texts)
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        pass
    zoned = np.asarray(pc.fill_null(pc.match_substring_regex(texts, ZONED), False))
    shortened = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")  # past microseconds
    seconds, bad = np.full(len(texts), np.nan), np.zeros(len(texts), bool)
    for which, own in ((zoned, "UTC"), (~zoned, None)):
        rows = np.flatnonzero(which & np.asarray(texts.is_valid()))
        part = shortened.take(pa.array(rows))
        try:
            seconds[rows] = np.asarray(_seconds(part.cast(pa.timestamp("us", own)), zone))
        except pa.ArrowInvalid:
            bad[rows] = [not _is_moment(part.slice(row, 1), zone, own) for row in range(len(part))]
    if bad.any():
        raise unreadable(column, bad, texts, MOMENT)
    return pa.array(seconds, from_pandas=True)


def _is_moment(one: pa.Array, zone: str, own: str | None = None) -> bool:
    try:
        _seconds(one.cast(pa.timestamp("us", own)) if pa.types.is_string(one.type) else one, zone)
    except pa.ArrowInvalid:
        return False
    return True


def _aged(seconds: Array, newest: float) -> Array:
    """The logarithm of the days before the newest moment; negative for later ones."""
    return logged((newest - seconds) / DAY)
