"""From sources to a prepared folder (`prepared.py` says what that is).

The key is a hash of the sources, the schema, the split and the versions of our own code that shape the result. Joins,
counts and sorts run in DuckDB, which spills to disk, over record batches.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import files
from twotower.data.columns import Array, distinct
from twotower.data.encoder import Encoder
from twotower.data.formats import BATCH
from twotower.data.hashes import HASH, fold, hash_texts
from twotower.data.prepared import FORMAT, ID, Log, Prepared, SideWriter, open_prepared
from twotower.data.quantities import numbers, times
from twotower.data.schema import SIDES, Schema, Side
from twotower.data.sources import Source
from twotower.data.splits import PARTS, TEST, TRAIN, SplitLog, SplitOptions, split
from twotower.data.values import as_texts, change_wide, has_text, to_text
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger("twotower")

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
            files.write_manifest(building, "prepared folder", FORMAT, report=report)
    try:
        return open_prepared(folder)
    except BundleError as error:
        raise BundleError(f"{error} Or delete {folder}: the next run makes it anew.") from None


def _key(pairs: Source, items: Source | None, schema: Schema, options: SplitOptions) -> str:
    parts = [FORMAT, HASH, asdict(schema), asdict(options), pairs.digest(), items.digest() if items else None]
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
        self.report: dict[str, Any] = {"pairs_source": pairs.name, "items_source": items.name if items else None}
        self.sql = _connect(folder / "spill", threads, memory)
        # The engine knows columns by number: it folds case in names, and the user's may hold anything.
        self.raw = {side: {name: f"raw{n}" for n, name in enumerate(dict.fromkeys(f.column for f in schema.features(side)))} for side in SIDES}
        self.shown = {name: f"show{n}" for n, name in enumerate(dict.fromkeys([ID, *self.raw["item"], *schema.item.payload]))}

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

    # Reading: every value is brought into canonical form before the engine sees it.

    def read_items(self) -> None:
        """The table `items`: each item once, with its row, id and columns."""
        if self.items is not None:
            _insert(self.sql, "listed", (self._item_batch(batch, start) for batch, start in _numbered(self.items)))
            read = self._count("listed")
            nameless = self._scalar("SELECT count(*) FROM listed WHERE id IS NULL")
            self.report |= {"catalogue_rows": read, "catalogue_rows_without_id": nameless}
        else:
            _insert(self.sql, "listed", (self._item_batch(batch, start) for batch, start in _numbered(self.pairs)))
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

    def _item_batch(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        schema, from_pairs = self.schema, self.items is None
        id_column = (schema.pairs.item or schema.item.id) if from_pairs else schema.item.id

        def raw(name: str) -> pa.Array:
            return batch.column(id_column if from_pairs and name == schema.item.id else name)

        columns: dict[str, pa.Array] = {"row": pa.array(np.arange(start, start + batch.num_rows))}
        normalised = [feature.normalise(raw(feature.column)) for feature in schema.item.features]
        columns["id"] = to_text(raw(schema.item.id)) if schema.item.id is not None else _digests(normalised)
        columns |= self._raw("item", raw)
        for name, place in self.shown.items():
            columns[place] = _plain(raw(name)) if name != ID else _plain(raw(schema.item.id)) if schema.item.id is not None else columns["id"]
        return pa.record_batch(columns)

    def _raw(self, side: Side, column: Callable[[str], pa.Array]) -> dict[str, pa.Array]:
        """The raw values of a side's features by their place. Where one column is read in two ways, text keeps more of it."""
        features = sorted(self.schema.features(side), key=lambda feature: feature.type == "text")
        return {self.raw[side][feature.column]: feature.normalise(column(feature.column)) for feature in features}

    def read_pairs(self) -> None:
        """The table `pairs`: every usable row of the log."""
        _insert(self.sql, "pairs", (self._pair_batch(batch, start) for batch, start in _numbered(self.pairs)))
        self.report["pairs_read"] = self._count("pairs")
        empty = " AND ".join(f"{place} IS NULL" for place in self.raw["query"].values())
        for reason, condition in {
            "pairs_without_query": empty,
            "pairs_without_item": "item IS NULL",
            "pairs_of_unlisted_event": "weight IS NULL",
        }.items():
            self.report[reason] = self._scalar(f"SELECT count(*) FROM pairs WHERE {condition}")
            self.sql.execute(f"DELETE FROM pairs WHERE {condition}")

    def _pair_batch(self, batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
        schema = self.schema
        columns: dict[str, pa.Array] = {"row": pa.array(np.arange(start, start + batch.num_rows))}
        columns |= self._raw("query", batch.column)
        columns["key"] = self._keys(batch, columns)
        if schema.item.id is not None:
            columns["item"] = to_text(batch.column(schema.pairs.item or schema.item.id))
        else:
            columns["item"] = _digests([feature.normalise(batch.column(feature.column)) for feature in schema.item.features])
        columns["weight"] = self._weights(batch, start)
        columns["time"] = times(batch, schema.pairs.time, self.pairs.name, start)
        named = self.options.column
        columns["part"] = to_text(batch.column(named)) if named else pa.nulls(batch.num_rows, pa.string())
        return pa.record_batch(columns)

    def _keys(self, batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.Array:
        """Whose known matches are shared: the declared key, or the feature values with their case folded."""
        declared = self.schema.query.key
        keys = pa.nulls(batch.num_rows, pa.string()) if declared is None else to_text(batch.column(declared))
        if declared is not None and not keys.null_count:
            return pc.binary_join_element_wise("k", keys, "")
        own = _joined([_folded(columns[place]) for place in self.raw["query"].values()])
        return pc.coalesce(pc.binary_join_element_wise("k", keys, ""), pc.binary_join_element_wise("r", own, ""))

    def _weights(self, batch: pa.RecordBatch, start: int) -> pa.Array:
        """Null where the kind of event is not listed."""
        weights = np.ones(batch.num_rows)
        options = self.schema.pairs
        if options.weight is not None:
            weights = numbers(batch.column(options.weight), options.weight, self.pairs.name, start)
            bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
            if len(bad):
                value = batch.column(options.weight)[int(bad[0])].as_py()
                raise DataError(
                    f'{self.pairs.name} row {start + bad[0] + 1}: the weight "{options.weight}" is {value!r}; it must be a number of 0 or more'
                )
        if options.event is not None and options.event_weights is not None:
            names = to_text(pa.array(list(options.event_weights), pa.string()))
            place = pc.index_in(to_text(batch.column(options.event)), names, skip_nulls=True)
            return pc.multiply(pa.array(weights), pa.array(options.event_weights.values(), pa.float64()).take(place))
        return pa.array(weights)

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
                f"{self.pairs.name} gives {self.report['pairs']} different pairs; training needs at least {FEWEST_PAIRS}, and some thousands to be useful"
            )

    def _count_unlisted(self) -> None:
        """Count the pairs whose item the catalogue lacks; when most of them are to be dropped for it, the join is surely wrong."""
        self.sql.execute(
            "CREATE TABLE unlisted AS SELECT item AS id, min(row) AS row, count(*) AS pairs FROM pairs WHERE item NOT IN (SELECT id FROM items) GROUP BY item"
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
        parts = split(SplitLog(keys, times, named), self.options)
        with np.errstate(over="ignore"):  # said below
            weights = column("weight", np.float32)
        log = Log(column("query_row", np.int64), keys, column("item_row", np.int64), weights)
        for name, array in {**log._asdict(), "parts": parts}.items():
            files.write_array(self.folder / "log" / f"{name}.npy", array)
        train = log.take(np.flatnonzero(parts == TRAIN))
        if not (column("weight", np.float64) < 1e38).all():
            raise DataError(f"{self.pairs.name}: a weight is too large for float32; keep weights, and sums of those of one pair, below 1e38")
        if not float(train.weights.sum()):
            raise DataError(f"{self.pairs.name}: the weights of the training pairs sum to 0, so there is nothing to learn from")
        self.train_queries = distinct(train.query_rows)
        held_out = parts == TEST
        counts = np.bincount(parts, minlength=3)
        self.report["split"] = {"by": self.options.by} | {name: int(n) for name, n in zip(PARTS, counts, strict=True)}
        self.report["test_keys_in_train"] = int(np.isin(np.unique(keys[held_out]), train.query_keys).sum())
        self.report["test_keys"] = len(np.unique(keys[held_out]))
        self.report["test_pairs_of_item_new_to_train"] = int((~np.isin(log.item_rows[held_out], train.item_rows)).sum())

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
        files.write_table(self.folder / "queries.arrow", pa.Table.from_batches(self._rows("query", "")))
        items = self.sql.cursor().sql(f"SELECT {', '.join(self.shown.values())} FROM items ORDER BY item_row").to_arrow_table()
        files.write_table(self.folder / "items.arrow", items.rename_columns(list(self.shown)))

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


def _numbered(source: Source) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The batches of a source, each with the number of its first row."""
    start = 0
    for batch in source.batches():
        yield batch, start
        start += batch.num_rows


def _digests(columns: list[pa.Array]) -> pa.Array:
    """A short name for each row of values: 16 hexadecimal digits, null where every value is missing."""
    digits = hash_texts(_joined(columns).to_pylist()).astype(">u8").tobytes().hex().encode()
    places = np.arange(len(columns[0]) + 1, dtype=np.int32) * 16
    texts = pa.StringArray.from_buffers(len(columns[0]), pa.py_buffer(places), pa.py_buffer(digits))
    present = functools.reduce(pc.or_, [column.is_valid() for column in columns])
    return pc.if_else(present, texts, None)


def _joined(columns: list[pa.Array]) -> pa.Array:
    """One text for each row of values. A separator inside a value is escaped, so that different rows stay apart."""
    if len(columns) == 1:
        return pc.fill_null(columns[0], "")
    plain = [pc.replace_substring(column, "\x1f", "\x1f\x1e") for column in columns]
    return pc.binary_join_element_wise(*plain, "\x1f\x1f", null_handling="replace", null_replacement="")


def _folded(texts: pa.Array) -> pa.Array:
    return pc.ascii_lower(change_wide(texts, fold))


def _plain(column: pa.Array) -> pa.Array:
    """A column to show, in a type that the engine knows."""
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_decimal256(kind) or not (has_text(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind)):
        return as_texts(column.to_pylist())
    return column
