"""From sources to a prepared folder (`prepared.py` says what that is).

The key is a hash of the sources, the schema, the split and the versions of what shapes the result. Joins, counts and sorts
run in DuckDB, which spills to disk, over record batches.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import __version__, files, manifests
from twotower.data.columns import Array, distinct
from twotower.data.encoder import Encoder
from twotower.data.formats import BATCH
from twotower.data.hashes import HASH, hash_texts
from twotower.data.intake import Intake
from twotower.data.prepared import FORMAT, ID, Log, Prepared, SideWriter, open_prepared
from twotower.data.schema import SIDES, Schema, Side
from twotower.data.sources import Source
from twotower.data.splits import PARTS, TEST, TRAIN, SplitLog, SplitOptions, split
from twotower.data.values import to_text
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FEWEST_PAIRS = 10


def prepare(
    pairs: Source,
    items: Source | None,
    schema: Schema,
    options: SplitOptions,
    cache: Path,
    *,
    threads: int | None = None,
    memory: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """The prepared folder of these data, made in `cache` or found there. Raises DataError for data that cannot be used."""
    schema.check()
    options.check()
    _require(pairs, items, schema, options)
    progress("reading the data")
    folder = cache / _key(pairs, items, schema, options)
    if not folder.exists():
        # Another process may finish the same folder first; its name stands for its content, so either will do.
        with files.new_folder(folder, yielding=True) as building:
            report = _Preparation(pairs, items, schema, options, building, threads, memory, progress).run()
            manifests.write_manifest(building, "prepared folder", FORMAT, report=report)
    try:
        prepared = open_prepared(folder)
    except BundleError as error:
        raise BundleError(f"{error} Or delete {folder}: the next run makes it anew.") from None
    # Equal data may lie under another name than they did when the folder was made.
    named = {"pairs_source": pairs.name, "items_source": items.name if items else None}
    return replace(prepared, report=named | prepared.report)


def _key(pairs: Source, items: Source | None, schema: Schema, options: SplitOptions) -> str:
    versions = [FORMAT, HASH, __version__, unicodedata.unidata_version]  # texts are normalised and folded by Unicode's tables
    parts = [versions, asdict(schema), asdict(options), pairs.digest(), items.digest() if items else None]
    return hashlib.sha256(files.json_text(parts).encode()).hexdigest()[:16]


def _require(pairs: Source, items: Source | None, schema: Schema, options: SplitOptions) -> None:
    """Every column that the schema names must be there: said before any work."""
    for feature in schema.query.features:
        pairs.require(feature.column, "a feature of [query]")
    named = {"query.key": schema.query.key, "split.column": options.column}
    named |= {f"pairs.{role}": getattr(schema.pairs, role) for role in ("time", "weight", "event")}
    for role, column in named.items():
        if column is not None:
            pairs.require(column, role)
    if schema.item.id is not None:
        pairs.require(schema.pairs.item or schema.item.id, "the id of the item, pairs.item")
        if items is not None:
            items.require(schema.item.id, "item.id")
    for feature in schema.item.features:
        (items or pairs).require(
            feature.column if items or feature.column != schema.item.id else schema.pairs.item or feature.column, "a feature of [item]"
        )
    for column in schema.item.payload:
        (items or pairs).require(column, "item.payload", shown=True)
    if schema.item.id != ID and ID in (*schema.item.payload, *(feature.column for feature in schema.item.features)):
        raise DataError(f'{(items or pairs).name}: "{ID}" is the name under which the id of an item is shown. Set [item] id = "{ID}", or rename it.')
    if items is not None and schema.item.id is None:
        raise DataError(f"{items.name} is a catalogue, so [item] id must name the column that identifies an item")


class _Preparation:
    """One run of the preparation: a connection, a report that fills up, and steps in order."""

    def __init__(
        self,
        pairs: Source,
        items: Source | None,
        schema: Schema,
        options: SplitOptions,
        folder: Path,
        threads: int | None,
        memory: str | None,
        progress: Callable[[str], None],
    ) -> None:
        self.pairs, self.items, self.schema, self.options, self.folder, self.progress = pairs, items, schema, options, folder, progress
        self.report: dict[str, Any] = {}
        self.sql = _connect(folder / "spill", threads, memory)
        self.intake = Intake(pairs, items, schema, options.column)
        self.raw, self.shown = self.intake.raw, self.intake.shown

    def run(self) -> dict[str, Any]:
        """All steps; returns the report."""
        try:
            self.read_items()
            self.read_pairs()
            self.join()
            self.write_log()
            self.progress("encoding")
            self.write_sides()
        finally:
            self.sql.close()
            files.remove_folder(self.folder / "spill")
        return self.report

    def read_items(self) -> None:
        """The table `items`: each item once, with its row, id and columns."""
        _insert(self.sql, "listed", self.intake.item_batches())
        if self.items is not None:
            read = self._count("listed")
            nameless = self._scalar("SELECT count(*) FROM listed WHERE id IS NULL")
            self.report |= {"catalogue_rows": read, "catalogue_rows_without_id": nameless}
        self.sql.execute(
            """CREATE TABLE items AS SELECT *, row_number() OVER (ORDER BY row) - 1 AS item_row FROM (
            SELECT * FROM listed WHERE id IS NOT NULL QUALIFY row_number() OVER (PARTITION BY id ORDER BY row) = 1)"""
        )
        kept = self._count("items")
        if self.items is not None:
            self.report["catalogue_ids_repeated"] = read - nameless - kept
        self.sql.execute("DROP TABLE listed")
        if not kept:
            raise DataError(f"{(self.items or self.pairs).name} names no item: every value of its id is missing")

    def read_pairs(self) -> None:
        """The table `pairs`: every usable row of the log."""
        _insert(self.sql, "pairs", self.intake.pair_batches())
        self.report["pairs_read"] = self._count("pairs")
        empty = " AND ".join(f"{place} IS NULL" for place in self.raw["query"].values())
        for reason, condition in {
            "pairs_without_query": empty,
            "pairs_without_item": "item IS NULL",
            "pairs_of_unlisted_event": "weight IS NULL",
        }.items():
            self.report[reason] = self._scalar(f"SELECT count(*) FROM pairs WHERE {condition}")
            self.sql.execute(f"DELETE FROM pairs WHERE {condition}")

    # Joining, counting, splitting.

    def join(self) -> None:
        """Find each pair's item, number the query rows and keys, and merge repeats: the table `log`."""
        self._count_unlisted()
        if self.schema.item.unlisted == "keep":
            self._keep_unlisted()
        if self._count("items") < 2:
            raise DataError(f"{(self.items or self.pairs).name} holds one item, so there is nothing to choose between. Check [item] id.")
        raw = ", ".join(self.raw["query"].values())
        same = " AND ".join(f"p.{place} IS NOT DISTINCT FROM q.{place}" for place in self.raw["query"].values())
        self.sql.execute(f"""
            CREATE TABLE used AS SELECT p.*, i.item_row FROM pairs p JOIN items i ON p.item = i.id;
            DROP TABLE pairs;
            CREATE TABLE queries AS SELECT {raw}, row_number() OVER (ORDER BY min(row)) - 1 AS query_row FROM used GROUP BY {raw};
            CREATE TABLE keys AS SELECT key, row_number() OVER (ORDER BY min(row)) - 1 AS query_key FROM used GROUP BY key;
            CREATE TABLE placed AS SELECT p.row, q.query_row, k.query_key, p.item_row, p.weight, p.time, p.part
                FROM used p JOIN queries q ON {same} JOIN keys k ON p.key = k.key;
            DROP TABLE used;
        """)
        self.sql.execute(f"CREATE TABLE log AS {_REPEATS[self.schema.pairs.repeats]} ORDER BY time, row")
        self.report["pairs"] = self._count("log")
        self.report["pairs_merged"] = self._count("placed") - self.report["pairs"]
        self.report |= {"query_rows": self._count("queries"), "keys": self._count("keys"), "items": self._count("items")}
        self.report["items_without_pairs"] = self._scalar("SELECT count(*) FROM items WHERE item_row NOT IN (SELECT item_row FROM log)")
        if self.report["pairs"] < FEWEST_PAIRS:
            raise DataError(
                f"{self.pairs.name} gives {self.report['pairs']} different pairs; training needs at least {FEWEST_PAIRS}, and some thousands "
                "to be useful"
            )

    def _count_unlisted(self) -> None:
        """Count the pairs whose item the catalogue lacks; when most of them are to be dropped for it, the join is surely wrong."""
        self.sql.execute(
            """CREATE TABLE unlisted AS SELECT item AS id, min(row) AS row, count(*) AS pairs FROM pairs
            WHERE item NOT IN (SELECT id FROM items) GROUP BY item"""
        )
        missing = self._scalar("SELECT coalesce(sum(pairs), 0) FROM unlisted")
        examples = [row[0] for row in self.sql.execute("SELECT id FROM unlisted ORDER BY row LIMIT 3").fetchall()]
        kept = self.schema.item.unlisted == "keep"
        total = self._count("pairs")
        self.report |= {
            "pairs_of_unlisted_item": missing,
            "unlisted_examples": examples,
            "unlisted_items_kept": self._count("unlisted") if kept else 0,
        }
        if not kept and missing > total / 2:
            there = [row[0] for row in self.sql.execute("SELECT id FROM items ORDER BY item_row LIMIT 3").fetchall()]
            listed = self.items.name if self.items else "the catalogue"
            raise DataError(
                f"{missing:,} of {total:,} pairs name an item that {listed} lacks, such as {', '.join(map(repr, examples))}; ids there look "
                f'like {", ".join(map(repr, there))}. Check [pairs] item and [item] id, or set [item] unlisted = "keep".'
            )
        if not total:
            raise DataError(f"{self.pairs.name} has no usable pair: in every row the query, the item or a listed event is missing")

    def _keep_unlisted(self) -> None:
        """Items that only the pairs name join the catalogue with nothing but their id, in the type that ids have there."""
        kind = self.sql.execute("SELECT column_type FROM (DESCRIBE items) WHERE column_name = ?", [self.shown[ID]]).fetchall()[0][0]
        cast = self.sql.cursor().sql(f"SELECT id, TRY_CAST(id AS {kind}) AS own FROM unlisted ORDER BY row").to_arrow_table()
        # A cast may fail, and it may round: what comes back must be the same id.
        same = pc.fill_null(pc.equal(to_text(cast.column("own")), to_text(cast.column("id"))), False)
        if not pc.all(same, min_count=0).as_py():
            other = cast.column("id").filter(pc.invert(same))[0].as_py()
            raise DataError(
                f"{self.pairs.name} names the item {other!r}, and the ids of {self.items.name if self.items else 'the items'} are {kind}, which "
                'cannot hold it. Write the ids of the catalogue as text, or set [item] unlisted = "drop".'
            )
        columns = {self.shown[ID]: f"TRY_CAST(id AS {kind})"}
        for shown in (self.shown, self.raw["item"]):
            if self.schema.item.id in shown:
                place = shown[self.schema.item.id]
                columns[place] = columns[self.shown[ID]] if shown is self.shown else "id"
        self.sql.execute(
            f"""INSERT INTO items BY NAME SELECT id, row, {", ".join(f"{value} AS {place}" for place, value in columns.items())},
            (SELECT count(*) FROM items) + row_number() OVER (ORDER BY row) - 1 AS item_row FROM unlisted"""
        )

    def write_log(self) -> None:
        """Split, and write one array a property."""
        arrays = self.sql.cursor().sql("SELECT query_row, query_key, item_row, weight, time, part FROM log ORDER BY time, row").to_arrow_table()

        def column(name: str, dtype: Any) -> Array:
            return np.asarray(arrays.column(name).to_numpy(), dtype=dtype)

        keys = column("query_key", np.int64)
        times = column("time", np.float64) if self.schema.pairs.time else None
        named = arrays.column("part").to_pylist() if self.options.column else None
        item_rows = column("item_row", np.int64)
        parts = split(SplitLog(keys, item_rows, times, named), self.options)
        with np.errstate(over="ignore"):  # said below
            weights = column("weight", np.float32)
        log = Log(column("query_row", np.int64), keys, item_rows, weights)
        for name, array in {**log._asdict(), "parts": parts}.items():
            files.write_array(self.folder / "log" / f"{name}.npy", array)
        self._write_key_names()
        train = log.take(np.flatnonzero(parts == TRAIN))
        if not (column("weight", np.float64) < 1e38).all():
            raise DataError(f"{self.pairs.name}: a weight is too large for float32; keep weights, and sums of those of one pair, below 1e38")
        if not float(train.weights.sum()):
            raise DataError(f"{self.pairs.name}: the weights of the training pairs sum to 0, so there is nothing to learn from")
        self.train_queries = distinct(train.query_rows)
        held_out = parts == TEST
        counts = np.bincount(parts, minlength=3)
        self.report["split"] = {"by": self.options.by} | {name: int(n) for name, n in zip(PARTS, counts, strict=True)}
        pairs = keys * (int(item_rows.max()) + 1) + item_rows
        self.report["test_pairs_in_train"] = int(np.isin(pairs[held_out], pairs[parts == TRAIN]).sum())
        self.report["test_keys_in_train"] = int(np.isin(np.unique(keys[held_out]), train.query_keys).sum())
        self.report["test_keys"] = len(np.unique(keys[held_out]))
        self.report["test_pairs_of_item_new_to_train"] = int((~np.isin(log.item_rows[held_out], train.item_rows)).sum())

    def _write_key_names(self) -> None:
        writer = files.ArrayWriter(self.folder / "keys.npy", np.uint64)
        for batch in self.sql.cursor().sql("SELECT key FROM keys ORDER BY query_key").to_arrow_reader(BATCH):
            writer.append(hash_texts(batch.column(0).to_pylist()))
        writer.close()

    # Fitting and encoding.

    def write_sides(self) -> None:
        """Fit the encoder on training queries and the catalogue, encode both sides, keep their raw values."""
        only = {"query": "WHERE query_row IN (SELECT query_row FROM train_queries)", "item": ""}
        encoder = Encoder.fit(self.schema, lambda side: self._rows(side, only[side]))
        files.write_json(self.folder / "encoder.json", encoder.describe())
        files.write_tensors(self.folder / "states.safetensors", encoder.arrays())
        unknown: dict[str, dict[str, int]] = {}
        for side in SIDES:
            writer = SideWriter(self.folder / side, encoder, side)
            for batch in self._rows(side, ""):
                writer.append(batch)
            writer.close()
            unknown[side] = writer.unknown
        self.report["unknown_values"] = unknown
        texts = pa.schema([(name, pa.string()) for name in self.raw["query"]])
        files.write_table(self.folder / "queries.arrow", self._rows("query", ""), texts)
        items = self.sql.cursor().sql(f"SELECT {', '.join(self.shown.values())} FROM items ORDER BY item_row").to_arrow_reader(BATCH)
        shown = pa.schema([field.with_name(name) for field, name in zip(items.schema, self.shown, strict=True)])
        files.write_table(self.folder / "items.arrow", (batch.rename_columns(list(self.shown)) for batch in items), shown)

    def _rows(self, side: Side, where: str) -> Iterator[pa.RecordBatch]:
        names, table = self.raw[side], "queries" if side == "query" else "items"
        # A cursor of its own, since both sides are read while others read.
        cursor = self.sql.cursor()
        cursor.register("train_queries", pa.table({"query_row": self.train_queries}))
        rows = cursor.sql(f"SELECT {', '.join(names.values())} FROM {table} {where} ORDER BY {side}_row")
        for batch in rows.to_arrow_reader(BATCH):
            yield batch.rename_columns(list(names))

    def _count(self, table: str) -> int:
        return self._scalar(f"SELECT count(*) FROM {table}")

    def _scalar(self, query: str) -> int:
        return int(self.sql.execute(query).fetchall()[0][0])


# Counted pairs stand where the last of them was: what is held out as late is then later than all that is trained on.
_REPEATS = {
    "keep": "SELECT * FROM placed",
    "first": "SELECT * FROM placed QUALIFY row_number() OVER (PARTITION BY query_row, query_key, item_row, part ORDER BY time, row) = 1",
    "count": """SELECT max(row) AS row, query_row, query_key, item_row, sum(weight) AS weight, max(time) AS time, part
        FROM placed GROUP BY query_row, query_key, item_row, part""",
}


# --- small steps --------------------------------------------------------------------------------------------------


def _connect(spill: Path, threads: int | None, memory: str | None) -> DuckDBPyConnection:
    try:
        import duckdb
    except ImportError:
        raise MissingExtra("preparing data", "train") from None
    settings: dict[str, str | bool | int | float | list[str]] = {"temp_directory": str(spill)}
    if threads:
        settings["threads"] = threads
    if memory:
        settings["memory_limit"] = memory
    try:
        return duckdb.connect(config=settings)
    except duckdb.Error as error:
        raise ConfigError(f'[machine] threads = {threads}, memory = "{memory}" cannot be used: {error}. Write memory like "4GB".') from None


def _insert(sql: DuckDBPyConnection, table: str, batches: Iterable[pa.RecordBatch]) -> None:
    """A new table of these batches. One statement a batch: an error raised while reading then keeps its type."""
    made = False
    for batch in batches:
        sql.register("incoming", pa.Table.from_batches([batch]))
        sql.execute(f"INSERT INTO {table} SELECT * FROM incoming" if made else f"CREATE TABLE {table} AS SELECT * FROM incoming")
        sql.unregister("incoming")
        made = True
