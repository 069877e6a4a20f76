"""How a column of one side is read: as a feature of which type, or not at all, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from twotower.data.columns import Array
from twotower.data.features import Categories, Category, FeatureOptions, Id, Number, Text, Time, Vector
from twotower.data.inference.looks import Look
from twotower.data.inference.names import ID_WORDS, TIME_WORDS, named
from twotower.errors import DataError

FEW_VALUES = 100
NEARLY_EMPTY = 0.9  # of the rows hold nothing
NEARLY_ALL = 0.9  # of the values are different: each names one row
SECONDS, MILLISECONDS = (1e8, 5e9), (1e11, 5e12)  # since 1970: from 1973 on
ADDRESS = r"^(https?://|www\.|s3://|gs://|data:)|^[^\s]*[/\\][^\s]+\.\w{2,5}$|^[^\s]+\.(jpe?g|png|gif|webp|svg|mp[34]|pdf|html?)$|^\S+@\S+\.\w+$"
CODE = r"^[0-9a-fA-F]{16,}$|^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-|^[^\s]*\d[^\s]*$|^[A-Za-z0-9+/_=-]{20,}$"
OTHER_DATE = r"^\d{1,2}[-/. ](\d{1,2}|[A-Za-z]{3,9})[-/., ]+\d{2,4}\b|^[A-Za-z]{3,9} \d{1,2},? \d{4}"
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^(?i:nan|n/?a|null|none|-)?$"
SEPARATORS = ("|", ";", ",")


class Reading(NamedTuple):
    """A feature, or None where the column is left out; and the reason."""

    feature: FeatureOptions | None
    reason: str


def read(look: Look) -> Reading:
    """How this column is best read."""
    found = _silent(look) or _nested(look) or _measured(look) or _several(look) or _named(look)
    if found.feature is None:
        return found
    try:
        found.feature.normalise(look.values)
    except (TypeError, DataError):
        return Reading(None, f"looks like a {found.feature.type}, and some of its values are none")
    return found


def _silent(look: Look) -> Reading | None:
    """Columns that say nothing."""
    if not look.distinct:
        return Reading(None, "holds nothing")
    if look.missing >= NEARLY_EMPTY:
        return Reading(None, f"is missing in {look.missing:.0%} of the rows")
    if look.distinct == 1 and len(look.texts) == look.rows:
        return Reading(None, "holds the same in every row")
    return None


def _nested(look: Look) -> Reading | None:
    """Lists and objects, as such or as JSON, and numbers in a row."""
    if look.spaced is not None and (look.spaced >= 8 or look.matching(r"\d\.\d")):
        return Reading(Vector(column=look.name), f"{look.spaced} numbers in every row")
    if look.matching(r"^\{.*\}$"):
        return Reading(None, "holds objects; make columns of what they hold")
    lists = look.lists
    if lists is None:
        return Reading(None, "holds objects; make columns of what they hold") if look.nested else None
    flat = [value for row in lists for value in row]
    if not flat or any(isinstance(value, (list, dict)) for value in flat):
        return Reading(None, "holds lists of lists or objects, or empty ones")
    widths = {len(row) for row in lists if row}
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in flat):
        whole = all(float(value).is_integer() for value in flat)
        if len(widths) == 1 and max(widths) >= (8 if whole else 2):
            return Reading(Vector(column=look.name), f"{max(widths)} numbers in every row")
        if not whole:
            return Reading(None, "holds lists of numbers that are no vectors, as they differ in width")
    return Reading(Categories(column=look.name), f"{sum(map(len, lists)) / len(lists):.1f} values a row on average")


def _measured(look: Look) -> Reading | None:
    """Dates, moments and numbers, also where they stand as text."""
    if look.is_date:
        return Reading(Time(column=look.name), "dates")
    if look.matching(OTHER_DATE, 0.9):
        return Reading(None, "holds dates in a form that is not read here; write them as 2024-05-01")
    numbers = look.numbers
    if numbers is None:
        return _spoilt(look)
    whole = bool((numbers == np.trunc(numbers)).all())
    if whole and named(look.name, ID_WORDS):
        return _named(look)
    if whole and look.share_distinct >= NEARLY_ALL and _counts_up(numbers):
        return Reading(None, "numbers the rows one by one")
    if named(look.name, TIME_WORDS):
        if _within(numbers, SECONDS):
            return Reading(Time(column=look.name), "seconds since 1970")
        if _within(numbers, MILLISECONDS):
            return Reading(Number(column=look.name), "milliseconds since 1970; divided by 1,000 they could be read as a time")
    if look.distinct == 2:
        return Reading(Category(column=look.name), "one of 2 values")
    scale, why = _scale(numbers)
    return Reading(Number(column=look.name, scale=scale), f"numbers from {numbers.min():g} to {numbers.max():g}{why}")


def _spoilt(look: Look) -> Reading | None:
    """Numbers but for a few values."""
    if look.nested or named(look.name, ID_WORDS) or not look.matching(NUMBER, 0.8):
        return None
    odd = look.sample.filter(pc.invert(pc.match_substring_regex(look.sample, NUMBER)))
    if not len(odd) or pc.any(pc.match_substring_regex(look.sample, r"^[+-]?0\d")).as_py():
        return None
    return Reading(None, f"holds numbers and, in {len(odd) / len(look.sample):.1%} of the rows, something else, such as {odd[0].as_py()[:40]!r}")


def _counts_up(numbers: Array) -> bool:
    """Whether whole numbers leave hardly a gap."""
    return len(numbers) >= 20 and float(numbers.max() - numbers.min()) < 1.5 * len(numbers)


def is_since_1970(numbers: Array) -> bool:
    """Whether numbers are of the size of moments: seconds or milliseconds since 1970."""
    return _within(numbers, SECONDS) or _within(numbers, MILLISECONDS)


def _within(numbers: Array, bounds: tuple[float, float]) -> bool:
    return bool((numbers >= bounds[0]).all() and (numbers <= bounds[1]).all())


def _scale(numbers: Array) -> tuple[Any, str]:
    """The scale that suits numbers, and why where it is not the usual one."""
    low, first, middle, last = (float(value) for value in np.quantile(numbers, [0.01, 0.05, 0.5, 0.99]))
    if numbers.min() >= 0 and last >= 100 * max(first, 1.0 if numbers.max() > 100 else 1e-9) and last > 10 * max(middle, 1e-9):
        return "log", "; they span powers of ten"
    below, above = middle - low, last - middle
    if len(numbers) >= 100 and max(below, above) > 5 * max(min(below, above), 1e-12) and len(np.unique(numbers)) > 16:
        return "quantile", "; far more on one side than on the other"
    return "standard", ""


def _several(look: Look) -> Reading | None:
    """Several values in one text, whose parts are found again in other rows."""
    if look.share_distinct >= NEARLY_ALL and look.words >= 6:
        return None
    for separator in SEPARATORS:
        holding = pc.match_substring(look.sample, separator)
        if not len(look.sample) or np.asarray(holding).mean() < 0.2:
            continue
        lists = pc.split_pattern(look.sample, separator)
        parts = pc.utf8_trim_whitespace(lists.flatten())
        alike = pc.count_distinct(parts).as_py() / len(parts)
        words = pc.mean(pc.list_value_length(pc.split_pattern_regex(parts, r"\s+"))).as_py()
        digits = pc.mean(pc.match_substring_regex(parts, r"^\d*$").cast("float64")).as_py()
        most_alike, most_words = (0.2, 2.5) if separator == "," else (0.4, 4)
        if alike <= most_alike and words <= most_words and not (separator == "," and digits > 0.5):
            mean = len(parts) / len(lists)
            return Reading(Categories(column=look.name, separator=separator), f'{mean:.1f} values a row on average, between "{separator}"')
    return None


def _named(look: Look) -> Reading:
    """Texts and names: what reads as words, what is one of a few, what names nothing but its row."""
    few = look.distinct <= FEW_VALUES and look.share_distinct <= 0.5
    if few and look.words < 6:
        return Reading(Category(column=look.name), f"one of {look.distinct} value{'s' * (look.distinct != 1)}")
    if look.is_text:
        return Reading(Text(column=look.name), f"words: {look.words:.0f} on average")
    if look.matching(ADDRESS, 0.5):
        return Reading(None, "holds addresses of pages or files, not words")
    coded = look.matching(CODE, 0.8) or named(look.name, ID_WORDS)
    if coded and look.share_distinct > 0.5:
        return Reading(None, "holds codes, nearly all of them different, so that nothing can be learnt of one")
    if not coded and look.share_distinct > 0.2:
        return Reading(Text(column=look.name), "words, one in most rows")
    return Reading(Id(column=look.name), f"one of {look.distinct:,} values, each in {1 / look.share_distinct:.0f} rows on average")
