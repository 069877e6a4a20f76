"""What a path, a glob or a folder names: data files, and the columns that folders like `day=2024-05-01` add to them."""

from __future__ import annotations

import errno
import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from twotower.data.sources.formats import READERS, endings, endings_of, format_of, short, unpacked
from twotower.errors import DataError, choices

_KEY = re.compile(r"([^=]+)=(.*)")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Place:
    """One data file. keys: the columns that the folders above it add, each with its one value."""

    path: Path
    keys: Mapping[str, str | None] = field(default_factory=dict)


def places_of(pattern: str) -> list[Place]:
    """The files of a path, a glob or a folder, in the order of their names. Raises DataError where there is none."""
    path = Path(pattern).expanduser()
    try:
        is_file, is_dir = path.is_file(), path.is_dir()
    except OSError as error:  # a name that is too long, or a folder that is closed to us
        advice = ' A query is given as { sql = "SELECT ..." }.' if error.errno == errno.ENAMETOOLONG else ""
        raise DataError(f"{short(pattern, 200)} cannot be looked up: {error.strerror}.{advice}") from None
    if is_file:
        return [Place(path)]
    if is_dir:
        return _alike(_in_folder(path), pattern)
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = f"; in {path.parent}: {choices(near, path.name)}" if near else ""
        raise DataError(f"there is no file {pattern}{hint}")
    fixed = len(path.parts) if not glob.has_magic(str(path)) else next(n for n, part in enumerate(path.parts) if glob.has_magic(part))
    return _alike([Place(file, _keys(file.parent.parts[fixed:])) for file in found], pattern)


def _in_folder(folder: Path) -> list[Place]:
    """The data files in a folder; where it has none, those in its folders named `key=value`."""
    found = [Place(path) for path in sorted(folder.iterdir()) if _is_data(path)]
    if found:
        return found
    below = [path for path in sorted(folder.rglob("*")) if _is_data(path)]
    keyed = [path for path in below if all(_KEY.fullmatch(part) for part in path.relative_to(folder).parent.parts)]
    if not keyed:
        if not below:
            raise DataError(f"the folder {folder} holds no data file; a name ends in {endings()}")
        glob_of_all = f"{folder}/**/*{''.join(endings_of(below[0]))}"
        raise DataError(f'the folder {folder} holds no data file. There are some deeper in it: name them with a glob, "{glob_of_all}"')
    if len(keyed) < len(below):
        other = next(path for path in below if path not in keyed)
        raise DataError(f"{folder} has folders named key=value, and {other} is in none of them. Move it, or name the files with a glob.")
    return [Place(path, _keys(path.relative_to(folder).parent.parts)) for path in keyed]


def _is_data(path: Path) -> bool:
    """Whether a file is one of ours to read; names that begin with `_` or `.` are what other tools leave beside the data."""
    return path.is_file() and format_of(path) in READERS and path.name[0] not in "_."


def _keys(folders: tuple[str, ...]) -> dict[str, str | None]:
    found = [match.groups() for match in map(_KEY.fullmatch, folders) if match]
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, value in found}


def _alike(places: list[Place], pattern: str) -> list[Place]:
    """The places, unless they mix formats, or a file with its packed copy: the same rows often lie beside each other so, and would count twice."""
    formats = sorted({format_of(place.path) for place in places})
    if len(formats) > 1 and set(formats) <= READERS.keys():
        firsts = [next(place.path.name for place in places if format_of(place.path) == kind) for kind in formats]
        raise DataError(
            f"{pattern} names files of several formats: {', '.join(firsts)}. If they hold the same rows, these would count twice. "
            f'Name one kind, like "*{formats[0]}", or list the files one by one.'
        )
    seen: dict[Path, Path] = {}
    for place in places:
        other = seen.setdefault(unpacked(place.path), place.path)
        if other != place.path:
            raise DataError(
                f"{pattern} names both {other} and {place.path.name}. If they hold the same rows, these would count twice. Remove one, or list the "
                "files one by one."
            )
    return places


# What people try and no reader takes, and what to do with it.
_OTHERS = {
    (".xlsx", ".xls", ".xlsm", ".ods"): "a spreadsheet. Save the sheet as CSV (UTF-8) and give that",
    (".json",): "JSON of no known layout. If it holds one object a line, rename it to {stem}.jsonl; if an array: jq -c '.[]' {name} > {stem}.jsonl",
    (".db", ".sqlite", ".sqlite3", ".duckdb"): 'a database. Ask it for rows: {{ sql = "SELECT ...", database = "{name}" }}',
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "an archive. Unpack it and give the files in it",
    (".pkl", ".pickle", ".joblib"): "a pickle, which can run any code when it is read. Save the data as Parquet and give that",
    (".txt", ".dat", ""): "of a format that its name does not tell. Rename it: .csv for commas, .tsv for tabs, .jsonl for one JSON object a line",
    (".orc", ".avro", ".sas7bdat", ".dta", ".rds"): "of a format that is not read. Save it as Parquet",
}


def unread(path: Path) -> DataError | None:
    """The error for a file whose format is not read: what it is and what to do, by the ending of its name."""
    if format_of(path) in READERS:
        return None
    for others, what in _OTHERS.items():
        if format_of(path) in others:
            return DataError(f"{path}: it is {what.format(name=path.name, stem=path.stem)}")
    return DataError(f"{path}: cannot tell its format; a name ends in {endings()}")
