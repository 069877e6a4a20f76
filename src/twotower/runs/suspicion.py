"""Which training pairs look wrong: models of both halves of the data judge the pairs that they never saw, and the worst are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from twotower.config import Config
from twotower.data.columns import Array, Ragged, group, ragged_rows, take_ragged
from twotower.data.prepared import Prepared
from twotower.data.splits import TRAIN, VALIDATION
from twotower.learning import suspects
from twotower.learning.evaluation import cases_of, dot_scorer, ranks_of, sample
from twotower.learning.lists import top
from twotower.learning.options import EvaluateOptions
from twotower.learning.subsets import Subset, enough
from twotower.learning.views import before

if TYPE_CHECKING:
    from twotower.learning.training import Data
    from twotower.model.towers import TwoTower
    from twotower.runs.trials import Tried

SHOWN = 20  # pairs told


def suspected(prepared: Prepared, chosen: Config, fit: Callable[[Prepared, Config], tuple[TwoTower, Data, Tried]]) -> dict[str, Array]:
    """Of each, the worst first: its row in the log, where it stood, and the item row that stood first `instead`; how many were judged, [1].

    fit: trains a config on data.
    """
    from twotower.learning import training

    options = replace(chosen.evaluate, per="pair", gain="equal")
    log = prepared.part(TRAIN)
    named = group(log.query_keys, log.item_rows, int(prepared.report["keys"]))  # matches and non-matches: neither is news
    rows, places, instead = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, np.int64)]
    for half in suspects.halves(prepared, chosen.train.seed):
        if not enough(Subset(half, 0)):
            continue
        model, data, _ = fit(half, chosen)
        asked = cases_of(half, VALIDATION, options, data.before_validation)
        held, queries, items = training.held_out(model, data._replace(validation=asked))
        assert held.pair_rows is not None
        rows.append(np.flatnonzero(half.parts == VALIDATION)[held.pair_rows])
        scorer = dot_scorer(queries, items)
        places.append(suspects.places(ranks_of(scorer, held, half.n_items, options)))
        new = held._replace(
            excluded=take_ragged(named, held.query_keys), relevant=Ragged(np.empty(0, np.int64), np.zeros(len(held.query_rows) + 1, int))
        )
        first = top(scorer, new, np.arange(len(held.query_rows)), half.n_items, k=1)[ragged_rows(held.relevant), 0]
        instead.append(np.where(first < 0, held.relevant.values, first))
    stood = np.concatenate(places)
    order = suspects.worst(stood)
    found = {"rows": np.concatenate(rows), "places": stood, "instead": np.concatenate(instead)}
    return {**{name: part[order] for name, part in found.items()}, "judged": np.array([len(stood)])}


def asked_as(prepared: Prepared, data: Data, options: EvaluateOptions, queries: int | None) -> Data:
    """What a training on changed pairs reads, asked what the data as they are ask, with the histories that they show."""
    seen = before(prepared, VALIDATION, data.material.reading)
    asked = cases_of(prepared, VALIDATION, options, seen)
    return data._replace(validation=asked if queries is None else sample(asked, queries, options.seed), before_validation=seen)


def told(found: Mapping[str, Array], prepared: Prepared) -> dict[str, Any]:
    """How many there are, and the worst of them in words."""
    rows, log = found["rows"][:SHOWN], prepared.log
    asked, items = np.asarray(log.query_rows)[rows], np.asarray(log.item_rows)[rows]
    queries = prepared.queries.take(pa.array(asked)).to_pylist() if prepared.queries.num_columns else [{} for _ in rows]
    matched, instead = (prepared.items.take(pa.array(each)).to_pylist() for each in (items, found["instead"][:SHOWN]))
    lines = zip(queries, matched, instead, found["places"][:SHOWN].tolist(), strict=True)
    pairs = [{"asked": _in_a_line(query), "item": _in_a_line(item), "instead": _in_a_line(first), "place": at} for query, item, first, at in lines]
    return {"count": len(found["rows"]), "judged": int(found["judged"][0]), "pairs": pairs}


def _in_a_line(row: Mapping[str, Any]) -> str:
    """The first two values of a row that say something, and not the same."""
    return " - ".join(list(dict.fromkeys(str(value) for value in row.values() if value not in (None, "", [])))[:2])
