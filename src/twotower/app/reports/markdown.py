"""A document as Markdown, as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from twotower.app.reports.documents import (
    MARKS,
    Code,
    Document,
    Facts,
    Map,
    Paragraph,
    Part,
    Picture,
    Section,
    Statement,
    Table,
    plain_lines,
    plain_text,
)
from twotower.app.reports.drawings import blocks, in_words


def markdown(document: Document) -> str:
    """The text of the document; what the user's data hold is escaped, so that it shows as it is."""
    lines = [f"# {_escaped(document.title)}", ""]
    if document.about:
        lines += [_escaped(document.about), ""]
    lines += [f"**{MARKS[document.tone].sign} {_escaped(document.verdict)}**", ""]
    for part in document.parts:
        lines += [*_drawn(part, 2)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _drawn(part: Part, level: int) -> Iterator[str]:
    match part:
        case Section():
            yield from (f"{'#' * level} {_escaped(part.title)}", "")
            for each in part.parts:
                yield from _drawn(each, level + 1)
        case Paragraph():
            yield from (_escaped(part.text), "")
        case Table():
            yield from _table(part)
        case Facts():
            yield from _table(Table(("", ""), part.rows))
        case Code():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", part.text)), default=0))
            yield from (f"{fence}{part.language}", plain_lines(part.text), fence, "")
        case Picture():
            yield from (f"*{_escaped(part.title)}*", "", *_table(Table((part.x_label, "", part.y_label), blocks(part, 20), numbers=(2,))))
        case Map():
            yield from (f"*{_escaped(part.title)}*", "", _escaped(in_words(part)), "")
        case Statement():
            yield from _statement(part, level)


def _statement(part: Statement, level: int) -> Iterator[str]:
    mark = MARKS[part.tone]
    yield from (f"{'#' * level} {mark.sign} {mark.word}: {_escaped(part.title)}", "")
    if part.advice:
        yield from (f"→ {_escaped(part.advice)}", "")
    if part.details:
        yield from (_escaped(part.details), "")
    if part.examples is not None:
        yield from _table(part.examples)
    if part.picture is not None:
        yield from _drawn(part.picture, level)


def _table(part: Table) -> Iterator[str]:
    yield f"| {' | '.join(_escaped(name) for name in part.columns)} |"
    yield f"|{'|'.join('---:' if n in part.numbers else '---' for n in range(len(part.columns)))}|"
    for row in part.rows:
        yield f"| {' | '.join(_escaped(cell) for cell in row)} |"
    yield ""
    if part.caption:
        yield from (_escaped(part.caption), "")


def _escaped(text: str) -> str:
    """Text as it is: no mark-up is read in it, and it stays in its line."""
    plain = plain_text(text, 2000).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|#~!>])", r"\\\1", plain)
