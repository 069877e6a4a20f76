"""A model card as a document: what a bundle is, what it reads, of what it was trained and what was measured, from the bundle alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twotower.app.reports.account import measured
from twotower.app.reports.documents import Document, Facts, Paragraph, Part, Section, Table
from twotower.app.reports.results import NAMES, bytes_told, verdict
from twotower.bundle import Version

MOST_VERSIONS = 20  # the newest


def card(told: Mapping[str, Any], metrics: Mapping[str, Any], written: str = "", versions: Sequence[Version] = ()) -> Document:
    """The document.

    told: what `describe` says of the bundle, its place left out. metrics: those that the bundle holds. written: the card that was written when it
    was made. versions: those of its catalogue, oldest first.
    """
    facts = [
        ("model", told["fingerprint"]),
        ("made by", told["made_by"]),
        *([("went on from", told["continues"])] if "continues" in told else []),
        ("catalogue version", told["catalogue_version"]),
        ("items", f"{told['items']:,}"),
        ("a query reads", ", ".join(told["query"]) or "a history"),
        ("an item reads", ", ".join(told["item"])),
        ("shown of an item", ", ".join(told["shows"])),
        ("searched by", NAMES.get(told["search"], told["search"])),
        ("vectors", f"{told['dimensions']} dimensions, {told['vectors']}, {told['similarity']}"),
    ]
    parts: list[Part] = [Section("What it is", [Facts(facts)]), *_trained(metrics, written), *measured(metrics), *_versions(versions, told)]
    whole = verdict(metrics)
    return Document("Model card", whole.said, whole.tone, parts, f"model {told['fingerprint']}, catalogue version {told['catalogue_version']}")


def _trained(metrics: Mapping[str, Any], written: str) -> list[Part]:
    """Of what it was trained, in the words of the card that is in the bundle; its heading and its table stand elsewhere."""
    lines = [line for line in written.splitlines() if line and line[0] not in "#|"]
    facts, of = metrics.get("training") or {}, []
    if "steps" in facts:
        of.append(("steps", f"{facts['steps']:,}"))
    if facts.get("best_epoch") is not None:
        of.append(("kept from epoch", str(facts["best_epoch"])))
    if facts.get("temperature") is not None:
        of.append(("temperature at the end", f"{facts['temperature']:.4f}"))
    # The first line says what the features are, which stands above as facts.
    parts: list[Part] = [*(Paragraph(line) for line in lines[1:]), *([Facts(of)] if of else [])]
    return [Section("Of what it was trained", parts)] if parts else []


def _versions(versions: Sequence[Version], told: Mapping[str, Any]) -> list[Part]:
    """The versions of its catalogue, newest first."""
    if len(versions) < 2:
        return []
    rows = [
        [
            each.version,
            "answers" if each.version == told["catalogue_version"] else "",
            (each.written or "")[:16].replace("T", " "),
            f"{each.rows:,}",
            ", ".join(f"{count:,} {what}" for what, count in each.change.items() if count),
            bytes_told(each.own_bytes),
        ]
        for each in reversed(versions)
    ][:MOST_VERSIONS]
    caption = f"The newest {len(rows)} of {len(versions):,}." if len(rows) < len(versions) else ""
    return [Section("Its catalogue", [Table(["version", "", "written (UTC)", "items", "what changed", "of its own"], rows, caption, numbers=(3, 5))])]
