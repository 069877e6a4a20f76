"""A long job over a file: answered part by part, and each part kept beside the output until the last is done.

The same command after a kill goes on behind the parts that are there. Several processes may each take a shard of the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.data.columns import Array
from twotower.data.features import Unreadable
from twotower.data.sources import Source
from twotower.errors import ConfigError, DataError

T = TypeVar("T")
MOST_SHARDS = 100_000


class Shard(NamedTuple):
    """The rows i of a file, counted from 0, with i % of == number - 1: the shards 1/of to of/of hold each row once."""

    number: int
    of: int


def shard_of(text: str) -> Shard:
    """A shard as it is typed, 3/16. Raises ConfigError for what is none."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    shard = Shard(*map(int, found.groups())) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of <= MOST_SHARDS:
        raise ConfigError(f'a shard is one of several like parts, such as 1/16, 2/16 up to 16/16, and not "{text}"')
    return shard


class Job(NamedTuple):
    """What is done to the rows of a file.

    note: what is told of a part however often the command is run, such as which of its rows ask anything. work: the part with its answers, from
    the part and what was noted; run once. begun: all that decides the answers, so that nothing kept of another job is taken for one of this.
    """

    note: Callable[[pa.Table], Any]
    work: Callable[[pa.Table, Any], pa.Table]
    begun: Mapping[str, Any]


def run_job(job: Job, source: Source, output: Path, rows: int, report: Callable[[int], None], shard: Shard | None = None) -> int:
    """Write what becomes of each part of a file, in order, as one Parquet file; returns the number of its rows. rows: of a part, at most.

    Rows that cannot be read leave no parts behind, since the same ones would fail again; a full disk, a Ctrl-C or a kill leave them.
    """
    parts = output.with_name(f".{output.name}.parts")
    if not (parts / "job.json").exists() or files.read_json(parts / "job.json") != job.begun:
        files.remove_folder(parts)
    names: list[Path] = []

    def answer(table: pa.Table) -> None:
        names.append(parts / f"{len(names):08d}.arrow")
        noted = job.note(table)
        if not names[-1].exists():
            answered = job.work(table, noted)
            if not (parts / "job.json").exists():
                files.write_json(parts / "job.json", job.begun)
            files.write_table(names[-1], answered)
        report(table.num_rows)

    try:
        for _ in changed(source, answer, rows, shard):
            pass
        schema = files.read_table(names[0]).schema
        written = files.write_parquet(output, (batch for name in names for batch in files.read_table(name).to_batches()), schema)
    except DataError:
        files.remove_folder(parts)
        raise
    files.remove_folder(parts)
    return written


def changed(source: Source, change: Callable[[pa.Table], T], rows: int, shard: Shard | None = None) -> Iterator[T]:
    """What becomes of each part of a source; of values that cannot be read, the file and their rows in it are said."""
    for table, numbers in _whole(source, rows) if shard is None else _of_shard(source, rows, shard):
        try:
            answered = change(table)
        except Unreadable as error:
            there = [int(numbers[row]) for row in error.rows]
            raise Unreadable(error.column, there, error.values, error.wanted, error.count, where=source.name) from None
        yield answered


def _whole(source: Source, rows: int) -> Iterator[tuple[pa.Table, Array]]:
    """Parts of at most so many rows, and where each of these stands in the file, from 0."""
    start = 0
    for batch in source.batches():
        for first in range(0, batch.num_rows, rows):
            part = pa.Table.from_batches([batch.slice(first, rows)])
            yield part, np.arange(start + first, start + first + part.num_rows)
        start += batch.num_rows


def _of_shard(source: Source, rows: int, shard: Shard) -> Iterator[tuple[pa.Table, Array]]:
    """The parts of a shard, gathered until they are as large as others; one at least, however few rows there are."""
    tables: list[pa.Table] = []
    numbers: list[Array] = []
    yielded = False
    for table, there in _whole(source, rows):
        own = there % shard.of == shard.number - 1
        tables.append(table.filter(pa.array(own)))
        numbers.append(there[own])
        if sum(map(len, numbers)) >= rows:
            yield pa.concat_tables(tables).combine_chunks(), np.concatenate(numbers)
            tables, numbers, yielded = [], [], True
    if tables and (not yielded or any(map(len, numbers))):
        yield pa.concat_tables(tables).combine_chunks(), np.concatenate(numbers)
