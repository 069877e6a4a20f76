"""A document for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

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

LONGEST = 32  # characters of a bar


def terminal(document: Document) -> RenderableType:
    """Something that rich can draw."""
    mark = MARKS[document.tone]
    parts: list[RenderableType] = [Text(plain_text(document.title, 400), style="bold")]
    if document.about:
        parts.append(Text(plain_text(document.about, 400), style="dim"))
    parts += ["", Text.assemble((f"{mark.sign} ", mark.colour), (plain_text(document.verdict, 1000), "bold"))]
    for part in document.parts:
        parts += [*_drawn(part)]
    return Group(*parts)


def _drawn(part: Part) -> Iterator[RenderableType]:
    match part:
        case Section():
            yield from ("", Text(plain_text(part.title), style="bold underline"))
            for each in part.parts:
                yield from _drawn(each)
        case Paragraph():
            yield from ("", Text(plain_text(part.text, 2000), style="dim" if part.faint else ""))
        case Table():
            yield from ("", _table(part))
        case Facts():
            yield from ("", _facts(part))
        case Code():
            # No markup, no breaks: it is there to be copied.
            yield from ("", Text("\n".join(f"  {line}" for line in plain_lines(part.text).splitlines()), no_wrap=True, overflow="ignore"))
        case Picture():
            yield from ("", Text(plain_text(part.title)), _Bars(part))
        case Map():
            yield from ("", Text(plain_text(part.title, 1000)), Text(in_words(part), style="dim"))
        case Statement():
            yield from _statement(part)


def _statement(part: Statement) -> Iterator[RenderableType]:
    mark = MARKS[part.tone]
    yield ""
    yield Text.assemble((f"{mark.sign} {mark.word}  ", mark.colour), (plain_text(part.title, 1000), "bold"))
    if part.advice:
        yield Padding(Text(f"→ {plain_text(part.advice, 1000)}"), (0, 0, 0, 2), expand=False)
    if part.details:
        yield Padding(Text(plain_text(part.details, 1000), style="dim"), (0, 0, 0, 2), expand=False)
    if part.examples is not None:
        yield Padding(_table(part.examples), (0, 0, 0, 2), expand=False)
    if part.picture is not None:
        yield Padding(Group(Text(plain_text(part.picture.title), style="dim"), _Bars(part.picture)), (0, 0, 0, 2), expand=False)


def _table(part: Table) -> RenderableType:
    table = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for number, name in enumerate(part.columns):
        table.add_column(Text(plain_text(name)), justify="right" if number in part.numbers else "left", overflow="fold")
    for row in part.rows:
        table.add_row(*(Text(plain_text(cell)) for cell in row))
    return Group(table, Text(plain_text(part.caption, 1000), style="dim")) if part.caption else table


def _facts(part: Facts) -> RenderableType:
    table = Grid.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in part.rows:
        table.add_row(Text(plain_text(name)), Text(plain_text(value, 1000)))
    return table


class _Bars:
    """A picture in blocks, its bars as long as the page has room for."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [(plain_text(label, max(8, options.max_width // 3)), bar, value) for label, bar, value in blocks(self.picture)]
        around = max((len(label) + len(value) for label, _, value in rows), default=0) + 3
        room = min(LONGEST, max(4, options.max_width - around))
        table = Grid.grid(padding=(0, 1, 0, 0))
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, min_width=room)
        table.add_column(justify="right", no_wrap=True)
        for (label, _, value), (_, bar, _) in zip(rows, blocks(self.picture, room), strict=True):
            table.add_row(Text(label), Text(bar, style="cyan"), Text(value))
        yield table
