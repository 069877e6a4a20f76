"""`report`: what there is to say of a finished run, gathered from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.app.questions import shown_columns
from twotower.bundle import Retriever
from twotower.data.columns import Array
from twotower.errors import BundleError
from twotower.runs import Run, open_run

SHOWN = 8  # questions told in full, of the best and of the worst
FOUND = 3  # items shown for each


class Told(NamedTuple):
    """One test question: what was asked, what was wanted, what was found."""

    query: str
    wanted: str
    value: float  # of the selecting metric
    found: list[str]  # best first; empty where the run does not say what history it was asked with


class Account(NamedTuple):
    """All that a report of a run says."""

    folder: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]  # one entry an epoch
    worst: list[Told]
    best: list[Told]
    commonest: list[tuple[str, int]]  # items that most lists hold, and how many do
    config: str


def account_of(folder: Path, progress: Callable[[str], None] = lambda _: None) -> Account:
    """Gather it. Raises BundleError where the run is not whole."""
    run = open_run(folder)
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
    return Account(str(folder), run.metrics, history, worst, best, commonest, (folder / "config.toml").read_text(encoding="utf-8"))


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
    (shown,) = retriever.show(np.array([row]))
    about = [str(shown[name]) for name in shown_columns(retriever)[:1] if shown[name] not in (None, "")]
    return " - ".join([str(shown["_id"]), *about])
