"""What towers of every kind of column and history are worth: goodbooks, MovieLens 100k and 1M, each against what knows less.

    python benchmarks/any_input.py                        all rows whose data are there
    python benchmarks/any_input.py goodbooks cold         some of them
    python benchmarks/any_input.py --data ../shared/data  where the MovieLens sets lie (they may not ship)
    python benchmarks/any_input.py --write                and put them into benchmarks/RESULTS.md

Every difference is paired by ranking, with its 95% interval. Settings were chosen on validation pairs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

import twotower as tt
from first_light import Rows, keep
from twotower.data.samples import load_sample
from twotower.runs import Comparison

IDS = [
    "query.features=[{column='user_id',type='id'}]",
    "item.features=[{column='book_id',type='id'}]",
    "train.epochs=10",
]


def told(figures: Mapping[str, Any]) -> str:
    """Figures with their intervals."""
    return ", ".join(f"{name} {f['value']:.4f} [{f['low']:.4f}, {f['high']:.4f}]" for name, f in figures.items())


def difference(compared: Comparison, metric: str) -> str:
    """How much better the first is, with the interval of the difference."""
    test = compared.tests[metric]
    return f"{metric} {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]"


def goodbooks(folder: Path, data: Path) -> Rows:
    """The sample that ships: the last five books of every reader, of all 10,000."""
    sample = load_sample("goodbooks")
    run = tt.train(sample.pairs, sample.items, config=sample.config, output=folder / "goodbooks")
    ids = tt.train(sample.pairs, sample.items, config=sample.config, settings=IDS, output=folder / "goodbooks-ids")
    select = run.metrics["evaluation"]["select"]
    rows: Rows = [("goodbooks, leave-last-5: history, ids, titles, authors, year, language", told(run.metrics["model"]), "")]
    rows += [(f"goodbooks, {name}", told(figures), "") for name, figures in run.metrics["baselines"].items()]
    rows.append(("goodbooks, ids of readers and books alone", told(ids.metrics["model"]), ""))
    for name, tests in run.metrics["against"].items():
        test = tests[select]
        rows.append((f"goodbooks, against {name}", f"{select} {test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]", "above 0"))
    rows.append(("goodbooks, against ids alone", difference(tt.compare(run.folder, ids.folder), select), "above 0"))
    return rows


def cold(folder: Path, data: Path) -> Rows:
    """A tenth of the books never seen in training, against a tenth of the pairs drawn at random; each pair ranked for itself."""
    sample = load_sample("goodbooks")
    each = ["evaluate.per='pair'", "evaluate.metrics=['recall@20']", "evaluate.select='recall@20'", "evaluate.baselines=[]"]
    by = {
        "warm": ["split.by='random'", "split.test=0.1", "split.validation=0.05"],
        "cold": ["split.by='cold_items'", "split.test=0.1", "split.validation=0.05"],
    }
    dropout = ["item.features=" + COLD]
    found = {}
    rows: Rows = []
    for name, features in {"content": dropout, "ids alone": IDS}.items():
        for part, split in by.items():
            run = tt.train(sample.pairs, sample.items, config=sample.config, settings=[*each, *split, *features], output=folder / f"{part}-{name}")
            found[name, part] = run.metrics["model"]["recall@20"]
            rows.append((f"goodbooks, {part} books, {name}", told(run.metrics["model"]), ""))
    for name in ("content", "ids alone"):
        ratio = found[name, "cold"]["value"] / found[name, "warm"]["value"]
        rows.append((f"goodbooks, cold recall@20 over warm, {name}", f"{ratio:.2f}", "0.5" if name == "content" else ""))
    return rows


COLD = (
    "[{column='book_id',type='id',dropout=0.5},{column='title',type='text'},{column='authors',type='categories',separator=', '},"
    "{column='year',type='number',scale='quantile'},{column='language',type='category'}]"
)


def ml_100k(folder: Path, data: Path) -> Rows:
    """Every type of feature at once, split by time, against ids alone."""
    pairs, items = movielens(data / "ml-100k")
    every = tt.train(pairs, items, config=ML_100K, output=folder / "ml-100k")
    ids = {
        **ML_100K,
        "query": {"key": "user", "features": [{"column": "user", "type": "id"}]},
        "item": {"id": "movie", "features": [{"column": "movie", "type": "id"}]},
    }
    alone = tt.train(pairs, items, config=ids, output=folder / "ml-100k-ids")
    return [
        ("ml-100k by time, every type of feature", told(every.metrics["model"]), ""),
        ("ml-100k by time, ids alone", told(alone.metrics["model"]), ""),
        *((f"ml-100k by time, {name}", told(figures), "") for name, figures in every.metrics["baselines"].items()),
        ("ml-100k by time, against ids alone", difference(tt.compare(every.folder, alone.folder), "ndcg@10"), "above 0"),
    ]


ML_100K: dict[str, Any] = {
    "pairs": {"time": "at", "repeats": "first"},
    "query": {
        "key": "user",
        "features": [
            {"column": "user", "type": "id", "dropout": 0.2},
            {"column": "age", "type": "number", "scale": "quantile"},
            {"column": "sex", "type": "category"},
            {"column": "occupation", "type": "category"},
            {"column": "at", "type": "time", "cycles": ["day", "week"]},
            {"column": "history", "type": "history", "last": 50},
        ],
    },
    "item": {
        "id": "movie",
        "features": [
            {"column": "movie", "type": "id"},
            {"column": "title", "type": "text"},
            {"column": "genres", "type": "categories"},
            {"column": "released", "type": "time", "cycles": ["year", "age"]},
        ],
    },
    "split": {"by": "time", "test": 0.1, "validation": 0.1},
    "model": {"dimensions": 64},
    "train": {"epochs": 8, "batch_size": 512},
    "evaluate": {"metrics": ["recall@10", "ndcg@10"], "select": "ndcg@10", "baselines": ["item_knn", "popularity"]},
}


def movielens(folder: Path) -> tuple[pa.Table, pa.Table]:
    """(pairs with what is known of each user, films with titles, genres and dates) of MovieLens 100k."""
    genres = [line.split("|")[0] for line in (folder / "u.genre").read_text("latin1").splitlines() if line]
    users = {row[0]: row[1:4] for line in (folder / "u.user").read_text("latin1").splitlines() for row in [line.split("|")]}
    films = [line.split("|") for line in (folder / "u.item").read_text("latin1").splitlines()]
    items = pa.table(
        {
            "movie": [row[0] for row in films],
            "title": [row[1] for row in films],
            "released": [time.strftime("%Y-%m-%d", time.strptime(row[2], "%d-%b-%Y")) if row[2] else None for row in films],
            "genres": [[genre for genre, flag in zip(genres, row[5:], strict=True) if flag == "1"] for row in films],
        }
    )
    log = [line.split("\t") for line in gzip.decompress((folder / "u.data.gz").read_bytes()).decode().splitlines()]
    about = [users[row[0]] for row in log]
    pairs = pa.table(
        {
            "user": [row[0] for row in log],
            "movie": [row[1] for row in log],
            "at": [int(row[3]) for row in log],
            "age": [int(row[0]) for row in about],
            "sex": [row[1] for row in about],
            "occupation": [row[2] for row in about],
        }
    )
    return pairs, items


def ml_1m(folder: Path, data: Path) -> Rows:
    """A causal transformer over histories, leave-one-out, all films ranked."""
    text = gzip.decompress((data / "ml-1m" / "ml-1m.txt.gz").read_bytes())
    pairs = csv.read_csv(pa.BufferReader(b"user item\n" + text), parse_options=csv.ParseOptions(delimiter=" "))
    run = tt.train(pairs, config=ML_1M, output=folder / "ml-1m")
    history = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    seconds = np.diff([0.0, *(line["seconds"] for line in history)]) / np.diff([0, *(line["epoch"] for line in history)])
    return [
        ("ml-1m leave-one-out, causal transformer over histories", told(run.metrics["model"]), "recall@10 0.22, ndcg@10 0.12"),
        *((f"ml-1m leave-one-out, {name}", told(figures), "") for name, figures in run.metrics["baselines"].items()),
        ("ml-1m, an epoch of it, median", f"{np.median(seconds):.0f} s", "60 s"),
    ]


ML_1M: dict[str, Any] = {
    "pairs": {"ordered": True, "repeats": "first"},
    "query": {"key": "user", "features": [{"type": "history", "last": 200, "pool": "transformer", "items": "ids", "dropout": 0.2}]},
    "item": {"id": "item", "features": [{"column": "item", "type": "id"}]},
    "split": {"by": "last"},
    "model": {"dimensions": 64},
    "train": {"epochs": 12, "batch_size": 4096},
    "evaluate": {"metrics": ["recall@10", "ndcg@10"], "select": "ndcg@10", "baselines": ["item_knn", "popularity"]},
}

ROWS: dict[str, Callable[[Path, Path], Rows]] = {"goodbooks": goodbooks, "cold": cold, "ml-100k": ml_100k, "ml-1m": ml_1m}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.rows or ROWS:
            if name.startswith("ml-") and not (asked.data / name).is_dir():
                print(f"{name} is left out: there is no {asked.data / name}")
                continue
            found = ROWS[name](Path(folder), asked.data)
            rows += found
            print("\n".join(" | ".join(row) for row in found), flush=True)
    table = ["| what | measured | wanted |", "|---|---|---|", *(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows)]
    keep(" ".join(["python benchmarks/any_input.py", *asked.rows]), table, asked.write)


if __name__ == "__main__":
    main()
