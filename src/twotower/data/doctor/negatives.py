"""Right answers that stand in a batch as wrong ones.

What training knows to match is never counted against a query. What it cannot know is estimated in two ways: by items of the same
or nearly the same words, each with its share of the training pairs; and by what the validation part holds of a key that training
shows, which is right and not known to be. Both are probabilities that at least one such item is among the others of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from twotower.data.columns import Array, distinct
from twotower.data.doctor.evidence import Evidence, combined, sampled
from twotower.data.doctor.findings import MOST_EXAMPLES, Figure, Finding, percent
from twotower.data.doctor.shingles import near_pairs, shingle
from twotower.data.splits import VALIDATION

SEEN, MANY = 0.05, 0.2
MANY_HELD_BACK = 0.5
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
MOST_ITEMS = 100_000


class Twins(NamedTuple):
    """How much of the training pairs is of items that say the same as another."""

    items: Array  # int64 [n]  the items looked at
    mass: Array  # float64 [n]  the share of the training pairs that their twins have
    left: Array  # int64 [m]  pairs of twins, as rows of the catalogue
    right: Array  # int64 [m]


def twins(evidence: Evidence) -> Twins:
    """Items of the same or nearly the same words, and equal in all else that is read but the id."""
    share = evidence.train_items / max(1, int(evidence.train_items.sum()))
    if not evidence.texts("item"):
        none = np.empty(0, np.int64)
        return Twins(none, none.astype(np.float64), none, none)
    asked = np.flatnonzero(evidence.train_items)
    # The most popular ones matter most to a batch.
    rows = np.sort(asked[np.argsort(-evidence.train_items[asked], kind="stable")[:MOST_ITEMS]])
    shingles = shingle(evidence.words("item", rows))
    near = near_pairs(shingles, shingles)
    kinds = _kinds(evidence, rows)
    real = (near.left != near.right) & (kinds[near.left] == kinds[near.right])
    left, right = near.left[real], near.right[real]
    mass = np.bincount(left, weights=share[rows[right]], minlength=len(rows))
    # Items of the same words meet in full, however many they are.
    filled = np.flatnonzero(shingles.bags != 0)
    _, group = np.unique(combined(shingles.bags[filled].view(np.int64), kinds[filled].view(np.int64)), return_inverse=True)
    whole = np.bincount(group, weights=share[rows[filled]])[group] - share[rows[filled]]
    mass[filled] = np.maximum(mass[filled], whole)
    return Twins(rows, mass, rows[left], rows[right])


def _kinds(evidence: Evidence, rows: Array) -> Array:
    """One hash for each item of what is read of it beside its words and its id: uint64 [n]."""
    words = evidence.texts("item")
    names = [name for name, features in evidence.columns("item").items() if name not in words and any(f.type != "id" for f in features)]
    codes = [pc.fill_null(evidence.values("item", name, rows).dictionary_encode().indices, -1) for name in names]
    return combined(np.zeros(len(rows), np.int64), *(np.asarray(code.to_numpy(zero_copy_only=False)) for code in codes))


def at_size(mass: Array, weights: Array, batch_size: int) -> float:
    """The probability that a batch of so many pairs holds something of this mass, over pairs with these weights."""
    total = float(weights.sum())
    return float((weights * -np.expm1((batch_size - 1) * np.log1p(-np.minimum(mass, 1 - 1e-12)))).sum() / total) if total else 0.0


def false_negatives(evidence: Evidence) -> list[Finding]:
    """How often a batch of the chosen size holds an item that says the same as the right one."""
    told = twins(evidence)
    weights = evidence.train_items[told.items].astype(np.float64)
    chance = at_size(told.mass, weights, evidence.asked.batch_size)
    if chance < SEEN:
        return []
    order = np.argsort(-np.minimum(evidence.train_items[told.left], evidence.train_items[told.right]), kind="stable")
    order = order[told.left[order] < told.right[order]][:MOST_EXAMPLES]
    texts = evidence.words("item", told.left[order]), evidence.words("item", told.right[order])
    examples = tuple(
        {
            "item": evidence.item(int(told.left[at])),
            "its twin": evidence.item(int(told.right[at])),
            "text": texts[0][n][:80],
            "twin's": texts[1][n][:80],
        }
        for n, at in enumerate(order)
    )
    size = evidence.asked.batch_size
    title = f"In a batch of {size:,}, {percent(chance)} of the pairs meet an item that says the same as theirs and counts as wrong."
    advice = f"Merge such items under one id, or set [train] batch_size = {fitting_size(told, weights, size)}."
    figure = Figure(
        "line",
        "Pairs that meet a twin of their item, by batch size",
        SIZES,
        tuple(at_size(told.mass, weights, each) for each in SIZES),
        "batch size",
        "share of pairs",
        share=True,
    )
    counts = {"items with a twin": int((told.mass > 0).sum()), "items looked at": len(told.items)}
    return [Finding("false_negatives", "warning" if chance >= MANY else "note", title, advice, counts, chance, examples, figure)]


def fitting_size(told: Twins, weights: Array, size: int) -> int:
    """The largest batch size, no larger than this, at which few pairs meet a twin; never below 64."""
    return max([each for each in SIZES if 64 <= each <= size and at_size(told.mass, weights, each) < SEEN * 2], default=min(64, size))


def held_back(evidence: Evidence) -> list[Finding]:
    """How often a batch holds an item that the key is known to match, by the validation part alone."""
    chance, keys = _held_back(evidence)
    if chance < MANY_HELD_BACK:
        return []
    size = evidence.asked.batch_size
    title = f"In a batch of {size:,}, {percent(chance)} of the pairs of returning keys meet an item that their key is held out for."
    advice = "Keep [train] correction = true, which takes most of it back where popular items are the cause, or use a smaller [train] batch_size."
    return [Finding("held_back_negatives", "note", title, advice, {"keys": keys}, chance)]


def _held_back(evidence: Evidence) -> tuple[float, int]:
    """(the probability of meeting a validation item of the own key, over the training pairs of keys in both parts; how many keys)."""
    log, parts, n = evidence.prepared.log, evidence.parts, evidence.prepared.n_items
    keys, items = np.asarray(log.query_keys), np.asarray(log.item_rows)
    chosen = sampled(distinct(keys[parts == VALIDATION]))
    chosen = chosen[evidence.train_keys[chosen] > 0]
    if not len(chosen):
        return 0.0, 0
    which = np.isin(keys, chosen)
    trained = which & evidence.train
    known = distinct(keys[trained] * n + items[trained])
    new = distinct(keys[which & (parts == VALIDATION)] * n + items[which & (parts == VALIDATION)])
    new = new[~np.isin(new, known)]
    share = evidence.train_items / max(1, int(evidence.train_items.sum()))
    mass = np.bincount(np.searchsorted(chosen, new // n), weights=share[new % n], minlength=len(chosen))
    return at_size(mass, evidence.train_keys[chosen].astype(np.float64), evidence.asked.batch_size), len(chosen)
