"""Examines data before they are trained on: every check in turn, the gravest findings first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from twotower.data.doctor.coverage import cold_items, little_data, long_texts, one_query, unseen_values, unseen_words
from twotower.data.doctor.damage import damaged_texts, ids_nearly_equal, ids_of_nothing, mistyped_columns, placeholders, silent_columns, spoilt_ids
from twotower.data.doctor.duplicates import (
    conflicting_answers,
    contradictory_pairs,
    dropped_rows,
    items_alike,
    low_grades,
    repeated_pairs,
    unused_labels,
)
from twotower.data.doctor.evidence import Asked, Evidence
from twotower.data.doctor.findings import SEVERITIES, Diagnosis, Finding
from twotower.data.doctor.future import column_gives_answer, early_tests, impossible_times
from twotower.data.doctor.leaks import answer_in_query, near_queries, pairs_in_both_parts, queries_in_both_parts, small_parts
from twotower.data.doctor.negatives import false_negatives, held_back
from twotower.data.doctor.popularity import head_of_items, head_of_keys, items_without_pairs, outsized_keys, spread_of
from twotower.data.doctor.settings import settings_of
from twotower.data.prepared import Prepared
from twotower.data.schema import Schema
from twotower.data.sources import Source
from twotower.data.splits import PARTS, SplitOptions

Check = Callable[[Evidence], list[Finding]]

# What reads the prepared folder alone, in seconds: train runs it first.
FAST: tuple[Check, ...] = (
    silent_columns,
    one_query,
    unseen_values,
    head_of_items,
    pairs_in_both_parts,
    little_data,
)
CHECKS: dict[str, tuple[Check, ...]] = {
    "what can be seen at once": FAST,
    "duplicates and contradictions": (
        dropped_rows,
        repeated_pairs,
        contradictory_pairs,
        unused_labels,
        low_grades,
        conflicting_answers,
        items_alike,
    ),
    "leaks across the split": (queries_in_both_parts, near_queries, answer_in_query, small_parts),
    "leaks from the future": (early_tests, column_gives_answer, impossible_times),
    "false negatives": (false_negatives, held_back),
    "damaged texts and types": (
        damaged_texts,
        mistyped_columns,
        placeholders,
        ids_of_nothing,
        spoilt_ids,
        ids_nearly_equal,
    ),
    "head and tail": (head_of_keys, outsized_keys, items_without_pairs),
    "what the model will not know": (unseen_words, cold_items, long_texts),
}


def examine(
    pairs: Source,
    items: Source | None,
    schema: Schema,
    options: SplitOptions,
    prepared: Prepared,
    asked: Asked = Asked(),
    *,
    fast: bool = False,
    now: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """What is wrong with these data, what to do, and which settings suit them.

    prepared: the folder of the same sources, schema and options. fast: only what the prepared folder shows, in seconds.
    now: seconds since 1970, by default the clock's.
    """
    evidence = Evidence(pairs, items, schema, options, prepared, asked, time.time() if now is None else now)
    findings: list[Finding] = []
    for name, checks in ({"what can be seen at once": FAST} if fast else CHECKS).items():
        progress(f"examining the data: {name}")
        findings += [finding for check in checks for finding in check(evidence)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(findings), settings_of(evidence, findings), _facts(evidence, fast))


def _facts(evidence: Evidence, fast: bool) -> dict[str, Any]:
    report = evidence.prepared.report
    told: dict[str, Any] = {"pairs_file": evidence.pairs.name, "items_file": evidence.items.name if evidence.items else None}
    told |= {name: int(report[name]) for name in ("pairs_read", "pairs", "query_rows", "keys", "items")}
    pairs = evidence.schema.pairs
    if pairs.label is not None:
        told["matches"] = int((np.asarray(evidence.prepared.log.labels) > 0).sum())
        told["what_matches"] = f'"{pairs.label}" {"above 0" if not pairs.match else f"from {pairs.match:g} on"}; the rest is no match'
    told |= {f"{name}_pairs": int(report["split"][name]) for name in PARTS}
    told |= {"split_by": report["split"]["by"], **spread_of(evidence)}
    if not fast and evidence.raw.one_in > 1:
        told["log_read"] = f"one in {evidence.raw.one_in} keys, with all their pairs"
    return told
