"""What a prepared folder is: the data of a run, joined, split and encoded once, memory-mapped ever after.

prepared/<key>/   manifest.json   counts of all that was met, and of what became of it
                  encoder.json    declarations; states/ holds what was learnt
                  queries.arrow   query rows as raw values; query/ holds them encoded
                  items.arrow     the catalogue: `_id` and the columns to show; item/ holds it encoded
                  log/            one array a property of a pair, and `parts`
                  keys.npy        a name for each key
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files, manifests
from twotower.data.columns import Array, Column, Columns, Ragged, distinct, offsets_of
from twotower.data.encoder import Encoder
from twotower.data.schema import SIDES, Schema, Side, feature_name
from twotower.data.splits import PARTS

FORMAT = 4
ROW = "_row"  # what stands in the file of queries that have no raw value, so that it has rows
# Options of features that change nothing that is prepared, but that a weighted `pool` reads weights.
OF_LAYERS = ("dropout", "forget", "crop", "pool", "layers", "heads")
ID = "_id"  # the catalogue's own name for an item, in its own type


class Log(NamedTuple):
    """The pairs: one entry each, in the order of their time and then of the log; a label of 0 says that the item is no match."""

    query_rows: Array  # int64 [n]
    query_keys: Array  # int64 [n]  whose known matches are masked
    item_rows: Array  # int64 [n]
    weights: Array  # float32 [n]
    labels: Array  # float32 [n]  1 where no column holds them
    history_keys: Array | None = None  # int64 [n]  whose earlier pairs make the history, where there is one
    moments: Array | None = None  # int64 [n]  the first position of the same time, where the log is in order of time
    teacher: Array | None = None  # float32 [n]  a teacher's score, nan where it gave none, where a column holds them

    def take(self, which: Array) -> Log:
        """The chosen pairs."""
        return Log(*(None if part is None else np.asarray(part[which]) for part in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Prepared:
    """An opened prepared folder."""

    folder: Path
    report: dict[str, Any]
    encoder: Encoder
    queries: pa.Table  # raw feature values of every query row
    items: pa.Table  # `_id` and the columns to show
    columns: dict[Side, Columns]
    log: Log
    parts: Array  # int8 [n]
    key_names: Array  # uint64 [keys], by `log.query_keys`: a hash of its text, which names a key across preparations

    @property
    def n_items(self) -> int:
        """Rows of the catalogue."""
        return int(self.items.num_rows)

    def part(self, part: int) -> Log:
        """The pairs of one part of the split."""
        return self.log.take(np.flatnonzero(self.parts == part))

    def known(self, *parts: int) -> Ragged:
        """For every key, the items it is matched with in these parts, each once, in rising order."""
        chosen = np.zeros(len(PARTS), bool)
        chosen[list(parts)] = True
        which = chosen[self.parts] & (np.asarray(self.log.labels) > 0)
        pairs = distinct(self.log.query_keys[which] * self.n_items + self.log.item_rows[which])
        counts = np.bincount(pairs // self.n_items, minlength=int(self.report["keys"]))
        return Ragged(pairs % self.n_items, offsets_of(counts))


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared folder, memory-mapped. Raises BundleError if it is damaged."""
    manifest = manifests.read_manifest(folder, "prepared folder", FORMAT)
    encoder = Encoder.restore(files.read_json(folder / "encoder.json"), files.read_tensors(folder / "states.safetensors"))
    arrays: dict[str, Any] = {name: None for name in Log._field_defaults if not (folder / "log" / f"{name}.npy").exists()}
    arrays |= {name: files.read_array(folder / "log" / f"{name}.npy") for name in (*Log._fields, "parts") if name not in arrays}
    queries = files.read_table(folder / "queries.arrow")
    return Prepared(
        folder=folder,
        report=manifest["report"],
        encoder=encoder,
        queries=queries if queries.column_names != [ROW] else queries.select([]),
        items=files.read_table(folder / "items.arrow"),
        columns={side: _open_columns(folder / side) for side in SIDES},
        log=Log(*(arrays[name] for name in Log._fields)),
        parts=arrays["parts"],
        key_names=files.read_array(folder / "keys.npy"),
    )


def read_as(prepared: Prepared, schema: Schema) -> Prepared:
    """The folder as a schema reads it, which may differ from the one it was made for in what only layers know (`OF_LAYERS`)."""
    return replace(prepared, encoder=Encoder({side: schema.features(side) for side in SIDES}, prepared.encoder.states))


def _open_columns(folder: Path) -> Columns:
    columns: dict[str, Column] = {}
    for number, name in enumerate(files.read_json(folder / "names.json")):
        values = files.read_array(folder / f"{number}.values.npy")
        offsets = folder / f"{number}.offsets.npy"
        columns[name] = Ragged(values, files.read_array(offsets)) if offsets.exists() else values
    return columns


class SideWriter:
    """Writes the encoded columns of one side as they come, and counts missing and unknown values. A history is no column."""

    def __init__(self, folder: Path, encoder: Encoder, side: Side) -> None:
        self.folder, self.encoder, self.side = folder, encoder, side
        self.names = [feature_name(feature) for feature in encoder.features[side] if not feature.from_log]
        self.unknown: dict[str, int] = dict.fromkeys(self.names, 0)
        self.missing: dict[str, int] = dict.fromkeys(self.names, 0)
        self.writers: dict[str, files.ArrayWriter] = {}
        self.offsets: dict[str, files.ArrayWriter] = {}

    def append(self, batch: pa.RecordBatch) -> None:
        columns = self.encoder.encode(self.side, batch, strict=False, logged=False)
        for number, name in enumerate(self.names):
            column = columns[name]
            values = column.values if isinstance(column, Ragged) else column
            if name not in self.writers:
                self.writers[name] = files.ArrayWriter(self.folder / f"{number}.values.npy", values.dtype, values.shape[1:])
                if isinstance(column, Ragged):
                    self.offsets[name] = files.ArrayWriter(self.folder / f"{number}.offsets.npy", np.int64)
                    self.offsets[name].append(np.zeros(1, np.int64))
            if isinstance(column, Ragged):
                self.offsets[name].append(column.offsets[1:] + self.writers[name].count)
            self.writers[name].append(values)
        for name, count in self.encoder.unknown(self.side, columns).items():
            self.unknown[name] += count
        for name, count in self.encoder.missing(self.side, columns).items():
            self.missing[name] += count

    def close(self) -> None:
        for writer in (*self.writers.values(), *self.offsets.values()):
            writer.close()
        files.write_json(self.folder / "names.json", self.names)
