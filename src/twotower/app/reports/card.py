"""A model card as a document: what a bundle is, what it reads, and what was measured, from the bundle alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twotower.app.reports.account import measured
from twotower.app.reports.documents import Document, Facts, Part, Section
from twotower.app.reports.results import NAMES, verdict


def card(told: Mapping[str, Any], metrics: Mapping[str, Any]) -> Document:
    """The document. told: what `describe` says of the bundle, its place left out. metrics: those that the bundle holds."""
    facts = [
        ("model", told["fingerprint"]),
        ("made by", told["made_by"]),
        ("catalogue version", told["catalogue_version"]),
        ("items", f"{told['items']:,}"),
        ("a query reads", ", ".join(told["query"]) or "a history"),
        ("an item reads", ", ".join(told["item"])),
        ("shown of an item", ", ".join(told["shows"])),
        ("searched by", NAMES.get(told["search"], told["search"])),
        ("vectors", f"{told['dimensions']} dimensions, {told['vectors']}, {told['similarity']}"),
    ]
    parts: list[Part] = [Section("What it is", [Facts(facts)]), *measured(metrics)]
    whole = verdict(metrics)
    return Document("Model card", whole.said, whole.tone, parts, f"model {told['fingerprint']}, catalogue version {told['catalogue_version']}")
