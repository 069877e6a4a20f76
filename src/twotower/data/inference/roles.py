"""The columns of the log that are no feature: time, label, weight, event, and the part that a row belongs to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.inference.links import is_event, is_span
from twotower.data.inference.looks import DATE, LOOK, Look
from twotower.data.inference.names import GRADE_WORDS, SPLIT_WORDS, TIME_WORDS, WEIGHT_WORDS, named
from twotower.data.inference.readings import is_since_1970
from twotower.data.quantities import at_least_zero, times
from twotower.data.splits import WRITTEN
from twotower.errors import DataError

GRADES = 20  # different values: more are no grades
EVENT_WEIGHTS = {"buy": 10, "purchase": 10, "order": 10, "transaction": 10, "checkout": 10, "cart": 3, "like": 3, "save": 3, "favorite": 3}


class Roles(NamedTuple):
    """Names of columns, each None where there is none, with a reason for each by option, and columns that were meant and are no good."""

    time: str | None
    label: str | None
    weight: str | None
    event: str | None
    part: str | None
    reasons: dict[str, str]
    spoilt: dict[str, str]

    @property
    def columns(self) -> set[str]:
        """All that have a role."""
        return {name for name in (self.time, self.label, self.weight, self.event, self.part) if name is not None}


def roles(log: dict[str, Look], taken: set[str]) -> Roles:
    """The roles of the log's columns, but of those that are taken."""
    free = {name: look for name, look in log.items() if name not in taken and look.distinct}
    reasons: dict[str, str] = {}
    spoilt: dict[str, str] = {}
    time = _time(free, reasons, spoilt)
    part = next((name for name, look in free.items() if named(name, SPLIT_WORDS) and _is_part(look)), None)
    rest = {name: look for name, look in free.items() if name not in (time, part)}
    label = next((name for name, look in rest.items() if named(name, GRADE_WORDS) and _is_grade(look, reasons, spoilt)), None)
    weight = next((name for name, look in rest.items() if name != label and _is_weight(look, reasons, spoilt)), None)
    event = next((name for name, look in rest.items() if name not in (label, weight) and is_event(look)), None)
    if event is not None:
        reasons["pairs.event"] = _event(event, rest[event])
    return Roles(time, label, weight, event, part, reasons, spoilt)


def moments(log: dict[str, Look]) -> list[str]:
    """The columns that hold dates or moments."""
    return [name for name, look in log.items() if look.is_date or (look.numbers is not None and _is_moment(look))]


def _time(free: dict[str, Look], reasons: dict[str, str], spoilt: dict[str, str]) -> str | None:
    spans = [name for name, look in free.items() if is_span(look)]
    spoilt |= dict.fromkeys(spans, "is how long something took, or a time of day, going by its name and its numbers, and orders no log")
    found = [name for name in moments(free) if name not in spans]
    found += [name for name, look in free.items() if name not in found and look.matching(DATE, 0.9)]  # nearly: what is wrong is said
    found.sort(key=lambda name: _unlike_a_time(free[name]))
    for name in found:
        look = free[name]
        try:
            times(pa.record_batch({name: look.values}), name, "", 0)
        except DataError as error:
            rows = str(error).strip().partition(":")[0]
            gaps = f"is missing in {look.missing:.1%} of the rows" if look.missing else f"holds no moment in {rows}"
            spoilt[name] = f"{gaps}; without those rows it would order the log"
            continue
        reasons["pairs.time"] = "orders the log"
        return name
    return None


def _unlike_a_time(look: Look) -> tuple[bool, bool, bool]:
    """What speaks against a column as the time of the log, beside others: its name, what it is the date of, and numbers that are no dates."""
    of_a_thing = look.numbers is None and named(look.name, ("birth", "birthday", "released", "published"))
    return not named(look.name, TIME_WORDS), of_a_thing, look.numbers is not None and not is_since_1970(look.numbers)


def _is_moment(look: Look) -> bool:
    """Whether numbers are moments: by their name; of vaguer names, by their size too."""
    assert look.numbers is not None
    vague = named(look.name, ("at", "day", "t")) and is_since_1970(look.numbers)
    return vague or named(look.name, tuple(word for word in TIME_WORDS if word != "at"))


def _is_part(look: Look) -> bool:
    """Whether a column names the part of each row."""
    if look.nested or look.missing or not pc.all(pc.is_in(pc.utf8_lower(look.texts), pa.array(list(WRITTEN)))).as_py():
        return False
    parts = {WRITTEN[text.lower()] for text in pc.unique(look.texts).to_pylist()}
    return 0 in parts and (len(parts) > 1 or look.rows >= LOOK)


def _is_grade(look: Look, reasons: dict[str, str], spoilt: dict[str, str]) -> bool:
    """Whether a column says how right each item is; its reason is noted."""
    grades = look.grades
    if look.distinct < 2 or look.distinct > GRADES:
        return False
    if grades is None:
        spoilt[look.name] = "holds no numbers, so it is no label, and every pair is taken for a match"
        return False
    if not _counts(look, "label", spoilt):
        return False
    low, high = float(grades.min()), float(grades.max())
    if look.distinct == 2 and (low, high) == (0, 1):
        reasons["pairs.label"] = "1 for a match, 0 for an explicit non-match, which is trained against"
    else:
        least = grades[grades > 0].min()
        zero = "; 0 is an explicit non-match" if low == 0 else ""
        reasons["pairs.label"] = f"from {low:g} to {high:g}: all above 0 are matches, {least:g} too, and a higher one weighs more{zero}"
        reasons["pairs.match"] = f"{_upper(grades):g}"
    return True


def _upper(grades: Any) -> float:
    """The grade from which on about the better half lies."""
    levels = np.unique(grades)
    return float(next(level for level in levels[1:] if (grades >= level).mean() <= 0.75 or level == levels[-1]))


def _is_weight(look: Look, reasons: dict[str, str], spoilt: dict[str, str]) -> bool:
    """Whether a column says how much each pair counts; its reason is noted."""
    counted = named(look.name, WEIGHT_WORDS) or (named(look.name, GRADE_WORDS) and look.distinct > GRADES)
    if not counted or look.numbers is None or look.distinct < 2 or not _counts(look, "weight", spoilt):
        return False
    low, middle, high = np.quantile(look.numbers, [0, 0.5, 1])
    tail = "; a few count for very much, so its logarithm may serve better" if high > 100 * max(middle, 1e-9) else ""
    reasons["pairs.weight"] = f"from {low:g} to {high:g}: how much a pair counts in the loss{tail}"
    return True


def _counts(look: Look, role: str, spoilt: dict[str, str]) -> bool:
    """Whether every row holds a number of 0 or more, some of them above 0."""
    try:
        values = at_least_zero(look.values, look.name, role, "", 0)
    except (DataError, TypeError):
        what = f"is missing in {look.missing:.1%} of the rows" if look.missing else "holds numbers below 0"
        spoilt[look.name] = f"{what}, so it is no {role}"
        return False
    return bool((values > 0).any())


def _event(name: str, look: Look) -> str:
    """What could be written of the kinds of event."""
    weights = {kind: next((w for word, w in EVENT_WEIGHTS.items() if word in kind.lower()), 1) for kind in pc.unique(look.texts).to_pylist()}
    kinds = ", ".join(f'"{kind}" = {weight}' for kind, weight in weights.items())
    return f'event = "{name}", event_weights = {{ {kinds} }}'
