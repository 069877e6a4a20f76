"""What `twotower demo` does: train on a sample, ask it questions of strangers, answer some of them in full."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower import config, files
from twotower.app import reports
from twotower.bundle import Retriever
from twotower.bundle.asking import query_text
from twotower.data.samples import Sample, Stranger, load_sample
from twotower.data.sources import open_source
from twotower.data.values import to_text
from twotower.errors import DataError, OutputError, TwotowerError
from twotower.learning.baselines import INDEXED
from twotower.learning.pretrained import embed_documents, open_encoder, shipped
from twotower.learning.statistics import interval
from twotower.runs import Run, train
from twotower.runs.progress import Progress

K = 5
MARK = "strangers.json"  # what only a demo writes: a run without it is not replaced
SHOWN = 5  # questions answered in full, the first of the list; and the first miss of all


class Answered(NamedTuple):
    """A question with what was found for it, best first, and what of that satisfies; None where nobody has said."""

    question: str
    found: list[dict[str, Any]]  # the columns to show
    accepted: list[bool] | None


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
    if _is_foreign(output):
        raise OutputError(f"{output} holds a run that is no demo. Choose another folder with -o.")
    encoder = shipped() if sample.strangers else None
    settings = [*([f"evaluate.pretrained='{encoder}'"] if encoder else []), *settings]
    chosen = config.read(sample.config, settings)
    run = train(
        open_source(sample.pairs, "pairs"), open_source(sample.items, "items"), config=chosen, output=output, overwrite=True, progress=progress
    )
    files.write_json(output / MARK, {})  # before anybody is asked: whoever stops it then may begin it again
    if not sample.strangers:
        return Shown(sample, run, {}, [_next(run.retriever, history, sample) for history in sample.histories], list(sample.shown), K)
    progress.stage(f"asking {len(sample.strangers)} strangers' questions")
    counted = _count(run.retriever, sample, chosen.evaluate.pretrained)
    strangers = {}
    for mode, satisfied in counted.items():
        figure = interval(satisfied.astype(float), generator=np.random.default_rng(0))
        counts = {"found": int(satisfied.sum()), "asked": len(satisfied)}
        named = mode if mode != "words" else INDEXED[run.metrics["search"]["words_of"]]
        strangers[named] = counts | {name: float(part) for name, part in figure._asdict().items()}
    files.write_json(output / MARK, strangers)
    satisfied = counted[run.metrics["search"]["mode"]]
    picked = list(range(min(SHOWN, len(sample.strangers))))
    missed = np.flatnonzero(~satisfied)
    if satisfied[picked].all() and len(missed):
        picked.append(int(missed[0]))
    columns = list(sample.shown)
    answers = [_answer(run.retriever, sample.strangers[n].query, columns, sample.strangers[n].accepted) for n in picked]
    return Shown(sample, run, strangers, answers, columns, K)


def _is_foreign(folder: Path) -> bool:
    """Whether a folder holds a run that no demo made: a finished one without the mark, or one to be resumed, whose data are somewhere."""
    if (folder / MARK).exists():
        return False
    begun = folder / "config.toml"
    return (folder / "metrics.json").exists() or (begun.exists() and config.read(begun).data.pairs is not None)


def _count(retriever: Retriever, sample: Sample, encoder: str | None) -> dict[str, np.ndarray]:
    """Which strangers' questions are satisfied, by search mode, and by a pretrained encoder as it is."""
    modes = ["vectors"] if retriever.lexical is None else ["vectors", "hybrid", "words"]
    counted = {mode: _satisfied(retriever, sample.strangers, mode) for mode in modes}
    if encoder is not None:
        counted["pretrained"] = _satisfied_untuned(encoder, retriever, sample.strangers)
    return counted


def _next(retriever: Retriever, history: tuple[Any, ...], sample: Sample) -> Answered:
    """What is found for somebody who touched these items and whom training never saw."""
    title = sample.shown[0]
    known = retriever.show(retriever.rows_of(list(history)))
    rows = retriever.show(retriever.search(history=list(history), k=K).rows)
    return Answered(" + ".join(str(row[title]) for row in known), [{name: row[name] for name in sample.shown} for row in rows], None)


def _satisfied(retriever: Retriever, strangers: tuple[Stranger, ...], mode: str) -> np.ndarray:
    """Whether an accepted item is among the first K, by question."""
    found = retriever.search([stranger.query for stranger in strangers], k=K, mode=mode)  # type: ignore[arg-type]
    known = set(to_text(retriever.items.column("_id")).to_pylist())
    for stranger in strangers:
        if not known.issuperset(stranger.accepted):
            raise TwotowerError(f"the question {stranger.query!r} accepts items that the catalogue lacks")
    return np.array([bool(set(ids) & set(stranger.accepted)) for ids, stranger in zip(found.ids, strangers, strict=True)])


def _satisfied_untuned(folder: str, retriever: Retriever, strangers: tuple[Stranger, ...]) -> np.ndarray:
    """The same for a pretrained encoder as it is, over the words that the items' towers read."""
    columns = [feature.column for feature in retriever.encoder.features["item"] if feature.worded]
    ids = np.array(retriever.items.column("_id").to_pylist(), object)
    items = embed_documents(folder, tuple(query_text(retriever.items, columns)))
    best = np.argsort(-(open_encoder(folder)([stranger.query for stranger in strangers]) @ items.T), axis=1, kind="stable")[:, :K]
    return np.array([bool(set(ids[rows]) & set(stranger.accepted)) for rows, stranger in zip(best, strangers, strict=True)])


def _answer(retriever: Retriever, question: str, columns: list[str], accepted: tuple[str, ...] | None = None) -> Answered:
    """The best three items, or as many of the first K as it takes to come to an accepted one."""
    rows = retriever.show(retriever.search(question, k=K).rows)
    right = None if accepted is None else [row["_id"] in accepted for row in rows]
    most = max(3, right.index(True) + 1) if right and any(right) else 3
    return Answered(question, [{name: row[name] for name in columns} for row in rows[:most]], right and right[:most])


def ask(shown: Shown) -> None:
    """A prompt for questions of one's own, until an empty line or the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401  the arrow keys then edit the line
    reports.show("\nYour own questions; an empty line ends.")
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            reports.show("")
            break
        if not question:
            break
        try:
            reports.show(reports.answer(_answer(shown.run.retriever, question, shown.columns)))
        except DataError as error:
            reports.show(reports.plain(str(error)))
