"""What the default makes of few pairs of texts: 3,000 of InsuranceQA's training pairs, all 27,413 answers ranked for the validation questions.

The default is what `init` chooses where the extra `text` and weights are installed. The first run encodes every answer, which takes
minutes; they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import quality, sets
from benchmarks.rows import Asked, Figure
from twotower import train
from twotower.config import override, to_values
from twotower.data.inference import infer
from twotower.data.sources import open_source
from twotower.learning.evaluation import Evaluated, Scorer, dot_scorer, evaluate, list_keys
from twotower.learning.options import EvaluateOptions
from twotower.learning.pretrained import open_encoder
from twotower.learning.statistics import paired_test
from twotower.runs.measuring import evaluate as evaluate_run
from twotower.runs.settings import infer_config
from twotower.search.lexical import Lexical

PAIRS, SEED = 3000, 0


def drawn(pairs: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """3,000 pairs of questions drawn at random."""
    questions = sorted({question for question, _ in pairs})
    place = {questions[n]: order for order, n in enumerate(np.random.default_rng(seed).permutation(len(questions)))}
    return sorted(pairs, key=lambda pair: place[pair[0]])[:PAIRS]


def measure(asked: Asked) -> Iterator[Figure]:
    """Train by default, rank for the validation questions, and compare with the encoder as it is and with BM25."""
    raw = sets.RAW / "insuranceqa"
    questions, answers = sets.texts(raw / "queries.jsonl.gz"), [row["text"] for row in sets.texts(raw / "corpus.jsonl.gz").values()]
    folder = sets.made("insuranceqa")
    log = sets.insurance_pairs(drawn(sets.matches(raw / "qrels" / "train.tsv"), SEED), questions)
    items, validation = str(folder / "items.parquet"), pq.read_table(folder / "validation.parquet")
    tiny: list[str] = []
    if asked.smoke:
        validation, answers = validation.slice(0, 50), answers[:200]
        items = pa.table({"answer_id": sorted(set(log["answer_id"].to_pylist()) | set(validation["answer_id"].to_pylist()))})
        items = pq.read_table(folder / "items.parquet").join(items, "answer_id", join_type="right outer")
        answers = items["answer"].to_pylist()
        tiny = ["train.epochs=1", "query.features=[{column='question',type='text'}]", "item.features=[{column='answer',type='text',words=8}]"]
    guess = infer(open_source(log, "pairs"), open_source(items, "items"))
    config = override(to_values(infer_config(guess)), ["split.test=0", *tiny, *asked.settings])
    run = train(log, items, config=config, output=asked.folder / "default", overwrite=True)
    options = EvaluateOptions()
    found, read = evaluate_run(run.retriever, validation, options)
    words = read.queries.take(pa.array(read.cases.query_rows)).column("question").to_pylist()
    lexical = Lexical.build(answers)
    scorers: dict[str, Scorer] = {"BM25": lambda block: lexical.scores(words[block])}
    if not asked.smoke:
        embed = open_encoder("shipped", kept=asked.folder / "prepared" / "vectors")
        scorers["pretrained encoder, untuned"] = dot_scorer(embed(words), embed(answers))
    others = {name: evaluate(scorer, read.cases, len(answers), options) for name, scorer in scorers.items()}
    by_vectors = evaluate_run(run.retriever, validation, options, "vectors")[0]
    for name, one in {f"trained, by default ({read.mode})": found, "trained, searched by vectors": by_vectors, **others}.items():
        yield Figure(name, quality.told(one.figures), "", quality.numbers(one))
    keys = list_keys(read.cases, options.per)
    for name, other in others.items():
        yield Figure(f"trained against {name}", difference(found, other, keys))


def difference(a: Evaluated, b: Evaluated, keys: np.ndarray) -> str:
    """The paired differences of mrr and hit@10, each with its interval."""
    told = []
    for metric in ("mrr", "hit@10"):
        test = paired_test(a.values[metric], b.values[metric], groups=keys, generator=np.random.default_rng(0))
        told.append(f"{metric} {float(test.difference):+.4f} [{float(test.low):+.4f}, {float(test.high):+.4f}]")
    return ", ".join(told)
