"""The folders of a bundle: how they are written, opened and verified."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
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
from twotower.errors import BundleError, choices
from twotower.search.lexical import Lexical

logger = logging.getLogger("twotower")

MODEL_FORMAT = 1
ENCODER_FORMAT = 1
CATALOGUE_FORMAT = 1
SEGMENT_FORMAT = 1
CURRENT = "CURRENT"
ALONE = "encoder"  # stands in CURRENT where there is no catalogue: the bundle holds a query encoder alone
HISTORY = "history"  # of the model folder of such a bundle: what a history of items is read by


@dataclass(frozen=True)
class Segment:
    """A part of a catalogue."""

    vectors: Array  # float32 [n, d]
    items: pa.Table  # `_id` and the columns to show
    lexical: Lexical | None  # words of the items, where there are any


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a model and one version of its catalogue; or a query encoder alone, whose segment is what histories are read by."""

    folder: Path
    version: str
    model: dict[str, Any]  # the model's manifest
    fingerprint: str
    encoder: Encoder
    segments: tuple[Segment, ...]
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


def write_catalogue(folder: Path, fingerprint: str, segments: Sequence[Segment], number: int = 1, parent: str | None = None) -> str:
    """Write segments and a version that names them, then point CURRENT at it; returns the version's name."""
    names = [_write_segment(folder / "segments", segment, fingerprint) for segment in segments]
    version = f"{number:06d}"
    rows = sum(segment.items.num_rows for segment in segments)
    with files.new_folder(folder / "catalogue" / version) as building:
        facts = {"fingerprint": fingerprint, "parent": parent, "segments": names, "removed": [], "rows": rows}
        manifests.write_manifest(building, "catalogue version", CATALOGUE_FORMAT, **facts)
    files.write_text(folder / CURRENT, version + "\n")
    return version


def _write_segment(folder: Path, segment: Segment, fingerprint: str) -> str:
    """Write a segment under the digest of its content; returns that name."""
    with files.new_folder(folder / "unnamed") as building:
        files.write_array(building / "vectors.npy", np.asarray(segment.vectors, np.float32))
        files.write_table(building / "items.arrow", segment.items)
        if segment.lexical is not None:
            for name, array in segment.lexical.arrays().items():
                files.write_array(building / "words" / f"{name}.npy", array)
            files.write_json(building / "words" / "vocabulary.json", segment.lexical.vocabulary)
        manifest = manifests.write_manifest(building, "segment", SEGMENT_FORMAT, fingerprint=fingerprint, rows=segment.items.num_rows)
        name = fingerprint_of(manifest)[:16]
    files.rename_folder(folder / "unnamed", folder / name)
    return name


# --- opening ------------------------------------------------------------------------------------------------------


def find_bundle(place: Path | str) -> Path:
    """The bundle folder at a path, which may be a bundle or a run that holds one."""
    path = Path(place)
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


def runs_in(folder: Path) -> list[str]:
    """The names of the runs and bundles in a folder."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p / "config.toml").exists() or (p / CURRENT).exists())


def open_bundle(place: Path | str, *, everything: bool = False, alone: bool = False) -> Bundle:
    """Open a bundle, or the bundle of a run; exactly, or BundleError.

    Files are checked against their sha256, up to 1 GB of them; `everything` checks all. alone: whether a query encoder without items will do.
    """
    folder = find_bundle(place)
    version = (folder / CURRENT).read_text(encoding="utf-8", errors="replace").strip()
    if version == ALONE:
        if not alone:
            raise BundleError(without_items(folder))
        return _open_encoder(folder, everything)
    if not (version.isascii() and version.isdigit()):
        raise BundleError(f"{folder / CURRENT} holds {version[:40]!r}, which is no catalogue version")
    model = manifests.read_manifest(folder / "model", "model", MODEL_FORMAT, everything=everything)
    catalogue = manifests.read_manifest(folder / "catalogue" / version, "catalogue version", CATALOGUE_FORMAT)
    fingerprint = fingerprint_of(model)
    _same_model(catalogue, fingerprint, folder / "catalogue" / version)
    encoder = Encoder.restore(files.read_json(folder / "model" / "encoder.json"), files.read_tensors(folder / "model" / "states.safetensors"))
    if not all(isinstance(name, str) and name.isalnum() for name in catalogue["segments"]):
        raise BundleError(f"{folder / 'catalogue' / version} names a segment that cannot be one")
    segments = tuple(_open_segment(folder / "segments" / name, fingerprint, everything) for name in catalogue["segments"])
    return Bundle(folder, version, model, fingerprint, encoder, segments)


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
    return Bundle(folder, ALONE, told, told["of"], encoder, known, alone=True)


def _open_segment(folder: Path, fingerprint: str, everything: bool) -> Segment:
    manifest = manifests.read_manifest(folder, "segment", SEGMENT_FORMAT, everything=everything)
    _same_model(manifest, fingerprint, folder)
    vectors, items = files.read_array(folder / "vectors.npy"), files.read_table(folder / "items.arrow")
    if len(vectors) != items.num_rows:
        raise BundleError(f"{folder} holds {len(vectors)} vectors for {items.num_rows} items")
    lexical = None
    if (folder / "words").is_dir():
        arrays = {path.stem: files.read_array(path) for path in (folder / "words").glob("*.npy")}
        lexical = Lexical.restore(arrays, files.read_json(folder / "words" / "vocabulary.json"))
    return Segment(vectors, items, lexical)


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
        "items": sum(segment.items.num_rows for segment in bundle.segments),
        "dimensions": bundle.dimensions,
        "similarity": bundle.model["similarity"],
        "search": bundle.model["search"]["mode"],
        **features,
        "shows": [name for name in bundle.segments[0].items.column_names if name != ID],
        "figures": figures,
    }


def verify_files(place: Path | str) -> None:
    """Check every byte of a bundle, all versions of its catalogue included, or raise BundleError."""
    folder = find_bundle(place)
    if open_bundle(folder, everything=True, alone=True).alone:
        return
    for version in sorted((folder / "catalogue").iterdir()):
        for name in manifests.read_manifest(version, "catalogue version", CATALOGUE_FORMAT, everything=True)["segments"]:
            manifests.read_manifest(folder / "segments" / name, "segment", SEGMENT_FORMAT, everything=True)
