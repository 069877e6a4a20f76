"""What the verbs share: the application that they belong to, their common options, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.errors import ConfigError

if TYPE_CHECKING:
    from twotower.app.reports import Document


def examples(*lines: str) -> str:
    r"""An epilog that keeps its lines: \b is click's mark for that."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    name="twotower",
    help="From logged pairs to look-up: train a two-tower model, measure it honestly, search with it.",
    epilog=examples(
        "twotower demo",
        "twotower init clicks.csv --items products.csv",
        "twotower train twotower.toml -o runs/first",
        'twotower search runs/first "waterproof boots" -k 5',
        "twotower evaluate runs/first --pairs newer_clicks.csv",
    )
    + "\n\n`twotower VERB --help` tells of one verb.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="BLOCK.OPTION=VALUE", help="Override a config value, like train.epochs=3. May be repeated.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")]
BundlePath = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder or a bundle.", show_default=False)]


@contextmanager
def loading() -> Iterator[None]:
    """Say at a terminal that the libraries are loaded while this lasts, seconds on a cold disk; no line of it stays."""
    if sys.stderr.isatty():
        print("loading ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    from twotower.files import json_text

    print(json_text(value))


def check_name(name: str | None, option: str, store: str | None) -> None:
    """Raise ConfigError for the name of what a store holds, where no store is named."""
    if name is not None and store is None:
        raise ConfigError(f"--name is what a store calls the items: name the store with {option}, or leave it out")


def show_parts(*parts: Any) -> None:
    from twotower.app.reports import show

    show(*parts)


def tell(document: Document, told: Any, output: Path | None, json: bool) -> None:
    """Show a document at the terminal, or write it as a page and print its verdict; with `json`, print what it tells instead of showing it."""
    if output is not None:
        from twotower.app.reports import render
        from twotower.files import write_text

        write_text(output, render(document, output))
        print(f"{document.verdict}\nwrote {output}", file=sys.stderr)
    if json:
        print_json(told)
    elif output is None:
        from twotower.app.reports.terminal import terminal

        show_parts(terminal(document))


def _version(show: bool) -> None:
    if show:
        from twotower import __version__

        print(f"twotower {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False) -> None:
    """From logged pairs to look-up: train a two-tower model, measure it honestly, search with it."""
