"""One setting tried: trained on the data that all trials share, measured on the same validation queries, without export."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from twotower.bundle.asking import query_text
from twotower.config import Config
from twotower.data.columns import Array
from twotower.data.preparation.intake import Sources
from twotower.data.prepared import Prepared
from twotower.data.schema import Side
from twotower.learning.evaluation import Cases, list_keys, measure, ranks_of
from twotower.runs.measuring import Asked, choose_mode, indexes_of, scorer
from twotower.runs.progress import Progress
from twotower.runs.run import begun_of, prepared_of

if TYPE_CHECKING:
    from twotower.learning.mining import Mining
    from twotower.learning.training import Data, Step, Validation
    from twotower.model.bodies import Custom
    from twotower.model.towers import TwoTower


class Shop(NamedTuple):
    """What all trials share."""

    sources: Sources
    cache: Path  # where data are prepared, once for all trials that read them alike
    bodies: Mapping[Side, Custom] | None
    queries: int | None  # that a validation ranks: the same ones in every trial
    progress: Progress


class Tried(NamedTuple):
    """What a trial came to."""

    value: float  # the selecting metric of its best epoch
    epoch: int  # which that was
    seconds: float
    finished: bool  # not asked to stop before its end
    values: Array | None = None  # of each validation ranking, where it was asked for
    keys: Array | None = None  # whose each is


def prepared_for(shop: Shop, chosen: Config) -> Prepared:
    """The data as a config reads them."""
    return prepared_of(shop.sources, chosen, shop.cache, shop.progress._replace(stage=lambda _: None))


def tried(
    shop: Shop,
    chosen: Config,
    *,
    stop: Callable[[], bool],
    look: Callable[[int, float], None] = lambda epoch, value: None,
    each: bool = False,
) -> Tried:
    """Train a config and measure it, by vectors.

    look: told the number and the value of every epoch that was validated. each: also measure it as it would be searched, by words too where
    that is better, with the value of every validation ranking. Raises ConfigError and DataError where the config cannot be trained.
    """
    begun = time.perf_counter()
    prepared = prepared_for(shop, chosen)
    queries = chosen.evaluate.queries if each else shop.queries
    model, data, found = fitted(shop, prepared, chosen, queries, stop, look)
    found = found._replace(seconds=time.perf_counter() - begun)
    if not (each and found.finished):
        return found
    from twotower.learning import training

    evaluated = _as_searched(prepared, chosen, *training.held_out(model, data))
    return found._replace(values=evaluated, keys=list_keys(data.validation, chosen.evaluate.per))


def fitted(
    shop: Shop,
    prepared: Prepared,
    chosen: Config,
    queries: int | None,
    stop: Callable[[], bool],
    look: Callable[[int, float], None] = lambda epoch, value: None,
) -> tuple[TwoTower, Data, Tried]:
    """A model trained on prepared data, with what it reads and what it came to. queries: that a validation ranks."""
    from twotower.learning import training, warming

    begun = time.perf_counter()
    model, data, state = begun_of(prepared, chosen, shop.bodies, Progress(), queries=queries)

    def report(event: Step | Validation | Mining) -> None:
        if isinstance(event, training.Validation):
            look(event.epoch, event.metrics[event.select])
        elif isinstance(event, training.Step):
            shop.progress.training(event)

    finished = warming.warm(state, data, prepared, chosen.train, stop=stop)
    finished = finished and training.fit(state, data, chosen.train, chosen.evaluate, stop=stop, report=report)
    return model, data, Tried(state.best, state.best_epoch, time.perf_counter() - begun, finished)


def _as_searched(prepared: Prepared, chosen: Config, held: Cases, queries: Array, items: Array) -> Array:
    """The selecting metric of every ranking [rankings], under the mode that validation would choose."""
    indexes = indexes_of(prepared, chosen.search)
    texts = query_text(prepared.queries.take(pa.array(held.query_rows)), prepared.encoder.text_columns("query"))
    asked, options = Asked(held, queries, texts), chosen.evaluate
    search = choose_mode(asked, items, indexes, chosen.search, options)
    scores = scorer(asked, items, indexes.get(search["words_of"]), search)
    ranks = ranks_of(scores, held, len(items), options)
    return measure(ranks, (options.select,))[options.select]
