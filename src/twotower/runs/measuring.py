"""Measures a retriever: by vectors, by words, by both; on a run's held-out pairs or on new ones; against another."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import files
from twotower.bundle.layout import runs_in
from twotower.bundle.retriever import MODES, Mode, Retriever, SearchOptions, query_text
from twotower.config import from_values
from twotower.data.batches import draft
from twotower.data.columns import Array, group
from twotower.data.keys import digests_of, keys_of, values_of
from twotower.data.prepared import ID, Log
from twotower.data.sources import Source, open_source
from twotower.data.values import to_text
from twotower.errors import ConfigError, DataError, choices
from twotower.learning.evaluation import Cases, Evaluated, Scorer, cases, dot_scorer, list_keys, measure, rank
from twotower.learning.evaluation import evaluate as evaluate_scorer
from twotower.learning.options import EvaluateOptions
from twotower.learning.statistics import PairedTest, paired_test
from twotower.search.fusion import blend
from twotower.search.lexical import Lexical

WORDS_WEIGHTS = (0.15, 0.3, 0.5)


class Asked(NamedTuple):
    """Cases with what a retriever needs to answer them."""

    cases: Cases
    vectors: Array  # float32 [q, d]
    texts: list[str]  # [q]

    def take(self, which: Array) -> Asked:
        """The chosen cases."""
        return Asked(self.cases.take(which), self.vectors[which], [self.texts[n] for n in which])


def scorer(asked: Asked, item_vectors: Array, lexical: Lexical | None, search: Mapping[str, Any]) -> Scorer:
    """Scores of all items under a search mode, in the order in which `Retriever.search` finds them."""
    by_vectors = dot_scorer(asked.vectors, item_vectors)
    if search["mode"] == "vectors" or lexical is None:
        return by_vectors
    if search["mode"] == "words":
        return lambda block: lexical.scores(asked.texts[block])
    return lambda block: blend(by_vectors(block), lexical.scores(asked.texts[block]), search["words_weight"])


def choose_mode(asked: Asked, item_vectors: Array, lexical: Lexical | None, options: SearchOptions, select: EvaluateOptions) -> dict[str, Any]:
    """How to search, decided on validation cases by their selecting metric: {mode, words_weight}."""
    if lexical is None:
        if options.mode in ("words", "hybrid"):
            raise ConfigError(f'[search] mode = "{options.mode}" needs words on the query side, and on the item side or in training queries')
        return {"mode": "vectors", "words_weight": None}
    weights = WORDS_WEIGHTS if options.words_weight is None else (options.words_weight,)
    ways = [("vectors", weights[0]), ("words", weights[0]), *(("hybrid", weight) for weight in weights)]
    tried: list[tuple[float, dict[str, Any]]] = []
    for mode, weight in ways:
        if options.mode in ("auto", mode):
            search = {"mode": mode, "words_weight": weight}
            scores = scorer(asked, item_vectors, lexical, search)
            ranks = rank(scores, asked.cases.relevant, asked.cases.excluded, per=select.per, n_items=len(item_vectors))
            tried.append((float(measure(ranks, (select.select,))[select.select].mean()), search))
    return max(tried, key=lambda entry: entry[0])[1]


# --- new pairs ----------------------------------------------------------------------------------------------------


class NewPairs(NamedTuple):
    """Pairs that a bundle is measured on, and by which search mode it is."""

    queries: pa.Table
    cases: Cases
    rows: Array  # int64 [rankings], the row of the file that asks each; of merged ones the first
    items: list[Any]  # the item id of each pair
    dropped: dict[str, int]
    mode: Mode


def read_pairs(retriever: Retriever, source: Source, per: Literal["pair", "query"], mode: Mode | None = None) -> NewPairs:
    """Pairs of a file as cases for a bundle's catalogue; what training would not use or what cannot be ranked is dropped and counted.

    Other matches of the same key in the file are left out of a pair's ranking; the bundle holds no training log, so matches
    known from training cannot be.
    """
    schema = retriever.bundle.model["schema"]
    table = _table(retriever, source)
    queries = values_of(retriever.encoder.features["query"], table.column)
    items = retriever.find(_item_ids(retriever, table))
    present = functools.reduce(np.logical_or, [_valid(values) for values in queries.values()])
    listed = np.ones(len(items), bool)
    if schema["pairs"]["event"] is not None:
        events = to_text(pa.array(list(schema["pairs"]["event_weights"]), pa.string()))
        listed = _valid(pc.index_in(to_text(table.column(schema["pairs"]["event"])), events, skip_nulls=True))
    kept = np.flatnonzero(listed & present & (items >= 0))
    dropped = {
        "of_unlisted_event": int((~listed).sum()),
        "without_query": int((listed & ~present).sum()),
        "item_not_in_catalogue": int((listed & present & (items < 0)).sum()),
    }
    if not len(kept):
        column = _item_column(retriever)
        hint = f"is {column} the column of ids?" if column else "are the items written as in training?"
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in dropped.items() if count)
        raise DataError(f"{source.name}: none of its {len(items):,} pairs names an item of the catalogue and a query ({counts}); {hint}")
    declared = schema["query"]["key"]
    key_codes = _codes(keys_of(list(queries.values()), None if declared is None else table.column(declared)))[kept]
    query_codes = _codes(digests_of(list(queries.values())))[kept]
    if schema["pairs"]["repeats"] != "keep":
        _, first = np.unique(np.stack([query_codes, key_codes, items[kept]]), axis=1, return_index=True)
        first.sort()
        dropped["repeated"] = len(kept) - len(first)
        kept, key_codes, query_codes = kept[first], key_codes[first], query_codes[first]
    # Equal queries of one key are one view: the first row of each stands for all.
    _, first, view_of = np.unique(query_codes, return_index=True, return_inverse=True)
    log = Log(first[view_of].astype(np.int64), key_codes, items[kept], np.ones(len(kept), np.float32))
    every = group(log.query_keys, log.item_rows, int(key_codes.max()) + 1)
    asked = cases(log, every if per == "pair" else None, per)
    views = draft(log, np.arange(len(kept)))  # in the order of the cases
    asking = views.pair_rows if per == "pair" else views.pair_rows[views.offsets[:-1]]
    ids = retriever.items.column(ID).take(pa.array(asked.relevant.values)).to_pylist()
    searched: Mode = mode or retriever.bundle.model["search"]["mode"]
    columns = table.select(retriever.encoder.columns("query"))
    return NewPairs(columns.take(pa.array(kept)), asked, kept[asking], ids, dropped, searched)


def _table(retriever: Retriever, source: Source) -> pa.Table:
    """The columns of a file that measuring needs, each required by its role."""
    schema, column = retriever.bundle.model["schema"], _item_column(retriever)
    roles = dict.fromkeys(retriever.encoder.columns("query"), "the query")
    roles |= {column: "the id of the item"} if column else dict.fromkeys(retriever.encoder.columns("item"), "the item, which has no id")
    roles |= {schema["query"]["key"]: "query.key", schema["pairs"]["event"]: "pairs.event"}
    needed = [source.require(name, role) for name, role in roles.items() if name is not None]
    return pa.concat_tables([pa.Table.from_batches([batch]).select(needed) for batch in source.batches()])


def _item_column(retriever: Retriever) -> str | None:
    """The column of pairs that names an item's id, or None where items are known by a digest of their values."""
    schema = retriever.bundle.model["schema"]
    column: str | None = schema["pairs"]["item"] or schema["item"]["id"]
    return column


def _item_ids(retriever: Retriever, table: pa.Table) -> pa.Array | pa.ChunkedArray:
    column = _item_column(retriever)
    return table.column(column) if column else digests_of(list(values_of(retriever.encoder.features["item"], table.column).values()))


def _valid(values: pa.Array) -> Array:
    return np.asarray(values.is_valid())


def _codes(texts: pa.Array) -> Array:
    """A number int64 [n] for each text, the same for equal ones; missing ones are equal."""
    return np.asarray(texts.dictionary_encode("encode").indices.to_numpy(zero_copy_only=False), np.int64)


def evaluate(retriever: Retriever, pairs: Any, options: EvaluateOptions | None = None, mode: Mode | None = None) -> tuple[Evaluated, NewPairs]:
    """Rank the whole catalogue for every one of some new pairs: files, a data frame or a source.

    options: by default those that the bundle's own figures were made with. mode: by default the bundle's own.
    """
    options = evaluation_options(retriever) if options is None else options
    _check_mode(retriever, mode)
    read = read_pairs(retriever, _source(pairs), options.per, mode)
    return _answer(retriever, read, options), read


def _check_mode(retriever: Retriever, mode: str | None) -> None:
    if mode is not None and mode not in MODES:
        raise ConfigError(f'there is no search mode "{mode}"; {choices(MODES, mode)}')
    if mode in ("words", "hybrid") and retriever.lexical is None:
        raise ConfigError(f'this bundle holds no words, so it cannot be searched by "{mode}"; use mode "vectors"')


def _source(pairs: Any) -> Source:
    return pairs if isinstance(pairs, Source) else open_source(pairs, "pairs")


def _answer(retriever: Retriever, pairs: NewPairs, options: EvaluateOptions) -> Evaluated:
    table = pairs.queries.take(pa.array(pairs.cases.query_rows))
    asked = Asked(pairs.cases, retriever.embed_queries(table), query_text(table, retriever.text_columns))
    scores = scorer(asked, retriever.vectors, retriever.lexical, retriever.bundle.model["search"] | {"mode": pairs.mode})
    return evaluate_scorer(scores, asked.cases, len(retriever), options)


def evaluation_options(retriever: Retriever) -> EvaluateOptions:
    """The options that a bundle's own figures were made with."""
    import tomllib

    text = (retriever.bundle.folder / "model" / "config.toml").read_text(encoding="utf-8")
    return from_values(tomllib.loads(text), "the bundle's config").evaluate


def facts_of(retriever: Retriever, evaluated: Evaluated, pairs: NewPairs, options: EvaluateOptions) -> dict[str, Any]:
    """The figures of an evaluation on new pairs, in the form of a run's `metrics.json`."""
    figures = {name: {part: float(v) for part, v in figure._asdict().items()} for name, figure in evaluated.figures.items()}
    left_out = "other matches of the same key in the file are left out of a pair's ranking" if options.per == "pair" else "nothing is left out"
    told = {
        "part": "given",
        "per": options.per,
        "rankings": len(next(iter(evaluated.values.values()))),
        "catalogue": len(retriever),
        "select": options.select,
        "left_out": left_out,
    }
    return {
        "model": figures,
        "modes": {pairs.mode: figures},
        "baselines": {},
        "against": {},
        "search": {"mode": pairs.mode},
        "evaluation": told,
        "dropped": pairs.dropped,
    }


# --- comparing ----------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """How much better the first is than the second, by metric, and on how many rankings that rests.

    catalogues, left_out: how many items each ranked, and what it left out of its rankings; None where one run measured both.
    """

    names: tuple[str, str]
    tests: dict[str, PairedTest]
    figures: dict[str, tuple[float, float]]
    rankings: int
    catalogues: tuple[int, int] | None = None
    left_out: tuple[str, str] | None = None

    def worse(self, metric: str) -> bool:
        """Whether the first is worse, beyond what luck gives one time in twenty."""
        test = self.tests[metric]
        return bool(test.difference < 0 and test.p_value < 0.05)


def compare_values(names: tuple[str, str], a: Mapping[str, Array], b: Mapping[str, Array], keys: Array, seed: int = 0) -> Comparison:
    """Two models' values on the same rankings, metric by metric."""
    metrics = [name for name in a if name in b]
    if not metrics:
        raise DataError(f"{names[0]} and {names[1]} share no metric: {', '.join(a)} against {', '.join(b)}")
    left, right = (np.stack([values[name] for name in metrics], axis=1) for values in (a, b))
    found = paired_test(left, right, groups=keys, generator=np.random.default_rng(seed))
    tests = {name: PairedTest(*(part[n] for part in found)) for n, name in enumerate(metrics)}
    return Comparison(names, tests, {name: (float(a[name].mean()), float(b[name].mean())) for name in metrics}, len(keys))


def compare_on(retrievers: Sequence[Retriever], names: tuple[str, str], pairs: Any, options: EvaluateOptions) -> Comparison:
    """Two bundles on those of some new pairs that both can rank: whatever columns each reads, a pair is a row of the file."""
    source = _source(pairs)
    first, second = (read_pairs(retriever, source, "pair") for retriever in retrievers)
    options = replace(options, per="pair")
    a, b = (_answer(retriever, read, options).values for retriever, read in zip(retrievers, (first, second), strict=True))
    _, left, right = np.intersect1d(first.rows, second.rows, assume_unique=True, return_indices=True)
    if not len(left):
        raise DataError(f"{source.name}: no row of it can be ranked by both {names[0]} and {names[1]}: their catalogues share none of its items")
    keys = list_keys(first.cases, "pair")[left]
    compared = compare_values(names, {m: v[left] for m, v in a.items()}, {m: v[right] for m, v in b.items()}, keys)
    return compared._replace(catalogues=(len(retrievers[0]), len(retrievers[1])))


# --- stored rankings ----------------------------------------------------------------------------------------------

IDENTITY = ("query", "key", "item")  # what is one ranking in two runs


def ranking_table(queries: pa.Table, keys: Array, items: Sequence[Any], evaluated: Evaluated, told: Mapping[str, Any]) -> pa.Table:
    """One row a ranking: what was asked, for which key, what was right, and the value of each metric.

    keys: their names [rankings], the same in every preparation. items: the id asked for, or per query all that are right.
    told: how it was measured, kept beside the columns: `per`, `left_out` and `catalogue`.
    """
    asked = [files.json_text(dict(sorted(row.items())), indent=None) for row in queries.to_pylist()]
    right = [files.json_text(sorted(to_text(pa.array(each)).to_pylist()), indent=None) if isinstance(each, list) else each for each in items]
    columns: dict[str, Any] = {"query": asked, "key": keys, "item": to_text(pa.array(right))}
    table = pa.table(columns | {f"metric {name}": values for name, values in evaluated.values.items()})
    return table.replace_schema_metadata({name: str(told[name]) for name in ("per", "left_out", "catalogue")})


def compare_tables(names: tuple[str, str], a: pa.Table, b: pa.Table) -> Comparison:
    """Two tables of rankings, on the rankings that both hold. Raises DataError where one ranks pairs and the other queries."""
    told = [_told(name, table) for name, table in zip(names, (a, b), strict=True)]
    if told[0]["per"] != told[1]["per"]:
        raise DataError(
            f"{names[0]} was measured per {told[0]['per']} and {names[1]} per {told[1]['per']}, so their figures mean different things. "
            "Evaluate both on one file: --pairs FILE --against OTHER"
        )
    metrics = [name for name in a.column_names if name.startswith("metric ") and name in b.column_names]
    places = {ranking: n for n, ranking in enumerate(_rankings(b))}
    match = np.array([places.get(ranking, -1) for ranking in _rankings(a)])
    left = np.flatnonzero(match >= 0)
    if not len(left):
        raise DataError(
            f"{names[0]} and {names[1]} were measured on different pairs: none is in both. Evaluate both on one file: --pairs FILE --against OTHER"
        )

    def values(table: pa.Table, rows: Array) -> dict[str, Array]:
        return {name.removeprefix("metric "): table.column(name).to_numpy()[rows] for name in metrics}

    compared = compare_values(names, values(a, left), values(b, match[left]), a.column("key").to_numpy()[left])
    catalogues = (int(told[0]["catalogue"]), int(told[1]["catalogue"]))
    return compared._replace(catalogues=catalogues, left_out=(told[0]["left_out"], told[1]["left_out"]))


def _rankings(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(table.column(name).to_pylist() for name in IDENTITY), strict=True)


def _told(name: str, table: pa.Table) -> dict[str, str]:
    """How a table of rankings was measured."""
    told = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if not {"per", "left_out", "catalogue"} <= told.keys():
        raise DataError(f"{name}: its rankings do not say how they were measured; another version wrote them. Train it again to compare it.")
    return told


def compare(a: Path | str, b: Path | str) -> Comparison:
    """Two runs, ranking by ranking, on the test pairs that both held out."""
    import pyarrow.parquet as pq

    tables = []
    for folder in map(Path, (a, b)):
        path = folder / "rankings.parquet"
        if not path.exists():
            near = runs_in(folder.parent)
            hint = "" if folder.exists() else f"; {choices(near, folder.name)}"
            raise DataError(f"{folder} is no finished run: it has no rankings.parquet{hint}")
        tables.append(pq.read_table(path))
    return compare_tables((str(a), str(b)), tables[0], tables[1])
