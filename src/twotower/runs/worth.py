"""What each feature is worth to a finished model: how much worse it ranks when the feature's values are dealt out anew (Breiman 2001)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from twotower.data.columns import Array, Columns, take
from twotower.data.schema import SIDES, Side, feature_name
from twotower.learning.evaluation import Cases, dot_scorer, list_keys, measure, ranks_of
from twotower.learning.statistics import holm, paired_test
from twotower.runs.exported import encode_items
from twotower.runs.held import held_of
from twotower.runs.run import Run

SURE = 0.05
SEED = 0


class Worth(NamedTuple):
    """How much of the selecting metric goes with a feature: the mean, its interval, and how often luck alone would give as much."""

    side: Side
    feature: str
    type: str
    without: float
    lost: float
    low: float
    high: float
    p_value: float  # all features taken together (Holm 1979)

    @property
    def sure(self) -> bool:
        """Whether it is worth anything, beyond what luck gives."""
        return self.lost > 0 and self.p_value < SURE


class Told(NamedTuple):
    """The worth of all features, on how many validation rankings, by which metric, and what the whole model has there."""

    metric: str
    whole: float
    rankings: int
    features: list[Worth]


def worth(run: Run, progress: Callable[[str], None] = lambda _: None) -> Told:
    """Measure it by vectors, on the run's validation pairs: the test pairs stay closed, since features are chosen by this.

    A query feature is dealt anew among those who ask, a history with the moment it was taken at; an item feature among the catalogue, which is
    encoded again for each. Raises BundleError where the prepared data of the run are gone.
    """
    held = held_of(run, "measure its features")
    prepared, options, asked, items = held.prepared, held.chosen.evaluate, held.asked, held.items
    model, generator = run.folder / "bundle" / "model", np.random.default_rng(SEED)

    def values(query_vectors: Array, item_vectors: Array) -> Array:
        ranks = ranks_of(dot_scorer(query_vectors, item_vectors), asked, prepared.n_items, options)
        return measure(ranks, (options.select,))[options.select]

    progress("ranking with every feature")
    usual = held.queries()
    whole, keys = values(usual, items), list_keys(asked, options.per)
    found = []
    for side in SIDES:
        for feature in prepared.encoder.features[side]:
            progress(f"ranking without {feature.column} of the {side}")
            name = feature_name(feature)
            if side == "item":
                dealt = generator.permutation(prepared.n_items)
                without = values(usual, encode_items(model, _dealt(prepared.columns["item"], name, dealt), held.chosen))
            elif feature.from_log:
                without = values(held.queries(asked=_others_history(asked, generator)), items)
            else:
                without = values(held.queries(_dealt(prepared.columns["query"], name, _among(asked.query_rows, generator, prepared))), items)
            found.append((side, feature, without, paired_test(whole, without, groups=keys, generator=np.random.default_rng(SEED))))
    corrected = holm(np.array([float(test.p_value) for *_, test in found])).tolist()
    parts = [
        Worth(side, feature.column, feature.type, float(without.mean()), float(test.difference), float(test.low), float(test.high), p_value)
        for (side, feature, without, test), p_value in zip(found, corrected, strict=True)
    ]
    return Told(options.select, float(whole.mean()), len(whole), parts)


def _dealt(columns: Columns, name: str, rows: Array) -> dict[str, Any]:
    """The columns with one of them in the order of these rows."""
    return {each: take(column, rows) if each == name else column for each, column in columns.items()}


def _among(rows: Array, generator: np.random.Generator, prepared: Any) -> Array:
    """All query rows, those of cases in each other's place."""
    order, some = np.arange(prepared.queries.num_rows), np.unique(rows)
    order[some] = generator.permutation(some)
    return order


def _others_history(asked: Cases, generator: np.random.Generator) -> Cases:
    """The cases, each with the history of another."""
    assert asked.history_keys is not None and asked.cuts is not None
    order = generator.permutation(len(asked.query_rows))
    return asked._replace(history_keys=asked.history_keys[order], cuts=asked.cuts[order])
