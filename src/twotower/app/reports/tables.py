"""How tables reach stdout: as wide as the page allows, whole lines where there is none."""

from __future__ import annotations

import os
import sys
from io import StringIO

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000  # columns: the width of a file or a pipe, whose reader wants whole lines


def show(*parts: RenderableType) -> None:
    """Print to stdout: fitted and coloured at a terminal, whole lines without trailing spaces elsewhere."""
    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
        return
    width = os.environ.get("COLUMNS", "")
    page = Console(file=StringIO(), width=int(width) if width.isdecimal() and int(width) else UNBOUNDED, highlight=False, color_system=None)
    page.print(*parts, sep="\n")
    assert isinstance(page.file, StringIO)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in page.file.getvalue().splitlines()))


class Fitting:
    """The first of several renderings that is no wider than the page; the last if none is."""

    def __init__(self, *ways: RenderableType) -> None:
        self.ways = ways

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(width=UNBOUNDED)
        fitting = (way for way in self.ways if Measurement.get(console, wide, way).maximum <= options.max_width)
        yield next(fitting, self.ways[-1])


def columns_of(*columns: str, texts: int = 1) -> Table:
    """A table whose first columns hold texts and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < texts else "right", overflow="fold")
    return table


def faint(text: str) -> RenderableType:
    """A line said in passing."""
    return Text(text, style="dim")


def plain(text: str) -> RenderableType:
    """Text as it is: no markup is read in it, and no line break put in, so that a path or a command can be copied."""
    return Text(text, no_wrap=True, overflow="ignore")
