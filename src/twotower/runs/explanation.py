"""Why one item was found for one query, or missed: its rank, what each feature and word does for it, and the nearest training pairs.

What a feature or a word does is what the similarity loses without it, the rest as it is: parts that say alike are each worth little beside the
other, so the parts do not add up. By the bundle alone; only the training pairs need the run and its prepared data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.asking import query_text
from twotower.bundle.graphs import open_graph, run_graph
from twotower.bundle.layout import find_bundle
from twotower.bundle.loading import load
from twotower.bundle.memory import Memory
from twotower.bundle.narrowing import check_k
from twotower.bundle.ranking import Mode, all_similarities
from twotower.bundle.reasons import own_words
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array, ragged_rows
from twotower.data.histories import Histories
from twotower.data.prepared import ID, Prepared, open_prepared
from twotower.data.schema import SIDES, Side
from twotower.data.splits import TRAIN
from twotower.errors import DataError
from twotower.learning.evaluation import Cases, cases
from twotower.learning.views import before, blocks, reading
from twotower.search.fusion import blend
from twotower.search.lexical import tokenize

MOST_WORDS = 50  # of a text, each of which is left out in turn
NEAREST = 5  # training pairs named
SHOWN = 5  # items of a history of theirs, the latest
SECONDS = 5.0  # in which training queries are read, those of the item first
AT_ONCE = 512


class Part(NamedTuple):
    """A feature, or a word of one, and what the similarity loses without it."""

    side: Side
    name: str  # of the column
    word: str  # or an item of a history; nothing for the whole of it
    worth: float


class Pair(NamedTuple):
    """A training pair, and how near its query is to the one that was asked."""

    asked: str
    item: str
    similarity: float


class Training(NamedTuple):
    """What training knew of it."""

    matches: int  # of the item
    own: list[Pair]  # the nearest queries that matched it, nearest first
    near: list[Pair]  # the nearest queries, whatever they matched
    looked: int  # training queries that were compared
    of: int  # so many there are


class Why(NamedTuple):
    """All that there is to say of one query and one item.

    rank: of the item among all that a search by this mode finds, of them so many; None where it is not found at all, since it shares no word with
    the query under `words`, or nothing of the query is known. score: its similarity by vectors. words: what shared words add under
    `hybrid`, or all that counts under `words`; None without words. needed: the score of the k-th item found.
    """

    query: str
    item: str
    mode: str
    k: int
    items: int
    rank: int | None
    of: int
    value: float  # by which it is ranked
    needed: float | None
    score: float
    words: float | None
    shared: list[str]
    first: str | None  # the item that ranks best
    parts: list[Part]
    training: Training | None  # None for a bundle without its run

    @property
    def found(self) -> bool:
        """Whether it is among the first k."""
        return self.rank is not None and self.rank <= self.k


def why(
    place: str | Path,
    query: Any = None,
    item: Any = None,
    *,
    history: Any = None,
    mode: Mode | None = None,
    k: int = 10,
    retriever: Retriever | None = None,
) -> Why:
    """Explain one item for one query of a run or a bundle.

    query, history, mode, k: as for `Retriever.search`. item: its id. retriever: the place's own, where it is loaded already. Raises ConfigError and
    DataError for what cannot be asked, an id that the catalogue lacks among it.
    """
    retriever = retriever or load(place)
    table = retriever.query_table(query, history)
    if table.num_rows != 1:
        raise DataError(f"one query is explained at a time, and these are {table.num_rows}")
    check_k(k)
    row = int(retriever.rows_of([item])[0])
    by = mode or retriever.bundle.model["search"]["mode"]
    order = retriever.search(table, k=max(k, len(retriever)), mode=by).rows[0]  # which refuses a mode that cannot be
    order = order[order >= 0]
    vector, text = retriever.embed_queries(table), query_text(table, retriever.text_columns)
    near = all_similarities(vector, retriever.vectors)  # [1, n]
    words = None if retriever.lexical is None else retriever.lexical.scores(text)
    scores = near
    if words is not None and by != "vectors":
        scores = words if by == "words" else blend(near, words, float(retriever.bundle.model["search"]["words_weight"]))
    if retriever.history is not None and row in retriever.history.known(table).values:
        raise DataError(f"{item!r} is in the history that was asked with, and a search does not find that again")
    at = np.flatnonzero(order == row)
    shared = sorted(set(tokenize(text[0])) & own_words(retriever, [row])[row]) if text[0] else []
    added = None if words is None else float(words[0, row]) if by == "words" else float(scores[0, row] - near[0, row]) if by == "hybrid" else None
    return Why(
        _said(table.to_pylist()[0]),
        _named(retriever, row),
        by,
        k,
        len(retriever),
        int(at[0]) + 1 if len(at) else None,
        len(order),
        float(scores[0, row]),
        float(scores[0, order[k - 1]]) if len(order) >= k else None,
        float(near[0, row]),
        added,
        shared,
        _named(retriever, int(order[0])) if len(order) else None,
        _parts(retriever, table, row, vector[0]),
        None if find_bundle(Path(place)) == Path(place) else _training(Path(place), retriever, row, vector[0]),
    )


def _named(retriever: Retriever, row: int) -> str:
    """An item in a line: its id and the first column that says something else."""
    shown = retriever.show(np.array([row]))[0]
    about = [str(value) for name, value in shown.items() if name != ID and value not in (None, "", []) and str(value) != str(shown[ID])]
    return " - ".join([str(shown[ID]), *about[:1]])


def _said(row: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in row.values() if value not in (None, "", []))


# --- what each part does ------------------------------------------------------------------------------------------


def _parts(retriever: Retriever, table: pa.Table, row: int, vector: Array) -> list[Part]:
    """Features and words of both sides, what does most first."""
    item = retriever.items.slice(row, 1)
    whole = float(vector @ retriever.vectors[row])
    found: list[Part] = []
    for side, rows, other in zip(SIDES, (table, item), (np.asarray(retriever.vectors[row]), vector), strict=True):
        changed = list(_changes(retriever, side, rows))
        if changed:
            tables = pa.concat_tables([each for _, _, each in changed])
            without = (retriever.embed_queries(tables) if side == "query" else retriever.embed_items(tables)) @ other
            found += [Part(side, name, word, whole - float(value)) for (name, word, _), value in zip(changed, without, strict=True)]
    return sorted(found, key=lambda part: -abs(part.worth))


def _changes(retriever: Retriever, side: Side, rows: pa.Table) -> list[tuple[str, str, pa.Table]]:
    """One row of a side without each of its features that holds something, each word, and each item of a history; never without everything."""
    features = retriever.encoder.features[side]
    worded = {feature.column for feature in features if feature.worded}
    columns = [name for name in retriever.encoder.columns(side) if name in rows.column_names]
    memory = retriever.history if side == "query" else None
    remembered = memory is not None and memory.column_name in rows.column_names
    if memory is not None and remembered:
        columns.append(memory.column_name)
        place = rows.schema.get_field_index(memory.column_name)  # in whatever form it came, as lists of ids from here on
        rows = rows.set_column(place, memory.column_name, memory.feature.normalise(rows.column(place).combine_chunks()))
    values = rows.to_pylist()[0]
    held = [name for name in dict.fromkeys(columns) if values[name] not in (None, []) and str(values[name]).strip()]
    found = [(name, "", _with(rows, name, None)) for name in held if len(held) > 1]
    if memory is not None and remembered:
        found += _forgetting(retriever, memory, rows)
    for name in held:
        words = str(values[name]).split()
        if name in worded and len(words) > 1:
            for n, word in enumerate(words[:MOST_WORDS]):
                found.append((name, word, _with(rows, name, " ".join([*words[:n], *words[n + 1 :]]))))
    return found


def _forgetting(retriever: Retriever, memory: Memory, rows: pa.Table) -> list[tuple[str, str, pa.Table]]:
    """A query without each of the items that the tower reads of its history, the latest first; of one that was touched twice, each time."""
    ids = rows.column(memory.column_name)[0].as_py() or []
    of = retriever.catalogue.find(pa.array(ids, pa.string()))
    read = np.flatnonzero(of >= 0)[-memory.feature.last :].tolist()
    found = []
    for at in read[::-1][:MOST_WORDS] if len(read) > 1 else []:
        others = [ids[other] for other in read if other != at]  # and none from before these in its place
        found.append((memory.column_name, _named(retriever, int(of[at])), _with(rows, memory.column_name, others)))
    return found


def _with(rows: pa.Table, name: str, value: Any) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), pa.array([value], rows.schema.field(place).type))


# --- what training knew -------------------------------------------------------------------------------------------


def _training(run: Path, retriever: Retriever, row: int, vector: Array) -> Training | None:
    """The training pairs nearest to the query, by the vectors of their queries; None where the prepared data are gone, or fewer dimensions are asked.

    A query with a history is one each time that it asked, and is shown what it knew then.
    """
    told = run / "prepared.json"
    place = run.parent / "prepared" / files.read_json(told)["folder"] if told.exists() else None
    if place is None or not place.exists() or retriever.width is not None:
        return None
    prepared = open_prepared(place)
    read = reading(retriever.encoder, prepared.columns["item"])
    seen = before(prepared, TRAIN, read)
    log = prepared.log.take(np.flatnonzero((prepared.parts == TRAIN) & (np.asarray(prepared.log.labels) > 0)))
    keys = log.query_keys
    if seen is None:
        keys = log.query_rows
    elif seen.order is None:
        # Without times a history leaves out all that is asked together with it, so each pair asks alone.
        keys = np.arange(len(log.query_rows))
    asked = cases(log._replace(query_keys=keys), None, "pair", seen)
    ids = prepared.items.column(ID)
    at = {str(name): at for at, name in enumerate(ids.to_pylist())}.get(str(retriever.items.column(ID)[row].as_py()), -1)
    own = np.unique(ragged_rows(asked.relevant)[asked.relevant.values == at])
    order = np.concatenate([own, np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(asked.query_rows)), own))])
    stand_ins = _rows_as(retriever, ids) if read is not None and read.codes is None else np.empty((0, 0), np.float32)
    graph, near = open_graph(find_bundle(run) / "model", "query"), np.full(len(order), -np.inf, np.float32)
    until, looked = time.monotonic() + SECONDS, 0
    while looked < len(order) and (looked < len(own) or time.monotonic() < until):
        some = order[looked : looked + AT_ONCE]
        for _, columns in blocks(retriever.encoder, prepared.columns["query"], asked.take(some), seen, read, stand_ins):
            near[some] = run_graph(graph, columns, retriever.bundle.dimensions) @ vector
        looked += len(some)
    return Training(
        int((asked.relevant.values == at).sum()),
        _pairs(prepared, asked, seen, own, near, at),
        _pairs(prepared, asked, seen, order[:looked], near),
        looked,
        len(order),
    )


def _rows_as(retriever: Retriever, ids: pa.ChunkedArray) -> Array:
    """The vectors float32 [n, d] that the catalogue has for these ids now, zeros where it has none."""
    rows = retriever.catalogue.find(ids)
    found = np.zeros((len(rows), retriever.bundle.dimensions), np.float32)
    found[rows >= 0] = np.asarray(retriever.vectors[rows[rows >= 0]])
    return found


def _pairs(prepared: Prepared, asked: Cases, seen: Histories | None, which: Array, near: Array, item: int | None = None) -> list[Pair]:
    """The nearest of some training queries, each with what it matched, or with this item."""
    best = which[np.argsort(-near[which], kind="stable")[:NEAREST]]
    those, ids = asked.take(best), prepared.items.column(ID)
    matched = [item] * len(best) if item is not None else those.relevant.values[those.relevant.offsets[:-1]].tolist()
    said = [_said(query) for query in prepared.queries.take(pa.array(those.query_rows)).to_pylist()] or [""] * len(best)  # without a column no rows
    if seen is not None:
        assert those.history_keys is not None and those.cuts is not None
        touched = seen.of(those.history_keys, those.cuts, those.relevant)
        for n, (start, end) in enumerate(pairwise(touched.offsets.tolist())):
            names = [str(ids[at].as_py()) for at in touched.values[start:end][-SHOWN:].tolist()]
            said[n] += f"{', ' if said[n] else ''}after {', '.join(names) or 'nothing'}"
    return [Pair(text, str(ids[to].as_py()), float(near[at])) for text, to, at in zip(said, matched, best.tolist(), strict=True)]
