"""The validation pairs of a finished run, asked again of what it shipped: the test pairs stay closed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower import config as configs
from twotower import files
from twotower.config import Config
from twotower.data.columns import Array, Columns
from twotower.data.histories import Histories
from twotower.data.prepared import Prepared, open_prepared, read_as
from twotower.data.splits import VALIDATION
from twotower.errors import BundleError
from twotower.learning.evaluation import Cases, cases_of, sample
from twotower.learning.views import before, reading
from twotower.runs.exported import encode_queries
from twotower.runs.run import Run


class Held(NamedTuple):
    """A run's validation cases, at most as many as were ranked while it trained, with what it takes to ask them."""

    run: Run
    chosen: Config
    prepared: Prepared
    seen: Histories | None
    asked: Cases
    items: Array  # float32 [n, d] the vectors of the catalogue

    def queries(self, columns: Columns | None = None, asked: Cases | None = None) -> Array:
        """Their vectors float32 [q, d], or those of other cases, or read from other columns."""
        columns = self.prepared.columns["query"] if columns is None else columns
        model = self.run.folder / "bundle" / "model"
        return encode_queries(model, self.prepared, columns, self.asked if asked is None else asked, self.seen, self.items, self.chosen)


def held_of(run: Run, what: str) -> Held:
    """Open them, to do something. Raises BundleError where the prepared data of the run are gone, or hold no validation pairs."""
    chosen = configs.read(run.folder / "config.toml")
    place = run.folder.parent / "prepared" / files.read_json(run.folder / "prepared.json")["folder"]
    if not place.exists():
        raise BundleError(f"the prepared data of {run.folder} are gone: {place} is not there. Train again to {what}.")
    prepared = read_as(open_prepared(place), chosen.schema)
    seen = before(prepared, VALIDATION, reading(prepared.encoder, prepared.columns["item"]))
    asked = sample(cases_of(prepared, VALIDATION, chosen.evaluate, seen), chosen.evaluate.queries, chosen.evaluate.seed)
    if not len(asked.query_rows):
        raise BundleError(f"{run.folder} has no validation pairs to {what} by")
    return Held(run, chosen, prepared, seen, asked, np.asarray(run.retriever.vectors))
