"""Measures a retriever: by vectors, by words, by both; on a run's held-out pairs or on new ones; against another."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.bundle.asking import query_text, require_history
from twotower.bundle.memory import Strangers
from twotower.bundle.ranking import MODES, Mode
from twotower.bundle.retriever import Retriever, SearchOptions
from twotower.config import from_values
from twotower.data.batches import draft
from twotower.data.columns import Array, Ragged, group, ragged_rows
from twotower.data.keys import digests_of, keys_of, values_of
from twotower.data.prepared import ID, Log, Prepared
from twotower.data.quantities import numbers, without_truths
from twotower.data.sources import Source, open_source
from twotower.data.values import to_text
from twotower.errors import ConfigError, DataError, choices
from twotower.learning.baselines import INDEXED, lexical
from twotower.learning.evaluation import Cases, Evaluated, Scorer, cases, dot_scorer, list_keys, macro, measure, ranks_of, with_gains
from twotower.learning.evaluation import evaluate as evaluate_scorer
from twotower.learning.options import EvaluateOptions
from twotower.learning.slices import Facts, slice_all
from twotower.learning.statistics import Interval
from twotower.search.fusion import blend
from twotower.search.lexical import Lexical

WORDS_WEIGHTS = (0.15, 0.3, 0.5, 1.0)


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


def choose_mode(asked: Asked, item_vectors: Array, indexes: Mapping[str, Lexical], options: SearchOptions, select: EvaluateOptions) -> dict[str, Any]:
    """How to search, decided on validation cases by their selecting metric: {mode, words_weight, words_of}.

    indexes: of words, by whose they hold. Where vectors alone rank best, weight and index are those that come next.
    """
    if not indexes:
        if options.mode in ("words", "hybrid"):
            raise ConfigError(f'[search] mode = "{options.mode}" needs words on the query side, and on the item side or in training queries')
        return {"mode": "vectors", "words_weight": None, "words_of": None}
    weights = WORDS_WEIGHTS if options.words_weight is None else (options.words_weight,)
    usual = {"mode": "vectors", "words_weight": weights[0], "words_of": next(iter(indexes))}
    ways = [usual]
    for of in indexes:
        ways += [usual | {"mode": "words", "words_of": of}, *(usual | {"mode": "hybrid", "words_weight": w, "words_of": of} for w in weights)]

    def worth(search: dict[str, Any]) -> float:
        scores = scorer(asked, item_vectors, indexes[search["words_of"]], search)
        ranks = ranks_of(scores, asked.cases, len(item_vectors), select)
        return float(measure(ranks, (select.select,))[select.select].mean())

    tried = sorted(((worth(way), way) for way in ways if options.mode in ("auto", way["mode"])), key=lambda entry: -entry[0])
    best = tried[0][1]
    fused = [way for _, way in tried if way["mode"] == "hybrid" and (best["mode"] == "vectors" or way["words_of"] == best["words_of"])]
    return {**(fused or [best])[0], "mode": best["mode"]}


def indexes_of(prepared: Prepared, options: SearchOptions) -> dict[str, Lexical]:
    """The indexes of words that may be searched, by whose they hold; none where there are no words."""
    wanted = [of for of in INDEXED if options.words_of in ("auto", of)]
    return {of: index for of in wanted if (index := lexical(prepared, with_queries=of == "both")) is not None}


# --- new pairs ----------------------------------------------------------------------------------------------------


class NewPairs(NamedTuple):
    """Pairs that a bundle is measured on, and by which search mode it is."""

    queries: pa.Table
    cases: Cases
    rows: Array  # int64 [rankings], the row of the file that asks each; of merged ones the first
    items: list[Any]  # the item id of each pair
    dropped: dict[str, int]
    mode: Mode
    strangers: str = ""  # what the histories name and the catalogue lacks, in a sentence


class Rows(NamedTuple):
    """The rows of a file as a bundle reads them, of which those that name a query and a match of it are pairs."""

    name: str  # of the file
    table: pa.Table  # [n]
    items: Array  # int64 [n], of the catalogue; -1 for those that it lacks
    item_codes: Array  # int64 [n], alike for the same item, in the catalogue or not
    query_codes: Array  # int64 [n], alike for the same query
    key_codes: Array  # int64 [n], alike for the same key
    keys: pa.Array  # their texts
    labels: Array  # [n]
    named: Array  # bool [n], whether it is a pair
    given: Array  # bool [n], whether an item is named at all
    dropped: dict[str, int]  # why others are none
    merged: bool  # whether repeated pairs count once

    @property
    def used(self) -> Array:
        """The rows int64 that training would use, whether the catalogue has their items or not."""
        return self.once(np.flatnonzero(self.named & self.given))

    def once(self, rows: Array) -> Array:
        """These rows without those that repeat an earlier one, where pairs are merged."""
        if not self.merged:
            return rows
        _, first = np.unique(np.stack([self.query_codes[rows], self.key_codes[rows], self.item_codes[rows]]), axis=1, return_index=True)
        return np.asarray(rows[np.sort(first)])


def read_rows(retriever: Retriever, source: Source) -> Rows:
    """The rows of a file of pairs."""
    schema = retriever.bundle.model["schema"]
    table = _table(retriever, source)
    queries = _query_values(retriever, table)
    ids = _item_ids(retriever, table)
    present = functools.reduce(np.logical_or, [_valid(values) for values in queries.values()])
    listed = np.ones(table.num_rows, bool)
    if schema["pairs"]["event"] is not None:
        events = to_text(pa.array(list(schema["pairs"]["event_weights"]), pa.string()))
        listed = _valid(pc.index_in(to_text(table.column(schema["pairs"]["event"])), events, skip_nulls=True))
    labels = _labels(table, schema["pairs"], source.name)
    right = labels > 0
    dropped = {
        "of_unlisted_event": int((~listed).sum()),
        "without_query": int((listed & ~present).sum()),
        "that_are_no_match": int((listed & present & ~right).sum()),
    }
    declared, values = _key_column(retriever), list(queries.values())
    keys = keys_of(values, None if declared is None else table.column(declared).combine_chunks())
    texts = to_text(ids)
    item_codes, query_codes, key_codes = (_codes(each) for each in (texts, digests_of(values), keys))
    pair, merged = listed & present & right, schema["pairs"]["repeats"] != "keep"
    return Rows(source.name, table, retriever.find(ids), item_codes, query_codes, key_codes, keys, labels, pair, _valid(texts), dropped, merged)


def read_pairs(retriever: Retriever, source: Source, options: EvaluateOptions, mode: Mode | None = None) -> NewPairs:
    """Pairs of a file as cases for a bundle's catalogue; what training would not use or what cannot be ranked is dropped and counted.

    Other matches of the same key in the file are left out of a pair's ranking, and what the file's histories hold where what was seen
    is; the bundle holds no training log, so matches known from training cannot be.
    """
    return ranked(retriever, read_rows(retriever, source), options, mode)


def ranked(retriever: Retriever, rows: Rows, options: EvaluateOptions, mode: Mode | None = None) -> NewPairs:
    """The pairs among some rows as cases."""
    per, table, items, labels = options.per, rows.table, rows.items, rows.labels
    kept = np.flatnonzero(rows.named & (items >= 0))
    dropped = rows.dropped | {"item_not_in_catalogue": int((rows.named & (items < 0)).sum())}
    if not len(kept):
        column = _item_column(retriever)
        hint = f"is {column} the column of ids?" if column else "are the items written as in training?"
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in dropped.items() if count)
        raise DataError(f"{rows.name}: none of its {len(items):,} pairs names an item of the catalogue and a query ({counts}); {hint}")
    if rows.merged:
        before, kept = len(kept), rows.once(kept)
        dropped["repeated"] = before - len(kept)
    key_codes, query_codes = rows.key_codes[kept], rows.query_codes[kept]
    # Equal queries of one key are one view: the first row of each stands for all.
    _, first, view_of = np.unique(query_codes, return_index=True, return_inverse=True)
    ones = np.ones(len(kept), np.float32)
    log = Log(first[view_of].astype(np.int64), key_codes, items[kept], ones, labels[kept].astype(np.float32))
    every = group(log.query_keys, log.item_rows, int(key_codes.max()) + 1)
    asked = with_gains(cases(log, every if per == "pair" else None, per), log.labels, options.gain)
    if retriever.history is not None and options.exclude_seen is not False:
        asked = asked._replace(excluded=beside(asked, retriever.history.known(table.take(pa.array(kept[asked.query_rows])))))
    views = draft(log, np.arange(len(kept)))  # in the order of the cases
    asking = views.pair_rows if per == "pair" else views.pair_rows[views.offsets[:-1]]
    ids = retriever.items.column(ID).take(pa.array(asked.relevant.values)).to_pylist()
    searched: Mode = mode or retriever.bundle.model["search"]["mode"]
    columns = table.select(_query_columns(retriever))
    strangers = Strangers(retriever.history)
    strangers.add(columns)
    return NewPairs(columns.take(pa.array(kept)), asked, kept[asking], ids, dropped, searched, strangers.told())


def beside(asked: Cases, seen: Ragged) -> Ragged:
    """What is left out of each ranking [q], and what its own history holds [q], which a search does not find again either."""
    if asked.excluded is None:
        return seen
    rows = np.concatenate([ragged_rows(asked.excluded), ragged_rows(seen)])
    return group(rows, np.concatenate([asked.excluded.values, seen.values]), len(asked.query_rows))


def _labels(table: pa.Table, pairs: Mapping[str, Any], name: str) -> Array:
    """The label of each pair [n], 0 for what is no match; 1 where they have none."""
    if pairs.get("label") is None:
        return np.ones(table.num_rows)
    labels = numbers(without_truths(table.column(pairs["label"]).combine_chunks()), pairs["label"], name, 0)
    return np.where(labels >= pairs["match"], labels, 0.0) if pairs.get("match") else np.asarray(labels)


def _table(retriever: Retriever, source: Source) -> pa.Table:
    """The columns of a file that measuring needs, each required by its role."""
    schema, column = retriever.bundle.model["schema"], _item_column(retriever)
    if retriever.history is not None:
        others = [name for name in (_key_column(retriever), *retriever.encoder.columns("query"), column) if name is not None]
        require_history(source, retriever.history.column_name, others, retriever.items.column(ID).slice(0, 2).to_pylist())
    roles: dict[str | None, str] = dict.fromkeys(_query_columns(retriever), "the query")
    roles |= {column: "the id of the item"} if column else dict.fromkeys(retriever.encoder.columns("item"), "the item, which has no id")
    roles |= {_key_column(retriever): "query.key", schema["pairs"]["event"]: "pairs.event", schema["pairs"].get("label"): "pairs.label"}
    nested = {feature.column for features in retriever.encoder.features.values() for feature in features if feature.nested}
    needed = [source.require(name, role, nested=name in nested) for name, role in roles.items() if name is not None]
    return pa.concat_tables([pa.Table.from_batches([batch]) for batch in source.select(needed).batches()])


def _query_columns(retriever: Retriever) -> list[str]:
    """The columns that a query reads, its history among them: a file of pairs has to say what was touched before."""
    own = [] if retriever.history is None else [retriever.history.column_name]
    return [*retriever.encoder.columns("query"), *own]


def _query_values(retriever: Retriever, table: pa.Table) -> dict[str, pa.Array]:
    """The normalised values of these columns."""
    values = values_of(retriever.encoder.features["query"], lambda name: table.column(name).combine_chunks())
    if retriever.history is not None:
        feature = next(f for f in retriever.encoder.features["query"] if f.from_log)
        values[feature.column] = feature.normalise(table.column(feature.column).combine_chunks())
    return values


def _key_column(retriever: Retriever) -> str | None:
    """The column of pairs whose equal values share their matches, if one is named."""
    schema = retriever.bundle.model["schema"]
    column: str | None = schema["query"]["key"] or schema["pairs"].get("query") or schema["query"].get("id")
    return column


def _item_column(retriever: Retriever) -> str | None:
    """The column of pairs that names an item's id, or None where items are known by a digest of their values."""
    schema = retriever.bundle.model["schema"]
    column: str | None = schema["pairs"]["item"] or schema["item"]["id"]
    return column


def _item_ids(retriever: Retriever, table: pa.Table) -> pa.Array | pa.ChunkedArray:
    column = _item_column(retriever)
    if column:
        return table.column(column)
    values = values_of(retriever.encoder.features["item"], lambda name: table.column(name).combine_chunks())
    return digests_of(list(values.values()))


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
    read = read_pairs(retriever, source_of(pairs), options, mode)
    return answered(retriever, read, options), read


def _check_mode(retriever: Retriever, mode: str | None) -> None:
    if mode is not None and mode not in MODES:
        raise ConfigError(f'there is no search mode "{mode}"; {choices(MODES, mode)}')
    if mode in ("words", "hybrid") and retriever.lexical is None:
        raise ConfigError(f'this bundle holds no words, so it cannot be searched by "{mode}"; use mode "vectors"')


def source_of(pairs: Any) -> Source:
    return pairs if isinstance(pairs, Source) else open_source(pairs, "pairs")


def answered(retriever: Retriever, pairs: NewPairs, options: EvaluateOptions) -> Evaluated:
    table = pairs.queries.take(pa.array(pairs.cases.query_rows))
    asked = Asked(pairs.cases, retriever.embed_queries(table), query_text(table, retriever.text_columns))
    scores = scorer(asked, np.asarray(retriever.vectors), retriever.lexical, retriever.bundle.model["search"] | {"mode": pairs.mode})
    return evaluate_scorer(scores, asked.cases, len(retriever), options)


def evaluation_options(retriever: Retriever) -> EvaluateOptions:
    """The options that a bundle's own figures were made with."""
    import tomllib

    text = (retriever.bundle.folder / "model" / "config.toml").read_text(encoding="utf-8")
    return from_values(tomllib.loads(text), "the bundle's config").evaluate


def _known(retriever: Retriever, pairs: NewPairs) -> Facts:
    """What is known of new pairs: a bundle holds no training log, so not how often what they name was in it."""
    asked = pairs.queries.take(pa.array(pairs.cases.query_rows))
    return Facts(retriever.encoder.features, asked, retriever.items, pairs.cases.relevant)


def figures_of(figures: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Figures by metric as a file keeps them."""
    return {name: {part: float(value) for part, value in figure._asdict().items()} for name, figure in figures.items()}


def facts_of(retriever: Retriever, evaluated: Evaluated, pairs: NewPairs, options: EvaluateOptions) -> dict[str, Any]:
    """The figures of an evaluation on new pairs, in the form of a run's `metrics.json`."""
    figures = figures_of(evaluated.figures)
    left_out = "other matches of the same key in the file are left out of a pair's ranking" if options.per == "pair" else "nothing is left out"
    if retriever.history is not None and options.exclude_seen is not False:
        history = "what the key's histories hold is left out"
        left_out = f"{left_out}; {history}" if options.per == "pair" else history
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
        "macro": {of: figures_of(found) for of, found in macro(evaluated, pairs.cases, options).items()},
        "search": {"mode": pairs.mode},
        "evaluation": told,
        "slices": slice_all(_known(retriever, pairs), evaluated, list_keys(pairs.cases, options.per), options, {}),
        "dropped": pairs.dropped,
    }
