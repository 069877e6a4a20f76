"""Pairs, queries and items that are there twice, and those that say opposite things."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.columns import Array, distinct
from twotower.data.doctor.evidence import Evidence, combined, sampled
from twotower.data.doctor.findings import MOST_EXAMPLES, Finding, number, percent
from twotower.data.doctor.shingles import shingle
from twotower.data.prepared import ID
from twotower.data.values import to_text

SEEN_REPEATS, MANY_REPEATS = 0.01, 0.3
LABELS = ("label", "match", "is_match", "relevant", "relevance", "is_relevant", "clicked", "positive", "target", "liked")
FEW_ITEMS, PAIRS_OF_A_CLASS = 1000, 10
MOST_ITEMS = 500_000


def repeated_pairs(evidence: Evidence) -> list[Finding]:
    """Rows of the log that hold the query and the item of an earlier row."""
    raw = evidence.raw
    order = np.lexsort((raw.rows, raw.item_rows, raw.query_keys, raw.query_rows))
    same = _as_before(order, raw.query_rows, raw.query_keys, raw.item_rows)
    copies = same & _as_before(order, raw.times) if raw.times is not None else same
    exact = raw.times is not None
    share = float(copies.mean() if exact else same.mean()) if len(same) else 0.0
    if share < SEEN_REPEATS:
        return []
    count = int((copies if exact else same).sum())
    kept = evidence.schema.repeats
    what = "the query, the item and the time" if exact else "the query and the item"
    heavy = share >= MANY_REPEATS and (exact or kept == "keep")
    treated = {"keep": "trains on each of them", "count": "adds up their weights", "first": "keeps the first of them"}[kept]
    advice = 'set [pairs] repeats = "first" if they are copies' if kept != "first" else "nothing is to be done if they are copies"
    at = np.flatnonzero(copies if exact else same)[:MOST_EXAMPLES]
    examples = tuple(
        {"rows": [int(raw.rows[order[i - 1]]), int(raw.rows[order[i]])], "query": evidence.query(int(raw.query_rows[order[i]]))}
        | {"item": evidence.item(int(raw.item_rows[order[i]]))}
        for i in at
        if raw.item_rows[order[i]] >= 0 and raw.query_rows[order[i]] >= 0
    )
    title = f"{percent(share)} of the rows repeat {what} of an earlier row."
    told = f'[pairs] repeats = "{kept}" {treated}; {advice}.'
    return [Finding("repeated_pairs", "warning" if heavy else "note", title, told, {"rows": count}, share, examples)]


def _as_before(order: Array, *columns: Array | None) -> Array:
    """Whether each row in this order equals the one before it: bool [n]."""
    same = np.zeros(len(order), bool)
    same[1:] = np.logical_and.reduce([column[order][1:] == column[order][:-1] for column in columns if column is not None])
    return same


def contradictory_pairs(evidence: Evidence) -> list[Finding]:
    """The same key and item as a match and as none."""
    raw, pairs = evidence.raw, evidence.schema.pairs
    labels, name = (raw.labels, pairs.label) if pairs.label else _labels(evidence)
    if labels is None:
        labels, name = raw.weights, pairs.weight or pairs.event
    if name is None or not (labels == 0).any():
        return []
    order = np.lexsort((raw.rows, raw.item_rows, raw.query_keys))
    pair = np.cumsum(~_as_before(order, raw.query_keys, raw.item_rows)) - 1
    zero, some = (np.bincount(pair, weights=which[order]) > 0 for which in (labels == 0, labels > 0))
    at_odds = np.flatnonzero(zero & some)
    if not len(at_odds):
        return []
    starts = np.searchsorted(pair, at_odds[:MOST_EXAMPLES])
    examples = []
    for start, which in zip(starts, at_odds, strict=False):
        members = order[start : int(np.searchsorted(pair, which, "right"))]
        yes, no = (members[labels[members] > 0], members[labels[members] == 0])
        query, item = int(raw.query_rows[members[0]]), int(raw.item_rows[members[0]])
        examples.append(
            {"a match in row": int(raw.rows[yes[0]]), "none in row": int(raw.rows[no[0]])}
            | {"query": evidence.query(query) if query >= 0 else "", "item": evidence.item(item) if item >= 0 else ""}
        )
    share = len(at_odds) / max(1, len(zero))
    title = f'{number(len(at_odds), "pair")} of one query and item say both that they match and that they do not, by "{name}".'
    return [
        Finding(
            "contradictory_pairs",
            "warning",
            title,
            "Decide which of the two is right and remove the other rows; a pair cannot be learnt both ways.",
            {"pairs": len(at_odds)},
            share,
            tuple(examples),
        )
    ]


def unused_labels(evidence: Evidence) -> list[Finding]:
    """A column that seems to say which rows are no match, and that the config does not read."""
    labels, name = _labels(evidence)
    if labels is None or name in _read(evidence):
        return []
    share = float((labels == 0).mean())
    if not 0 < share < 1:
        return []
    rows = evidence.raw.rows[np.flatnonzero(labels == 0)[:MOST_EXAMPLES]].tolist()
    return [
        Finding(
            "unused_labels",
            "warning",
            f'"{name}" is 0 in {percent(share)} of the rows, and the config takes every row for a match.',
            f'Set [pairs] label = "{name}", so that rows with 0 are learnt as non-matches, or leave such rows out of the log.',
            {"rows": int((labels == 0).sum())},
            share,
            tuple({"row": row, str(name): 0} for row in rows),
        )
    ]


def low_grades(evidence: Evidence) -> list[Finding]:
    """Grades of which even the lowest makes a match, since nothing says from where on they do."""
    pairs, labels = evidence.schema.pairs, evidence.raw.labels
    levels = np.unique(labels)
    if pairs.label is None or pairs.match is not None or len(levels) < 2 or levels[0] <= 0:
        return []
    upper = next(float(level) for level in levels[1:] if (labels >= level).mean() <= 0.75 or level == levels[-1])
    lowest = int((labels == levels[0]).sum())
    title = f'Every row is a match: "{pairs.label}" goes from {levels[0]:g} to {levels[-1]:g}, and whatever is above 0 matches.'
    advice = f"Set [pairs] match = {upper:g} for lower ones to be non-matches. Leave it so if a low one is still a choice: a higher one weighs more."
    return [Finding("low_grades", "note", title, advice, {f"rows of {levels[0]:g}": lowest}, lowest / len(labels))]


def _read(evidence: Evidence) -> set[str | None]:
    """The columns of the log that the schema reads."""
    schema = evidence.schema
    pairs = (getattr(schema.pairs, role) for role in ("time", "weight", "event", "label", "teacher", "item"))
    return {
        *pairs,
        schema.key,
        evidence.options.column,
        schema.item.id,
        *(f.column for f in (*schema.query.features, *schema.item.features)),
        *schema.item.payload,
    }


def _labels(evidence: Evidence) -> tuple[Array | None, str | None]:
    """The label of each raw row (float64 [m], of 0 and 1 alone) and its column: one that is called so."""
    parts = (name for name in evidence.pairs.columns if re.sub(r"[^a-z]+", "_", name.lower()).strip("_") in LABELS)
    name = next(parts, None)
    if name is None or name in evidence.pairs.unfit:
        return None, None
    values = []
    for batch in evidence.pairs.batches():
        texts = to_text(batch.column(name))
        if not pc.all(pc.is_in(texts.drop_null(), pa.array(["0", "1", "true", "false"])), min_count=0).as_py():
            return None, None
        values.append(np.asarray(pc.fill_null(pc.is_in(texts, pa.array(["1", "true"])), False).to_numpy(zero_copy_only=False)))
    return np.concatenate(values)[evidence.raw.rows - 1].astype(np.float64), name


def conflicting_answers(evidence: Evidence) -> list[Finding]:
    """The same question under several of a few classes, where nearly every question has one."""
    log, prepared = evidence.prepared.log, evidence.prepared
    if not evidence.asks_in_words or prepared.n_items > FEW_ITEMS or len(log.item_rows) < PAIRS_OF_A_CLASS * prepared.n_items:
        return []
    pairs = distinct(np.asarray(log.query_keys) * prepared.n_items + np.asarray(log.item_rows))
    answers = np.bincount(pairs // prepared.n_items, minlength=len(prepared.key_names))
    several = np.flatnonzero(answers > 1)
    share = len(several) / max(1, int((answers > 0).sum()))
    if not len(several) or share > 0.2:
        return []
    raw, examples = evidence.raw, []
    for key in several[:MOST_EXAMPLES]:
        at = np.flatnonzero((raw.query_keys == key) & (raw.item_rows >= 0))
        _, first = np.unique(raw.item_rows[at], return_index=True)
        at = at[np.sort(first)][:3]
        if len(at):
            items = " | ".join(evidence.item(int(raw.item_rows[i])) for i in at)
            examples.append({"rows": raw.rows[at].tolist(), "query": evidence.query(int(raw.query_rows[at[0]])), "items": items})
    title = f"{number(len(several), 'query', 'queries')} {'has' if len(several) == 1 else 'have'} several answers, where nearly all have one."
    advice = "Read the examples: where one answer is wrong, correct those rows; where both are right, nothing is to be done."
    return [Finding("conflicting_answers", "warning" if share >= 0.01 else "note", title, advice, {"queries": len(several)}, share, tuple(examples))]


def items_alike(evidence: Evidence) -> list[Finding]:
    """Several items of which all that is read is the same but their ids."""
    columns = [name for name, features in evidence.columns("item").items() if any(f.type != "id" for f in features)]
    if evidence.schema.item.id is None or not evidence.texts("item"):
        return []
    rows = sampled(np.arange(evidence.prepared.n_items), MOST_ITEMS)
    bags = shingle(evidence.words("item", rows)).bags
    others = [evidence.values("item", name, rows).dictionary_encode() for name in columns if name not in evidence.texts("item")]
    codes = [np.asarray(pc.fill_null(other.indices, -1).to_numpy(zero_copy_only=False)) for other in others]
    named = np.flatnonzero(bags != 0)
    kinds = combined(bags.view(np.int64), *codes)[named]
    _, group, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    twin = np.flatnonzero(counts[group] > 1)
    if not len(twin):
        return []
    share = len(twin) / len(rows)
    examples = []
    for which in np.unique(group[twin])[:MOST_EXAMPLES]:
        members = rows[named[np.flatnonzero(group == which)]]
        ids = evidence.values("item", ID, members[:4]).to_pylist()
        examples.append({"ids": ids, "text": evidence.words("item", members[:1])[0][:80]})
    title = f"{number(len(twin), 'item')} ({percent(share)}) share all their words with another item under another id."
    advice = "Merge them under one id before training: in a batch each counts as a wrong answer for the queries of the other."
    return [Finding("items_alike", "warning" if share >= 0.01 else "note", title, advice, {"items": len(twin)}, share, tuple(examples))]


def dropped_rows(evidence: Evidence) -> list[Finding]:
    """Rows that the preparation could not use."""
    report = evidence.prepared.report
    told = {
        "pairs_without_query": ("pairs hold no query", "Look at the query's columns in these rows."),
        "pairs_without_item": ("pairs hold no item", "Look at [pairs] item, and at these rows."),
        "pairs_of_unlisted_event": ("pairs are of an event without a weight", "Add the event to [pairs] event_weights if it counts."),
        "pairs_of_unlisted_item": (
            "pairs name an item that the catalogue lacks",
            'Bring a catalogue with these items, or set [item] unlisted = "keep".',
        ),
    }
    found = []
    for name, (what, advice) in told.items():
        count = int(report.get(name) or 0)
        share = count / max(1, int(report["pairs_read"]))
        if share >= 0.001 and not (name == "pairs_of_unlisted_item" and evidence.schema.item.unlisted == "keep"):
            examples = tuple({"item": str(text)} for text in report.get("unlisted_examples", ())) if name == "pairs_of_unlisted_item" else ()
            title = f"{count:,} {what} ({percent(share)}) and are left out."
            found.append(Finding(name, "warning" if share >= 0.05 else "note", title, advice, {"pairs": count}, share, examples))
    repeated = int(report.get("catalogue_ids_repeated") or 0)
    if repeated:
        title = f"{number(repeated, 'row')} of the catalogue {'repeats' if repeated == 1 else 'repeat'} an id; the first row of each is kept."
        share = repeated / max(1, int(report["catalogue_rows"]))
        told_ids = _repeated_ids(evidence)
        advice = "Keep one row for each id: which of them is right is not known here."
        found.append(Finding("repeated_ids", "warning" if share >= 0.01 else "note", title, advice, {"rows": repeated}, share, told_ids))
    return found


def _repeated_ids(evidence: Evidence) -> tuple[dict[str, object], ...]:
    """The first ids of the catalogue that occur again, with their rows."""
    seen: dict[str, int] = {}
    found: list[dict[str, object]] = []
    row = 0
    for batch in evidence.items.batches() if evidence.items is not None else ():
        for text in to_text(batch.column(str(evidence.schema.item.id))).to_pylist():
            row += 1
            if text is not None and seen.setdefault(text, row) != row:
                found.append({"rows": [seen[text], row], "id": text})
                if len(found) == MOST_EXAMPLES:
                    return tuple(found)
        if row > 2_000_000:
            break
    return tuple(found)
