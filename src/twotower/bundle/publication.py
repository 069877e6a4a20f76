"""A folder that models are served from: which of the bundles in it is in use, switched in one step.

served/   LIVE              a line each: the bundle in use, and behind it those that were, the last one first
          bundles/<name>/   bundles, each under the beginning of its model's fingerprint

Whoever follows such a folder sees a whole model or the one before. It passes for the bundle in use wherever one is asked for, `refresh` among
it, so that a catalogue grows where it is served.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from twotower import files
from twotower.bundle.growth import STAGING, WAIT
from twotower.bundle.indexes import INDEXES
from twotower.bundle.layout import BUNDLES, LIVE, open_bundle, published, segments_named, versions_in
from twotower.bundle.loading import verify
from twotower.errors import BundleError, ConfigError, OutputError

KEEP = 2  # models: the one in use, and one to go back to


class Published(NamedTuple):
    """What is in use now. copied: whether it was brought, rather than there already."""

    name: str
    bundle: Path
    before: str | None
    copied: bool


def publish(place: Path | str, into: Path | str, *, keep: int = KEEP) -> Published:
    """Bring a model to a folder that is served from, and make it the one in use.

    Every byte of it is checked, and that it reads its golden queries as where it was made. A model that is there already is checked as well, and
    keeps the catalogue that it has there. keep: how many models stay, the one in use among them. Raises BundleError for a bundle that cannot
    serve, ConfigError for a folder that is something else, and OutputError where it cannot be written.
    """
    folder = Path(into)
    if keep < 1:
        raise ConfigError(f"keep is {keep}; at least one model, the one in use, must be kept")
    bundle = open_bundle(place)
    _check_place(folder, bundle.folder)
    verify(bundle.folder)
    name = bundle.fingerprint[:16]
    with files.held(folder, WAIT):
        files.empty_folder(folder, ())  # of one that was killed
        there = published(folder)
        goal = folder / BUNDLES / name
        copied = not goal.is_dir()
        if copied:
            _copy(bundle.folder, goal)
        else:
            _check_kept(goal)
        names = [name, *(each for each in there if each != name)]
        _write(folder, names[:keep])
        for old in (folder / BUNDLES).iterdir():
            if old.name not in names[:keep]:
                files.remove_folder(old)
    return Published(name, goal, there[0] if there and there[0] != name else None, copied)


def withdraw(place: Path | str) -> Published:
    """Go back to the model that was in use before; the one that was stays, and can be gone back to. Raises ConfigError where there is none."""
    folder = Path(place)
    if not (folder / LIVE).exists():
        raise ConfigError(f"{folder} is no folder that models were published to: twotower publish RUN {folder}")
    with files.held(folder, WAIT):
        names = published(folder)
        if len(names) < 2:
            raise ConfigError(f"{folder} holds one model alone, so there is none to go back to")
        back = folder / BUNDLES / names[1]
        open_bundle(back)  # whole, or not at all
        _write(folder, [names[1], names[0], *names[2:]])
    return Published(names[1], back, names[0], False)


def _check_place(folder: Path, source: Path) -> None:
    """Raise ConfigError for a place that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; models are published to a folder")
    if folder.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{folder} is inside of {source}, which is what is published; choose a folder elsewhere")
    if (folder / LIVE).exists():
        if source.resolve().is_relative_to(folder.resolve() / BUNDLES):
            raise ConfigError(f"{source} is in {folder} already. To go back to a model: twotower rollback {folder} --model")
        return
    if folder.is_dir() and any(path.name not in (BUNDLES, files.LOCK) and not path.name.endswith(".part") for path in folder.iterdir()):
        raise ConfigError(f"{folder} holds something else than published models; choose a folder that is new or empty")


def _check_kept(bundle: Path) -> None:
    """Raise BundleError unless a bundle that was there already can serve."""
    try:
        verify(bundle)
    except BundleError as error:
        raise BundleError(f"{bundle} was there already and cannot serve: {error}. Remove that folder, and publish again.") from None


def _copy(source: Path, goal: Path) -> None:
    """Copy a bundle, whole or not at all, and check what has arrived."""
    with files.new_folder(goal) as building:
        try:
            paths = sorted(source.rglob("*"))
            named = segments_named(source, versions_in(source))
            for path in paths:
                name = path.relative_to(source)
                if len(name.parts) > 1 and name.parts[0] in ("segments", INDEXES) and name.parts[1] not in named:
                    continue
                if name.parts[0] == STAGING or name.name == files.LOCK or any(part.endswith(".part") for part in name.parts):
                    continue
                if path.is_dir():
                    files.make_folder(building / name)
                else:
                    files.copy_file(path, building / name)
        except FileNotFoundError:
            raise BundleError(f"{source} changed while it was copied; publish it again") from None
        verify(building)


def _write(folder: Path, names: list[str]) -> None:
    files.write_text(folder / LIVE, "".join(f"{name}\n" for name in names))
