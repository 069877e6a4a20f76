"""Joins, merges and orders pairs in DuckDB, which spills to disk. It sees numbers alone: `intake` names every text by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.preparation.identity import Collision
from twotower.data.sources.formats import BATCH
from twotower.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "1.5GB"  # what the engine may hold before it spills, unless the config says otherwise
_AT_ONCE = 16  # batches a statement


class Engine:
    """One connection. Tables: `pairs` as they came, `spoken` for what was set aside, then `numbered`, `merged`."""

    def __init__(self, spill: Path, threads: int | None, memory: str | None) -> None:
        self.sql = _connect(spill, threads, memory)

    def close(self) -> None:
        self.sql.close()

    def insert(self, table: str, batches: Iterable[pa.RecordBatch]) -> None:
        """A new table of these batches. Some at a statement: an error raised while reading then keeps its type."""
        waiting: list[pa.RecordBatch] = []
        made = False
        for batch in batches:
            waiting.append(batch)
            if len(waiting) == _AT_ONCE:
                made = self._put(table, waiting, made)
        if waiting:
            self._put(table, waiting, made)

    def _put(self, table: str, waiting: list[pa.RecordBatch], made: bool) -> bool:
        self.sql.register("incoming", pa.Table.from_batches(waiting))
        self.sql.execute(f"INSERT INTO {table} SELECT * FROM incoming" if made else f"CREATE TABLE {table} AS SELECT * FROM incoming")
        self.sql.unregister("incoming")
        waiting.clear()
        return True

    def number(self, query: str, *values: Any) -> int:
        """The one number that a query gives."""
        return int(self.sql.execute(query, list(values)).fetchall()[0][0])

    def count(self, table: str) -> int:
        """The rows of a table."""
        return self.number(f"SELECT count(*) FROM {table}")

    def array(self, query: str) -> Array:
        """The one column of numbers that a query gives."""
        parts = [np.asarray(batch.column(0)) for batch in self.stream(query)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def stream(self, query: str) -> Iterator[pa.RecordBatch]:
        """What a query gives, as it comes; by a cursor of its own, since others may read meanwhile."""
        yield from self.sql.cursor().sql(query).to_arrow_reader(BATCH)

    # The steps.

    def check_names(self) -> None:
        """Raise Collision where one name stands for two texts."""
        for name in ("q", "k"):
            if self.number(f"SELECT count(*) FROM (SELECT 1 FROM spoken GROUP BY {name} HAVING min({name}_check) <> max({name}_check))"):
                raise Collision

    def drop_before(self, moment: float) -> int:
        """Drop the pairs before a moment; how many there were."""
        dropped = self.number("SELECT count(*) FROM pairs WHERE time < ?", moment)
        self.sql.execute("DELETE FROM pairs WHERE time < ?", [moment])
        return dropped

    def latest(self) -> float:
        """The last time of all pairs."""
        return float(self.sql.execute("SELECT coalesce(max(time), 0) FROM pairs").fetchall()[0][0])

    def keep_core(self, least: int, labelled: bool) -> dict[str, int]:
        """Drop keys and items with fewer different matches than this, until none is left; how many of each there were."""
        matched = "WHERE label > 0" if labelled else ""
        self.sql.execute(f"CREATE TABLE matches AS SELECT DISTINCT k, item_row FROM pairs JOIN spoken USING (asked) {matched}")
        before = {name: self.number(f"SELECT count(DISTINCT {name}) FROM matches") for name in ("k", "item_row")}
        pairs, left = self.count("pairs"), -1
        while left != (left := self.count("matches")):
            for name in before:
                self.sql.execute(
                    f"CREATE OR REPLACE TABLE matches AS SELECT * FROM matches SEMI JOIN "
                    f"(SELECT {name} FROM matches GROUP BY {name} HAVING count(*) >= {least}) USING ({name})"
                )
        after = {name: self.number(f"SELECT count(DISTINCT {name}) FROM matches") for name in before}
        self.sql.execute("""
            CREATE OR REPLACE TABLE pairs AS SELECT * FROM pairs
                SEMI JOIN (SELECT asked FROM spoken SEMI JOIN matches USING (k)) USING (asked)
                SEMI JOIN matches USING (item_row);
            DROP TABLE matches;
        """)
        return {
            "keys_outside_core": before["k"] - after["k"],
            "items_outside_core": before["item_row"] - after["item_row"],
            "pairs_outside_core": pairs - self.count("pairs"),
        }

    def join(self) -> None:
        """Number the query rows and keys in the order in which the log first names them: the table `placed`."""
        self.sql.execute("""
            CREATE TABLE used AS SELECT * FROM spoken SEMI JOIN pairs USING (asked);
            CREATE TABLE queries AS SELECT q, min(asked) AS asked, row_number() OVER (ORDER BY min(asked)) - 1 AS query_row FROM used GROUP BY q;
            CREATE TABLE keys AS SELECT k, min(asked) AS asked, row_number() OVER (ORDER BY min(asked)) - 1 AS query_key FROM used GROUP BY k;
            CREATE TABLE numbered AS SELECT used.asked, query_row::INTEGER AS query_row, query_key::INTEGER AS query_key
                FROM used JOIN queries USING (q) JOIN keys USING (k);
            DROP TABLE used; DROP TABLE spoken;
            CREATE TABLE placed AS SELECT pairs.* EXCLUDE (asked), query_row, query_key FROM pairs JOIN numbered USING (asked);
            DROP TABLE pairs;
        """)

    def merge(self, repeats: str, there: Mapping[str, bool]) -> dict[str, int]:
        """Merge the repeats of a query and an item: the table `merged`; how many pairs went into others."""
        before, contradicted = self.count("placed"), 0
        same = ", ".join(["query_row", "query_key", "item_row", *(name for name in ("part", "history") if there[name])])
        order = "time, row" if there["time"] else "row"
        if there["label"]:
            # A match and a non-match of one item are not merged: which part of the split each falls in is not known yet. Where both are
            # trained on, the loss never takes a known match for a non-match.
            both = f"SELECT label, max(label) OVER (PARTITION BY {same}) AS most FROM placed"
            contradicted = self.number(f"SELECT count(*) FROM ({both}) WHERE label = 0 AND most > 0")
            self.sql.execute("ALTER TABLE placed ADD COLUMN matched BOOLEAN; UPDATE placed SET matched = label > 0")
            same += ", matched"
        if repeats == "keep":
            self.sql.execute("ALTER TABLE placed RENAME TO merged")
        elif repeats == "first":
            self.sql.execute(
                f"CREATE TABLE merged AS SELECT * FROM placed QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY {order}) = 1; DROP TABLE placed"
            )
        else:
            # Counted pairs stand where the last of them was: what is held out as late is then later than all that is trained on.
            kept = "".join(f", max({name}) AS {name}" for name in ("time", "label") if there[name])
            if there["teacher"]:  # of several scores the mean, of none none
                kept += ", coalesce(avg(teacher) FILTER (WHERE NOT isnan(teacher)), 'nan')::FLOAT AS teacher"
            weight = "sum(weight)" if there["weight"] else "count(*)"
            self.sql.execute(
                f"CREATE TABLE merged AS SELECT max(row) AS row, {same}, {weight}::DOUBLE AS weight{kept} FROM placed GROUP BY {same}; "
                "DROP TABLE placed"
            )
        merged = before - self.count("merged")
        return {"pairs_merged": merged} | ({"non_matches_of_matches": contradicted} if there["label"] else {})

    def ordered(self, there: Mapping[str, bool], repeats: str) -> Iterator[pa.RecordBatch]:
        """The merged pairs in the order of their time and then of the log."""
        names = ["query_row", "query_key", "item_row", *(name for name in ("time", "label", "teacher", "part", "history") if there[name])]
        weighted = there["weight"] or repeats == "count"
        order = "time, row" if there["time"] else "row"
        looked_up = ""
        if there["history"]:
            self.sql.execute(
                "CREATE TABLE histories AS SELECT history, row_number() OVER (ORDER BY min(row)) - 1 AS history_key FROM merged GROUP BY history"
            )
            names[names.index("history")] = "history_key"
            looked_up = "JOIN histories USING (history)"
        return self.stream(f"SELECT {', '.join(names + ['weight'] * weighted)} FROM merged {looked_up} ORDER BY {order}")


def is_starved(error: Exception) -> bool:
    """Whether the engine ran out of memory, and could not spill either."""
    return type(error).__module__.partition(".")[0] in ("duckdb", "_duckdb") and type(error).__name__ == "OutOfMemoryException"


def _connect(spill: Path, threads: int | None, memory: str | None) -> DuckDBPyConnection:
    try:
        import duckdb
    except ImportError:
        raise MissingExtra("preparing data", "train") from None
    settings: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(spill),
        "memory_limit": memory or MEMORY,
        "preserve_insertion_order": False,
    }
    if threads:
        settings["threads"] = threads
    try:
        return duckdb.connect(config=settings)
    except duckdb.Error as error:
        raise ConfigError(f'[machine] threads = {threads}, memory = "{memory}" cannot be used: {error}. Write memory like "4GB".') from None
