"""Head and tail: how much of the log a few items and a few keys make up."""

from __future__ import annotations

import numpy as np

from twotower.data.columns import Array
from twotower.data.doctor.evidence import Evidence
from twotower.data.doctor.findings import MOST_EXAMPLES, Figure, Finding, number, percent
from twotower.data.values import to_text

HEAD = 0.01  # of the items or keys
HEAVY_HEAD, VERY_HEAVY_HEAD = 0.5, 0.8  # of the pairs
FEWEST = 100  # items or keys of which a hundredth means something
OUTSIZED, TIMES_THE_NEXT = 0.05, 10
DEFAULTS = {"0", "-1", "1", "unknown", "null", "none", "nan", "anonymous", "guest", "default", "test", "admin", "undefined", "n/a"}
STEPS = 50


def head_share(counts: Array) -> float:
    """The share of all that the top 1% have, at least one of them."""
    top = max(1, round(len(counts) * HEAD))
    return float(np.sort(counts)[::-1][:top].sum() / max(1, counts.sum()))


def gini(counts: Array) -> float:
    """0 where all have the same, near 1 where one has all."""
    ordered = np.sort(counts).astype(np.float64)
    n, total = len(ordered), ordered.sum()
    return float((2 * (np.arange(1, n + 1) * ordered).sum() / total - (n + 1)) / n) if total else 0.0


def lorenz(counts: Array, title: str, what: str) -> Figure:
    """Which share of the pairs the rarest so many of the things have."""
    ordered = np.concatenate([[0.0], np.cumsum(np.sort(counts))]) / max(1, counts.sum())
    at = np.linspace(0, 1, STEPS + 1)
    y = np.interp(at, np.linspace(0, 1, len(ordered)), ordered)
    return Figure("line", title, tuple(at.tolist()), tuple(y.tolist()), f"{what}, the rarest first", "share of the pairs", share=True, diagonal=True)


def head_of_items(evidence: Evidence) -> list[Finding]:
    """How much of training a hundredth of the items makes up."""
    counts = evidence.train_items
    share = head_share(counts)
    shown = np.argsort(-counts, kind="stable")[:MOST_EXAMPLES]
    total = max(1, int(counts.sum()))
    figure = lorenz(counts, "How the pairs are spread over the items", "items")
    if counts.max() == total:
        title = "Every training pair has the same item, so there is nothing to choose between."
        advice = "Look at [pairs] item: it may name the wrong column."
        return [Finding("one_item", "stop", title, advice, {"pairs": total}, 1.0, ({"item": evidence.item(int(shown[0])), "pairs": total},))]
    if len(counts) < FEWEST:
        return []
    examples = tuple({"item": evidence.item(int(row)), "pairs": int(counts[row]), "share": percent(counts[row] / total)} for row in shown)
    title = f"The top 1% of the items {'has' if len(counts) < 150 else 'have'} {percent(share)} of the training pairs."
    if share < HEAVY_HEAD:
        return [Finding("head_of_items", "good", title, "No few items rule the log.", {"items": len(counts)}, share, examples, figure)]
    advice = (
        "Keep [train] correction = true, so that popular items are not pushed away for being met often, and compare with the popularity baseline."
        if evidence.asked.correction
        else "Set [train] correction = true: else popular items are pushed away for being met often."
    )
    severe = share >= VERY_HEAVY_HEAD or not evidence.asked.correction
    return [Finding("head_of_items", "warning" if severe else "note", title, advice, {"items": len(counts)}, share, examples, figure)]


def head_of_keys(evidence: Evidence) -> list[Finding]:
    """How much of training a hundredth of those who ask makes up."""
    counts = evidence.train_keys[evidence.train_keys > 0]
    share = head_share(counts)
    if evidence.schema.key is None or len(counts) < FEWEST or share < HEAVY_HEAD:
        return []
    title = f'The top 1% of the keys "{evidence.schema.key}" have {percent(share)} of the training pairs.'
    advice = "See whether they are people: bots and accounts that many share teach what nobody else wants."
    figure = lorenz(counts, "How the pairs are spread over the keys", "keys")
    return [Finding("head_of_keys", "note", title, advice, {"keys": len(counts)}, share, (), figure)]


def outsized_keys(evidence: Evidence) -> list[Finding]:
    """Single keys that have far more pairs than others: a bot, or a default value."""
    name = evidence.schema.key
    counts = evidence.train_keys
    if name is None or (counts > 0).sum() < FEWEST:
        return []
    total, order = max(1, int(counts.sum())), np.argsort(-counts, kind="stable")[:20]
    usual = float(np.quantile(counts[counts > 0], 0.99))
    texts = _names(evidence, order)
    large = [
        (int(key), texts.get(int(key), ""))
        for key in order
        if (counts[key] >= OUTSIZED * total and counts[key] >= TIMES_THE_NEXT * usual)
        or (counts[key] >= HEAD * total and counts[key] >= 3 * usual and texts.get(int(key), "").lower() in DEFAULTS)
    ]
    if not large:
        return []
    share = sum(int(counts[key]) for key, _ in large) / total
    examples = tuple({name: text, "training pairs": int(counts[key]), "share": percent(counts[key] / total)} for key, text in large[:MOST_EXAMPLES])
    title = f'{number(len(large), "key")} "{name}" {"has" if len(large) == 1 else "have"} {percent(share)} of the training pairs.'
    advice = "Leave their rows out if it is a bot, and their cells empty if it is a default value: all of it is taken for one who asks."
    return [Finding("outsized_keys", "warning", title, advice, {"keys": len(large)}, share, examples)]


def _names(evidence: Evidence, keys: Array) -> dict[int, str]:
    """The declared text of each of these keys that the first rows of the log show."""
    raw, wanted = evidence.raw, {}
    for key in keys.tolist():
        at = np.flatnonzero(raw.query_keys == key)[:1]
        if len(at):
            wanted[int(raw.rows[at[0]]) - 1] = key
    found, start = {}, 0
    for batch in evidence.pairs.batches():
        for row in [row for row in wanted if start <= row < start + batch.num_rows]:
            text = to_text(batch.column(str(evidence.schema.key)).slice(row - start, 1))[0].as_py()
            found[wanted.pop(row)] = text or ""
        start += batch.num_rows
        if not wanted:
            break
    return found


def items_without_pairs(evidence: Evidence) -> list[Finding]:
    """Items of the catalogue that training never shows."""
    count = int((evidence.train_items == 0).sum())
    share = count / max(1, evidence.prepared.n_items)
    ids_only = all(f.type == "id" for f in evidence.schema.item.features)
    if share < (0.2 if ids_only else 0.5):
        return []
    title = f"{percent(share)} of the items have no training pair."
    advice = (
        "They can never be found by their id alone: add what describes them, such as a title, to [item] features."
        if ids_only
        else "They are found only by what describes them: see that [item] features hold it."
    )
    shown = np.flatnonzero(evidence.train_items == 0)[:MOST_EXAMPLES]
    examples = tuple({"item": evidence.item(int(row))} for row in shown)
    return [Finding("items_without_pairs", "warning" if ids_only else "note", title, advice, {"items": count}, share, examples)]


def spread_of(evidence: Evidence) -> dict[str, float | int]:
    """The numbers of the spread, for the page of facts."""
    counts, keys = evidence.train_items, evidence.train_keys[evidence.train_keys > 0]
    return {
        "share_of_top_1_percent_of_items": head_share(counts),
        "share_of_top_1_percent_of_keys": head_share(keys),
        "gini_of_items": gini(counts),
        "items_without_training_pairs": int((counts == 0).sum()),
        "pairs_per_item_median": float(np.median(counts)),
    }
