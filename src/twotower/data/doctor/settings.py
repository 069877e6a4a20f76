"""Which settings suit the data, and why: only options that there are, only where the data say something about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from twotower.data.doctor.evidence import Evidence
from twotower.data.doctor.findings import Finding, Setting, percent
from twotower.data.doctor.negatives import at_size, fitting_size, twins
from twotower.data.doctor.popularity import HEAVY_HEAD, head_share
from twotower.data.schema import SIDES, Side

USUAL_BATCH, STEPS = 1024, 20  # pairs; steps an epoch, at least
SILENT = {"empty_column", "constant_column"}


def settings_of(evidence: Evidence, findings: Sequence[Finding]) -> tuple[Setting, ...]:
    """The settings that suit, those of the config beside them."""
    found = {finding.code for finding in findings}
    chosen = [_split(evidence), _batch(evidence, found), _correction(evidence), _temperature(evidence)]
    chosen += [setting for side in SIDES for setting in _features(evidence, side, findings)]
    return tuple(setting for setting in chosen if setting is not None)


def _split(evidence: Evidence) -> Setting | None:
    by, key = evidence.options.by, evidence.schema.key
    if by in ("column", "files", "time", "cold_items", "cold_queries"):
        return Setting("split.by", by, by, "as it is: it asks a question of its own")
    pairs = evidence.schema.pairs
    if key is not None and (pairs.time is not None or pairs.ordered):
        timed = "time" if pairs.time else "the order of the log"
        return Setting("split.by", "last", by, f"a model is asked what comes next: each key's latest pairs, by {timed}, are held out")
    if key is not None:
        return Setting("split.by", "random", by, "the log has no times and does not say that it stands in order: no pair is known to be the latest")
    return Setting("split.by", "group", by, "whole queries are held out, as new ones will come")


def _batch(evidence: Evidence, found: set[str]) -> Setting:
    train = int(evidence.train.sum())
    room = 1 << max(4, (max(1, train // STEPS)).bit_length() - 1)
    size = min(USUAL_BATCH, room)
    reason = f"{USUAL_BATCH:,} is a good start" if size == USUAL_BATCH else f"so that {train:,} training pairs give {train // size:,} steps an epoch"
    if "false_negatives" in found:
        told = twins(evidence)
        weights = evidence.train_items[told.items].astype(float)
        fit = fitting_size(told, weights, size)
        if fit < size:
            size = fit
            reason = f"{percent(at_size(told.mass, weights, fit))} of the pairs then meet a twin of their item; better still, merge those items"
    current = evidence.asked.batch_size
    if size == USUAL_BATCH and "false_negatives" not in found and USUAL_BATCH <= current <= train // STEPS:
        return Setting("train.batch_size", current, current, "as it is: the data allow it")
    return Setting("train.batch_size", size, current, reason)


def _correction(evidence: Evidence) -> Setting:
    worded = all(evidence.texts(side) for side in SIDES)
    share = head_share(evidence.train_items)
    current = evidence.asked.correction
    if worded and share < HEAVY_HEAD:
        return Setting("train.correction", False, current, "both sides have words, so what is asked says more than what is popular")
    return Setting(
        "train.correction", True, current, f"the top 1% of the items have {percent(share)} of the pairs; ids learn popularity rightly only with it"
    )


def _temperature(evidence: Evidence) -> Setting:
    current = evidence.asked.temperature
    inside = 0.03 <= current <= 0.2
    return Setting("model.temperature", current if inside else 0.1, current, "learned from there")


def _features(evidence: Evidence, side: Side, findings: Sequence[Finding]) -> list[Setting]:
    """The features without those that say nothing or too much, and with longer windows."""
    named = {finding.code: [e.get("column") for e in finding.examples if e.get("side") == side] for finding in findings if finding.code in SILENT}
    silent = {column for columns in named.values() for column in columns}
    telling = {column for f in findings if f.code == "column_gives_answer" for column in f.examples[0] if side == "query"} if findings else set()
    kept: list[Any] = [f for f in evidence.schema.features(side) if f.column not in silent | telling]
    dropped = [f.column for f in evidence.schema.features(side) if f not in kept]
    if not dropped or not kept:
        return []
    reason = "without " + ", ".join(f'"{column}"' for column in dict.fromkeys(dropped)) + ", which say nothing or tell the answer"
    return [Setting(f"{side}.features", [_written(f) for f in kept], [_written(f) for f in evidence.schema.features(side)], reason)]


def _written(feature: Any) -> Mapping[str, Any]:
    """A feature as its column, its type and what differs from the defaults."""
    usual = {field.name: field.default for field in fields(feature)}
    values = asdict(replace(feature))
    return {name: value for name, value in values.items() if name in ("column", "type") or value != usual[name]}
