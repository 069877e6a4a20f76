"""Real data as files that `twotower train` reads: `made(name)` writes them under `.bench/data/NAME`, where the recipes look.

To add a set: a function from the folder of the raw data to its tables, and its entry in `SETS`. Only training pairs, or validation pairs
that the set itself names, are ever cut anew; test pairs are those that everybody ranks.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.fingerprints import digest
from benchmarks.rows import HERE, ROOT, Row

RAW = Path(os.environ.get("TWOTOWER_DATA") or ROOT.parent / "shared" / "data")
MADE = ROOT / ".bench" / "data"
Tables = dict[str, pa.Table]


def lacking(row: Row) -> str:
    """What a row needs and is not there: the first folder of raw data, or a CUDA device; or nothing."""
    folder = next((str(RAW / name) for name in row.data if not (RAW / name).is_dir()), "")
    return folder or ("CUDA device" if row.cuda and not _has_card() else "")


def _has_card() -> bool:
    import torch

    return torch.cuda.is_available()


def made(name: str) -> Path:
    """The folder that holds a set's files, written where they are not there or were made by other code."""
    folder, mark = MADE / name, digest(Path(__file__))
    if not (folder / mark).exists():
        part = folder.with_name(name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for table, rows in SETS[name](RAW).items():
            pq.write_table(rows, part / f"{table}.parquet")
        (part / mark).touch()
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    return folder


def read_by(recipe: str) -> list[str]:
    """The sets that a recipe reads."""
    text = (HERE / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    return [name for name in SETS if f".bench/data/{name}/" in text]


# --- interactions -------------------------------------------------------------------------------------------------


def gowalla(raw: Path) -> Tables:
    """Who was where, in the split of NGCF and LightGCN, with a hundredth of the training pairs drawn for validation."""
    train, test = (_lists(raw / "gowalla" / f"{name}.txt.gz") for name in ("train", "test"))
    drawn = np.random.default_rng(0).random(len(train)) < 0.01
    parts = np.concatenate([np.where(drawn, "validation", "train"), np.full(len(test), "test")])
    return {"pairs": pa.concat_tables([train, test]).append_column("part", pa.array(parts))}


def _lists(path: Path) -> pa.Table:
    """Lines of `user item item ...` as pairs."""
    lines = [list(map(int, line.split())) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    users = np.repeat([line[0] for line in lines], [len(line) - 1 for line in lines])
    return pa.table({"user": users, "item": np.concatenate([np.array(line[1:], np.int64) for line in lines])})


def ml1m(raw: Path) -> Tables:
    """Who saw which film, in the order of time; last and second last of each user are the test and validation pairs."""
    text = gzip.decompress((raw / "ml-1m" / "ml-1m.txt.gz").read_bytes())
    return {"pairs": pa.csv.read_csv(pa.BufferReader(b"user item\n" + text), parse_options=pa.csv.ParseOptions(delimiter=" "))}


def ml100k(raw: Path) -> Tables:
    """Pairs with what is known of each user, and films with titles, genres and dates."""
    folder = raw / "ml-100k"
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
    return {"pairs": pairs, "items": items}


# --- texts --------------------------------------------------------------------------------------------------------


def texts(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a file in the layout of BEIR, by id."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {row["_id"]: row for row in map(json.loads, file)}


def matches(path: Path) -> list[tuple[str, str]]:
    """The (query, document) ids of one part in the layout of BEIR."""
    with path.open(encoding="utf-8") as file:
        return [(row["query-id"], row["corpus-id"]) for row in csv.DictReader(file, delimiter="\t") if float(row["score"]) > 0]


def insuranceqa(raw: Path) -> Tables:
    """A customer's question -> answers; training, validation and test questions as the set names them."""
    folder = raw / "insuranceqa"
    questions, answers = texts(folder / "queries.jsonl.gz"), texts(folder / "corpus.jsonl.gz")
    parts = {"pairs": "train", "validation": "valid", "test": "test"}
    tables = {table: insurance_pairs(matches(folder / "qrels" / f"{part}.tsv"), questions) for table, part in parts.items()}
    return tables | {"items": pa.table({"answer_id": list(answers), "answer": [row["text"] for row in answers.values()]})}


def insurance_pairs(pairs: Sequence[tuple[str, str]], questions: dict[str, dict[str, str]]) -> pa.Table:
    """Pairs of ids as a log would hold them."""
    return pa.table({"question": [questions[question]["text"] for question, _ in pairs], "answer_id": [answer for _, answer in pairs]})


def scifact(raw: Path) -> Tables:
    """A claim -> the abstracts that bear on it. A tenth of the training claims are the validation pairs, drawn once."""
    folder = raw / "scifact"
    claims, abstracts = texts(folder / "queries.jsonl.gz"), texts(folder / "corpus.jsonl.gz")
    training = matches(folder / "qrels" / "train.tsv")
    names = sorted({claim for claim, _ in training})
    held = {names[n] for n in np.random.default_rng(0).permutation(len(names))[: len(names) // 10]}

    def table(pairs: Sequence[tuple[str, str]]) -> pa.Table:
        return pa.table({"claim": [claims[claim]["text"] for claim, _ in pairs], "abstract_id": [abstract for _, abstract in pairs]})

    return {
        "pairs": table([pair for pair in training if pair[0] not in held]),
        "validation": table([pair for pair in training if pair[0] in held]),
        "test": table(matches(folder / "qrels" / "test.tsv")),
        "items": pa.table(
            {
                "abstract_id": list(abstracts),
                "title": [row["title"] for row in abstracts.values()],
                "abstract": [row["text"] for row in abstracts.values()],
            }
        ),
    }


def banking77(raw: Path) -> Tables:
    """A customer's words -> one of 77 intents, each an item whose text is its name. Accuracy is then hit@1."""
    parts = {table: _rows(raw / "banking77" / f"{part}.csv") for table, part in (("pairs", "train"), ("test", "test"))}
    intents = sorted({row["category"] for row in parts["pairs"]})
    tables = {
        table: pa.table({"text": [row["text"].strip() for row in rows], "intent": [row["category"] for row in rows]}) for table, rows in parts.items()
    }
    return tables | {"items": pa.table({"intent": intents, "name": [intent.replace("_", " ").replace("?", "").strip() for intent in intents]})}


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tldr(raw: Path) -> Tables:
    """The sample that ships, its column `split` naming the fixed test pairs."""
    from twotower.data.samples import load_sample

    sample = load_sample("tldr")
    return {"pairs": sample.pairs, "items": sample.items}


# --- made ---------------------------------------------------------------------------------------------------------


def clicks(raw: Path) -> Tables:
    """A made log: 50,000 users and 40,000 items, a million pairs, popular items far more often."""
    generator = np.random.default_rng(0)
    users = generator.integers(50_000, size=1_000_000)
    items = (generator.random(1_000_000) ** 3 * 40_000).astype(np.int64)
    part = np.where(generator.random(1_000_000) < 0.002, "validation", "train")
    return {"pairs": pa.table({"user": users, "item": items, "part": part})}


SETS: dict[str, Callable[[Path], Tables]] = {
    "gowalla": gowalla,
    "ml1m": ml1m,
    "ml100k": ml100k,
    "insuranceqa": insuranceqa,
    "scifact": scifact,
    "banking77": banking77,
    "tldr": tldr,
    "clicks": clicks,
}
