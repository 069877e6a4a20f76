"""The rows: what each needs, and what is wanted of it.

To add one: a module here with `measure(asked: Asked) -> Iterator[Figure]`, and its entry in `ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent
MARK = ".trained-by"  # beside a run folder: what decided it


class Figure(NamedTuple):
    """One line of a row."""

    what: str
    measured: str
    wanted: str = ""
    values: Mapping[str, Any] | None = None  # the same in numbers


class Asked(NamedTuple):
    """How a row is to be measured."""

    smoke: bool  # with settings that only show that it works
    folder: Path  # where it may write; kept between runs
    settings: tuple[str, ...] = ()  # overrides of its recipes, for trials


class Row(NamedTuple):
    """What a row needs. Its module, and all of ours and of benchmarks/ that this imports, are followed by themselves."""

    about: str
    wanted: str = ""
    data: tuple[str, ...] = ()  # folders of real data that do not ship
    recipes: tuple[str, ...] = ()  # of recipes/*.toml
    peers: tuple[str, ...] = ()  # of peers/*.py
    environments: tuple[str, ...] = ()  # of peers/*.txt, beside our own
    modules: tuple[str, ...] = ()  # that it runs in processes of their own
    cuda: bool = False  # whether it needs a CUDA device


ROWS: dict[str, Row] = {
    "gowalla": Row(
        "Gowalla, embeddings of 64",
        "recall@20 .188, ndcg@20 .158",
        ("gowalla",),
        ("gowalla",),
        ("factors",),
    ),
    "gowalla_wide": Row("Gowalla, any width", "more than with 64", ("gowalla",), ("gowalla_wide",), ("factors",)),
    "ml1m": Row(
        "ML-1M leave-one-out, mean of three seeds",
        "recall@10 .308, ndcg@10 .180",
        ("ml-1m",),
        ("ml1m",),
        ("sequences",),
        ("rectools",),
    ),
    "insuranceqa": Row(
        "InsuranceQA, 27,413 answers",
        "ndcg@10 from nothing .28, with the encoder .36",
        ("insuranceqa",),
        ("insuranceqa", "insuranceqa_encoder"),
        ("sentences",),
    ),
    "scifact": Row("SciFact, the encoder with heads trained on its 809 claims", "ndcg@10 .68", ("scifact",), ("scifact",), ("sentences",)),
    "banking77": Row("banking77, the nearest intent", "accuracy .93", ("banking77",), ("banking77", "banking77_encoder"), ("sentences",)),
    "tldr": Row(
        "tldr, a task in words -> a page",
        "hit@10 / mrr from nothing .72 / .51, with the encoder .78 / .56",
        (),
        ("tldr", "tldr_encoder"),
        ("sentences",),
    ),
    "time_to_als": Row(
        "time to the quality of implicit's ALS on Gowalla",
        "5x the time of ALS",
        ("gowalla",),
        ("gowalla_fast",),
        ("factors",),
    ),
    "throughput": Row(
        "id towers of 64, in-batch 4,096",
        "2x TensorFlow Recommenders, 4x plain PyTorch",
        (),
        ("throughput",),
        ("plain_torch", "retrieval_tf"),
        ("tensorflow",),
    ),
    "static_text": Row(
        "text towers from nothing beside sentence-transformers' static embeddings",
        "2x the pairs a second, same quality or better",
        (),
        ("tldr",),
        ("sentences",),
    ),
    "fine_tuning": Row("tuning all-MiniLM-L6-v2 beside sentence-transformers", "not slower", (), ("fine_tuning",), ("tuning_speed",)),
    "blockwise": Row("softmax in blocks beside the plain one", "3x in float32, 5x with bfloat16, 1/20 of the memory"),
    "memory": Row("a step on a table of 10 million rows x 64", "1.5x the table and its optimiser state"),
    "chunks": Row("what gradient caching costs and saves"),
    "few_pairs": Row("the default for 3,000 pairs of texts", "", ("insuranceqa",)),
    "goodbooks": Row("goodbooks: every type of feature against ids alone, cold books", "above 0; cold 0.5 of warm"),
    "ml100k": Row("ML-100k by time: every type of feature against ids alone", "above 0", ("ml-100k",)),
    "demo": Row("the demo, start-up, latency, hashing, the base install", modules=("twotower.app.cli.__main__",)),
    "reading": Row("what reading batches costs beside a step", "5%", ("ml-100k",)),
    "preparation": Row("how fast a log is prepared, and in how much memory", "500,000 pairs a second, 4 GB"),
    "again": Row("training again against a cold start, eight weeks of two logs", "a quarter of the time, no worse", ("ml-100k",)),
    "drift": Row("whether drift asks for training again when it should", "quiet in 90% of weeks like launch, not after eight weeks", ("ml-100k",)),
    "ranks": Row("one process of two threads beside two processes of one"),
    "compiling": Row("what torch.compile would bring a step"),
    "gpu": Row("the same steps on a CUDA device", "", (), ("throughput", "fine_tuning"), ("tuning_speed",), cuda=True),
    "histories": Row("how a history is read by default, on validation pairs", "", ("ml-100k",)),
    "tuning": Row("what tuning brings to the default in some minutes", "better on two sets, never worse", ("banking77", "scifact")),
    "forecast": Row(
        "forecasts from a half and a quarter of the data, against what came",
        "90% intervals hold 80-97%; error .015 at 2x, .03 at 4x",
        ("banking77", "insuranceqa", "ml-100k"),
        ("tldr", "banking77", "insuranceqa"),
    ),
    "serving": Row(
        "a server under load: capacity, overload, switches of versions, start, memory, size",
        "1,500 searches a second, p99 15 ms at half; 0 failed, 0 mixed",
        modules=("twotower.app.server.launch",),
    ),
    "soak": Row("an hour of mixed load with callers who crash", "memory and handles flat", modules=("twotower.app.server.launch",)),
    "stores": Row(
        "100,000 items in the stores that users run: PostgreSQL, LanceDB, Qdrant", "recall@10 .95, no query fails while a version goes live"
    ),
    "growth": Row(
        "a catalogue kept up to date: 10,000 new items, and a million rows of which a thousand differ",
        "4 s by hashed text, 120 s by MiniLM; 30 s and 2 GB",
        modules=("twotower.app.cli.__main__",),
    ),
    "evaluation": Row("what measuring a model costs", "1.5x the bare product, 1 GB; statistics 5 s; a report 10 s, 3 MB"),
    "lookup": Row(
        "search of a million vectors: exact, approximate, filtered, in bulk",
        "1.3x faiss Flat; recall .95 in 2 ms; int8 .99 in a quarter; filters 2x; bulk 2x",
        modules=("twotower.app.cli.__main__",),
    ),
    "choices": Row("what each part of the recipe for texts is worth, on validation pairs"),
}


def measure_of(name: str) -> Callable[[Asked], Iterator[Figure]]:
    """The function that measures a row."""
    measure: Callable[[Asked], Iterator[Figure]] = import_module(f"benchmarks.rows.{name}").measure
    return measure
