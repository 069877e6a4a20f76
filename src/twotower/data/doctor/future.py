"""What a model could not have known: test pairs from before training, columns that tell the answer, times that cannot be."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow.compute as pc

from twotower.data.columns import Array, distinct
from twotower.data.doctor.evidence import Evidence, combined
from twotower.data.doctor.findings import MOST_EXAMPLES, Finding, number, percent
from twotower.data.prepared import ID
from twotower.data.splits import TRAIN

SURE, MANY_VALUES = 0.98, 20
FEWEST_REPEATED = 50  # rows of values that occur again
DAY = 86_400.0
FAR = 5.0  # spans of the middle 98% of all times
UNITS = {1.0: (3e8, 5e9), 1e3: (3e11, 5e12), 1e6: (3e14, 5e15), 1e9: (3e17, 5e18)}  # ticks a second, and the years 1979 to 2128 in them


def early_tests(evidence: Evidence) -> list[Finding]:
    """Held-out pairs that are earlier than training pairs of the same key."""
    times, parts = evidence.times, evidence.parts
    if times is None:
        return []
    keys = np.asarray(evidence.prepared.log.query_keys)
    known = np.isfinite(times)
    train = known & (parts == TRAIN)
    last = np.full(len(evidence.prepared.key_names), -np.inf)
    np.maximum.at(last, keys[train], times[train])
    held = np.flatnonzero(known & (parts != TRAIN))
    early = held[times[held] < last[keys[held]]]
    share = len(early) / max(1, len(held))
    if share < 0.01:
        return []
    log = evidence.prepared.log
    examples = tuple(
        {"query": evidence.query(int(log.query_rows[at])), "held out at": _moment(times[at], times), "in training at": _moment(last[keys[at]], times)}
        for at in early[:MOST_EXAMPLES]
    )
    title = f"{percent(share)} of the held-out pairs are earlier than what training knows of the same key: it learns from the future."
    advice = 'Set [split] by = "last", which holds out the latest pairs of each key, or by = "time", which holds out the latest of all.'
    return [Finding("test_before_train", "warning" if share >= 0.05 else "note", title, advice, {"pairs": len(early)}, share, examples)]


def column_gives_answer(evidence: Evidence) -> list[Finding]:
    """Columns of the query of which each value has one item, as a value does that is only known after the choice."""
    found = []
    raw = evidence.raw
    known = (raw.query_rows >= 0) & (raw.item_rows >= 0) & (raw.labels > 0)
    pairs = np.unique(combined(raw.query_rows[known], raw.query_keys[known], raw.item_rows[known]), return_index=True)[1]
    query_rows, keys, items = (column[known][pairs] for column in (raw.query_rows, raw.query_keys, raw.item_rows))
    ids = evidence.values("item", ID)
    for column, features in evidence.columns("query").items():
        if column == evidence.schema.key or any(f.type not in ("id", "category", "number", "time") for f in features):
            continue
        texts = evidence.values("query", column).dictionary_encode()
        codes = np.asarray(pc.fill_null(texts.indices, -1).to_numpy(zero_copy_only=False))[query_rows]
        share, repeated, values = _determined(codes, items, keys)
        same = np.asarray(pc.fill_null(pc.equal(texts.dictionary.take(pc.if_else(codes >= 0, codes, None)), ids.take(items)), False))
        holds_id = float(same.mean()) if len(same) else 0.0
        if holds_id < 0.5 and (share < SURE or repeated < FEWEST_REPEATED or values < MANY_VALUES or len(distinct(items)) < MANY_VALUES):
            continue
        at = np.flatnonzero(same if holds_id >= 0.5 else codes >= 0)[:MOST_EXAMPLES]
        examples = tuple({column: texts.dictionary[int(codes[i])].as_py(), "item": evidence.item(int(items[i]))} for i in at)
        told = f"is the item's own id in {percent(holds_id)} of the pairs" if holds_id >= 0.5 else f"has one item for {percent(share)} of its values"
        title = f'The query\'s column "{column}" gives the answer away: it {told}.'
        advice = f'Leave "{column}" out of [query] features unless it is known before the choice is made.'
        counts = {"values": values, "pairs of repeated values": repeated}
        found.append(Finding("column_gives_answer", "warning", title, advice, counts, max(share, holds_id), examples))
    return found


def _determined(codes: Array, items: Array, keys: Array) -> tuple[float, int, int]:
    """Of the pairs whose value occurs under several keys: the share whose value always has their item, how many, of how many values."""
    known = np.flatnonzero(codes >= 0)
    if not len(known):
        return 0.0, 0, 0
    codes, items, keys = codes[known], items[known], keys[known]
    n = int(codes.max()) + 1
    several = np.bincount(distinct(codes * (int(keys.max()) + 1) + keys) // (int(keys.max()) + 1), minlength=n) > 1
    if not several.any():
        several = np.bincount(codes, minlength=n) > 1
    answers = np.bincount(distinct(codes * (int(items.max()) + 1) + items) // (int(items.max()) + 1), minlength=n)
    rows = several[codes]
    return float((answers[codes[rows]] == 1).mean()) if rows.any() else 0.0, int(rows.sum()), int(several.sum())


def impossible_times(evidence: Evidence) -> list[Finding]:
    """Times later than now, and times far from all others."""
    times = evidence.raw.times
    if times is None or len(times) < 20:
        return []
    found = []
    ticks = next((unit for unit, (low, high) in UNITS.items() if low < float(np.median(times)) < high), None)
    late = np.flatnonzero(times > (evidence.now + DAY) * ticks) if ticks else np.empty(0, np.int64)
    if len(late):
        share = len(late) / len(times)
        title = f"{number(len(late), 'pair')} ({percent(share)}) {'is' if len(late) == 1 else 'are'} later than now."
        advice = f'Correct the column "{evidence.schema.pairs.time}" in these rows or leave them out; they would be what is held out last.'
        found.append(Finding("times_after_now", "warning", title, advice, {"pairs": len(late)}, share, _times_of(evidence, late)))
    low, high = np.quantile(times, [0.01, 0.99])
    far = np.flatnonzero((times < low - FAR * (high - low)) | ((times > high + FAR * (high - low)) & ~np.isin(np.arange(len(times)), late)))
    if len(far) and high > low:
        share = len(far) / len(times)
        bounds = " and ".join(_moment(float(t), times) for t in (low, high))
        title = f"{number(len(far), 'pair')} ({percent(share)}) {'lies' if len(far) == 1 else 'lie'} far from the times of nearly all, {bounds}."
        advice = f'Look for default values in "{evidence.schema.pairs.time}", such as 0 or 1970-01-01, and leave such rows out.'
        found.append(Finding("times_far_off", "warning", title, advice, {"pairs": len(far)}, share, _times_of(evidence, far)))
    return found


def _times_of(evidence: Evidence, at: Array) -> tuple[dict[str, object], ...]:
    raw = evidence.raw
    assert raw.times is not None
    return tuple({"row": int(raw.rows[i]), "time": _moment(float(raw.times[i]), raw.times)} for i in at[:MOST_EXAMPLES])


def _moment(time: float, times: Array) -> str:
    """A time as a date, where the times are dates; else as the number it is."""
    ticks = next((unit for unit, (low, high) in UNITS.items() if low < float(np.nanmedian(times)) < high), None)
    if ticks is None:
        return f"{time:g}"
    try:
        return dt.datetime.fromtimestamp(time / ticks, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{time:g}"
