"""Numbers and times of raw columns, as float64; where a row holds none, the error names it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.values import to_text
from twotower.errors import DataError


def numbers(column: pa.Array, name: str, source: str, start: int) -> Array:
    """Values as float64, nan where missing. Raises DataError naming the first row that is no number."""
    try:
        return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        numbers = np.empty(len(column))
        for number, text in enumerate(to_text(column).to_pylist()):
            try:
                numbers[number] = float(text or "nan")
            except ValueError:
                raise DataError(f'{source} row {start + number + 1}: "{name}" is {text!r}, and a number is needed') from None
        return numbers


ZONED = r"[T ]\d\d:?\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"


def times(batch: pa.RecordBatch, name: str | None, source: str, start: int) -> pa.Array:
    """Times as float64: numbers as they are, dates and times as seconds since 1970 (UTC where no zone is named)."""
    if name is None:
        return pa.nulls(batch.num_rows, pa.float64())
    column = batch.column(name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        times = _written_times(to_text(column), name, source, start)
    elif pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times = _seconds(column)
    else:
        times = numbers(column, name, source, start)
    missing = np.flatnonzero(~np.isfinite(times))
    if len(missing):
        value = column[int(missing[0])].as_py()
        what = "missing" if value is None else f"{value!r}, which is no moment"
        raise DataError(f'{source} row {start + missing[0] + 1}: the time "{name}" is {what}. Drop such rows, or leave [pairs] time out.')
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
            row = next(row for row in np.flatnonzero(which) if not _is_moment(shortened[int(row)].as_py(), zone))
            raise DataError(
                f'{source} row {start + row + 1}: the time "{name}" is {texts[int(row)].as_py()!r}; it must be a date like '
                "2024-05-01 17:30:00 or, in every row, a number"
            ) from None
    return seconds


def _is_moment(text: str | None, zone: str | None) -> bool:
    try:
        pa.array([text], pa.string()).cast(pa.timestamp("us", zone))
    except pa.ArrowInvalid:
        return False
    return True
