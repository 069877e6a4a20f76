"""`report`: what there is to say of a finished run, gathered from its folder."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.app.questions import shown_columns
from twotower.bundle import Retriever
from twotower.data.columns import Array
from twotower.errors import BundleError, DataError
from twotower.files import read_json
from twotower.learning.projection import kept, plane
from twotower.learning.space import NEAREST, Groups, grouped, sampled
from twotower.learning.statistics import holm
from twotower.runs import Comparison, Run, compare, open_run
from twotower.runs.differences import differences

SHOWN = 8  # questions told in full, of the best and of the worst
FOUND = 3  # items shown for each


class Told(NamedTuple):
    """One test question: what was asked, what was wanted, what was found."""

    query: str
    wanted: str
    value: float  # of the selecting metric
    found: list[str]  # best first; empty where the run does not say what history it was asked with


class Laid(NamedTuple):
    """Some items laid out in a plane. kept: of each one's nearest in the space, the share still nearest there; by_lot: of a plane without sense."""

    points: list[tuple[float, float]]
    names: list[str]
    groups: Groups | None
    kept: float
    by_lot: float


class Beside(NamedTuple):
    """Other runs beside this one, each compared with it. options: what not all of them say alike, with the value of each, this one's first."""

    compared: list[Comparison]
    p_values: list[dict[str, float]]  # of each, by metric, raised so that they hold for all of the runs together (Holm 1979)
    options: dict[str, list[str]]


class Account(NamedTuple):
    """All that a report of a run says."""

    folder: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]  # one entry an epoch
    worst: list[Told]
    best: list[Told]
    commonest: list[tuple[str, int]]  # items that most lists hold, and how many do
    config: str
    findings: list[dict[str, Any]] | None = None  # of the data; None where the run did not keep them
    laid: Laid | None = None  # None of a catalogue too small
    beside: Beside | None = None
    forecast: dict[str, Any] | None = None  # what more data would bring


def account_of(folder: Path, progress: Callable[[str], None] = lambda _: None, against: Sequence[Path] = (), forecast: Path | None = None) -> Account:
    """Gather it. against: runs to stand beside this one. forecast: the folder of one from the same data.

    Raises BundleError where a run or a forecast is not whole, DataError where two cannot be compared, or the forecast is of other data.
    """
    run = open_run(folder)
    beside = _beside(folder, against) if against else None  # said before any work
    more = None if forecast is None else _forecast(run, forecast)
    progress("loading the run")
    retriever, rankings = run.retriever, _rankings(run)
    select = run.metrics["evaluation"]["select"]
    values = rankings.column(f"metric {select}").to_numpy()
    # Among equal values by lot, so that those shown are no run of neighbours.
    order = np.lexsort((np.random.default_rng(0).permutation(len(values)), values))
    progress("asking test questions again")
    worst, best = (_told(retriever, rankings, values, order[part]) for part in (slice(SHOWN), slice(-1, -SHOWN - 1, -1)))
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    hubs = run.metrics.get("lists", {}).get("commonest", [])
    rows = retriever.find(pa.array([hub["item"] for hub in hubs]))
    commonest = [(_item(retriever, row), int(hub["lists"])) for row, hub in zip(rows, hubs, strict=True) if row >= 0]
    progress("laying items out on a map")
    config = (folder / "config.toml").read_text(encoding="utf-8")
    return Account(str(folder), run.metrics, history, worst, best, commonest, config, run.findings, _laid(retriever), beside, more)


def _laid(retriever: Retriever) -> Laid | None:
    """A sample of the catalogue on a map."""
    sample = sampled(np.asarray(retriever.vectors))
    if sample is None:
        return None
    groups = grouped(sample, retriever.items, retriever.encoder.features["item"])
    places, names = plane(sample.vectors), _items(retriever, sample.rows)
    if groups is not None:
        names = [f"{name} ({value})" if value else name for name, value in zip(names, groups.values, strict=True)]
    points = [(x, y) for x, y in places.tolist()]
    return Laid(points, names, groups, kept(sample.near, places), NEAREST / (len(points) - 1))


def _forecast(run: Run, folder: Path) -> dict[str, Any]:
    found = dict(read_json(folder / "forecast.json"))
    if read_json(folder / "data.json")["prepared"] != read_json(run.folder / "prepared.json")["folder"]:
        again = shlex.join(["twotower", "forecast", str(run.folder / "config.toml")])
        raise DataError(f"the forecast {folder} is of other data, or of others read from them, than the run {run.folder}. Make one: {again}")
    return found


def _beside(folder: Path, against: Sequence[Path]) -> Beside:
    compared = [compare(folder, other) for other in against]
    said = [tomllib.loads((open_run(each).folder / "config.toml").read_text(encoding="utf-8")) for each in (folder, *against)]
    return Beside(compared, _raised(compared), differences(said))


def _raised(compared: Sequence[Comparison]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = [{} for _ in compared]
    for metric in {metric for each in compared for metric in each.tests}:
        which = [n for n, each in enumerate(compared) if metric in each.tests]
        for n, p_value in zip(which, holm(np.array([float(compared[n].tests[metric].p_value) for n in which])).tolist(), strict=True):
            found[n][metric] = p_value
    return found


def _rankings(run: Run) -> pa.Table:
    path = run.folder / "rankings.parquet"
    if not path.exists():
        raise BundleError(f"{run.folder} is no whole run: it has no rankings.parquet")
    return pq.read_table(path)


def _queries(rankings: pa.Table, rows: Array) -> list[dict[str, Any]]:
    return [json.loads(text) for text in rankings.column("query").take(pa.array(rows)).to_pylist()]


def _told(retriever: Retriever, rankings: pa.Table, values: Array, rows: Array) -> list[Told]:
    queries, items = _queries(rankings, rows), rankings.column("item").take(pa.array(rows)).to_pylist()
    found: list[list[str]] = [[] for _ in rows]
    if retriever.history is None:
        searched = retriever.search(queries, k=FOUND)
        found = [[_item(retriever, row) for row in each if row >= 0] for each in searched.rows]
    said = [", ".join(str(value) for value in query.values() if value is not None) for query in queries]
    return [
        Told(text, "; ".join(_wanted(retriever, item)), float(values[row]), names)
        for text, item, row, names in zip(said, items, rows, found, strict=True)
    ]


def _wanted(retriever: Retriever, item: str) -> list[str]:
    """The right items of a ranking: one id, or a list of them where a query is ranked with all of its matches."""
    ids = json.loads(item) if retriever.find(pa.array([item]))[0] < 0 else [item]
    rows = retriever.find(pa.array(ids[:FOUND]))
    return [*(_item(retriever, row) for row in rows), *([f"and {len(ids) - FOUND} more"] if len(ids) > FOUND else [])]


def _item(retriever: Retriever, row: int) -> str:
    """An item in a line: its id, and its first column to show."""
    return _items(retriever, np.array([row]))[0]


def _items(retriever: Retriever, rows: Array) -> list[str]:
    named = shown_columns(retriever)[:1]
    return [" - ".join([str(shown["_id"]), *(str(shown[name]) for name in named if shown[name] not in (None, ""))]) for shown in retriever.show(rows)]
