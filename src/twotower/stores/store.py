"""Vectors in a store that somebody else runs: published beside what is live, measured, and only then put in its place.

A new kind of store is one module with an `Engine` and its entry in `STORES`. The engine knows tables; when they are built, checked, switched and
dropped is decided here, once for all. A table is never changed after it went live, but where one transaction does it (`refresh`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from twotower.data.columns import Array
from twotower.data.hashes import hash_texts
from twotower.data.prepared import ID
from twotower.data.values import plain_rows, to_text
from twotower.errors import BundleError, ConfigError, DataError, OutputError
from twotower.search.filters import Condition
from twotower.search.index import best_of_each, no_hits
from twotower.stores.facts import VECTOR, Facts, Near, Version, payload_of, payload_schema, schema_text, vectors_of

KEPT = 2  # versions that stay: the live one and the one to go back to
MEASURED_AT = 10  # recall is of the first so many
RECALL = 0.95
ROWS_AT_ONCE = 4096
TRIES = 5  # of a search whose table was dropped between its two steps


class Gone(DataError):
    """A table is no longer there: two versions have gone live since it was looked up."""


Rows = tuple[pa.RecordBatch, Array]  # `_id` and payload in the types of the version, vectors float32 [n, d]
Found = tuple[list[list[Any]], list[list[float]]]  # ids and inner products of each query, best first


class Engine(Protocol):
    """What a store can do with tables. Every method raises DataError, OutputError or BundleError with words that hold no secret."""

    shown: str
    breadths: tuple[int, ...]  # how far its index may search, narrowest first

    def claim(self) -> AbstractContextManager[None]:
        """While the block runs, nobody else publishes under this name."""

    def versions(self) -> list[Version]:
        """The finished versions, oldest first."""

    def tables(self) -> list[str]:
        """Every table made under this name, half-built ones too."""

    def plan(self, version: Version) -> Version:
        """The version with what this engine decides by itself, such as the names of columns. Raises DataError for what it cannot keep."""

    def create(self, version: Version) -> None:
        """An empty table; a half-built one of that name goes."""

    def append(self, version: Version, rows: Rows) -> None:
        """More rows of a table that is not live."""

    def finish(self, version: Version) -> Version:
        """Build its index; the table is not changed any more. Its breadth is 0 where there is none."""

    def count(self, version: Version) -> int:
        """How many rows a table has."""

    def search(self, version: Version, vectors: Array, k: int, where: Condition | None) -> tuple[str, Found]:
        """The catalogue version that answered and its k best rows for each of vectors [q, d], all of one state. Raises Gone."""

    def show(self, version: Version, ids: Sequence[Any]) -> pa.Table:
        """`_id` and payload of those that are there, in any order. Raises Gone."""

    def switch(self, versions: Sequence[Version]) -> None:
        """In one step: from now on these are the versions, one of them live."""

    def refresh(
        self, live: Version, following: Version, changed: Iterator[Rows], removed: Sequence[Any], earlier: Sequence[Version]
    ) -> list[Version]:
        """Go from the live version to the following one in one step; returns the versions that there are then."""

    def drop(self, table: str) -> None:
        """Remove a table; a missing one is fine."""

    def close(self) -> None:
        """Let go of connections."""


class Store:
    """The tables of one name in a store, of which one is live. Safe to share between threads."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def __repr__(self) -> str:
        return f'<Store "{self.name}" in {self.engine.shown}>'

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self.engine.close()

    # What there is.

    def versions(self) -> list[Version]:
        """The finished versions, oldest first; `live` says which one serves."""
        return self.engine.versions()

    def live(self) -> Version | None:
        """The version that serves; None where nothing was published."""
        return next((version for version in self.engine.versions() if version.live), None)

    def _live(self) -> Version:
        live = self.live()
        if live is None:
            raise DataError(f'{self.engine.shown} holds nothing under the name "{self.name}". Publish a model: twotower export RUN --to URL')
        return live

    def serving(self, fingerprint: str | None = None) -> Version:
        """The live version. Raises DataError where there is none, BundleError where it is of another model than this one."""
        live = self._live()
        if fingerprint is not None and live.facts.fingerprint != fingerprint:
            raise BundleError(
                f"{self.engine.shown} serves the model {live.facts.fingerprint[:12]}, and these queries are of the model {fingerprint[:12]}. "
                "Publish that model there (twotower export RUN --to URL), go back to the version before, or load the run that it serves."
            )
        return live

    # Asking.

    def search(self, vectors: Array, k: int, where: Condition | None = None, *, fingerprint: str | None = None) -> Near:
        """The k best items for each of vectors float32 [q, d], of those that meet the condition; nothing for a vector of zeros.

        All of an answer is of one version. fingerprint: of the model that the vectors are of. Raises BundleError where another one is live.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        hits = no_hits(len(vectors), k)
        ids = np.full(hits.rows.shape, None, object)
        asked = np.flatnonzero(vectors.any(axis=1))
        for attempt in range(TRIES):
            live = self.serving(fingerprint)
            _check_width(vectors, live.facts)
            try:
                version, found = self.engine.search(live, vectors[asked], k, where) if len(asked) else (live.facts.version, ([], []))
                break
            except Gone:
                if attempt == TRIES - 1:
                    raise
        for query, near, scores in zip(asked, *found, strict=True):
            ids[query, : len(near)] = near
            hits.scores[query, : len(scores)] = scores
        return Near(ids, hits.scores, version)

    def show(self, ids: Iterable[Any]) -> list[dict[str, Any]]:
        """The columns of these items as dicts, in their order; an id that is not there, or None, is left out."""
        wanted = [each for each in ids if each is not None]
        for attempt in range(TRIES):
            live = self._live()
            try:
                found = {row[ID]: row for row in plain_rows(self.engine.show(live, wanted))} if wanted else {}
                return [found[each] for each in wanted if each in found]
            except Gone:
                if attempt == TRIES - 1:
                    raise
        return []

    # Changing.

    def publish(
        self,
        batches: Iterable[pa.RecordBatch],
        facts: Facts,
        *,
        queries: Array | None = None,
        recall: float = RECALL,
        report: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Build a table of its own, check it, and put it live in one step; returns its name. The last version stays, older ones are dropped.

        batches: `_id`, `_vector` and payload. queries: float32 [q, d]; the store must find this share of their true ten nearest items, or what is
        live stays so. Whatever ends this early leaves what is live as it was, and running it again finishes. Raises OutputError, DataError.
        """
        facts.check()
        with self.engine.claim():
            versions = self.engine.versions()
            same = next((version for version in versions if version.facts == facts), None)
            if same is not None:
                report(f"{same.table} is there already" + (" and live" if same.live else ""))
                self._go_live(versions, same)
                return same.table
            made = self._built(batches, facts, self._free_name(facts, versions), queries, recall, report)
            serving = next((place for place, version in enumerate(versions) if version.live), -1)
            self._go_live([*versions[: serving + 1], made], made)
            report(f"{made.table} is live")
            return made.table

    def _free_name(self, facts: Facts, versions: Sequence[Version]) -> str:
        plain = f"{self.name}_{facts.fingerprint[:12]}_{facts.version}"
        taken = {version.table for version in versions}
        return next(name for name in chain([plain], (f"{plain}_{n}" for n in range(2, 1000))) if name not in taken)

    def _built(
        self, batches: Iterable[pa.RecordBatch], facts: Facts, table: str, queries: Array | None, recall: float, report: Callable[[str], None]
    ) -> Version:
        """A finished table that has been measured. What was begun of it goes where that fails."""
        batches = iter(batches)
        first = next(batches, None)
        if first is None:
            raise DataError("there are no items to publish")
        schema = payload_schema(first.schema)
        version = self.engine.plan(Version(table=table, facts=facts, schema=schema_text(schema)))
        truth = None if queries is None or not len(queries) else Truth(_check_width(np.asarray(queries, np.float32), facts))
        try:
            self.engine.create(version)
            done, hashes = 0, []
            for rows in rows_of(chain([first], batches), schema, facts.dimensions):
                self.engine.append(version, rows)
                done += len(rows[1])
                hashes.append(hash_texts(to_text(rows[0].column(0)).to_pylist()))
                report(f"{done:,} of {facts.rows:,} items sent")
                if truth is not None:
                    truth.add(rows[0].column(0).to_pylist(), rows[1])
            if len(np.unique(np.concatenate(hashes))) < done:
                raise DataError("two items have one id; every item is known by its own")
            check_count(self.engine.count(version), facts, done)
            report("building the index")
            version = self.engine.finish(version)
            return version if truth is None else self._measured(version, truth, recall, report)
        except BaseException:
            with contextlib.suppress(Exception):
                self.engine.drop(version.table)
            raise

    def _measured(self, version: Version, truth: Truth, wanted: float, report: Callable[[str], None]) -> Version:
        """The version with the narrowest breadth that finds enough. Raises OutputError where none does."""
        found = 0.0
        for breadth in self.engine.breadths if version.breadth else (0,):
            version = replace(version, breadth=breadth)
            _, answers = self.engine.search(version, truth.queries, MEASURED_AT, None)
            found = truth.recall(answers)
            report(f"recall@{MEASURED_AT} {found:.3f} through the store")
            if found >= wanted:
                return replace(version, recall=found)
        raise OutputError(
            f"searched through {self.engine.shown}, {version.table} finds {found:.3f} of the true {MEASURED_AT} nearest items; {wanted:g} is wanted, "
            f"so what was live stays so. Publish again with a lower recall, or search with exact vectors."
        )

    def _go_live(self, versions: Sequence[Version], chosen: Version) -> None:
        """Switch, then drop the tables that nobody goes back to."""
        marked = [replace(version, live=version.table == chosen.table and version.mark == chosen.mark) for version in versions]
        place = next(n for n, version in enumerate(marked) if version.live)
        marked = marked[max(0, place + 1 - KEPT) :]
        self.engine.switch(marked)
        self._clear(marked)

    def _clear(self, versions: Sequence[Version]) -> None:
        kept = {version.table for version in versions}
        for table in self.engine.tables():
            if table not in kept:
                self.engine.drop(table)

    def refresh(self, changed: Iterable[pa.RecordBatch], removed: Sequence[Any], facts: Facts, parent: str) -> str:
        """Go from the catalogue version `parent` to that of the facts: rows new or changed, and ids removed. Returns the table's name.

        Raises BundleError unless the live version is of the same model and of the parent; OutputError, DataError.
        """
        facts.check()
        with self.engine.claim():
            live, versions = self._live(), self.engine.versions()
            if live.facts.fingerprint != facts.fingerprint:
                raise BundleError(
                    f"{self.engine.shown} serves the model {live.facts.fingerprint[:12]}, and this change is of the model {facts.fingerprint[:12]}: "
                    "their vectors do not compare. Publish the whole catalogue: twotower export RUN --to URL"
                )
            if live.facts == facts:
                return live.table
            if live.facts.version != parent:
                raise BundleError(
                    f"{self.engine.shown} holds the catalogue version {live.facts.version}, and this change starts from {parent}. "
                    "Publish the whole catalogue: twotower export RUN --to URL"
                )
            rows = rows_of(changed, live.shape, facts.dimensions)
            place = versions.index(live)
            following = replace(live, table=self._free_name(facts, versions), facts=facts, recall=None)
            then = self.engine.refresh(live, following, rows, list(removed), versions[:place])
            self._clear(then)
            return next(version.table for version in then if version.live)

    def rollback(self) -> str:
        """Put the version before the live one back, in one step; returns its table's name. Raises DataError where there is none."""
        with self.engine.claim():
            versions, live = self.engine.versions(), self._live()
            place = versions.index(live)
            if not place:
                raise DataError(f'there is no version of "{self.name}" before {live.table} in {self.engine.shown}')
            chosen = versions[place - 1]
            self.engine.switch([replace(version, live=n == place - 1) for n, version in enumerate(versions)])
            return chosen.table


def rows_of(batches: Iterable[pa.RecordBatch], schema: pa.Schema, dimensions: int) -> Iterator[Rows]:
    """Batches as payload and vectors, a few thousand rows at once."""
    for whole in batches:
        if VECTOR not in whole.schema.names:
            raise DataError(f'what is published has a column "{VECTOR}"; these have {", ".join(whole.schema.names)}')
        for start in range(0, whole.num_rows, ROWS_AT_ONCE):
            batch = whole.slice(start, ROWS_AT_ONCE)
            yield payload_of(batch, schema), vectors_of(batch, dimensions)


def check_count(found: int, facts: Facts, sent: int | None = None) -> None:
    """Raise DataError unless a table has as many rows as the catalogue."""
    if sent is not None and sent != facts.rows:
        raise DataError(f"the catalogue is said to have {facts.rows:,} items, and {sent:,} came")
    if found != facts.rows:
        raise DataError(f"the table has {found:,} rows for {facts.rows:,} items; it may be that two items have one id")


def _check_width(vectors: Array, facts: Facts) -> Array:
    if vectors.ndim != 2 or vectors.shape[1] != facts.dimensions:
        raise ConfigError(f"the store holds vectors of {facts.dimensions} dimensions and takes [q, {facts.dimensions}], not {vectors.shape}")
    return vectors


class Truth:
    """The items truly nearest to some queries float32 [q, d], kept up to date while items stream by."""

    def __init__(self, queries: Array) -> None:
        self.queries = queries
        self.scores = np.full((len(queries), MEASURED_AT), -np.inf, np.float32)
        self.ids = np.full((len(queries), MEASURED_AT), None, object)

    def add(self, ids: Sequence[Any], vectors: Array) -> None:
        """More items: their ids, and vectors float32 [n, d]."""
        near = best_of_each(self.queries @ vectors.T, MEASURED_AT)
        names = np.array([*ids, None], object)[near.rows]  # a row of -1 is the last
        scores, names = np.concatenate([self.scores, near.scores], axis=1), np.concatenate([self.ids, names], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :MEASURED_AT]
        self.scores, self.ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(names, order, axis=1)

    def recall(self, found: Found) -> float:
        """The share of the nearest that was found; of items that score alike any will do."""
        shares = []
        for ids, scores, near, given in zip(self.ids, self.scores, *found, strict=True):
            true = {each for each, score in zip(ids, scores, strict=True) if np.isfinite(score)}
            least = float(scores[len(true) - 1])
            tied = least - 1e-5 * max(1.0, abs(least))
            right = sum(each in true or score >= tied for each, score in zip(near, given, strict=True))
            shares.append(min(1.0, right / len(true)))
        return float(np.mean(shares))
