"""Searches, scores and embeds with a bundle. Imports no torch; safe to share between threads.

`search` ranks by vectors, by words, or by both fused, whichever the model's validation chose. The score of an item is always
the raw similarity of the vectors.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from annotated_types import Gt

from twotower.bundle.asking import columnar, histories_of, is_list, is_one, is_rows, is_value, listed, with_history
from twotower.bundle.graphs import open_graph, run_graph
from twotower.bundle.layout import Bundle, open_bundle, verify_files, without_items
from twotower.bundle.memory import Memory, without
from twotower.data.columns import Array, Columns, lengths_of
from twotower.data.encoder import Rows, to_table
from twotower.data.prepared import ID
from twotower.data.schema import Side
from twotower.data.values import to_array, to_text
from twotower.errors import BundleError, ConfigError, DataError, choices
from twotower.files import read_json
from twotower.search.calibration import probability
from twotower.search.fusion import blend
from twotower.search.index import INDEXES, Hits, best, no_hits, similarities
from twotower.search.lexical import Lexical

Mode = Literal["vectors", "words", "hybrid"]
MODES: tuple[Mode, ...] = ("vectors", "words", "hybrid")
GOLDEN_TOLERANCE = 1e-4
SCORES_AT_ONCE = 1 << 23  # 32 MB of float32
HISTORIES_AT_ONCE = 2048
OF_ITEMS = {"vectors", "items", "lexical", "_index", "_ids", "_rows_by_id"}  # what a query encoder alone lacks


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a bundle is searched.

    mode: by `vectors`, by `words` (BM25), or `hybrid`, both added up; `auto` takes what ranked best on the validation pairs.
    words_weight: what the best match in words adds, as a part of the best similarity; without one, chosen on the validation
    pairs too. words_of: whose words are searched, those of the `items`, or `both`: theirs and those of the training queries that
    led to them.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    mode: Literal["auto", "vectors", "words", "hybrid"] = "auto"
    words_weight: Annotated[float, Gt(0)] | None = None
    words_of: Literal["auto", "items", "both"] = "auto"


class Found(NamedTuple):
    """Items found, best first: [k] for one query, [q, k] for several."""

    ids: Array  # object, None past the end of the catalogue
    scores: Array  # float32, raw similarity; -inf past the end
    rows: Array  # int64, rows of the catalogue; -1 past the end


def check_threshold(threshold: Any) -> None:
    """Raise ConfigError for a threshold, where there is one, that is no finite number."""
    if threshold is None:
        return
    if not isinstance(threshold, numbers.Real) or isinstance(threshold, bool) or not np.isfinite(float(threshold)):
        raise ConfigError(f"a threshold is the similarity that results have at least, a number such as 0.5, and not {threshold!r}")


def at_least(found: Found, threshold: float) -> Found:
    """What was found with a similarity of at least the threshold, in its order; behind it the same pads as past the end of the catalogue."""
    below = ~(found.scores.astype(np.float64) >= float(threshold))
    order = np.argsort(below, axis=-1, kind="stable")
    below = np.take_along_axis(below, order, axis=-1)
    ids, scores, rows = (np.take_along_axis(part, order, axis=-1) for part in found)
    ids[below], scores[below], rows[below] = None, -np.inf, -1
    return Found(ids, scores, rows)


def query_text(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """The words of each query row: its text columns, joined."""
    parts = [to_text(table.column(name), exact=False).to_pylist() for name in columns]
    return [" ".join(value for value in values if value) for values in zip(*parts, strict=True)] if parts else [""] * table.num_rows


class Retriever:
    """One model and one version of its catalogue, ready to be asked."""

    def __init__(self, bundle: Bundle, threads: int | None = None, index: str = "exact") -> None:
        if index not in INDEXES:
            raise ConfigError(f'there is no index "{index}"; {choices(INDEXES, index)}')
        self.bundle = bundle
        self.encoder = bundle.encoder
        self._graphs = {side: open_graph(bundle.folder / "model", side, threads) for side in ("query", *(() if bundle.alone else ("item",)))}
        self._search = bundle.model["search"]
        self.text_columns: list[str] = list(bundle.model["query_text"])
        self._nested = [feature.column for feature in self.encoder.features["query"] if feature.nested]
        segments = bundle.segments
        if bundle.alone:
            self.history = Memory.of(self.encoder, segments[0].items.column(ID), segments[0].vectors) if segments else None
            return
        self.vectors: Array = segments[0].vectors if len(segments) == 1 else np.concatenate([s.vectors for s in segments])
        self.items: pa.Table = pa.concat_tables([segment.items for segment in segments])
        self.lexical: Lexical | None = segments[0].lexical if len(segments) == 1 else None
        self._index = INDEXES[index](self.vectors)
        self._ids = self.items.column(ID)
        self._rows_by_id: dict[str, int] | None = None
        self.history = Memory.of(self.encoder, self._ids, self.vectors)

    def __getattr__(self, name: str) -> Any:
        """Only what `__init__` did not set comes here: of a query encoder alone, all that tells of items."""
        if name in OF_ITEMS:
            self._need_items()
        raise AttributeError(f"a Retriever has no {name!r}")

    def _need_items(self) -> None:
        if self.bundle.alone:
            raise BundleError(without_items(self.bundle.folder))

    def __len__(self) -> int:
        return int(self.items.num_rows)

    def __repr__(self) -> str:
        if self.bundle.alone:
            return f"<Retriever of a query encoder alone, {self.bundle.dimensions} dimensions>"
        return f"<Retriever of {len(self):,} items, {self.bundle.dimensions} dimensions, searched by {self._search['mode']}>"

    # Asking.

    def search(
        self,
        queries: Any = None,
        k: int = 10,
        *,
        history: Any = None,
        repeats: bool = False,
        mode: Mode | None = None,
        threshold: float | None = None,
    ) -> Found:
        """The k best items for each query: [k] for one query (a text or a dict), [q, k] for several.

        queries: a text or an id, or several, where the query side reads one column; otherwise dicts, a data frame or an Arrow table. history:
        for a model that reads one, the ids of the items that were touched before, oldest first: a list for one query, a list of
        lists for several; or a column of the queries. repeats: whether items of the history may be found again. k may exceed the
        catalogue: the rest is filled with None; so is all for a query of which the model knows nothing. threshold: those of the k whose score is
        below are left out; the score is the similarity of the vectors, by whichever mode they were found. Raises ConfigError for k below 1 and a
        threshold that is no number, and DataError for an empty query.
        """
        self._need_items()
        check_threshold(threshold)
        one = is_one(queries, history, self._nested)
        table = self.query_table(queries, history)
        vectors = self.embed_queries(table)
        known = None if self.history is None or repeats else self.history.known(table)
        longest = 0 if known is None else int(lengths_of(known).max(initial=0))
        hits = self._hits(vectors, table, k + longest if k > 0 else k, mode or self._search["mode"])
        found = self._found(hits if known is None else without(hits, known, k), vectors)
        found = found if threshold is None else at_least(found, threshold)
        return _first(found) if one else found

    def _hits(self, vectors: Array, table: pa.Table, k: int, mode: str) -> Hits:
        if mode not in MODES:
            raise ConfigError(f'there is no search mode "{mode}"; {choices(MODES, mode)}')
        if mode != "vectors" and self.lexical is None:
            raise ConfigError(f'this bundle holds no words, so it cannot be searched by "{mode}"; use mode "vectors"')
        if k < 1:
            raise ConfigError(f"k is {k}; at least one item must be asked for")
        wanted = min(k, len(self))
        if mode == "vectors" or self.lexical is None:
            hits = self._index.search(vectors, wanted)
            hits.rows[~vectors.any(axis=1)] = -1  # equally near to everything: any order would be made up
        elif mode == "words":
            hits = self.lexical.search(query_text(table, self.text_columns), wanted)
        else:
            hits = self._both(vectors, query_text(table, self.text_columns), wanted)
        if wanted == k:
            return hits
        padded = no_hits(len(vectors), k)
        padded.rows[:, :wanted], padded.scores[:, :wanted] = hits.rows, hits.scores
        return padded

    def _both(self, vectors: Array, texts: list[str], k: int) -> Hits:
        assert self.lexical is not None
        hits = no_hits(len(vectors), k)
        block = max(1, SCORES_AT_ONCE // max(1, len(self)))
        for start in range(0, len(vectors), block):
            part = slice(start, start + block)
            near = vectors[part] @ self.vectors.T
            scores = blend(near, self.lexical.scores(texts[part]), float(self._search["words_weight"]))
            for n, row in enumerate(scores, start):
                if not row.any():
                    continue  # nothing in this query is known to either
                hits.rows[n] = best(row, k)
                hits.scores[n] = row[hits.rows[n]]
        return hits

    def _found(self, hits: Hits, vectors: Array) -> Found:
        """Hits with ids, and with raw similarities for scores."""
        present = hits.rows >= 0
        query, _ = np.nonzero(present)
        rows = hits.rows[present]
        scores = np.full(hits.rows.shape, -np.inf, np.float32)
        scores[present] = similarities(vectors, query, self.vectors, rows)
        ids = np.full(hits.rows.shape, None, object)
        ids[present] = self._ids.take(pa.array(rows)).to_pylist()
        return Found(ids, scores, hits.rows)

    def score(self, queries: Any, items: Any) -> Array:
        """The similarity float32 [n] of each query with the item beside it.

        items: ids of the catalogue, or rows with the item's feature columns for items that it does not hold.
        """
        self._need_items()
        query_vectors = self.embed_queries(queries)
        if is_rows(items):
            item_vectors = self.embed_items(items)
        else:
            item_vectors = np.asarray(self.vectors[self.rows_of(items if is_list(items) else [items])])
        if len(query_vectors) != len(item_vectors):
            raise DataError(f"{len(query_vectors)} queries came with {len(item_vectors)} items; score takes one item for each query")
        return np.asarray(np.einsum("nd,nd->n", query_vectors, item_vectors))

    def score_known(self, queries: Any, items: Any) -> Array:
        """Like `score`, for an Arrow column of ids or a table of item rows; nan where the catalogue lacks an id."""
        if isinstance(items, pa.Table):
            return self.score(queries, items)
        rows = self.find(items)
        found = np.flatnonzero(rows >= 0)
        scores = np.full(len(rows), np.nan, np.float32)
        if len(found):
            table = self.query_table(queries).take(pa.array(found))
            scores[found] = similarities(self.embed_queries(table), np.arange(len(found)), self.vectors, rows[found])
        return scores

    def probability(self, scores: Array, prior: float = 0.5) -> Array:
        """The probability float64 [n] that pairs of these scores match, by a curve fitted to validation pairs.

        prior: the share of matches among the pairs that were scored. The other pairs are taken to be drawn from the catalogue: where they were chosen
        for being near, as by a search, fewer match than this says. Raises ConfigError where the bundle holds no calibration.
        """
        told = self.bundle.model.get("calibration")
        if told is None:
            raise ConfigError("this bundle holds no calibration: it was written before there was one, or had no validation pairs. Train again.")
        return probability(scores, told["slope"], told["intercept"], prior)

    def similar(self, item_id: Any, k: int = 10) -> Found:
        """The k items [k] nearest to one of the catalogue, itself left out."""
        row = self.rows_of([item_id])
        allow = np.ones(len(self), bool)
        allow[row] = False
        vectors = np.asarray(self.vectors[row])
        return _first(self._found(self._index.search(vectors, k, allow=allow), vectors))

    def embed_queries(self, queries: Any = None, history: Any = None) -> Array:
        """Query vectors float32 [n, d]."""
        table = self.query_table(queries, history)
        if self.history is None:
            return self._run("query", self.encoder.encode("query", table))
        vectors = np.empty((table.num_rows, self.bundle.dimensions), np.float32)
        for start in range(0, table.num_rows, HISTORIES_AT_ONCE):
            vectors[start : start + HISTORIES_AT_ONCE] = self._run("query", self.query_columns(table.slice(start, HISTORIES_AT_ONCE)))
        return vectors

    def query_columns(self, table: pa.Table) -> Columns:
        """Queries [n] as the query tower takes them, their histories read by the catalogue."""
        columns = dict(self.encoder.encode("query", table))
        if self.history is not None:
            columns[self.history.name] = self.history.column(self.history.named(table))
        return columns

    def embed_items(self, items: Rows) -> Array:
        """Item vectors float32 [n, d] of rows with the item's feature columns, in the catalogue or not."""
        self._need_items()
        return self._run("item", self.encoder.encode("item", to_table(items)))

    def _run(self, side: Side, columns: Any) -> Array:
        return run_graph(self._graphs[side], columns, self.bundle.dimensions)

    # Queries and items.

    def query_table(self, queries: Any = None, history: Any = None) -> pa.Table:
        """Queries in any accepted form as an Arrow table. Raises DataError for a query with nothing in it."""
        columns = self.encoder.columns("query")
        if history is not None and self.history is None:
            raise ConfigError("this model reads no history; it was trained without one. Leave it out.")
        if is_list(queries) and not isinstance(queries, Sequence):
            queries = listed(queries)
        if queries is None:
            if self.history is None or history is None:
                raise ConfigError(f"there is nothing to search for; a query has {', '.join(columns) or 'a history'}")
            # Whoever is known by a history alone; a table needs a column to have rows.
            table = pa.table({name: pa.nulls(len(histories_of(history))) for name in columns or [""]})
        elif is_value(queries) or (isinstance(queries, Sequence) and queries and all(map(is_value, queries))):
            if len(columns) != 1:
                if not columns:
                    raise DataError("this model knows who asks by what they touched before: pass history=[...], or --history ID,ID,...")
                raise DataError(f"a query of this model has {len(columns)} columns; name them: {' '.join(f'{name}=...' for name in columns)}")
            table = pa.table({columns[0]: to_array([queries] if is_value(queries) else list(queries))})
        elif isinstance(queries, Mapping) and not columnar(queries, self._nested):
            table = to_table([queries])
        elif isinstance(queries, Sequence) and not queries:
            table = pa.table({name: pa.array([], pa.string()) for name in columns or [""]})
        else:
            table = to_table(queries)
        if history is not None and self.history is not None:
            table = with_history(table, self.history.column_name, histories_of(history))
        self._not_empty(table, columns)
        return table

    def _not_empty(self, table: pa.Table, columns: Sequence[str]) -> None:
        if self.history is not None and self.history.column_name in table.column_names:
            columns = [*columns, self.history.column_name]
        present = [name for name in columns if name in table.column_names]
        if len(present) < len(columns) or not table.num_rows:
            return  # the encoder says what is missing
        empty = np.flatnonzero(self.encoder.empty("query", table.select(present)))
        if len(empty):
            where = "the query" if table.num_rows == 1 else f"query row {empty[0]}"
            named = ", ".join(columns) or "the history, which is all that this model reads,"
            raise DataError(f"{where} is empty: {named} holds nothing to search for")

    def rows_of(self, ids: Any) -> Array:
        """The catalogue rows int64 [n] of item ids. Raises DataError for one that is not there."""
        ids = listed(ids)
        rows = self.find(to_array(ids))
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            unknown = ids[int(missing[0])]
            raise DataError(f"the catalogue has no item {unknown!r}; {choices(list(self._known())[:2000], str(unknown), most=3)}")
        return rows

    def find(self, ids: pa.Array | pa.ChunkedArray) -> Array:
        """The catalogue rows int64 [n] of ids, -1 where there is none."""
        known = self._known()
        return np.array([known.get(text, -1) for text in to_text(ids).to_pylist()], np.int64)

    def _known(self) -> dict[str, int]:
        # Two threads may both build it; they build the same, and either may stay.
        if self._rows_by_id is None:
            self._rows_by_id = {text: row for row, text in enumerate(to_text(self._ids).to_pylist())}
        return self._rows_by_id

    def show(self, rows: Array) -> list[dict[str, Any]]:
        """The columns of catalogue rows [n], as dicts; a row of -1 is None of them."""
        return list(self.items.take(pa.array(np.asarray(rows)[np.asarray(rows) >= 0])).to_pylist())


def load(place: Path | str, *, threads: int | None = None, index: str = "exact") -> Retriever:
    """The retriever of a bundle, or of the bundle of a run. Raises BundleError unless it loads exactly.

    index: how vectors are searched, `exact` or, with the extra `ann`, `hnsw`, which is built here. It serves the mode `vectors`
    and `similar`; searches that weigh words too read the whole catalogue.
    """
    return Retriever(open_bundle(place, alone=True), threads, index)


def _first(found: Found) -> Found:
    return Found(*(part[0] for part in found))


def verify(place: Path | str) -> None:
    """Check every byte of a bundle, and that its model reads the golden queries as when it was made, or raise BundleError."""
    verify_files(place)
    retriever = load(place)
    for golden in read_json(retriever.bundle.folder / "model" / "golden.json"):
        # The vector rather than the answer: a catalogue may have grown since.
        if not np.allclose(retriever.embed_queries([golden["query"]])[0], golden["vector"], atol=GOLDEN_TOLERANCE):
            raise BundleError(f"{retriever.bundle.folder} is whole, but here its model reads {golden['query']} otherwise than where it was made")
