"""What a folder that must be trusted later carries: the format, and the size and sha256 of each of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower import files
from twotower.errors import BundleError

MANIFEST = "manifest.json"
HASHED_AT_LOAD = 1 << 30  # bytes: past this sum, a load checks sizes and `verify` checks the rest


def write_manifest(folder: Path, kind: str, format_number: int, **extra: Any) -> dict[str, Any]:
    """Write `manifest.json`: the format, the version that made it, and size and sha256 of every file in `folder`."""
    from twotower import __version__

    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    listed = {name: {"bytes": (folder / name).stat().st_size, "sha256": files.sha256_of(folder / name)} for name in names}
    content = {"kind": kind, "format": format_number, "made_by": f"twotower {__version__}", **extra, "files": listed}
    content = dict(json.loads(files.json_text(content)))
    files.write_json(folder / MANIFEST, content | {"sha256": _digest(content)})
    return content


def _digest(content: Mapping[str, Any]) -> str:
    """The sha256 of what a manifest says, its own entry left out."""
    said = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, kind: str, newest: int, *, everything: bool = False) -> dict[str, Any]:
    """Read and check a manifest: its kind, its format, and that its files are all there and unchanged.

    Files are hashed up to HASHED_AT_LOAD bytes in all, `everything` hashes the rest too. Raises BundleError.
    """
    content = files.read_json(folder / MANIFEST)
    if not isinstance(content, dict) or content.get("kind") != kind or not isinstance(content.get("files"), dict):
        raise BundleError(f"{folder} is not a {kind}: its {MANIFEST} says otherwise")
    if not isinstance(content.get("format"), int) or content["format"] > newest:
        raise BundleError(
            f"{folder} has format {content.get('format')} and was made by {content.get('made_by')}; this version reads "
            f"formats up to {newest}. Upgrade: pip install -U twotower"
        )
    if content.get("sha256") != _digest(content):
        raise BundleError(f"{folder / MANIFEST} differs from its own sha256: it is damaged or changed. Copy the {kind} again, whole.")
    hashed = 0
    for name, entry in content["files"].items():
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise BundleError(f"{folder / MANIFEST} says nothing of the size and sha256 of {name}: it is damaged. Copy the {kind} again, whole.")
        path = _inside(folder, name)
        if not path.is_file():
            raise BundleError(f"{path} is missing, though {folder / MANIFEST} lists it. Copy the {kind} again, whole.")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise BundleError(f"{path} has {size} bytes, not {entry['bytes']}: it is truncated or changed. Copy it again.")
        if not everything and hashed + size > HASHED_AT_LOAD:
            continue  # this one is too large, the next may not be
        hashed += size
        if files.sha256_of(path) != entry["sha256"]:
            raise BundleError(f"{path} differs from its sha256 in {folder / MANIFEST}: it is damaged or changed. Copy it again.")
    return content


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(f"{folder / MANIFEST} names {name!r}, which is outside the folder")
    return path
