"""What can go wrong, in the user's words.

    TwotowerError               every error that this package raises on purpose
    ├── ConfigError             a config or an option that cannot be meant
    ├── DataError               files, columns or values that cannot be used
    ├── BundleError             a bundle or run folder that is damaged, foreign or too new
    ├── OutputError             a place that cannot be written
    ├── MissingExtra            a part of the package that is not installed
    ├── Unanswered              a server that does not answer as asked (client.py)
    └── Elsewhere               another of the processes that train together has failed, and has said why

A message says what is wrong, where, which choices there are and what to do next. The command line prints it in one
piece and leaves with exit code 2; anything else that reaches it is a fault of ours and leaves with 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TwotowerError(Exception):
    """Any error that this package raises on purpose."""


class ConfigError(TwotowerError):
    """A config or an option that cannot be meant."""


class DataError(TwotowerError):
    """Files, columns or values that cannot be used."""


class BundleError(TwotowerError):
    """A bundle or run folder that is damaged, foreign or too new."""


class OutputError(TwotowerError):
    """A place that cannot be written."""


class MissingExtra(TwotowerError):
    """A part of the package that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs the extra "{extra}": pip install "twotower[{extra}]"')


class Elsewhere(TwotowerError):
    """Another of the processes that train together has failed or was stopped, and has said why: this one ends without a word."""

    def __init__(self, stopped: bool = False) -> None:
        super().__init__("another of the processes that train together has ended, and has said why")
        self.stopped = stopped


def choices(names: Iterable[str], wanted: str | None = None, most: int = 12) -> str:
    """The choices as words for a message, the nearest to `wanted` first where there is one."""
    known = sorted(map(str, names))
    near = get_close_matches(wanted, known, n=1, cutoff=0.6) if wanted is not None else []
    listed = ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")
    return f'did you mean "{near[0]}"? The choices are: {listed}' if near else f"the choices are: {listed or 'none'}"
