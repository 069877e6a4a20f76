"""Why one item was found or missed, as a document."""

from __future__ import annotations

from collections.abc import Sequence

from twotower.app.reports.documents import Document, Facts, Paragraph, Part, Section, Table
from twotower.app.reports.results import NAMES
from twotower.runs.explanation import Pair, Why
from twotower.runs.explanation import Part as Worth

SHOWN = 12  # parts, of all


def explained(told: Why) -> Document:
    """The document of an explanation."""
    facts = [
        ("asked", told.query or "a history"),
        ("item", told.item),
        ("rank", f"{'none' if told.rank is None else f'{told.rank:,}'} of {told.of:,} found by {NAMES[told.mode]}, of {told.items:,} items"),
        ("similarity", f"{told.score:.3f}"),
    ]
    if told.words is not None:
        facts.append(("added by words" if told.mode == "hybrid" else "by words", f"{told.words:.3f}"))
    facts.append(("words shared with its own texts", ", ".join(told.shared) or "none"))
    parts: list[Part] = [Facts(facts)]
    if told.parts:
        parts.append(Section("What speaks for it, and against it", [_worths(told.parts)]))
    parts += _training(told)
    return Document("Why it was found" if told.found else "Why it was missed", _verdict(told), "good" if told.found else "note", parts)


def _verdict(told: Why) -> str:
    score = "score" if told.mode != "vectors" else "similarity"
    if told.first is None:
        return "Missed: nothing is found, since nothing of what this query holds is known."
    if told.rank is None:
        return f"Missed: it shares no word with the query, by which {told.of:,} other items are found."
    if told.found:
        return f"Found: number {told.rank:,} of {told.items:,}, with a {score} of {told.value:.3f}."
    needed = "" if told.needed is None else f"; number {told.k} has {told.needed:.3f}"
    first = f"Missed: number {told.rank:,} of {told.items:,}, with a {score} of {told.value:.3f}{needed}."
    trained = told.training
    if trained is None:
        return first
    if not trained.matches:
        return f"{first} Training had no pair of it."
    nearest = trained.own[0]
    return f'{first} Of its {trained.matches:,} training pairs the nearest asked "{nearest.asked}", at a similarity of {nearest.similarity:.3f}.'


def _worths(parts: Sequence[Worth]) -> Table:
    rows = [[f"{part.side}: {part.name}", part.word or "(all of it)", f"{part.worth:+.3f}"] for part in parts[:SHOWN]]
    more = f" The {SHOWN} that do most, of {len(parts)}." if len(parts) > SHOWN else ""
    caption = f"What the similarity loses without it, the rest as it is; what is below 0 speaks against the item.{more}"
    return Table(["", "word or item", "worth"], rows, caption, (2,))


def _training(told: Why) -> list[Part]:
    trained = told.training
    if trained is None:
        return [Paragraph("What training knew is told where the run and its prepared data are at hand.", faint=True)]
    parts: list[Part] = [
        Paragraph(f"Training had {trained.matches:,} pairs of this item." + ("" if trained.own else " It is known by what it holds alone."))
    ]
    if trained.own:
        parts.append(_pairs(trained.own, "The nearest queries that matched it."))
    some = "" if trained.looked == trained.of else f" Of {trained.of:,} training queries {trained.looked:,} were compared."
    parts.append(_pairs(trained.near, f"The nearest queries, whatever they matched.{some}"))
    return [Section("What training knew", parts)]


def _pairs(pairs: Sequence[Pair], caption: str) -> Table:
    return Table(["asked in training", "matched", "similarity"], [[pair.asked, pair.item, f"{pair.similarity:.3f}"] for pair in pairs], caption, (2,))
