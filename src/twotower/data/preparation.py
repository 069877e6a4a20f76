"""From sources to a prepared folder: joined, counted, split, encoded once, memory-mapped ever after.

    prepared/<key>/   manifest.json   counts of all that was met, and of what became of it
                      encoder.json    declarations; states/ holds what was learnt
                      queries.arrow   query rows as raw values; query/ holds them encoded
                      items.arrow     the catalogue: `_id` and the columns to show; item/ holds it encoded
                      log/            one array a property of a pair

The key is a hash of the sources, the schema, the split and the versions of our own code that shape the result. Joins,
counts and sorts run in DuckDB, which spills to disk, over record batches.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import files
from twotower.data.columns import Array, Column, Columns, Ragged, group
from twotower.data.encoder import Encoder
from twotower.data.hashes import HASH, fold, hash_texts
from twotower.data.schema import SIDES, Schema, Side, feature_name
from twotower.data.sources import BATCH, Source
from twotower.data.splits import PARTS, TEST, TRAIN, SplitLog, SplitOptions, split
from twotower.data.values import to_text
from twotower.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

logger = logging.getLogger("twotower")

FORMAT = 1
FEWEST_PAIRS = 10
ID = "_id"  # the catalogue's own name for an item, in its own type


class Log(NamedTuple):
    """The pairs: one entry each, in the order they were logged."""

    query_rows: Array  # int64 [n]
    query_keys: Array  # int64 [n]  whose known matches are masked
    item_rows: Array  # int64 [n]
    weights: Array  # float32 [n]

    def take(self, which: Array) -> Log:
        """The chosen pairs."""
        return Log(*(np.asarray(part[which]) for part in self))


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

    @property
    def n_items(self) -> int:
        """Rows of the catalogue."""
        return int(self.items.num_rows)

    def part(self, part: int) -> Log:
        """The pairs of one part of the split."""
        return self.log.take(np.flatnonzero(self.parts == part))

    def known(self, *parts: int) -> Ragged:
        """For every key, the items it is paired with in these parts, each once, in rising order."""
        which = np.isin(self.parts, parts)
        pairs = np.unique(np.stack([self.log.query_keys[which], self.log.item_rows[which]]), axis=1)
        return group(pairs[0], pairs[1], int(self.report["keys"]))


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
    if (folder / files.MANIFEST).exists():
        return open_prepared(folder)
    with files.new_folder(folder) as building:
        report = _Preparation(pairs, items, schema, options, building, threads, memory, progress).run()
        files.write_manifest(building, "prepared folder", FORMAT, report=report)
    return open_prepared(folder)


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
        (items or pairs).require(column, "item.payload")
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
        for feature, values in zip(schema.item.features, normalised, strict=True):
            columns[self.raw["item"][feature.column]] = values
        for name, place in self.shown.items():
            columns[place] = _plain(raw(name)) if name != ID else _plain(raw(schema.item.id)) if schema.item.id is not None else columns["id"]
        return pa.record_batch(columns)

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
        for feature in schema.query.features:
            columns[self.raw["query"][feature.column]] = feature.normalise(batch.column(feature.column))
        columns["key"] = self._keys(batch, columns)
        if schema.item.id is not None:
            columns["item"] = to_text(batch.column(schema.pairs.item or schema.item.id))
        else:
            columns["item"] = _digests([feature.normalise(batch.column(feature.column)) for feature in schema.item.features])
        columns["weight"] = self._weights(batch, start)
        columns["time"] = _times(batch, schema.pairs.time, self.pairs.name, start)
        named = self.options.column
        columns["part"] = to_text(batch.column(named)) if named else pa.nulls(batch.num_rows, pa.string())
        return pa.record_batch(columns)

    def _keys(self, batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.Array:
        """Whose known matches are shared: the declared key, or the feature values with their case folded."""
        parts = [columns[place] for place in self.raw["query"].values()]
        own = pa.array(
            ["r" + "\x1f".join(fold(v or "") for v in values) for values in zip(*(p.to_pylist() for p in parts), strict=True)], pa.string()
        )
        if self.schema.query.key is None:
            return own
        keys = to_text(batch.column(self.schema.query.key))
        return pc.coalesce(pc.binary_join_element_wise(pa.scalar("k"), keys, ""), own)

    def _weights(self, batch: pa.RecordBatch, start: int) -> pa.Array:
        """Null where the kind of event is not listed."""
        weights = np.ones(batch.num_rows)
        options = self.schema.pairs
        if options.weight is not None:
            weights = _numbers(batch.column(options.weight), options.weight, self.pairs.name, start)
            bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
            if len(bad):
                value = batch.column(options.weight)[int(bad[0])].as_py()
                raise DataError(
                    f'{self.pairs.name} row {start + bad[0] + 1}: the weight "{options.weight}" is {value!r}; it must be a number of 0 or more'
                )
        if options.event is not None and options.event_weights is not None:
            listed = {to_text(pa.array([name]))[0].as_py(): weight for name, weight in options.event_weights.items()}
            factors = [listed.get(event) for event in to_text(batch.column(options.event)).to_pylist()]
            return pa.array([None if f is None else w * f for w, f in zip(weights.tolist(), factors, strict=True)], pa.float64())
        return pa.array(weights)

    # Joining, counting, splitting.

    def join(self) -> None:
        """Find each pair's item, number the query rows and keys, and merge repeats: the table `log`."""
        if self.schema.item.unlisted == "keep":
            kind = self.sql.execute("SELECT column_type FROM (DESCRIBE items) WHERE column_name = ?", [self.shown[ID]]).fetchall()[0][0]
            self.sql.execute(
                f"""INSERT INTO items BY NAME SELECT id, TRY_CAST(id AS {kind}) AS {self.shown[ID]}, first AS row,
                (SELECT count(*) FROM items) + row_number() OVER (ORDER BY first) - 1 AS item_row
                FROM (SELECT item AS id, min(row) AS first FROM pairs WHERE item NOT IN (SELECT id FROM items) GROUP BY item)"""
            )
            if self.schema.item.id in self.raw["item"]:
                place = self.raw["item"][self.schema.item.id]
                self.sql.execute(f"UPDATE items SET {place} = id WHERE {place} IS NULL")
        self._report_unlisted()
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
        self.sql.execute(f"CREATE TABLE log AS {_REPEATS[self.schema.pairs.repeats]} ORDER BY row")
        self.report["pairs"] = self._count("log")
        self.report["pairs_merged"] = self._count("placed") - self.report["pairs"]
        self.report |= {"query_rows": self._count("queries"), "keys": self._count("keys"), "items": self._count("items")}
        self.report["items_without_pairs"] = self._scalar("SELECT count(*) FROM items WHERE item_row NOT IN (SELECT item_row FROM log)")
        if self.report["pairs"] < FEWEST_PAIRS:
            raise DataError(
                f"{self.pairs.name} gives {self.report['pairs']} different pairs; training needs at least {FEWEST_PAIRS}, and some thousands to be useful"
            )

    def _report_unlisted(self) -> None:
        """Count the pairs whose item the catalogue lacks; when that is most of them, the join is surely wrong."""
        missing, examples = self.sql.execute(
            "SELECT count(*), list(DISTINCT item)[:3] FROM pairs WHERE item NOT IN (SELECT id FROM items)"
        ).fetchall()[0]
        total = self._count("pairs")
        self.report |= {"pairs_of_unlisted_item": missing, "unlisted_examples": sorted(examples or [])}
        if total and missing > total / 2:
            there = [row[0] for row in self.sql.execute("SELECT id FROM items ORDER BY item_row LIMIT 3").fetchall()]
            listed = self.items.name if self.items else "the catalogue"
            raise DataError(
                f"{missing:,} of {total:,} pairs name an item that {listed} lacks, such as {', '.join(map(repr, examples))}; ids there look "
                f'like {", ".join(map(repr, there))}. Check [pairs] item and [item] id, or set [item] unlisted = "keep".'
            )
        if not total:
            raise DataError(f"{self.pairs.name} has no usable pair: in every row the query or the item is missing")

    def write_log(self) -> None:
        """Split, and write one array a property."""
        arrays = self.sql.cursor().sql("SELECT query_row, query_key, item_row, weight, time, part FROM log ORDER BY row").to_arrow_table()

        def column(name: str, dtype: Any) -> Array:
            return np.asarray(arrays.column(name).to_numpy(), dtype=dtype)

        keys = column("query_key", np.int64)
        times = column("time", np.float64) if self.schema.pairs.time else None
        named = arrays.column("part").to_pylist() if self.options.column else None
        parts = split(SplitLog(keys, times, named), self.options)
        log = Log(column("query_row", np.int64), keys, column("item_row", np.int64), column("weight", np.float32))
        for name, array in {**log._asdict(), "parts": parts}.items():
            files.write_array(self.folder / "log" / f"{name}.npy", array)
        train = log.take(np.flatnonzero(parts == TRAIN))
        if not float(train.weights.sum()):
            raise DataError(f"{self.pairs.name}: the weights of the training pairs sum to 0, so there is nothing to learn from")
        self.train_queries = np.unique(train.query_rows)
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
            writer = _SideWriter(self.folder / side, encoder, side)
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


_REPEATS = {
    "keep": "SELECT * FROM placed",
    "first": "SELECT * FROM placed QUALIFY row_number() OVER (PARTITION BY query_row, query_key, item_row, part ORDER BY row) = 1",
    "count": """SELECT min(row) AS row, query_row, query_key, item_row, sum(weight) AS weight, max(time) AS time, part
        FROM placed GROUP BY query_row, query_key, item_row, part""",
}


class _SideWriter:
    """Writes the encoded columns of one side as they come, and counts unknown values."""

    def __init__(self, folder: Path, encoder: Encoder, side: Side) -> None:
        self.folder, self.encoder, self.side = folder, encoder, side
        self.names = [feature_name(feature) for feature in encoder.features[side]]
        self.unknown: dict[str, int] = dict.fromkeys(self.names, 0)
        self.parts: dict[str, list[Column]] = {name: [] for name in self.names}
        self.writers: dict[str, files.ArrayWriter] = {}
        self.offsets: dict[str, list[Array]] = {name: [np.zeros(1, np.int64)] for name in self.names}

    def append(self, batch: pa.RecordBatch) -> None:
        columns = self.encoder.encode(self.side, batch)
        for number, name in enumerate(self.names):
            column = columns[name]
            values = column.values if isinstance(column, Ragged) else column
            if name not in self.writers:
                self.writers[name] = files.ArrayWriter(self.folder / f"{number}.values.npy", values.dtype)
            if isinstance(column, Ragged):
                self.offsets[name].append(column.offsets[1:] + self.offsets[name][-1][-1])
            self.writers[name].append(values)
        for name, count in self.encoder.unknown(self.side, columns).items():
            self.unknown[name] += count

    def close(self) -> None:
        for number, name in enumerate(self.names):
            self.writers[name].close()
            if len(self.offsets[name]) > 1:
                files.write_array(self.folder / f"{number}.offsets.npy", np.concatenate(self.offsets[name]))
        files.write_json(self.folder / "names.json", self.names)


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared folder, memory-mapped. Raises BundleError if it is damaged."""
    manifest = files.read_manifest(folder, "prepared folder", FORMAT)
    encoder = Encoder.restore(files.read_json(folder / "encoder.json"), files.read_tensors(folder / "states.safetensors"))
    arrays = {name: files.read_array(folder / "log" / f"{name}.npy") for name in (*Log._fields, "parts")}
    return Prepared(
        folder=folder,
        report=manifest["report"],
        encoder=encoder,
        queries=files.read_table(folder / "queries.arrow"),
        items=files.read_table(folder / "items.arrow"),
        columns={side: _open_columns(folder / side) for side in SIDES},
        log=Log(*(arrays[name] for name in Log._fields)),
        parts=arrays["parts"],
    )


def _open_columns(folder: Path) -> Columns:
    columns: dict[str, Column] = {}
    for number, name in enumerate(files.read_json(folder / "names.json")):
        values = files.read_array(folder / f"{number}.values.npy")
        offsets = folder / f"{number}.offsets.npy"
        columns[name] = Ragged(values, files.read_array(offsets)) if offsets.exists() else values
    return columns


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
    return duckdb.connect(config=settings)


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
    rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
    hashes = hash_texts(["\x1f".join(value or "" for value in row) for row in rows])
    return pa.array([f"{int(h):016x}" if any(v is not None for v in row) else None for h, row in zip(hashes, rows, strict=True)], pa.string())


def _plain(column: pa.Array) -> pa.Array:
    """A column to show, in a type that every engine knows."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string()) if pa.types.is_null(column.type) or pa.types.is_string_view(column.type) else column


def _numbers(column: pa.Array, name: str, source: str, start: int) -> Array:
    """Values as float64, nan where missing. Raises DataError naming the first row that is no number."""
    try:
        return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for number, text in enumerate(to_text(column).to_pylist()):
            try:
                float(text or "nan")
            except ValueError:
                raise DataError(f'{source} row {start + number + 1}: "{name}" is {text!r}, and a number is needed') from None
        return np.array([float(text or "nan") for text in to_text(column).to_pylist()])


def _times(batch: pa.RecordBatch, name: str | None, source: str, start: int) -> pa.Array:
    """Times as float64: numbers as they are, dates and times as seconds since 1970 (UTC where no zone is named)."""
    if name is None:
        return pa.nulls(batch.num_rows, pa.float64())
    column = batch.column(name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            try:
                column = column.cast(pa.timestamp("us", "UTC" if any((t or "")[-1:] == "Z" for t in column.to_pylist()) else None))
            except pa.ArrowInvalid as error:
                raise DataError(
                    f'{source}, rows from {start + 1}: the time "{name}" is neither a number nor a date like 2024-05-01 17:30:00: {error}'
                ) from None
    if pa.types.is_temporal(column.type):
        times = pc.divide(column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
    else:
        times = pa.array(_numbers(column, name, source, start))
    missing = np.flatnonzero(~np.isfinite(np.asarray(pc.fill_null(times, float("nan")).to_numpy(zero_copy_only=False))))
    if len(missing):
        raise DataError(f'{source} row {start + missing[0] + 1}: the time "{name}" is missing. Drop such rows, or leave [pairs] time out.')
    return times
