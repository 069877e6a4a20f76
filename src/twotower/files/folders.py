"""Folders: built under a passing name and renamed, claimed before any work, held by one process at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from twotower.errors import OutputError
from twotower.files.single import umask, unwritable

LOCK = "run.lock"


@contextlib.contextmanager
def new_folder(path: Path, *, yielding: bool = False) -> Iterator[Path]:
    """A folder under a passing name beside `path`; it takes that name when the block ends well.

    yielding: whether one that somebody else finished meanwhile stays, being equal.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        os.chmod(building, 0o777 & ~umask())
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield building
        _take_name(building, path, yielding)
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def taking(path: Path, *, overwrite: bool = False, ours: Collection[str] = ()) -> Iterator[Path]:
    """A new folder that takes the place of `path` when the block ends well. Raises OutputError before any work where something is there.

    With `overwrite` a folder may be there that holds what is `ours` and nothing else; until the block has ended it stays as it is.
    """
    _no_file(path)
    names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    foreign = [name for name in names if name not in ours]
    if names and not overwrite:
        raise OutputError(f"{path} is not empty. Replace it with --overwrite, or choose another with -o.")
    if foreign:
        raise OutputError(f"{path} holds {', '.join(foreign[:3])}, so it is not ours to overwrite. Choose another folder with -o.")
    with new_folder(path) as building:
        yield building
        if path.is_dir():
            empty_folder(path, ours)
            path.rmdir()


def _take_name(building: Path, path: Path, yielding: bool) -> None:
    try:
        os.replace(building, path)
    except OSError as error:
        if not (yielding and path.is_dir()):
            raise unwritable(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder where there is none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def remove_folder(path: Path) -> None:
    """Remove a folder that was made here; a missing one is fine."""
    shutil.rmtree(path, ignore_errors=True)


def claim_folder(path: Path, *, overwrite: bool = False, ours: Collection[str] = (), room: int = 1 << 20) -> None:
    """Make an output folder, and raise OutputError before any work if it is taken, unwritable or full.

    With `overwrite` it may hold what is `ours`, all of these names and no other: never somebody's documents. Nothing is removed
    here; `empty_folder` does that once the work is sure to begin. `room`: the free space in bytes that must be there.
    """
    try:
        _check_taken(path, overwrite, ours)
        path.resolve().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            free = shutil.disk_usage(path).free
    except OSError as error:
        raise unwritable(path, error) from error
    if free < room:
        raise OutputError(
            f"{path} has {free / 1e6:,.0f} MB free and this needs about {room / 1e6:,.0f} MB. Make room, or choose another place with -o."
        )


@contextlib.contextmanager
def held(path: Path, advice: str = "Wait for it, or choose another folder with -o.") -> Iterator[None]:
    """A folder in which nobody else works until the block ends; if it was made for it and is empty then, it goes again.

    Raises OutputError, with the advice, if another process holds it. The lock is the system's own, so a process that is killed leaves none behind.
    """
    from filelock import FileLock, Timeout

    _no_file(path)
    made = not path.exists()
    make_folder(path)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OutputError(f"another process is writing to {path}. {advice}") from None
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)
        lock.release()
        if made and not any(path.iterdir()):
            path.rmdir()


def _check_taken(path: Path, overwrite: bool, ours: Collection[str]) -> None:
    _no_file(path)
    names = sorted(p.name for p in path.iterdir() if p.name != LOCK) if path.is_dir() else []
    if names and not overwrite:
        raise OutputError(f"{path} is not empty. Continue it with --resume, replace it with --overwrite, or choose another with -o.")
    foreign = [name for name in names if name not in ours and not name.endswith(".part")]
    if foreign:
        raise OutputError(f"{path} holds {', '.join(foreign[:3])}, so it is not ours to overwrite. Choose another folder with -o.")


def _no_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file. Choose a folder with -o.")


def empty_folder(path: Path, ours: Collection[str]) -> None:
    """Remove these files and folders, and what an interrupted writer left; a missing folder is fine."""
    for place in path.iterdir() if path.is_dir() else ():
        if place.name in ours or place.name.endswith(".part"):
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def rename_folder(source: Path, goal: Path) -> None:
    """Give a finished folder its name; where an equal one is there already, named by its content, that one stays."""
    _take_name(source, goal, yielding=True)
    remove_folder(source)
