"""What a report consists of: one document, drawn for a terminal, as a web page or as Markdown.

To add a part: a named tuple here, its entry in `Part`, and one function of its kind in `terminal`, `webpage` and `markdown`. All
strings are plain text: whoever draws them escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Tone = Literal["stop", "warning", "note", "good"]


class Mark(NamedTuple):
    """How a tone is shown: never by colour alone."""

    sign: str
    word: str
    colour: str  # of a terminal


MARKS: dict[Tone, Mark] = {
    "stop": Mark("✖", "stop", "bold red"),
    "warning": Mark("▲", "warning", "yellow"),
    "note": Mark("●", "note", "cyan"),
    "good": Mark("✔", "good", "green"),
}


class Paragraph(NamedTuple):
    """Running text. faint: said in passing."""

    text: str
    faint: bool = False


class Table(NamedTuple):
    """Rows under a head. numbers: the columns, counted from 0, that hold numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: Sequence[int] = ()


class Facts(NamedTuple):
    """Names and their values."""

    rows: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """Lines to be copied as they are."""

    text: str
    language: str = ""


class Picture(NamedTuple):
    """Numbers as a picture. kind: `bars` (a label and a value each), `line` (x rising, y beside it), `histogram` (x: edges, y: counts)."""

    kind: Literal["bars", "line", "histogram"]
    title: str
    x: Sequence[float | str]
    y: Sequence[float]
    x_label: str = ""
    y_label: str = ""
    share: bool = False  # whether y is shown as a percentage
    diagonal: bool = False  # whether a line from corner to corner says what would be even
    band: Sequence[tuple[float, float]] = ()  # of a line: where each y lies between, nine times in ten

    def said(self, value: float) -> str:
        """A y as text."""
        return f"{value:.1%}" if self.share else f"{value:,.4g}"


class Map(NamedTuple):
    """Points in a plane, each with a name, coloured by the group that it is of. by: what groups are; group len(labels): none of them."""

    title: str
    points: Sequence[tuple[float, float]]  # one scale for both ways
    names: Sequence[str]
    groups: Sequence[int]
    labels: Sequence[str]
    by: str = ""

    def counted(self) -> list[tuple[str, int]]:
        """Each group and how many points are of it, those of none at the end."""
        counts = [(label, self.groups.count(n)) for n, label in enumerate([*self.labels, "other" if self.labels else "all"])]
        return [(label, count) for label, count in counts if count]


class Statement(NamedTuple):
    """Something found: what it is, what to do, and what shows it."""

    tone: Tone
    title: str
    advice: str = ""
    details: str = ""
    examples: Table | None = None
    picture: Picture | None = None


class Section(NamedTuple):
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part]


Part = Paragraph | Table | Facts | Code | Picture | Map | Statement | Section


class Document(NamedTuple):
    """A whole report. verdict: the one sentence to take away, in its tone."""

    title: str
    verdict: str
    tone: Tone
    parts: Sequence[Part]
    about: str = ""  # of what, when, by what


def plain_lines(text: str) -> str:
    """Lines as they are, without what would move a terminal's cursor."""
    return "\n".join("".join(" " if c < " " or "\x7f" <= c <= "\x9f" else c for c in line) for line in text.rstrip().splitlines())


def plain_text(value: Any, most: int = 160) -> str:
    """A value as one line of text, without what would move a terminal's cursor."""
    text = "" if value is None else "".join(" " if c < " " or "\x7f" <= c <= "\x9f" else c for c in str(value))
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
