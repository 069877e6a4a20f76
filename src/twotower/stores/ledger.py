"""Which versions a folder's store holds and which of them is live: one JSON file, replaced in one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from twotower import files
from twotower.errors import BundleError, MissingExtra, OutputError
from twotower.stores.facts import Version

FORMAT = 1


def ledger_path(folder: Path, name: str) -> Path:
    """Where the ledger of a name lies."""
    return folder / f"{name}.versions.json"


def read_ledger(folder: Path, name: str) -> list[Version]:
    """The finished versions, oldest first; none where nothing was published. Raises BundleError for a damaged or newer file."""
    path = ledger_path(folder, name)
    if not path.exists():
        return []
    told = files.read_json(path)
    try:
        if told["format"] > FORMAT:
            raise BundleError(f"{path} was written by a newer twotower, in format {told['format']}; this one reads {FORMAT}. Upgrade.")
        return [Version.of(each) for each in told["versions"]]
    except (KeyError, TypeError) as error:
        raise BundleError(f"{path} is damaged: {error!r}. Restore it from a copy, or remove it and publish again.") from None


def write_ledger(folder: Path, name: str, versions: Sequence[Version]) -> None:
    """From now on these are the versions; whoever reads sees all of it or none."""
    files.write_json(ledger_path(folder, name), {"format": FORMAT, "versions": [version.told() for version in versions]})


@contextlib.contextmanager
def claimed(folder: Path, name: str, extra: str) -> Iterator[None]:
    """While the block runs nobody else publishes under this name. Raises OutputError if somebody does."""
    busy = folder / f".{name}.publishing"
    try:
        with files.held(busy):
            yield
    except ImportError:
        raise MissingExtra("publishing into a folder", extra) from None
    except OutputError as error:
        if "another process" in str(error):
            raise OutputError(f'another process is publishing "{name}" into {folder}. Wait for it, and run this again.') from None
        raise
