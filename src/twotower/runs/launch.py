"""What a bundle keeps of the pairs that it was measured on, so that later pairs can be compared with them.

model/launch.json   `figures`, measured as a bundle can measure new pairs: without a training log; `rates` of what the model does not know;
                    `features`: of each the bins and what lay in them; `items`: the commonest of training; `asked`: of the rows of asked.npy what
                    each counts, and the name of its key
model/asked.npy     float32 [q, d], vectors of up to 1,000 of those queries, drawn by the seed
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.config import Config
from twotower.data.columns import Array, Columns, lengths_of, ragged_rows, take_ragged, take_rows
from twotower.data.encoder import Encoder
from twotower.data.features import History, Id
from twotower.data.prepared import ID, Prepared
from twotower.data.schema import feature_name
from twotower.data.splits import PARTS, TRAIN
from twotower.data.values import to_text
from twotower.learning.binning import Bins, Values, entries, known_rows, labels, learnt, missing_rows, unknown_rows
from twotower.learning.evaluation import evaluate
from twotower.learning.shifts import Cloud, Histogram, histogram
from twotower.learning.statistics import Interval, interval
from twotower.learning.views import before, reading
from twotower.runs.measuring import Asked, beside, figures_of, scorer
from twotower.search.lexical import Lexical

LAUNCH, ASKED = "launch.json", "asked.npy"
FORMAT = 1
MOST = 1000  # queries whose vectors are kept
COMMONEST = 1000  # items with a place of their own
NOTHING = "nothing known of the query, or of the item"
NEW_ITEM = "item: an id new to the model"


class Pairs(NamedTuple):
    """Some pairs, and the views that ask them: one row for each query, key and history."""

    values: dict[str, Values]  # of each query feature, by name, [v] rows
    vectors: Array  # float32 [v, d]
    keys: Array  # uint64 [v]
    views: Array  # int64 [p], which view asks
    items: Array  # int64 [p], of the catalogue; -1 where it lacks the item

    @property
    def weights(self) -> Array:
        """How many pairs each view asks, float64 [v]."""
        return np.bincount(self.views, minlength=len(self.keys)).astype(np.float64)


def values_of(encoder: Encoder, table: pa.Table, columns: Columns, lengths: Array | None) -> dict[str, Values]:
    """The query features of rows [v]. table: their raw values. lengths: of their histories."""
    found = {}
    for feature in encoder.features["query"]:
        name = feature_name(feature)
        if isinstance(feature, History):
            found[name] = Values(feature, {}, None, None, lengths)
        else:
            raw = table.column(feature.column)
            found[name] = Values(feature, encoder.states["query"][name], raw.combine_chunks(), columns[name])
    return found


def known_ids(encoder: Encoder, item_id: str | None, ids: pa.ChunkedArray) -> Array | None:
    """Whether the item side knows each id [n] of a catalogue; None where it reads none."""
    named = encoder.item_id
    if named is None or named.column != item_id:
        return None
    own = Id(column=named.column, buckets=named.buckets, minimum=named.minimum)
    return np.asarray(own.encode(to_text(ids), encoder.states["item"][feature_name(named)]) >= own.first_known)


def rates(encoder: Encoder, pairs: Pairs, known: Array | None, seed: int) -> dict[str, Interval]:
    """What share of the pairs holds what the model does not know, by what it is, with intervals from resampling keys.

    known: of each item of the catalogue whether the item side knows its id, where it reads one. Where it reads nothing else, nothing is known of
    an item whose id is new; nor is of one that the catalogue lacks.
    """
    new = np.zeros(len(pairs.items), bool) if known is None else ~np.append(known, True)[pairs.items]
    alone = all(feature.type == "id" for feature in encoder.features["item"])
    some = np.any([known_rows(values) for values in pairs.values.values()], axis=0)
    told = {NOTHING: ~some[pairs.views] | (pairs.items < 0) | (new if alone else False)}
    if known is not None:
        told[NEW_ITEM] = new
    for name, values in pairs.values.items():
        told[f"query: {name}, unknown"] = unknown_rows(values)[pairs.views]
        told[f"query: {name}, missing"] = missing_rows(values)[pairs.views]
    return intervals(told, pairs.keys[pairs.views], seed)


def intervals(told: Mapping[str, Array], keys: Array, seed: int) -> dict[str, Interval]:
    """The means of several values of the same pairs, by name."""
    found = interval(np.stack(list(told.values()), axis=1), groups=keys, generator=np.random.default_rng(seed))
    return {name: Interval(*(part[n] for part in found)) for n, name in enumerate(told)}


def binned(values: Values, bins: Bins, pairs: Pairs) -> Histogram:
    """What lies in each of the bins of a feature, where each pair counts as one."""
    rows, places, shares = entries(values, bins)
    return histogram(places, shares * pairs.weights[rows], pairs.keys[rows], len(labels(values.feature, bins)))


def matched(items: Array, top: Array, keys: Array) -> Histogram:
    """How often each of the commonest items [k] is matched by pairs [p] of these keys, and all others, float64 [k + 1]. top: their catalogue rows."""
    order = np.argsort(top, kind="stable")
    place = np.minimum(np.searchsorted(top[order], items), max(0, len(top) - 1))
    own = top[order][place] == items if len(top) else np.zeros(len(items), bool)
    return histogram(np.where(own, order[place] if len(top) else 0, len(top)), np.ones(len(items)), keys, len(top) + 1)


def cloud(pairs: Pairs, seed: int) -> Cloud:
    """The vectors of up to 1,000 views, those of which nothing is known left out."""
    told = np.flatnonzero(pairs.vectors.any(axis=1))
    chosen = told[np.sort(np.random.default_rng(seed).permutation(len(told))[:MOST])]
    return Cloud(pairs.vectors[chosen], pairs.weights[chosen], pairs.keys[chosen])


# --- at launch ----------------------------------------------------------------------------------------------------


def write_launch(
    folder: Path, prepared: Prepared, part: str, asked: Asked, item_vectors: Array, words: Lexical | None, search: Mapping[str, Any], chosen: Config
) -> None:
    """Write both files into a model folder. asked: what was measured of a part; of many of its queries a sample is kept."""
    options = chosen.evaluate
    few = np.sort(np.random.default_rng(options.seed).permutation(len(asked.cases.query_rows))[: options.queries])
    # Whoever is known by a history alone has no columns, and so no texts.
    asked = asked._replace(texts=asked.texts or [""] * len(asked.vectors)).take(few)
    cases, which = asked.cases, PARTS.index(part)
    read = reading(prepared.encoder, prepared.columns["item"])
    seen = before(prepared, which, read)
    histories = None
    if seen is not None:
        assert cases.history_keys is not None and cases.cuts is not None
        histories = seen.of(cases.history_keys, cases.cuts, cases.relevant)
    # What a bundle can leave out of the rankings of new pairs.
    excluded = take_ragged(prepared.known(which), cases.query_keys) if options.per == "pair" else None
    cases = cases._replace(excluded=excluded)
    if histories is not None and options.exclude_seen is not False:
        cases = cases._replace(excluded=beside(cases, histories))
    found = evaluate(scorer(asked._replace(cases=cases), item_vectors, words, search), cases, prepared.n_items, options)
    pairs = Pairs(
        values_of(
            prepared.encoder,
            prepared.queries.take(pa.array(cases.query_rows)),
            take_rows(prepared.columns["query"], cases.query_rows),
            None if histories is None else lengths_of(histories),
        ),
        asked.vectors,
        prepared.key_names[cases.query_keys],
        ragged_rows(cases.relevant),
        cases.relevant.values,
    )
    kept = cloud(pairs, options.seed)
    facts = {
        "format": FORMAT,
        "part": part,
        "split": chosen.split.by,
        "pairs": len(pairs.items),
        "keys": len(np.unique(pairs.keys)),
        "catalogue": prepared.n_items,
        "mode": search["mode"],
        "figures": figures_of(found.figures),
        "rates": rates(prepared.encoder, pairs, known_ids(prepared.encoder, chosen.item.id, prepared.items.column(ID)), options.seed),
        "lacking": 0.0 if chosen.item.unlisted == "keep" else _lacking(prepared.report),
        "features": {name: _feature(values, pairs) for name, values in pairs.values.items()},
        "items": _items(prepared, pairs),
        "asked": {"weights": kept.weights, "keys": kept.keys},
    }
    files.write_json(folder / LAUNCH, facts)
    files.write_array(folder / ASKED, np.asarray(kept.vectors, np.float32))


def _lacking(report: Mapping[str, Any]) -> float:
    """The share of the pairs that name an item which the catalogue lacks: of those that are pairs otherwise, as it will be of new ones."""
    nothing = ("pairs_without_query", "pairs_without_item", "pairs_of_unlisted_event", "pairs_of_unlisted_query")
    return float(report.get("pairs_of_unlisted_item", 0) / max(1, report["pairs_read"] - sum(report.get(name, 0) for name in nothing)))


def _feature(values: Values, pairs: Pairs) -> dict[str, Any]:
    bins = learnt(values, pairs.weights)
    return {**bins._asdict(), **binned(values, bins, pairs)._asdict()}


def _items(prepared: Prepared, pairs: Pairs) -> dict[str, Any]:
    """The items that training matched most, how often, and how often the pairs that were measured did."""
    train = prepared.part(TRAIN)
    counts = np.bincount(train.item_rows[train.labels > 0], minlength=prepared.n_items)
    top = np.argsort(-counts, kind="stable")[: min(COMMONEST, int((counts > 0).sum()))]
    held = matched(pairs.items, top, pairs.keys[pairs.views])
    training = [*counts[top].tolist(), int(counts.sum() - counts[top].sum())]
    return {"ids": to_text(prepared.items.column(ID).take(pa.array(top))).to_pylist(), "training": training, **held._asdict()}
