"""What the model will not know, and what it will not read: unseen values and words, cold items, texts past the window, too little data."""

from __future__ import annotations

import numpy as np

from twotower.data.columns import Array, distinct
from twotower.data.doctor.evidence import Evidence, sampled
from twotower.data.doctor.findings import MOST_EXAMPLES, Finding, Severity, number, percent
from twotower.data.features import UNKNOWN, Id
from twotower.data.hashes import WORD, hash_words
from twotower.data.schema import SIDES, feature_name
from twotower.data.splits import TRAIN, VALIDATION

MANY_UNSEEN, SOME_UNSEEN = 0.5, 0.2
FEW_PAIRS, FEW_PER_ITEM = 1000, 5
MOST_TEXTS = 100_000
READ_ALL = 1 << 20  # words


def unseen_values(evidence: Evidence) -> list[Finding]:
    """Ids and categories of validation queries that training never shows."""
    prepared, parts = evidence.prepared, evidence.parts
    rows = np.asarray(prepared.log.query_rows)[parts == VALIDATION]
    features = evidence.schema.query.features
    unseen = {}
    for feature in features:
        column = prepared.columns["query"].get(feature_name(feature))
        if isinstance(feature, Id) and isinstance(column, np.ndarray):
            unseen[feature.column] = (np.asarray(column)[rows] >= UNKNOWN) & (np.asarray(column)[rows] < feature.first_known)
    lost = np.logical_and.reduce(list(unseen.values())) if len(unseen) == len(features) else np.zeros(len(rows), bool)
    found = []
    if len(rows) and lost.mean() >= 0.99:
        title = f"{percent(float(lost.mean()))} of the validation queries hold nothing that training shows, so nothing can be found for them."
        by_key = evidence.options.by == "group"
        advice = 'Set [split] by = "last", so that each key is in training too.' if by_key else "Add a feature that new queries share with old ones."
        return [
            Finding("unseen_queries", "stop", title, advice, {"pairs": int(lost.sum())}, float(lost.mean()), _unseen_examples(evidence, rows, lost))
        ]
    for name, which in unseen.items():
        share = float(which.mean()) if len(which) else 0.0
        if share >= SOME_UNSEEN:
            severity: Severity = "warning" if share >= MANY_UNSEEN else "note"
            title = f'In {percent(share)} of the validation pairs the query\'s "{name}" is a value that training never shows.'
            advice = "See whether [split] cuts as time will; else add features that new values share with old ones."
            found.append(
                Finding("unseen_values", severity, title, advice, {"pairs": int(which.sum())}, share, _unseen_examples(evidence, rows, which))
            )
    return found


def _unseen_examples(evidence: Evidence, rows: Array, which: Array) -> tuple[dict[str, str], ...]:
    return tuple({"query": evidence.query(int(row))} for row in distinct(rows[which])[:MOST_EXAMPLES])


def unseen_words(evidence: Evidence) -> list[Finding]:
    """Words of validation queries that no training query and no item holds."""
    if not evidence.texts("query"):
        return []
    log, parts = evidence.prepared.log, evidence.parts
    query_rows = np.asarray(log.query_rows)
    held = sampled(distinct(query_rows[parts == VALIDATION]))
    train = sampled(distinct(query_rows[parts == TRAIN]), MOST_TEXTS)
    items = sampled(np.arange(evidence.prepared.n_items), MOST_TEXTS)
    known = distinct(np.concatenate([_words(evidence.words("query", train))[0], _words(evidence.words("item", items))[0]]))
    words, offsets = _words(evidence.words("query", held))
    new = ~np.isin(words, known)
    share = float(new.mean()) if len(new) else 0.0
    if share < SOME_UNSEEN:
        return []
    rows = np.repeat(np.arange(len(held)), np.diff(offsets))
    worst = np.argsort(-np.bincount(rows[new], minlength=len(held)), kind="stable")[:MOST_EXAMPLES]
    examples = tuple({"query": evidence.query(int(held[row])), "new words": int(np.bincount(rows[new], minlength=len(held))[row])} for row in worst)
    title = f"{percent(share)} of the words in validation queries are in no training query and no item."
    advice = (
        "Letter pieces help with word forms; for words that are really new, bring more pairs, or measure a pretrained encoder beside: "
        "[evaluate] pretrained."
    )
    severity: Severity = "warning" if share >= MANY_UNSEEN else "note"
    return [Finding("unseen_words", severity, title, advice, {"words": int(new.sum()), "looked at": len(new)}, share, examples)]


def _words(texts: list[str]) -> tuple[Array, Array]:
    hashed = hash_words(texts, pairs=False, pieces=(), limit=READ_ALL)
    assert (hashed.kinds == WORD).all()
    return hashed.values, hashed.offsets


def cold_items(evidence: Evidence) -> list[Finding]:
    """Validation pairs whose item training never shows."""
    items = np.asarray(evidence.prepared.log.item_rows)[evidence.parts == VALIDATION]
    cold = evidence.train_items[items] == 0
    share = float(cold.mean()) if len(cold) else 0.0
    ids_only = all(f.type == "id" for f in evidence.schema.item.features)
    if share < (0.1 if ids_only else SOME_UNSEEN) or (evidence.options.by == "cold_items" and not ids_only):
        return []
    examples = tuple({"item": evidence.item(int(row))} for row in distinct(items[cold])[:MOST_EXAMPLES])
    title = f"In {percent(share)} of the validation pairs the item has no training pair."
    advice = (
        "By its id alone such an item is never found: add what describes it to [item] features."
        if ids_only
        else "They are found by what describes them alone; see in the figures how well."
    )
    return [
        Finding("cold_items", "warning" if ids_only or share >= MANY_UNSEEN else "note", title, advice, {"pairs": int(cold.sum())}, share, examples)
    ]


def long_texts(evidence: Evidence) -> list[Finding]:
    """Texts that are longer than what is read of them."""
    found = []
    for side in SIDES:
        for feature in evidence.schema.features(side):
            limit = int(getattr(feature, "words", 0) or 0)
            if feature.type != "text" or not limit:
                continue
            table = evidence.prepared.queries if side == "query" else evidence.prepared.items
            rows = sampled(np.arange(table.num_rows))
            texts = [text or "" for text in evidence.values(side, feature.column, rows).to_pylist()]
            lengths = np.diff(_words(texts)[1])
            long = np.flatnonzero(lengths > limit)
            share = len(long) / max(1, len(lengths))
            if share < 0.01:
                continue
            cut = float((lengths[long] - limit).sum() / lengths.sum())
            most = int(np.quantile(lengths, 0.99))
            where = f'"{feature.column}" of the {side} side'
            title = f"{percent(share)} of the texts in {where} are longer than {number(limit, 'word')}: {percent(cut)} of all words is not read."
            advice = f'Set words = {most} in the feature "{feature.column}", which reads 99% of them whole, or put what matters first.'
            shown = long[np.argsort(-lengths[long], kind="stable")][:MOST_EXAMPLES]
            examples = tuple(
                {side: evidence.query(int(rows[i])) if side == "query" else evidence.item(int(rows[i])), "words": int(lengths[i])} for i in shown
            )
            counts = {"texts": len(long), "looked at": len(lengths)}
            found.append(Finding("long_texts", "warning" if cut >= 0.25 else "note", title, advice, counts, share, examples))
    return found


def one_query(evidence: Evidence) -> list[Finding]:
    """A log of one key alone; that of a query side whose columns never change is told of the columns."""
    key, keys = evidence.schema.key, np.asarray(evidence.prepared.log.query_keys)
    if key is None or not len(keys) or (keys != keys[0]).any():
        return []
    title = f'All {number(len(keys), "pair")} are of one query: "{key}" is the same in every row.'
    advice = "There is nothing to tell queries apart by, and what holds for one says nothing of others: bring pairs of several, or check [query] key."
    return [Finding("one_query", "stop", title, advice, {"pairs": len(keys)}, 1.0)]


def little_data(evidence: Evidence) -> list[Finding]:
    """Fewer pairs than what is asked of them needs."""
    train = int(evidence.train.sum())
    found = []
    if train < FEW_PAIRS:
        worded = bool(evidence.texts("query")) and bool(evidence.texts("item"))
        title = f"There {'is' if train == 1 else 'are'} {number(train, 'training pair')}: enough to try it out, too few to learn much."
        advice = (
            "Bring more pairs, and measure a pretrained encoder in the same table: [evaluate] pretrained."
            if worded
            else "Bring more pairs; with so few, popularity is hard to beat."
        )
        found.append(Finding("few_pairs", "warning", title, advice, {"training pairs": train}))
    ids_only = all(f.type == "id" for f in evidence.schema.item.features)
    seen = evidence.train_items[evidence.train_items > 0]
    if ids_only and len(seen) and float(seen.mean()) < FEW_PER_ITEM:
        title = f"An item has {seen.mean():.1f} training pairs on average, and all that is known of it is its id."
        advice = "Add what describes an item to [item] features, or leave out items with very few pairs."
        found.append(Finding("few_pairs_per_item", "warning", title, advice, {"items": len(seen), "training pairs": train}))
    fit = max(16, 1 << max(0, (train // 20).bit_length() - 1))
    if evidence.asked.batch_size > max(fit, train / 4):
        title = f"A batch of {evidence.asked.batch_size:,} takes more than a quarter of the {number(train, 'training pair')}: an epoch has few steps."
        found.append(Finding("large_batch", "note", title, f"Set [train] batch_size = {fit}.", {"training pairs": train}))
    return found
