"""The folders of a bundle: how they are written, opened and verified."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower import files, manifests
from twotower.data.columns import Array
from twotower.data.encoder import Encoder
from twotower.data.prepared import ID
from twotower.data.schema import SIDES
from twotower.errors import BundleError, DataError, choices
from twotower.search.lexical import Counts, Lexical, Words
from twotower.search.vectors import Vectors, taken

logger = logging.getLogger("twotower")

MODEL_FORMAT = 1
ENCODER_FORMAT = 1
CATALOGUE_FORMAT = 2  # 1 had no rows removed
SEGMENT_FORMAT = 2  # 1 held words that were weighed already
CURRENT = "CURRENT"
LIVE, BUNDLES = "LIVE", "bundles"  # of a folder that models are published to (publication.py)
ALONE = "encoder"  # stands in CURRENT where there is no catalogue: the bundle holds a query encoder alone
HISTORY = "history"  # of the model folder of such a bundle: what a history of items is read by


@dataclass(frozen=True)
class Segment:
    """A part of a catalogue."""

    vectors: Array | Vectors  # [n, d]
    items: pa.Table  # `_id` and the columns to show
    words: Words | Lexical | None  # of the items, where there are any; of format 1 they are weighed, and cannot grow


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a model and one version of its catalogue; or a query encoder alone, whose segment is what histories are read by."""

    folder: Path
    version: str
    model: dict[str, Any]  # the model's manifest
    fingerprint: str
    encoder: Encoder
    catalogue: dict[str, Any]  # the version's manifest
    segments: tuple[Segment, ...]
    removed: Array  # int64, rising: which rows of the segments, one behind another, this version leaves out
    alone: bool = False  # whether it holds a query encoder and no items

    @property
    def dimensions(self) -> int:
        """The width of the space."""
        return int(self.model["dimensions"])


# --- writing ------------------------------------------------------------------------------------------------------


def write_encoder(folder: Path, encoder: Encoder) -> None:
    """The encoder's part of a model folder."""
    files.write_json(folder / "encoder.json", encoder.describe(locations=False))
    files.write_tensors(folder / "states.safetensors", encoder.arrays())


def seal_model(folder: Path, **facts: Any) -> str:
    """Write the manifest of a finished model folder; returns its fingerprint. facts: what a look-up must know."""
    return fingerprint_of(manifests.write_manifest(folder, "model", MODEL_FORMAT, **facts))


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    """A digest of the content of a sealed folder: its files, not when or by which version they were written."""
    content = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprint_in(folder: Path) -> str:
    """The fingerprint of the model of a bundle, by its manifest alone."""
    model = files.read_json(folder / "model" / manifests.MANIFEST)
    try:
        return str(model["of"]) if "of" in model else fingerprint_of(model)
    except (KeyError, TypeError, AttributeError):
        raise BundleError(f"{folder / 'model' / manifests.MANIFEST} is no manifest; copy the whole bundle again") from None


def write_catalogue(folder: Path, fingerprint: str, segment: Segment) -> str:
    """Write the first version of a catalogue; returns its name."""
    name = write_segment(folder, segment, fingerprint)
    return write_version(folder, fingerprint, [name], segment.items.num_rows)


def write_version(
    folder: Path,
    fingerprint: str,
    segments: Sequence[str],
    rows: int,
    *,
    removed: Array | None = None,
    parent: str | None = None,
    change: Mapping[str, int] | None = None,
) -> str:
    """Write a version that names its segments, and point CURRENT at it; returns its name. rows: how many items it holds."""
    for place in (folder, folder / "catalogue"):
        files.empty_folder(place, ())  # of one that was killed
    version = f"{max(map(int, versions_in(folder)), default=0) + 1:06d}"
    with files.new_folder(folder / "catalogue" / version) as building:
        if removed is not None and len(removed):
            files.write_array(building / "removed.npy", removed)
        facts = {"fingerprint": fingerprint, "parent": parent, "segments": list(segments), "rows": rows, "change": dict(change or {})}
        written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        manifests.write_manifest(building, "catalogue version", CATALOGUE_FORMAT, written=written, **facts)
    point_at(folder, version)
    return version


def point_at(folder: Path, version: str) -> None:
    """Make a version the one in use."""
    files.write_text(folder / CURRENT, version + "\n")


def versions_in(folder: Path) -> list[str]:
    """The names of all versions of a catalogue, oldest first."""
    return sorted(p.name for p in (folder / "catalogue").glob("*") if p.name.isascii() and p.name.isdigit())


def write_segment(folder: Path, segment: Segment, fingerprint: str) -> str:
    """Write a segment of a bundle under the digest of its content; returns that name."""
    unnamed, named = folder / "segments" / "unnamed", folder / "segments"
    files.empty_folder(named, (unnamed.name,))  # of one that was killed
    with files.new_folder(unnamed) as building:
        vectors = taken(segment.vectors)
        files.write_array(building / "vectors.npy", vectors.values)
        if vectors.scales is not None:
            files.write_array(building / "scales.npy", vectors.scales)
        files.write_table(building / "items.arrow", segment.items)
        if isinstance(segment.words, Words):
            for part, counts in segment.words._asdict().items():
                if counts is not None:
                    _write_counts(building / "words" / part, counts)
        manifest = manifests.write_manifest(building, "segment", SEGMENT_FORMAT, fingerprint=fingerprint, rows=segment.items.num_rows)
        name = fingerprint_of(manifest)[:16]
    files.rename_folder(unnamed, named / name)
    return name


def _write_counts(folder: Path, counts: Counts) -> None:
    for name, array in counts.arrays().items():
        files.write_array(folder / f"{name}.npy", array)
    files.write_json(folder / "vocabulary.json", counts.vocabulary)


# --- opening ------------------------------------------------------------------------------------------------------


def find_bundle(place: Path | str) -> Path:
    """The bundle folder at a path, which may be a bundle, a run that holds one, or a folder that models are published to."""
    path = Path(place)
    if (path / LIVE).exists():
        names = published(path)
        if not names or not (path / BUNDLES / names[0] / CURRENT).exists():
            raise BundleError(f"{path / LIVE} names no bundle that is there; publish one again: twotower publish RUN {path}")
        return path / BUNDLES / names[0]
    for folder in (path, path / "bundle"):
        if (folder / CURRENT).exists():
            return folder
    if not path.exists():
        near = runs_in(path.parent)
        raise BundleError(f"there is no {path}" + (f"; in {path.parent}: {choices(near, path.name)}" if near else ""))
    if (path / "config.toml").exists():
        raise BundleError(f"the run {path} has no bundle: it did not finish. Continue it: twotower train {path / 'config.toml'} -o {path} --resume")
    near = runs_in(path)
    raise BundleError(f"{path} is neither a bundle nor a run: it has no {CURRENT}" + (f"; runs in it: {', '.join(near[:12])}" if near else ""))


def published(folder: Path) -> list[str]:
    """The bundles of a folder that models are published to, the one in use first; none where it is no such folder."""
    try:
        names = (folder / LIVE).read_text(encoding="utf-8", errors="replace").split()
    except FileNotFoundError:
        return []
    if not all(re.fullmatch("[0-9a-f]{16}", name) for name in names):
        raise BundleError(f"{folder / LIVE} holds what names no bundle; publish one again: twotower publish RUN {folder}")
    return names


def runs_in(folder: Path) -> list[str]:
    """The names of the runs and bundles in a folder."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p / "config.toml").exists() or (p / CURRENT).exists())


def open_bundle(
    place: Path | str, *, version: str | None = None, everything: bool = False, known: Bundle | None = None, alone: bool = False
) -> Bundle:
    """Open a bundle, or the bundle of a run; exactly, or BundleError.

    version: of the catalogue; by default the one in use. Files are checked against their sha256, up to 1 GB of them; `everything` checks
    all. known: this bundle as it was opened before; what has not changed since, nothing but catalogues can, is taken from there.
    alone: whether a query encoder without items will do.
    """
    folder = find_bundle(place)
    wanted = current(folder) if version is None else version
    if wanted == ALONE and alone:
        return _open_encoder(folder, everything)
    if wanted == ALONE:
        raise BundleError(without_items(folder))
    if known is not None and known.version == wanted and files.read_json(folder / "catalogue" / wanted / manifests.MANIFEST) == known.catalogue:
        return known  # of a copy of this bundle that has grown otherwise, the same name is another version
    if wanted not in versions_in(folder):
        raise BundleError(f"{folder} has no catalogue version {wanted}; {choices(versions_in(folder), wanted)}")
    if known is None:
        model = manifests.read_manifest(folder / "model", "model", MODEL_FORMAT, everything=everything)
        fingerprint = fingerprint_of(model)
        encoder = Encoder.restore(files.read_json(folder / "model" / "encoder.json"), files.read_tensors(folder / "model" / "states.safetensors"))
    else:
        model, fingerprint, encoder = known.model, known.fingerprint, known.encoder
    catalogue = read_version(folder, wanted, everything=everything)
    _same_model(catalogue, fingerprint, folder / "catalogue" / wanted)
    opened = {} if known is None else dict(zip(known.catalogue["segments"], known.segments, strict=True))
    segments = tuple(opened.get(name) or _open_segment(folder / "segments" / name, fingerprint, everything) for name in catalogue["segments"])
    left_out = "removed.npy" in catalogue["files"]
    removed = files.read_array(folder / "catalogue" / wanted / "removed.npy") if left_out else np.empty(0, np.int64)
    stored = sum(segment.items.num_rows for segment in segments)
    if (len(removed) and (removed.min() < 0 or removed.max() >= stored)) or stored - len(removed) != catalogue["rows"]:
        raise BundleError(
            f"{folder / 'catalogue' / wanted} names {catalogue['rows']} items, and its segments hold others: copy the whole bundle again"
        )
    return Bundle(folder, wanted, model, fingerprint, encoder, catalogue, segments, removed)


def current(folder: Path) -> str:
    """The version of a bundle that is in use."""
    version = (folder / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    if version != ALONE and not (version.isascii() and version.isdigit()):
        raise BundleError(f"{folder / CURRENT} holds {version[:40]!r}, which is no catalogue version")
    return version


def in_use(place: Path | str) -> tuple[Path, str, str]:
    """Where a place leads now, by its pointers alone: the bundle, the fingerprint of its model, and the version of its catalogue."""
    folder = find_bundle(place).resolve()  # once: a link may be moved meanwhile
    return folder, fingerprint_in(folder), current(folder)


def read_version(folder: Path, version: str, *, everything: bool = False) -> dict[str, Any]:
    """The manifest of a version of a bundle's catalogue."""
    catalogue = manifests.read_manifest(folder / "catalogue" / version, "catalogue version", CATALOGUE_FORMAT, everything=everything)
    if not all(isinstance(name, str) and name.isalnum() for name in catalogue["segments"]):
        raise BundleError(f"{folder / 'catalogue' / version} names a segment that cannot be one")
    return catalogue


def segments_named(folder: Path, versions: Iterable[str]) -> set[str]:
    """The segments that some versions of a bundle's catalogue name."""
    return {name for version in versions for name in read_version(folder, version)["segments"]}


def without_items(folder: Path) -> str:
    """What to say where a bundle without items is asked for them."""
    return f"{folder} holds a query encoder alone; it embeds queries, and knows no items. Take the bundle that it was exported from."


def _open_encoder(folder: Path, everything: bool) -> Bundle:
    model = folder / "model"
    told = manifests.read_manifest(model, "query encoder", ENCODER_FORMAT, everything=everything)
    encoder = Encoder.restore(files.read_json(model / "encoder.json"), files.read_tensors(model / "states.safetensors"))
    known: tuple[Segment, ...] = ()
    if (model / HISTORY).is_dir():
        ids = files.read_table(model / HISTORY / "items.arrow")
        vectors = model / HISTORY / "vectors.npy"
        known = (Segment(files.read_array(vectors) if vectors.exists() else np.empty((ids.num_rows, 0), np.float32), ids, None),)
    return Bundle(folder, ALONE, told, told["of"], encoder, {"segments": []}, known, np.empty(0, np.int64), alone=True)


def _open_segment(folder: Path, fingerprint: str, everything: bool) -> Segment:
    manifest = manifests.read_manifest(folder, "segment", SEGMENT_FORMAT, everything=everything)
    _same_model(manifest, fingerprint, folder)
    vectors, items = files.read_array(folder / "vectors.npy"), files.read_table(folder / "items.arrow")
    if len(vectors) != items.num_rows:
        raise BundleError(f"{folder} holds {len(vectors)} vectors for {items.num_rows} items")
    scales = files.read_array(folder / "scales.npy") if "scales.npy" in manifest["files"] else None
    try:
        kept = vectors if vectors.dtype == np.float32 else Vectors(vectors, scales)
    except DataError as error:
        raise BundleError(f"{folder} is damaged: {error}") from None
    return Segment(kept, items, _read_words(folder / "words", manifest["format"]))


def _read_words(folder: Path, written: int) -> Words | Lexical | None:
    if not folder.is_dir():
        return None
    if written == 1:
        return Lexical.restore(*_read_arrays(folder))
    return Words(
        Counts.restore(*_read_arrays(folder / "own")), Counts.restore(*_read_arrays(folder / "asked")) if (folder / "asked").is_dir() else None
    )


def _read_arrays(folder: Path) -> tuple[dict[str, Array], list[str]]:
    return {path.stem: files.read_array(path) for path in folder.glob("*.npy")}, files.read_json(folder / "vocabulary.json")


def _same_model(manifest: Mapping[str, Any], fingerprint: str, folder: Path) -> None:
    if manifest.get("fingerprint") != fingerprint:
        raise BundleError(f"{folder} belongs to another model than the one beside it; copy the whole bundle again")


def describe(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, as plain values: its model, catalogue, features and figures."""
    features: dict[str, list[str]] = {side: [f"{feature.column} ({feature.type})" for feature in bundle.encoder.features[side]] for side in SIDES}
    figures = files.read_json(bundle.folder / "model" / "metrics.json")["model"]
    if bundle.alone:
        return {
            "bundle": str(bundle.folder),
            "holds": "a query encoder alone",
            "made_by": bundle.model["made_by"],
            "fingerprint": bundle.fingerprint[:16],
            "dimensions": bundle.dimensions,
            "similarity": bundle.model["similarity"],
            "query": features["query"],
            "figures": figures,
        }
    return {
        "bundle": str(bundle.folder),
        "made_by": bundle.model["made_by"],
        "fingerprint": bundle.fingerprint[:16],
        **({"continues": bundle.model["continues"][:16]} if "continues" in bundle.model else {}),
        "catalogue_version": bundle.version,
        "items": bundle.catalogue["rows"],
        "dimensions": bundle.dimensions,
        "similarity": bundle.model["similarity"],
        "search": bundle.model["search"]["mode"],
        "vectors": taken(bundle.segments[0].vectors).kind if bundle.segments else "none",
        **features,
        "shows": [name for name in bundle.segments[0].items.column_names if name != ID],
        "figures": figures,
    }


def verify_files(place: Path | str) -> None:
    """Check every byte of a bundle, all versions of its catalogue included, or raise BundleError."""
    folder = find_bundle(place)
    if open_bundle(folder, everything=True, alone=True).alone:
        return
    for version in versions_in(folder):
        for name in read_version(folder, version, everything=True)["segments"]:
            manifests.read_manifest(folder / "segments" / name, "segment", SEGMENT_FORMAT, everything=True)
