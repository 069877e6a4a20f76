"""What `twotower demo` does: train on a sample, ask it questions of strangers, answer some of them in full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twotower import config, files
from twotower.app import reports
from twotower.bundle import Retriever
from twotower.data.samples import Sample, Stranger, load_sample
from twotower.data.sources import open_source
from twotower.data.values import to_text
from twotower.errors import TwotowerError
from twotower.learning.statistics import interval
from twotower.runs import Run, train
from twotower.runs.run import Progress

if TYPE_CHECKING:
    from rich.console import Console

K = 5
SHOWN = 5  # questions answered in full, the first of the list; and the first miss of all


class Answered(NamedTuple):
    """A question, whether an accepted item was among the first K, and what was found."""

    question: str
    satisfied: bool
    found: list[dict[str, Any]]


class Shown(NamedTuple):
    """All that the demo has to show."""

    sample: Sample
    run: Run
    strangers: dict[str, dict[str, Any]]  # by search mode: found, value, low, high
    answers: list[Answered]
    columns: list[str]
    k: int


def demonstrate(name: str, output: Path, settings: list[str], progress: Progress) -> Shown:
    """Train on a sample and ask the strangers' questions. An earlier demo in `output` is replaced."""
    sample = load_sample(name)
    chosen = config.read(sample.config, settings)
    run = train(
        open_source(sample.pairs, "pairs"), open_source(sample.items, "items"), config=chosen, output=output, overwrite=True, progress=progress
    )
    progress.stage(f"asking {len(sample.strangers)} strangers' questions")
    retriever = run.retriever
    modes = ["vectors"] if retriever.lexical is None else ["vectors", "hybrid", "words"]
    counted = {mode: _satisfied(retriever, sample.strangers, mode) for mode in modes}
    strangers = {}
    for mode, satisfied in counted.items():
        figure = interval(satisfied.astype(float), generator=np.random.default_rng(0))
        strangers[mode if mode != "words" else "bm25_queries"] = {"found": int(satisfied.sum()), **{n: float(v) for n, v in figure._asdict().items()}}
    files.write_json(output / "strangers.json", strangers)
    satisfied = counted[run.metrics["search"]["mode"]]
    picked = list(range(min(SHOWN, len(sample.strangers))))
    missed = np.flatnonzero(~satisfied)
    if satisfied[picked].all() and len(missed):
        picked.append(int(missed[0]))
    answers = [_answer(retriever, sample.strangers[n].query, bool(satisfied[n])) for n in picked]
    shown = [column for column in retriever.items.column_names if column in chosen.item.payload and column != "platform"]
    return Shown(sample, run, strangers, answers, shown, K)


def _satisfied(retriever: Retriever, strangers: tuple[Stranger, ...], mode: str) -> np.ndarray:
    """Whether an accepted item is among the first K, by question."""
    found = retriever.search([stranger.query for stranger in strangers], k=K, mode=mode)  # type: ignore[arg-type]
    known = set(to_text(retriever.items.column("_id")).to_pylist())
    for stranger in strangers:
        if not known.issuperset(stranger.accepted):
            raise TwotowerError(f"the question {stranger.query!r} accepts items that the catalogue lacks")
    return np.array([bool(set(ids) & set(stranger.accepted)) for ids, stranger in zip(found.ids, strangers, strict=True)])


def _answer(retriever: Retriever, question: str, satisfied: bool, k: int = 3) -> Answered:
    found = retriever.search(question, k=k if satisfied is not True else K)
    items = [{"id": row["_id"], "item": row} for row in retriever.show(found.rows)]
    return Answered(question, satisfied, items[:k])


def ask(shown: Shown, out: Console) -> None:
    """A prompt for questions of one's own, until an empty line or the end of input."""
    out.print("\nYour own questions, an empty line ends:")
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if not question:
            break
        found = shown.run.retriever.search(question, k=3)
        items = [{"id": row["_id"], "item": row} for row in shown.run.retriever.show(found.rows)]
        out.print(reports.answer(question, None, items, shown.columns))
