"""Numbers and times of raw columns, as float64; where rows hold none, the error names the first five."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.values import to_text
from twotower.errors import DataError

SHOWN = 5  # rows that an error names
_SPANS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def numbers(column: pa.Array, name: str, source: str, start: int) -> Array:
    """Values as float64, nan where missing. Raises DataError naming the first rows that are no number."""
    try:
        return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = to_text(column).to_pylist()
        found = np.array([_number(text) for text in texts])
        bad = np.flatnonzero([number is None for number in found])
        if len(bad):
            raise DataError(f'{source} {told(bad, start)}: "{name}" is {shown(bad, texts)}, and a number is needed') from None
        return found.astype(np.float64)


def is_number(text: str | None) -> bool:
    """Whether a text is a number, or missing."""
    return _number(text) is not None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "nan")
    except ValueError:
        return None


def told(rows: Array, start: int = 0) -> str:
    """Rows of a source in words: the first five, counted from 1, and how many more."""
    named = [f"{start + row + 1:,}" for row in rows[:SHOWN]]
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(named)}{more}"


def shown(rows: Array, values: Sequence[Any]) -> str:
    """What the first five of these rows hold, each value once."""
    return ", ".join(dict.fromkeys(_short(values[int(row)]) for row in rows[:SHOWN]))


def _short(value: Any) -> str:
    text = repr(value.as_py() if isinstance(value, pa.Scalar) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def without_truths(column: pa.Array) -> pa.Array:
    """The column with truth values that stand as text as 1 and 0, which they are to a label."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    texts = to_text(column)
    for truth, number in (("true", "1"), ("false", "0")):
        texts = pc.if_else(pc.equal(texts, truth), number, texts)
    return texts


def at_least_zero(column: pa.Array, name: str, role: str, source: str, start: int) -> Array:
    """Weights or labels: finite numbers of 0 or more, float64. Raises DataError naming the first rows that hold something else."""
    values = numbers(without_truths(column), name, source, start)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise DataError(f'{source} {told(bad, start)}: the {role} "{name}" is {shown(bad, column)}; it must be a number of 0 or more')
    return values


def scores(column: pa.Array, name: str, source: str, start: int) -> Array:
    """A teacher's scores: float32, nan where missing. Raises DataError naming the first rows that hold something else, or are infinite."""
    with np.errstate(over="ignore"):
        values = numbers(column, name, source, start).astype(np.float32)
    bad = np.flatnonzero(np.isinf(values))
    if len(bad):
        raise DataError(f'{source} {told(bad, start)}: the teacher\'s score "{name}" is {shown(bad, column)}; it must be a finite number or missing')
    return values


def size(text: str) -> int | None:
    """A size in bytes, like 200MB or 1.5 GB; None where it is none."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|k|M|G|T)B\s*", text, re.IGNORECASE)
    if found is None:
        return None
    power = ["", "k", "m", "g", "t"].index(found[2].lower())
    return int(float(found[1]) * 1000**power)


def span(text: str) -> float | None:
    """The seconds of a span of time such as "90d", "12h", "30min", "45s" or "2w"; None for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*", text)
    return float(found[1]) * _SPANS[found[2]] if found else None


def moment(text: str) -> float | None:
    """A written date or time as seconds since 1970 (UTC where no zone is named); None for anything else."""
    try:
        return None if _number(text) is not None else float(_written_times(pa.array([text]), "", "", 0)[0])
    except DataError:
        return None


ZONED = r"[T ]\d\d:?\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"


def times(batch: pa.RecordBatch, name: str, source: str, start: int) -> pa.Array:
    """Times as float64: numbers as they are, dates and times as seconds since 1970 (UTC where no zone is named)."""
    column = batch.column(name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        times = _written_times(to_text(column), name, source, start)
    elif pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times = _seconds(column)
    else:
        times = numbers(column, name, source, start)
    missing = np.flatnonzero(~np.isfinite(times))
    if len(missing):
        empty = all(column[int(row)].as_py() is None for row in missing[:SHOWN])
        what = "missing" if empty else f"{shown(missing, column)}, which is no moment"
        raise DataError(f'{source} {told(missing, start)}: the time "{name}" is {what}. Drop such rows, or leave [pairs] time out.')
    return pa.array(times)


def _seconds(column: pa.Array) -> Array:
    ticks = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64()).cast(pa.float64())
    return np.asarray(pc.fill_null(pc.divide(ticks, 1e6), float("nan")).to_numpy(zero_copy_only=False))


def _written_times(texts: pa.Array, name: str, source: str, start: int) -> Array:
    """Times that stand as text: all numbers, or all dates, each with a zone or without."""
    try:
        return np.asarray(pc.fill_null(texts.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        pass
    seconds = np.full(len(texts), np.nan)
    zoned = np.asarray(pc.fill_null(pc.match_substring_regex(texts, ZONED), False).to_numpy(zero_copy_only=False))
    shortened = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")  # past microseconds
    for which, zone in ((zoned, "UTC"), (~zoned, None)):
        part = shortened.filter(pa.array(which))
        try:
            seconds[which] = _seconds(part.cast(pa.timestamp("us", zone)))
        except pa.ArrowInvalid:
            plain = np.array([is_number(text) for text in texts.to_pylist()])
            if plain.mean() > 0.5:  # they are numbers, then, and the few others are what is wrong
                bad, wanted = np.flatnonzero(~plain), "a number as elsewhere, or in every row a date"
            else:
                bad = np.array([row for row in np.flatnonzero(which) if not _is_moment(shortened[int(row)].as_py(), zone)])
                wanted = "a date like 2024-05-01 17:30:00 or, in every row, a number"
            raise DataError(f'{source} {told(bad, start)}: the time "{name}" is {shown(bad, texts)}; it must be {wanted}') from None
    return seconds


def _is_moment(text: str | None, zone: str | None) -> bool:
    try:
        pa.array([text], pa.string()).cast(pa.timestamp("us", zone))
    except pa.ArrowInvalid:
        return False
    return True
