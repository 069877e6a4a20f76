"""Measures a retriever: by vectors, by words, by both; on a run's held-out pairs or on new ones; against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.layout import runs_in
from twotower.bundle.retriever import Mode, Retriever, SearchOptions, query_text
from twotower.config import from_values
from twotower.data.columns import Array, group, lengths_of
from twotower.data.hashes import fold
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
        return {"mode": "vectors", "words_weight": WORDS_WEIGHTS[0]}
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
    """Pairs that a bundle is measured on."""

    queries: pa.Table
    cases: Cases
    items: list[Any]  # the item id of each ranking
    dropped: dict[str, int]


def read_pairs(retriever: Retriever, source: Source, per: Literal["pair", "query"]) -> NewPairs:
    """Pairs of a file as cases for a bundle's catalogue; what cannot be ranked is dropped and counted.

    Other matches of the same key in the file are left out of a pair's ranking; the bundle holds no training log, so matches
    known from training cannot be.
    """
    facts = retriever.bundle.model["schema"]
    item_column = facts["pairs"]["item"] or facts["item"]["id"]
    if item_column is None:
        raise ConfigError("the items of this model are texts without ids; evaluate the run instead, or name [item] id and train again")
    source.require(item_column, "the id of the item")
    columns = retriever.encoder.columns("query")
    key = facts["query"]["key"]
    for column in [*columns, *([key] if key else [])]:
        source.require(column, "the query")
    table = pa.concat_tables([pa.Table.from_batches([batch]) for batch in source.batches()])
    queries = table.select(list(dict.fromkeys([*columns, *([key] if key else [])])))
    rows = retriever.find(table.column(item_column))
    texts = [to_text(queries.column(name)).to_pylist() for name in columns]
    empty = np.array([not any(values) for values in zip(*texts, strict=True)])
    kept = np.flatnonzero((rows >= 0) & ~empty)
    dropped = {"without_query": int(empty.sum()), "item_not_in_catalogue": int(((rows < 0) & ~empty).sum())}
    if not len(kept):
        raise DataError(
            f"{source.name}: none of its {len(rows):,} pairs names an item of the catalogue and a query; is {item_column} the column of ids?"
        )
    keys = (
        [(key_text,) for key_text in to_text(queries.column(key)).to_pylist()]
        if key
        else [tuple(fold(v or "") for v in values) for values in zip(*texts, strict=True)]
    )
    _, key_codes = np.unique([repr(keys[row]) for row in kept], return_inverse=True)
    # Equal queries of one key are one view: the first row of each stands for all.
    _, first, query_codes = np.unique([repr([column[row] for column in texts]) for row in kept], return_index=True, return_inverse=True)
    log = Log(first[query_codes].astype(np.int64), key_codes.astype(np.int64), rows[kept], np.ones(len(kept), np.float32))
    every = group(log.query_keys, log.item_rows, int(key_codes.max()) + 1)
    asked = cases(log, every if per == "pair" else None, per)
    return NewPairs(queries.take(pa.array(kept)), asked, retriever.items.column(ID).take(pa.array(asked.relevant.values)).to_pylist(), dropped)


def evaluate(retriever: Retriever, pairs: Any, options: EvaluateOptions | None = None, mode: Mode | None = None) -> tuple[Evaluated, NewPairs]:
    """Rank the whole catalogue for every one of some new pairs: files, a data frame or a source.

    options: by default those that the bundle's own figures were made with. mode: by default the bundle's own.
    """
    options = evaluation_options(retriever) if options is None else options
    read = read_pairs(retriever, _source(pairs), options.per)
    return _answer(retriever, read, options, mode), read


def _source(pairs: Any) -> Source:
    return pairs if isinstance(pairs, Source) else open_source(pairs, "pairs")


def _answer(retriever: Retriever, pairs: NewPairs, options: EvaluateOptions, mode: Mode | None = None) -> Evaluated:
    table = pairs.queries.take(pa.array(pairs.cases.query_rows))
    asked = Asked(pairs.cases, retriever.embed_queries(table), query_text(table, retriever.text_columns))
    search = retriever.bundle.model["search"]
    scores = scorer(asked, retriever.vectors, retriever.lexical, search | ({"mode": mode} if mode else {}))
    return evaluate_scorer(scores, asked.cases, len(retriever), options)


def evaluation_options(retriever: Retriever) -> EvaluateOptions:
    """The options that a bundle's own figures were made with."""
    import tomllib

    text = (retriever.bundle.folder / "model" / "config.toml").read_text(encoding="utf-8")
    return from_values(tomllib.loads(text), "the bundle's config").evaluate


def facts_of(retriever: Retriever, evaluated: Evaluated, pairs: NewPairs, options: EvaluateOptions) -> dict[str, Any]:
    """The figures of an evaluation on new pairs, in the form of a run's `metrics.json`."""
    figures = {name: {part: float(v) for part, v in figure._asdict().items()} for name, figure in evaluated.figures.items()}
    mode = retriever.bundle.model["search"]["mode"]
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
        "modes": {mode: figures},
        "baselines": {},
        "against": {},
        "search": {"mode": mode},
        "evaluation": told,
        "dropped": pairs.dropped,
    }


# --- comparing ----------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """How much better the first is than the second, by metric, and on how many rankings that rests."""

    names: tuple[str, str]
    tests: dict[str, PairedTest]
    figures: dict[str, tuple[float, float]]
    rankings: int

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
    """Two bundles on those of some new pairs whose items both hold."""
    source = _source(pairs)
    both = [read_pairs(retriever, source, "pair") for retriever in retrievers]
    options = replace(options, per="pair")
    evaluated = [_answer(retriever, pairs, options) for retriever, pairs in zip(retrievers, both, strict=True)]
    tables = [_ranking_table(r, p, e) for r, p, e in zip(retrievers, both, evaluated, strict=True)]
    return compare_tables(names, tables[0], tables[1])


def _ranking_table(retriever: Retriever, pairs: NewPairs, evaluated: Evaluated) -> pa.Table:
    per_ranking = np.repeat(pairs.cases.query_rows, lengths_of(pairs.cases.relevant))
    return ranking_table(pairs.queries.take(pa.array(per_ranking)), pairs.items, list_keys(pairs.cases, "pair"), evaluated)


def ranking_table(queries: pa.Table, items: Sequence[Any], keys: Array, evaluated: Evaluated) -> pa.Table:
    """One row a ranking: what was asked, what was right, and the value of each metric."""
    asked = [files.json_text([*row.values()], indent=None) for row in queries.to_pylist()]
    columns: dict[str, Any] = {"query": asked, "item": to_text(pa.array(items)), "key": keys}
    return pa.table(columns | {f"metric {name}": values for name, values in evaluated.values.items()})


def compare_tables(names: tuple[str, str], a: pa.Table, b: pa.Table) -> Comparison:
    """Two tables of rankings, on the rankings that both hold."""
    metrics = [name for name in a.column_names if name.startswith("metric ") and name in b.column_names]
    places = {pair: n for n, pair in enumerate(zip(b.column("query").to_pylist(), b.column("item").to_pylist(), strict=True))}
    match = [places.get(pair, -1) for pair in zip(a.column("query").to_pylist(), a.column("item").to_pylist(), strict=True)]
    left = np.flatnonzero(np.array(match) >= 0)
    if not len(left):
        raise DataError(
            f"{names[0]} and {names[1]} were measured on different pairs: none is in both. Evaluate both on one file: --pairs FILE --against OTHER"
        )
    right = np.array(match)[left]

    def values(table: pa.Table, rows: Array) -> dict[str, Array]:
        return {name.removeprefix("metric "): table.column(name).to_numpy()[rows] for name in metrics}

    return compare_values(names, values(a, left), values(b, right), a.column("key").to_numpy()[left])


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
