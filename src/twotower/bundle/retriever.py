"""Searches, scores and embeds with a bundle. Imports no torch; safe to share between threads.

`search` ranks by vectors, by words, or by both fused, whichever the model's validation chose. The score of an item is always
the raw similarity of the vectors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Gt

from twotower import files
from twotower.bundle.asking import histories_of, is_list, is_one, is_rows, listed, query_text, table_of, with_history
from twotower.bundle.catalogue import Catalogue
from twotower.bundle.changes import Plan, Report, added, check_gone, compare, removed, updated
from twotower.bundle.found import Found, check_threshold, first, met_of, shown_of
from twotower.bundle.graphs import open_graph, run_graph
from twotower.bundle.growth import WAIT, Change, grow
from twotower.bundle.indexes import AUTO
from twotower.bundle.layout import ALONE, Bundle, in_use, open_bundle, without_items
from twotower.bundle.memory import Memory, without
from twotower.bundle.narrowing import Where, excluded, together
from twotower.bundle.ranking import Mode, by_both, check_mode, mean_direction, nearest, widened
from twotower.data.columns import Array, Columns, lengths_of
from twotower.data.encoder import Rows, to_table
from twotower.data.schema import Side
from twotower.data.sources import open_source
from twotower.data.values import plain_rows
from twotower.errors import BundleError, ConfigError, DataError, choices
from twotower.search.calibration import probability
from twotower.search.diversity import candidates
from twotower.search.index import INDEXES, Hits, similarities
from twotower.search.lexical import Lexical
from twotower.search.vectors import Vectors

HISTORIES_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a bundle is searched.

    mode: by `vectors`, by `words` (BM25), or `hybrid`, both added up; `auto` takes what ranked best on the validation pairs.
    words_weight: what the best match in words adds, as a part of the best similarity; without one, chosen on the validation
    pairs too. words_of: whose words are searched, those of the `items`, or `both`: theirs and those of the training queries that
    led to them. vectors: how those of the items are stored: as `float32`, or in a half or a quarter of that as `float16` or `int8`;
    what is measured is what is stored, and the card says what it costs in recall.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    mode: Literal["auto", "vectors", "words", "hybrid"] = "auto"
    words_weight: Annotated[float, Gt(0)] | None = None
    words_of: Literal["auto", "items", "both"] = "auto"
    vectors: Literal["float32", "float16", "int8"] = "float32"


class Retriever:
    """One model and the version of its catalogue in use, ready to be asked.

    Each question is answered by one version, even where another thread grows the catalogue meanwhile.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, index: str = AUTO, width: int | None = None, place: Path | None = None) -> None:
        if index not in (AUTO, *INDEXES):
            raise ConfigError(f'there is no index "{index}"; {choices((AUTO, *INDEXES), index)}')
        self.encoder = bundle.encoder
        self._graphs = {side: open_graph(bundle.folder / "model", side, threads) for side in ("query", *(() if bundle.alone else ("item",)))}
        if width is not None and not 1 <= width <= bundle.dimensions:
            raise ConfigError(f"the vectors have {bundle.dimensions} dimensions, so width is from 1 to that, and not {width}")
        self._kind, self.width, self._growing = index, width, threading.Lock()
        self._place, self._threads = place or bundle.folder, threads
        self._catalogue = Catalogue(bundle, index, width)  # replaced as a whole, never changed
        self._search = bundle.model["search"]
        self.text_columns: list[str] = list(bundle.model["query_text"])
        self._nested = [feature.column for feature in self.encoder.features["query"] if feature.nested]

    def __len__(self) -> int:
        return len(self.catalogue)

    @property
    def catalogue(self) -> Catalogue:
        """The version that is asked, which never changes. Raises BundleError for a query encoder alone."""
        if self._catalogue.bundle.alone:
            raise BundleError(without_items(self.bundle.folder))
        return self._catalogue

    @property
    def bundle(self) -> Bundle:
        """The bundle, opened at the version that is asked."""
        return self._catalogue.bundle

    @property
    def items(self) -> pa.Table:
        """The catalogue: `_id` and the columns to show, a row an item."""
        return self.catalogue.items

    @property
    def vectors(self) -> Array | Vectors:
        """The vectors of the items [n, d]: an array of float32, or as the bundle stores them, which gives rows as that."""
        return self.catalogue.vectors

    @property
    def lexical(self) -> Lexical | None:
        """The words of the items, where there are any."""
        return self.catalogue.lexical

    @property
    def history(self) -> Memory | None:
        """What reads the histories of queries, for a model that knows who asks by one."""
        return self._catalogue.history

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
        where: Where | None = None,
        allow: Any = None,
        deny: Any = None,
        exclude: Any = None,
        skip: int = 0,
        diversity: float | None = None,
    ) -> Found:
        """The k best items for each query: [k] for one query (a text or a dict), [q, k] for several.

        queries: a text or an id, or several, where the query side reads one column; otherwise dicts, a data frame or an Arrow table. history:
        for a model that reads one, the ids of the items that were touched before, oldest first: a list for one query, a list of
        lists for several; or a column of the queries. repeats: whether items of the history may be found again. k may exceed the
        catalogue: the rest is filled with None; so is all for a query of which the model knows nothing. threshold: those of the k whose score is
        below are left out; the score is the similarity of the vectors, by whichever mode they were found.

        where: a filter on the columns of the items, as a text, "price < 50 and not discontinued", or as JSON, {"price": {"lt": 50}} (docs/search.md).
        allow, deny: ids of items that alone, or never, may be found; exclude: the same for each query, a list for one, a list of lists
        for several. skip: how many of the best to pass over. diversity: above 0 and up to 1, how much unlikeness counts beside the score.
        Raises ConfigError for a k, a threshold or a filter that cannot be meant, and DataError for an empty query.
        """
        check_threshold(threshold)
        mode = mode or self._search["mode"]
        one, now = is_one(queries, history, self._nested), self.catalogue
        check_mode(mode, now.worded)
        met = met_of(now, where, allow, deny, k, skip, diversity)
        table = self.query_table(queries, history)
        known = None if now.history is None or repeats else now.history.known(table)
        left_out = together(known, excluded(exclude, table.num_rows, now.find))
        vectors = self.embedded(table, now.history)
        wanted = k + skip if diversity is None else candidates(k, skip)
        hits = self._hits(now, vectors, table, wanted + (0 if left_out is None else int(lengths_of(left_out).max(initial=0))), mode, met)
        hits = hits if left_out is None else without(hits, left_out, wanted)
        found = shown_of(now, hits, vectors, k, skip, threshold, diversity)
        return first(found) if one else found

    def matching(self, where: Where | None = None, *, allow: Any = None, deny: Any = None) -> Array:
        """Which items of the catalogue a search narrowed so may find, bool [n]."""
        now = self.catalogue
        met = met_of(now, where, allow, deny, 1, 0, None)
        return np.ones(len(now), bool) if met is None else met.copy()

    def _hits(self, now: Catalogue, vectors: Array, table: pa.Table, k: int, mode: str, allow: Array | None) -> Hits:
        wanted = min(k, len(now))
        if mode == "vectors":
            hits = nearest(now.index, now.vectors, vectors, wanted, allow)
        else:
            assert now.lexical is not None  # as `check_mode` saw to
            texts = query_text(table, self.text_columns)
            if mode == "words":
                hits = now.lexical.search(texts, wanted, allow)
            else:
                hits = by_both(now.lexical, now.vectors, vectors, texts, wanted, float(self._search["words_weight"]), allow)
        return hits if wanted == k else widened(hits, k)

    def score(self, queries: Any, items: Any) -> Array:
        """The similarity float32 [n] of each query with the item beside it.

        items: ids of the catalogue, or rows with the item's feature columns for items that it does not hold.
        """
        now = self.catalogue
        query_vectors = self.embedded(self.query_table(queries), now.history)
        if is_rows(items):
            item_vectors = self.embed_items(items)
        else:
            item_vectors = np.asarray(now.vectors[now.rows_of(listed(items if is_list(items) else [items]))])
        if len(query_vectors) != len(item_vectors):
            raise DataError(f"{len(query_vectors)} queries came with {len(item_vectors)} items; score takes one item for each query")
        return np.asarray(np.einsum("nd,nd->n", query_vectors, item_vectors))

    def score_known(self, queries: Any, items: Any) -> Array:
        """Like `score`, for an Arrow column of ids or a table of item rows; nan where the catalogue lacks an id."""
        if isinstance(items, pa.Table):
            return self.score(queries, items)
        now = self.catalogue
        rows = now.find(items)
        found = np.flatnonzero(rows >= 0)
        scores = np.full(len(rows), np.nan, np.float32)
        if len(found):
            table = self.query_table(queries).take(pa.array(found))
            scores[found] = similarities(self.embedded(table, now.history), np.arange(len(found)), now.vectors, rows[found])
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

    def similar(
        self,
        item_ids: Any,
        k: int = 10,
        *,
        threshold: float | None = None,
        where: Where | None = None,
        allow: Any = None,
        deny: Any = None,
        skip: int = 0,
        diversity: float | None = None,
    ) -> Found:
        """The k items [k] nearest to one of the catalogue, or to the mean direction of several; themselves left out.

        The other options are those of `search`. Raises DataError for an id that is not there.
        """
        check_threshold(threshold)
        now = self.catalogue
        met = met_of(now, where, allow, deny, k, skip, diversity)
        rows = now.rows_of(listed(item_ids) if is_list(item_ids) else [item_ids])
        if not len(rows):
            raise DataError("similar takes the id of an item, or of several; it came without any")
        met = np.ones(len(now), bool) if met is None else met.copy()
        met[rows] = False
        vectors = mean_direction(np.asarray(now.vectors[rows]))
        wanted = k + skip if diversity is None else candidates(k, skip)
        return first(shown_of(now, nearest(now.index, now.vectors, vectors, wanted, met), vectors, k, skip, threshold, diversity))

    def embed_queries(self, queries: Any = None, history: Any = None) -> Array:
        """Query vectors float32 [n, d]."""
        return self.embedded(self.query_table(queries, history), self.history)

    def embedded(self, table: pa.Table, history: Memory | None) -> Array:
        """Query vectors float32 [n, d] of a table of queries, whose histories are read by this memory."""
        if history is None:
            return self._run("query", self.encoder.encode("query", table))
        vectors = np.empty((table.num_rows, self.width or self.bundle.dimensions), np.float32)
        for start in range(0, table.num_rows, HISTORIES_AT_ONCE):
            vectors[start : start + HISTORIES_AT_ONCE] = self._run("query", self.query_columns(table.slice(start, HISTORIES_AT_ONCE), history))
        return vectors

    def query_columns(self, table: pa.Table, history: Memory | None) -> Columns:
        """Queries [n] as the query tower takes them, their histories read by this memory."""
        columns = dict(self.encoder.encode("query", table))
        if history is not None:
            columns[history.name] = history.column(history.named(table))
        return columns

    def embed_items(self, items: Rows) -> Array:
        """Item vectors float32 [n, d] of rows with the item's feature columns, in the catalogue or not."""
        if self.bundle.alone:
            raise BundleError(without_items(self.bundle.folder))
        return self._run("item", self.encoder.encode("item", to_table(items)))

    def _run(self, side: Side, columns: Any) -> Array:
        vectors = run_graph(self._graphs[side], columns, self.bundle.dimensions)
        return vectors if self.width is None else Vectors(vectors).narrowed(self.width, unit=self.bundle.model["similarity"] == "cosine")[:]

    # Growing. Each writes one new version of the catalogue, and this retriever asks it from then on; others do after `reload()`.

    def refresh(
        self, items: Any, *, partial: bool = False, yes: bool = False, read: Report = lambda _: None, embedded: Report = lambda _: None
    ) -> Change:
        """Bring the catalogue up to date with a whole one: a path, a data frame, anything that `train` takes.

        Only items that are new or read otherwise are embedded; what is only shown is taken over; what is gone goes, more than a tenth of
        the items only with `yes`. partial: items that are not named stay. The same again changes nothing. read, embedded: are told of rows
        as they are done. Raises DataError for a column that is missing or an id that is named twice, ConfigError where too much would go,
        and OutputError where somebody else is writing.
        """
        source = open_source(items, "items")

        def plan(now: Catalogue) -> Plan:
            found = compare(now, source, partial=partial, report=read)
            if not yes:
                check_gone(found, now, source.name)
            return found

        return self._grown(plan, embedded)

    def add_items(self, items: Rows) -> Change:
        """Add items: rows with all columns of the catalogue. Raises DataError for an id that is there already."""
        return self._grown(lambda now: added(now, to_table(items)))

    def update_items(self, items: Rows) -> Change:
        """Change items that are there: rows with the item's id and the columns that change. Only those read otherwise are embedded anew."""
        return self._grown(lambda now: updated(now, to_table(items)))

    def remove_items(self, ids: Any) -> Change:
        """Remove items by their ids. Raises DataError for one that is not there."""
        gone = listed(ids) if is_list(ids) else [ids]
        return self._grown(lambda now: removed(now, np.unique(now.rows_of(gone))))

    def reload(self) -> bool:
        """Ask the version that the bundle has in use now; returns whether it is another. What has not changed is not read again."""
        opened = open_bundle(self.bundle.folder, known=self.bundle)
        if opened is self.bundle:
            return False
        self._catalogue = Catalogue(opened, self._kind, self.width)
        return True

    def newest(self) -> Retriever:
        """A retriever of what is in use now at the place that this one was loaded from, this one where nothing has changed.

        Another version of the catalogue takes over what has not changed; another model, where the place leads to one now, is loaded whole. This
        one goes on answering by its own. Raises BundleError for what does not load exactly.
        """
        folder, fingerprint, version = in_use(self._place)
        if fingerprint != self.bundle.fingerprint or (version == ALONE) != self.bundle.alone:
            return Retriever(open_bundle(folder, alone=True), self._threads, self._kind, self.width, self._place)
        opened = self.bundle if self.bundle.alone else open_bundle(folder, known=self.bundle)
        if opened is self.bundle:
            return self
        other = copy(self)
        other._catalogue, other._growing = Catalogue(opened, self._kind, self.width), threading.Lock()
        return other

    def _grown(self, plan: Callable[[Catalogue], Plan], report: Report = lambda _: None) -> Change:
        if self.width is not None:
            raise ConfigError("this bundle was opened with fewer dimensions than it has; open it with all of them to change its catalogue")
        with self._growing, files.held(self.catalogue.bundle.folder, WAIT):
            self.reload()
            now = self.catalogue
            change = grow(now, plan(now), self.embed_items, report)
            self.reload()
        return change

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
        else:
            table = table_of(queries, columns, self._nested)
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
        return self.catalogue.rows_of(listed(ids))

    def find(self, ids: pa.Array | pa.ChunkedArray) -> Array:
        """The catalogue rows int64 [n] of ids, -1 where there is none."""
        return self.catalogue.find(ids)

    def show(self, rows: Array) -> list[dict[str, Any]]:
        """The columns of catalogue rows [n], as dicts; a row of -1 is None of them."""
        return plain_rows(self.items.take(pa.array(np.asarray(rows)[np.asarray(rows) >= 0])))
