"""Compares two models, ranking by ranking: on what both held out, as their runs stored it, or on new pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.layout import runs_in
from twotower.bundle.retriever import Retriever
from twotower.data.columns import Array
from twotower.data.values import to_text
from twotower.errors import DataError, choices
from twotower.learning.evaluation import Evaluated, list_keys
from twotower.learning.options import EvaluateOptions
from twotower.learning.statistics import PairedTest, paired_test
from twotower.runs.measuring import answered, read_pairs, source_of


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
    source = source_of(pairs)
    # Both must rank the same items: what a history holds is left out where both read one.
    left_out = options.exclude_seen if all(retriever.history is not None for retriever in retrievers) else False
    options = replace(options, per="pair", exclude_seen=left_out)
    first, second = (read_pairs(retriever, source, options) for retriever in retrievers)
    a, b = (answered(retriever, read, options).values for retriever, read in zip(retrievers, (first, second), strict=True))
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
    # Whoever is known by a history alone has no columns, and a table without columns no rows.
    rows = queries.to_pylist() if queries.num_columns else [{}] * len(keys)
    asked = [files.json_text(dict(sorted(row.items())), indent=None) for row in rows]
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
    # Models that read other columns are asked otherwise about the same pair: its key and its item then say which it is.
    identity = IDENTITY if _asks(a) == _asks(b) else IDENTITY[1:]
    places, counts = {ranking: n for n, ranking in enumerate(_rankings(b, identity))}, Counter(_rankings(b, identity))
    counts.update(ranking for ranking, n in Counter(_rankings(a, identity)).items() if n > 1)
    match = np.array([places[ranking] if counts[ranking] == 1 else -1 for ranking in _rankings(a, identity)])
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


def _rankings(table: pa.Table, identity: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table.column(name).to_pylist() for name in identity), strict=True)


def _asks(table: pa.Table) -> set[str]:
    """The columns of the queries that were asked."""
    return set(json.loads(table.column("query")[0].as_py())) if table.num_rows else set()


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
