"""What the held-out pairs share with training: the pairs themselves, the wording of the queries, the answers in the questions."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from twotower.data.columns import Array, distinct
from twotower.data.doctor.evidence import Evidence, sampled, short
from twotower.data.doctor.findings import MOST_EXAMPLES, Finding, Severity, number, percent
from twotower.data.doctor.shingles import near_pairs, shingle
from twotower.data.hashes import fold
from twotower.data.prepared import ID
from twotower.data.splits import TEST, TRAIN, VALIDATION

MOST_TEXTS = 200_000
SHORTEST_ANSWER = 4  # characters: shorter ones are found in any text


def pairs_in_both_parts(evidence: Evidence) -> list[Finding]:
    """Held-out pairs of a key and an item that training holds too."""
    log, parts = evidence.prepared.log, evidence.parts
    pairs = np.asarray(log.query_keys) * evidence.prepared.n_items + np.asarray(log.item_rows)
    held = np.flatnonzero((parts != TRAIN) & (np.asarray(log.labels) > 0))
    both = held[np.isin(pairs[held], distinct(pairs[evidence.train]))]
    share = len(both) / max(1, len(held))
    if not len(both):
        return []
    named = evidence.options.by in ("column", "files")
    examples = tuple({"query": evidence.query(int(log.query_rows[at])), "item": evidence.item(int(log.item_rows[at]))} for at in both[:MOST_EXAMPLES])
    title = f"{percent(share)} of the held-out pairs are in training too, so the figures will be too good."
    severity: Severity = "stop" if named and share >= 0.9 else "warning" if share >= 0.01 else "note"
    if named:
        told = "the files of the parts" if evidence.options.by == "files" else f'the column "{evidence.options.column}"'
        advice = f"Correct {told}: a query and its item belong to one part."
    elif evidence.options.by in ("last", "time"):
        # Who buys the same thing again does so in later pairs too: that may be what is asked for.
        title, severity = f"{percent(share)} of the held-out pairs repeat what their key matched in training.", "note"
        advice = "Such repeats are easy to find: see [evaluate] exclude_seen for whether they count."
    else:
        advice = 'Set [pairs] repeats = "count", so that a pair is there once, or [split] by = "group".'
    return [Finding("pairs_in_both_parts", severity, title, advice, {"pairs": len(both)}, share, examples)]


def queries_in_both_parts(evidence: Evidence) -> list[Finding]:
    """Held-out questions that training asks in the same words."""
    if not evidence.asks_in_words or evidence.options.by == "last":
        return []
    log, parts = evidence.prepared.log, evidence.parts
    keys = np.asarray(log.query_keys)
    held = np.flatnonzero(parts != TRAIN)
    pairs = keys * evidence.prepared.n_items + np.asarray(log.item_rows)
    both = held[np.isin(keys[held], distinct(keys[evidence.train])) & ~np.isin(pairs[held], distinct(pairs[evidence.train]))]
    share = len(both) / max(1, len(held))
    if share < 0.01:
        return []
    examples = tuple(
        {"query": evidence.query(int(log.query_rows[at])), "held-out item": evidence.item(int(log.item_rows[at]))} for at in both[:MOST_EXAMPLES]
    )
    title = f"{percent(share)} of the held-out pairs ask a question that training asks too, with another answer."
    advice = 'Set [split] by = "group": whole queries are then held out, as they will come from strangers.'
    return [Finding("queries_in_both_parts", "warning" if share >= 0.05 else "note", title, advice, {"pairs": len(both)}, share, examples)]


def near_queries(evidence: Evidence) -> list[Finding]:
    """Held-out questions that training asks in nearly the same words."""
    if not evidence.asks_in_words or evidence.options.by == "last":
        return []
    held, train = _texts_of_parts(evidence)
    if not len(held) or not len(train):
        return []
    left, right = (shingle(evidence.words("query", rows)) for rows in (held, train))
    order = np.argsort(right.bags, kind="stable")
    at = np.minimum(np.searchsorted(right.bags[order], left.bags), len(train) - 1)
    same = (right.bags[order][at] == left.bags) & (left.bags != 0)
    twin = np.where(same, order[at], -1)
    overlap = same.astype(np.float64)
    near = near_pairs(left, right)
    twin[near.left], overlap[near.left] = np.where(same[near.left], twin[near.left], near.right), np.maximum(overlap[near.left], near.overlap)
    found = np.flatnonzero(twin >= 0)
    share = len(found) / len(held)
    if share < 0.005 or len(found) < 2:
        return []
    shown = found[np.argsort(-overlap[found], kind="stable")][:MOST_EXAMPLES]
    examples = tuple(
        {"held out": evidence.query(int(held[row])), "in training": evidence.query(int(train[twin[row]])), "shared": percent(float(overlap[row]))}
        for row in shown
    )
    counts = {"queries": len(found), "of the same words": int(same.sum()), "looked at": len(held), "compared with": len(train)}
    title = f"{percent(share)} of the held-out queries are worded as one in training, or nearly."
    way = 'Set [split] by = "group", which keeps queries of the same words together, and [split] column where one says which belong together'
    if evidence.options.by == "group":
        way = (
            "These differ a little, and only those of the very same words are kept together. Set [split] column where one says which belong together"
        )
    advice = f"{way}; else the figures tell of questions already seen."
    return [Finding("near_queries", "warning" if share >= 0.05 else "note", title, advice, counts, share, examples)]


def _texts_of_parts(evidence: Evidence) -> tuple[Array, Array]:
    """(held-out query rows whose key training never shows, training query rows), samples of at most so many."""
    log, parts = evidence.prepared.log, evidence.parts
    query_rows, keys = np.asarray(log.query_rows), np.asarray(log.query_keys)
    new = (parts != TRAIN) & ~np.isin(keys, distinct(keys[parts == TRAIN]))
    return sampled(distinct(query_rows[new])), sampled(distinct(query_rows[parts == TRAIN]), MOST_TEXTS)


def answer_in_query(evidence: Evidence) -> list[Finding]:
    """Queries that hold the text of their item."""
    if not evidence.texts("query"):
        return []
    log = evidence.prepared.log
    pairs = sampled(np.arange(len(log.item_rows)))
    queries = [f" {fold(text)} " for text in evidence.words("query", np.asarray(log.query_rows)[pairs])]
    rows = np.asarray(log.item_rows)[pairs]
    shuffled = np.random.default_rng(0).permutation(rows)
    found = []
    columns = [*evidence.texts("item"), *([ID] if evidence.schema.item.id is not None else [])]
    for column in columns:
        inside, chance = (_inside(queries, pc.fill_null(evidence.values("item", column, which), "").to_pylist()) for which in (rows, shuffled))
        share, by_chance = float(inside.mean()), float(chance.mean())
        if share - by_chance < 0.1:
            continue
        name = evidence.schema.item.id if column == ID else column
        examples = tuple(
            {"query": short(queries[at].strip(), 160), str(name): short(evidence.values("item", column, rows[at : at + 1])[0].as_py())}
            for at in np.flatnonzero(inside)[:MOST_EXAMPLES]
        )
        title = f'{percent(share)} of the queries hold the whole "{name}" of their item ({percent(by_chance)} would by chance).'
        advice = (
            "Check that these queries are as people ask them before they know the answer; if they are, compare with BM25, which word search "
            "alone would find: [evaluate] baselines."
        )
        counts = {"queries": int(inside.sum()), "looked at": len(pairs)}
        found.append(Finding("answer_in_query", "warning" if share >= 0.5 else "note", title, advice, counts, share, examples))
    return found[:1]


def _inside(queries: list[str], answers: list[str]) -> Array:
    """Whether each query holds its answer as whole words: bool [n]."""
    folded = (fold(answer).strip() for answer in answers)
    return np.array([len(answer) >= SHORTEST_ANSWER and f" {answer} " in query for query, answer in zip(queries, folded, strict=True)], bool)


def small_parts(evidence: Evidence) -> list[Finding]:
    """Held-out parts that are too small to say anything."""
    counts = np.bincount(evidence.parts, minlength=3)
    found = []
    for part, name in ((VALIDATION, "validation"), (TEST, "test")):
        if 0 < counts[part] < 100:
            title = f"The {name} part has {number(int(counts[part]), 'pair')}: its figures will be uncertain by some ten points."
            advice = f"Raise [split] {name}, or bring more pairs."
            found.append(Finding(f"small_{name}", "note", title, advice, {"pairs": int(counts[part])}))
    return found
