"""From sources to a prepared folder (`prepared.py` says what that is).

The key is a hash of the sources, the schema, the split and the versions of what shapes the result. All is read once: texts are set
aside under numbers, the numbers are joined, merged and ordered by an engine that spills to disk, then split, and the texts encoded.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower import __version__, files, manifests
from twotower.data.columns import Array
from twotower.data.encoder import Encoder
from twotower.data.features import Pretrained
from twotower.data.hashes import HASH, hash_texts
from twotower.data.preparation.division import divide
from twotower.data.preparation.engine import MEMORY, Engine, is_starved
from twotower.data.preparation.groups import components, said
from twotower.data.preparation.identity import Collision
from twotower.data.preparation.intake import Intake, Sources
from twotower.data.preparation.looks import cast
from twotower.data.preparation.requirements import require
from twotower.data.preparation.spills import picked
from twotower.data.prepared import FORMAT, OF_LAYERS, ROW, Prepared, SideWriter, open_prepared, read_as
from twotower.data.quantities import moment, span
from twotower.data.schema import SIDES, Schema, Side
from twotower.data.sources import Source
from twotower.data.splits import SplitLog, SplitOptions, reckoned
from twotower.data.vectors import Workplace, counted
from twotower.errors import BundleError, ConfigError, DataError

FEWEST_PAIRS = 10
SEEDS = 3  # of names, before we believe that something else is wrong


def prepare(
    pairs: Source,
    items: Source | None,
    schema: Schema,
    options: SplitOptions,
    cache: Path,
    *,
    queries: Source | None = None,
    validation: Source | None = None,
    test: Source | None = None,
    threads: int | None = None,
    memory: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    last: Encoder | None = None,
) -> Prepared:
    """The prepared folder of these data, made in `cache` or found there. Raises DataError for data that cannot be used.

    queries: a table of the query side's features, which the pairs name by id. validation, test: pairs for these parts alone.
    last: the encoder of a model that is trained again on these data, of the same features.
    """
    sources = Sources(pairs, items, queries, validation, test)
    schema.check()
    options.check()
    require(sources, schema, options)
    progress("reading the data")
    folder = cache / _key(sources, schema, options, last)
    if not folder.exists():
        # Another process may finish the same folder first; its name stands for its content, so either will do.
        with files.new_folder(folder, yielding=True) as building:
            report = _made(sources, schema, options, building, threads, memory, progress, last)
            manifests.write_manifest(building, "prepared folder", FORMAT, report=report)
    try:
        prepared = open_prepared(folder)
    except BundleError as error:
        raise BundleError(f"{error} Or delete {folder}: the next run makes it anew.") from None
    # Equal data may lie under another name than they did when the folder was made.
    return replace(read_as(prepared, schema), report=sources.named | prepared.report)


def _key(sources: Sources, schema: Schema, options: SplitOptions, last: Encoder | None) -> str:
    versions = [FORMAT, HASH, __version__, unicodedata.unidata_version]  # texts are normalised and folded by Unicode's tables
    tables = [source and source.digest() for source in (sources.pairs, sources.items, sources.queries, sources.validation, sources.test)]
    beside = [feature.outside() for side in SIDES for feature in schema.features(side) if isinstance(feature, Pretrained)]
    told = [versions, _read(asdict(schema)), asdict(options), tables, beside, *([] if last is None else [last.digest()])]
    return hashlib.sha256(files.json_text(told).encode()).hexdigest()[:16]


def _read(schema: dict[str, Any]) -> dict[str, Any]:
    """What of a schema decides what is read: without the options of its layers, which only training knows."""
    sides = {side: schema[side] | {"features": [_without(feature) for feature in schema[side]["features"]]} for side in SIDES}
    return schema | sides


def _without(feature: dict[str, Any]) -> dict[str, Any]:
    """Its options but for those of layers; the values of a weighted mean come with weights, which others are read without."""
    kept = {name: value for name, value in feature.items() if name not in OF_LAYERS}
    return kept | {"weighted": True} if feature.get("pool") == "weighted" else kept


def _made(
    sources: Sources, schema: Schema, options: SplitOptions, folder: Path, threads: Any, memory: Any, progress: Any, last: Encoder | None
) -> dict[str, Any]:
    """Make the folder; in the one case of many millions that two texts share a name, anew with other names."""
    for seed in range(SEEDS):
        try:
            return _Preparation(sources, schema, options, folder, threads, memory, progress, seed, last).run()
        except Collision:
            continue
        except Exception as error:
            if not is_starved(error):
                raise
            said = str(error).splitlines()[0].rstrip(".")
            raise ConfigError(
                f"the data engine has no room left: {said}. Raise [machine] memory, which is {memory or MEMORY}, or make room on the disk."
            ) from None
    raise DataError(f"{sources.pairs.name}: different texts cannot be told apart by their hashes. Were they made for that?")


class _Preparation:
    """One run of the preparation: an engine, a report that fills up, and steps in order."""

    def __init__(
        self,
        sources: Sources,
        schema: Schema,
        options: SplitOptions,
        folder: Path,
        threads: int | None,
        memory: str | None,
        progress: Callable[[str], None],
        seed: int,
        last: Encoder | None,
    ) -> None:
        self.last = last
        self.sources, self.schema, self.options, self.folder, self.progress = sources, schema, options, folder, progress
        self.report: dict[str, Any] = {}
        self.spill = folder / "spill"
        self.engine = Engine(self.spill, threads, memory)
        self.intake = Intake(sources, schema, options, self.spill, seed, progress)
        self.there = self.intake.optional

    def run(self) -> dict[str, Any]:
        """All steps; returns the report."""
        try:
            self.read()
            self.progress(f"joining {self.engine.count('pairs'):,} pairs")
            self.narrow()
            self.join()
            self.progress(f"splitting {self.report['pairs']:,} pairs")
            self.divided = divide(self.folder / "log", self.log, self.sources, self.schema, self.options, self.report)
            self.progress(f"encoding {self.report['query_rows']:,} queries and {self.report['items']:,} items")
            self.write_sides()
        finally:
            self.engine.close()
            files.remove_folder(self.spill)
        return self.report

    def read(self) -> None:
        """The tables `pairs` and `spoken`, and how many rows were left out for what."""
        self.intake.read_items()
        self.intake.read_queries()
        self.engine.insert("pairs", self.intake.pair_batches())
        self.report |= self.intake.counts | {"unlisted_examples": self.intake.examples["unlisted_examples"]}
        with_item = self.report.pop("pairs_with_item", self.engine.count("pairs"))
        self._check_listed("query", self.report["pairs_read"], self.sources.queries)
        self._check_listed("item", with_item, self.sources.items)
        if not self.engine.count("pairs"):
            raise DataError(f"{self.sources.pairs.name} has no usable pair: in every row the query, the item or a listed event is missing")
        codes = ["q", "q_check", "k", "k_check"]
        self.engine.insert("spoken", self._spoken(codes))
        self.engine.check_names()

    def _spoken(self, codes: list[str]) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in self.intake.asked.batches():
            numbers = pa.array(np.arange(start, start + batch.num_rows))
            yield pa.record_batch([numbers, *(batch.column(name) for name in codes)], names=["asked", *codes])
            start += batch.num_rows

    def _check_listed(self, side: Side, total: int, table: Source | None) -> None:
        """When most pairs name what its table lacks, the join is surely wrong."""
        reason, examples = (
            ("pairs_of_unlisted_item", "unlisted_examples") if side == "item" else ("pairs_of_unlisted_query", "unlisted_query_examples")
        )
        missing = self.report.setdefault("pairs_of_unlisted_item", 0) if side == "item" else self.report.get(reason, 0)
        kept = side == "item" and self.schema.item.unlisted == "keep"
        if side == "item":
            self.report["unlisted_items_kept"] = self.intake.catalogue.index.count - self.intake.catalogue.listed
        if table is None or kept or missing <= total / 2:
            return
        named = ", ".join(map(repr, self.intake.examples[examples]))
        like = f"; ids there look like {', '.join(map(repr, self.intake.catalogue.examples))}" if side == "item" else ""
        way = ', or set [item] unlisted = "keep"' if side == "item" else ""
        raise DataError(
            f"{missing:,} of {total:,} pairs name {'an item' if side == 'item' else 'a query'} that {table.name} lacks, such as {named}{like}. "
            f"Check [pairs] {side} and [{side}] id{way}."
        )

    def narrow(self) -> None:
        """Drop what is too old, and what is outside the core."""
        options = self.schema.pairs
        if options.since is not None:
            seconds, latest = span(options.since), self.engine.latest()
            if seconds is not None:
                reckoned(latest)
            start = moment(options.since) if seconds is None else latest - seconds
            assert start is not None
            self.report["pairs_before_since"] = self.engine.drop_before(start)
        if options.core > 1:
            self.report |= self.engine.keep_core(options.core, self.there["label"])
        if not self.engine.count("pairs"):
            raise DataError(f"{self.sources.pairs.name}: [pairs] since and core leave no pair. Ask for less.")

    # Joining and splitting.

    def join(self) -> None:
        """Number rows and keys, merge repeats, and write one array a property in the order of the log."""
        n_items = self.intake.catalogue.index.count
        self.item_rows = np.arange(n_items)
        if self.sources.items is None and (self.schema.pairs.since or self.schema.pairs.core > 1):
            self.item_rows = self.engine.array("SELECT DISTINCT item_row FROM pairs ORDER BY item_row")
        if len(self.item_rows) < 2:
            name = (self.sources.items or self.sources.pairs).name
            raise DataError(f"{name} holds one item, so there is nothing to choose between. Check [item] id.")
        self.engine.join()
        self.first_queries = self.engine.array("SELECT asked FROM queries ORDER BY query_row")
        self.first_keys = self.engine.array("SELECT asked FROM keys ORDER BY query_key")
        self.report |= {"query_rows": len(self.first_queries), "keys": len(self.first_keys), "items": len(self.item_rows)}
        groups = self._groups() if self.options.by == "group" else None
        self.report |= self.engine.merge(self.schema.repeats, self.there)
        self.report["pairs"] = self.engine.count("merged")
        pairs = self.report["pairs"]
        if pairs < FEWEST_PAIRS:
            raise DataError(
                f"{self.sources.pairs.name} gives {pairs} different pair{'s' * (pairs != 1)}; training needs at least {FEWEST_PAIRS}, and some "
                "thousands to be useful"
            )
        self.log = self._write_log(groups)
        self.engine.close()

    def _groups(self) -> Array:
        """The group of each key: keys that ask with the same words, or share a value of the split column, are one."""
        ends = []
        numbered = [np.asarray(column) for column in _columns(self.engine.stream("SELECT DISTINCT query_key, query_row FROM numbered"), 2)]
        worded = [name for name in self.intake.raw if any(f.worded and f.column == name for f in self.schema.query.features)]
        if worded:
            sayings = np.concatenate([said(batch, worded) for batch in self._raw("query")])
            named, place = np.unique(sayings[numbered[1]], return_inverse=True)
            there = named[place] != 0  # a query without words is like no other
            ends.append((numbered[0][there], place[there]))
        if self.there["entity"]:
            keys, entities = (np.asarray(column) for column in _columns(self.engine.stream("SELECT DISTINCT query_key, entity FROM placed"), 2))
            ends.append((keys, np.unique(entities, return_inverse=True)[1]))
        return components(len(self.first_keys), ends)

    def _write_log(self, groups: Array | None) -> SplitLog:
        """One array a property of a pair; what the split needs stays in memory, as narrow as it can be."""
        n, place = self.report["pairs"], 0
        lookup = np.zeros(self.intake.catalogue.index.count, np.int32)
        lookup[self.item_rows] = np.arange(len(self.item_rows))
        kept = {"query_key": np.empty(n, np.int32), "item_row": np.empty(n, np.int32)}
        kept |= {name: np.empty(n, kind) for name, kind in (("time", np.float64), ("part", np.int8), ("label", np.float32)) if self.there[name]}
        kinds = {"query_rows": np.int64, "query_keys": np.int64, "item_rows": np.int64, "weights": np.float32, "labels": np.float32}
        writers = {name: files.ArrayWriter(self.folder / "log" / f"{name}.npy", kind) for name, kind in kinds.items()}
        if self.there["teacher"]:
            writers["teacher"] = files.ArrayWriter(self.folder / "log" / "teacher.npy", np.float32)
        if self.there["history"]:
            writers["history_keys"] = files.ArrayWriter(self.folder / "log" / "history_keys.npy", np.int64)
        for batch in self.engine.ordered(self.there, self.schema.repeats):
            columns = {name: np.asarray(batch.column(name)) for name in batch.schema.names}
            columns["item_row"] = lookup[columns["item_row"]]
            for name, values in kept.items():
                values[place : place + batch.num_rows] = columns[name]
            for name, writer in writers.items():
                found = columns.get(name.removesuffix("s"))
                writer.append(np.ones(batch.num_rows, np.float32) if found is None else self._narrow(name, found))
            place += batch.num_rows
        for writer in writers.values():
            writer.close()
        matches = kept["label"] > 0 if self.there["label"] else None
        return SplitLog(kept["query_key"], kept["item_row"], kept.get("time"), kept.get("part"), groups, matches)

    def _narrow(self, name: str, values: Array) -> Array:
        if name == "weights" and not (values < 1e38).all():
            raise DataError(f"{self.sources.pairs.name}: a weight is too large for float32; keep weights, and sums of those of one pair, below 1e38")
        return values

    # Fitting and encoding.

    def write_sides(self) -> None:
        """Fit the encoder on training queries and the catalogue, encode both sides, keep their raw values."""
        encoder = Encoder.fit(self.schema, self._lessons, self.last)
        rows = {"query": self.report["query_rows"], "item": self.report["items"]}
        texts = sum(rows[side] for side in SIDES for feature in self.schema.features(side) if isinstance(feature, Pretrained) and feature.costly)
        encoder.workplace = Workplace(self.folder.parent / "vectors", counted(self.progress, texts))
        files.write_json(self.folder / "encoder.json", encoder.describe())
        files.write_tensors(self.folder / "states.safetensors", encoder.arrays())
        unknown: dict[str, dict[str, int]] = {}
        missing: dict[str, dict[str, int]] = {}
        for side in SIDES:
            writer = SideWriter(self.folder / side, encoder, side)
            for batch in self._raw(side):
                writer.append(batch)
            writer.close()
            unknown[side], missing[side] = writer.unknown, writer.missing
        self.report |= {"unknown_values": unknown, "missing_values": missing}
        self._write_raw()

    def _write_raw(self) -> None:
        """Query rows, the catalogue as it is shown, and the names of the keys."""
        first = next(self._raw("query"))
        files.write_table(self.folder / "queries.arrow", self._raw("query"), first.schema)
        catalogue = self.intake.catalogue
        fields = catalogue.shown_types
        rows = (
            pa.record_batch([cast(batch.column(place), fields.field(name).type) for name, place in catalogue.shown.items()], schema=fields)
            for batch in picked(catalogue.spill.batches(), self.item_rows)
        )
        files.write_table(self.folder / "items.arrow", rows, fields)
        names = files.ArrayWriter(self.folder / "keys.npy", np.uint64)
        for batch in picked(self.intake.asked.batches(), self.first_keys):
            names.append(hash_texts(batch.column("key").to_pylist()))
        names.close()

    def _raw(self, side: Side) -> Iterator[pa.RecordBatch]:
        """The normalised values of every row of a side, in order."""
        catalogue = self.intake.catalogue
        names = self.intake.raw if side == "query" else catalogue.raw
        spill, rows = (self.intake.asked, self.first_queries) if side == "query" else (catalogue.spill, self.item_rows)
        for batch in picked(spill.batches(), rows):
            if names:
                yield batch.select(list(names.values())).rename_columns(list(names))
            else:
                yield pa.record_batch({ROW: np.zeros(batch.num_rows, np.int8)})

    def _lessons(self, side: Side) -> Iterator[tuple[pa.RecordBatch, Array]]:
        """The rows that an encoder may learn from, and in how many training pairs each is."""
        start = 0
        for batch in self._raw(side):
            rows = slice(start, start + batch.num_rows)
            chosen, counts = self.divided.learnt[side][rows], self.divided.pairs_of[side][rows]
            start += batch.num_rows
            if chosen.any():
                yield (batch, counts) if chosen.all() else (batch.filter(pa.array(chosen)), counts[chosen])


# --- small steps --------------------------------------------------------------------------------------------------


def _columns(batches: Iterator[pa.RecordBatch], n: int) -> list[Array]:
    """n columns of numbers, each in one piece."""
    parts = [[np.asarray(batch.column(number)) for number in range(n)] for batch in batches]
    return [np.concatenate([part[number] for part in parts]) for number in range(n)]
