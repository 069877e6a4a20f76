"""From data to a finished run folder."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from twotower import config as configs
from twotower import files
from twotower.bundle import layout
from twotower.bundle.graphs import open_graph, run_graph
from twotower.bundle.retriever import Retriever, load, query_text
from twotower.config import Config
from twotower.data import inference
from twotower.data.columns import Array, take_rows
from twotower.data.preparation import prepare
from twotower.data.prepared import ID, Prepared
from twotower.data.schema import Side
from twotower.data.sources import Source, open_source
from twotower.data.splits import PARTS, TEST, VALIDATION
from twotower.errors import BundleError, ConfigError, MissingExtra, TwotowerError
from twotower.learning.baselines import BASELINES, lexical, text_columns
from twotower.learning.evaluation import Evaluated, cases, left_out, list_keys, sample
from twotower.learning.evaluation import evaluate as evaluate_scorer
from twotower.learning.statistics import Interval
from twotower.runs.measuring import Asked, Comparison, choose_mode, compare_values, ranking_table, scorer

if TYPE_CHECKING:
    from twotower.learning.training import Step, Validation
    from twotower.model.towers import TwoTower

logger = logging.getLogger("twotower")

GOLDEN = 8  # queries kept with their answers, to try a bundle by


class Stopped(TwotowerError):
    """Training was asked to stop; its state is saved."""


class Progress(NamedTuple):
    """Who is told what happens, as it happens."""

    stage: Callable[[str], None] = lambda _: None
    training: Callable[[Step | Validation], None] = lambda _: None


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return dict(files.read_json(self.folder / "metrics.json"))

    @cached_property
    def retriever(self) -> Retriever:
        """Searches, scores and embeds with the run's bundle."""
        return load(self.folder)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in self.metrics["model"].items())
        return f"<Run {self.folder}: {figures}>"


def open_run(folder: Path | str) -> Run:
    """An existing run. Raises BundleError if the folder holds none that finished."""
    path = Path(folder)
    if not (path / "metrics.json").exists():
        layout.find_bundle(path)
        raise BundleError(f"{path} is no finished run: it has no metrics.json")
    return Run(path)


def train(
    pairs: Any = None,
    items: Any = None,
    *,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    settings: Sequence[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = Progress(),
) -> Run:
    """Prepare, train, evaluate and write a run with its bundle.

    pairs, items: paths, data frames, Arrow tables or dicts; by default what the config names. config: a Config, its plain
    values or a TOML file; without one the schema is inferred. settings: overrides like "train.epochs=3". output: the run
    folder, by default a new one under `runs/`. Raises ConfigError, DataError, OutputError or MissingExtra before any training.
    """
    _need_torch()
    if resume and config is None and output is not None and (Path(output) / "config.toml").exists():
        config = Path(output) / "config.toml"
    chosen = _resolve(pairs, items, config, settings)
    chosen = _located(chosen, pairs, items)
    sources = _sources(pairs, items, chosen)
    folder = Path(output) if output is not None else _new_name(Path("runs"))
    if resume:
        _same_config(folder, chosen)
    else:
        files.claim_folder(folder, overwrite=overwrite, room=200 << 20)
    logger.info("writing %s", folder)
    return _train(sources, chosen, folder, resume, progress)


def _train(sources: tuple[Source, Source | None], chosen: Config, folder: Path, resume: bool, progress: Progress) -> Run:
    import torch

    from twotower.learning import training
    from twotower.model.towers import build

    machine = chosen.machine
    if machine.threads:
        torch.set_num_threads(machine.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if machine.device == "auto" else machine.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('[machine] device = "cuda", but torch sees no CUDA device here. Set device = "cpu" or "auto".')
    prepared = prepare(
        *sources, chosen.schema, chosen.split, folder.parent / "prepared", threads=machine.threads, memory=machine.memory, progress=progress.stage
    )
    if resume and files.read_json(folder / "prepared.json")["folder"] != prepared.folder.name:
        raise BundleError(f"the data of {folder} have changed since it was begun, so it cannot be continued. Start anew with --overwrite.")
    # Only now, so that a folder whose data were refused stays empty, and free to be tried again.
    files.write_text(folder / "config.toml", configs.to_toml(chosen))
    files.write_json(folder / "prepared.json", prepared.report | {"folder": prepared.folder.name})
    progress.stage("training")
    model = build(prepared.encoder, chosen.model, chosen.train.seed).to(device)
    chosen = replace(chosen, evaluate=replace(chosen.evaluate, exclude_seen=_exclude_seen(chosen)))
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    state = training.start(model, data, chosen.train)
    if resume:
        training.resume(state, folder)
    with _interrupts() as asked:
        finished = training.fit(state, data, chosen.train, chosen.evaluate, folder=folder, stop=asked.is_set, report=progress.training)
    if not finished:
        raise Stopped(f"stopped after step {state.step:,}, all of it saved in {folder}. Go on with --resume and the same config.")
    facts = {"steps": state.step, "best_epoch": state.best_epoch, "training_seconds": round(state.seconds, 2), "temperature": model.temperature}
    _finish(folder, prepared, model, chosen, facts, progress)
    return Run(folder)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("training", "train") from None


def _resolve(pairs: Any, items: Any, config: Config | Mapping[str, Any] | str | Path | None, settings: Sequence[str]) -> Config:
    """The config in force: given, read, or inferred, with its overrides."""
    if isinstance(config, (str, Path)):
        return configs.read(Path(config), settings)
    if config is None:
        if pairs is None:
            raise ConfigError("there is nothing to train on: give pairs, or a config that names them")
        guess = inference.infer(open_source(pairs, "pairs"), None if items is None else open_source(items, "items"))
        config = infer_config(guess)
    values = configs.to_values(config) if isinstance(config, Config) else config
    return configs.from_values(configs.override(values, settings))


def infer_config(guess: inference.Guess) -> Config:
    """The config of a guess."""
    given = Config(query=guess.schema.query, item=guess.schema.item, pairs=guess.schema.pairs, split=guess.split)
    trained = replace(given.train, correction=guess.correction, epochs=guess.epochs)
    return replace(given, train=trained, model=replace(given.model, dimensions=guess.dimensions))


def _located(chosen: Config, pairs: Any, items: Any) -> Config:
    """The config with the places of data that were given as paths, all absolute: the run is continued by it from anywhere."""

    def place(given: Any, named: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if given is None:
            return named
        one = (given,) if isinstance(given, (str, Path)) else given
        paths = isinstance(one, (list, tuple)) and all(isinstance(each, (str, Path)) for each in one)
        return tuple(map(str, one)) if paths else None

    data = configs.DataOptions(pairs=place(pairs, chosen.data.pairs), items=place(items, chosen.data.items))
    return replace(chosen, data=configs.absolute(data, Path()))


def _sources(pairs: Any, items: Any, chosen: Config) -> tuple[Source, Source | None]:
    pairs = chosen.data.pairs if pairs is None else pairs
    items = chosen.data.items if items is None else items
    if pairs is None:
        raise ConfigError("[data] pairs is missing: name the file of pairs, or pass them from Python")
    return open_source(pairs, "pairs"), None if items is None else open_source(items, "items")


def _new_name(parent: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (parent / (stamp + (f"-{n}" if n else "")) for n in range(1000))
    return next(path for path in names if not path.exists())


def _same_config(folder: Path, chosen: Config) -> None:
    """Raise unless a run to resume was begun with this config."""
    if not (folder / "config.toml").exists():
        raise BundleError(f"{folder} holds no run to resume: it has no config.toml")
    if (folder / "metrics.json").exists():
        raise BundleError(f"the run {folder} is finished; there is nothing to resume")
    begun, now = ((configs.read(folder / "config.toml")), chosen)
    different = [name for name in asdict(begun) if name not in ("data", "machine") and getattr(begun, name) != getattr(now, name)]
    if different:
        raise ConfigError(
            f"{folder} was begun with another config: [{'], ['.join(different)}] differ. Resume with {folder / 'config.toml'}, or start anew with --overwrite."
        )


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """While this lasts, the first Ctrl-C only sets the event; a second one breaks off at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


# --- finishing ----------------------------------------------------------------------------------------------------


class _Measured(NamedTuple):
    """The figures of a finished model."""

    part: str
    by_mode: dict[str, Evaluated]
    baselines: dict[str, Evaluated]
    asked: Asked
    search: dict[str, Any]


def _finish(folder: Path, prepared: Prepared, model: TwoTower, chosen: Config, facts: dict[str, Any], progress: Progress) -> None:
    """Export, measure what was exported, and write bundle, metrics and rankings."""
    from twotower.exports import write_model

    progress.stage("exporting")
    files.remove_folder(folder / "bundle")  # of a run that was broken off between here and its metrics
    with files.new_folder(folder / "bundle") as building:
        write_model(building / "model", model, prepared.encoder)
        item_vectors = _encode(building / "model", "item", prepared, None, chosen)
        words = lexical(prepared, with_queries=True)
        measured = _measure(building / "model", prepared, item_vectors, words, chosen, progress)
        metrics = _metrics(measured, prepared, chosen, facts)
        _write_bundle(building, prepared, item_vectors, words, measured, metrics, chosen)
    winner = measured.by_mode[measured.search["mode"]]
    asked = measured.asked.cases
    rows = np.repeat(asked.query_rows, np.diff(asked.relevant.offsets)) if chosen.evaluate.per == "pair" else asked.query_rows
    if chosen.evaluate.per == "pair":
        right = prepared.items.column(ID).take(pa.array(asked.relevant.values)).to_pylist()
    else:
        right = [""] * len(rows)
    table = ranking_table(prepared.queries.take(pa.array(rows)), right, list_keys(asked, chosen.evaluate.per), winner)
    files.write_parquet(folder / "rankings.parquet", table.to_batches(), table.schema)
    files.write_json(folder / "metrics.json", metrics)


def _encode(folder: Path, side: Side, prepared: Prepared, rows: Array | None, chosen: Config) -> Array:
    """Vectors of prepared rows by the exported tower: what is measured is what ships."""
    columns = prepared.columns[side] if rows is None else take_rows(prepared.columns[side], rows)
    return run_graph(open_graph(folder, side, chosen.machine.threads), columns, chosen.model.dimensions)


def _measure(folder: Path, prepared: Prepared, item_vectors: Array, words: Any, chosen: Config, progress: Progress) -> _Measured:
    """Choose the search mode on validation pairs, then open the test pairs, once."""
    options = chosen.evaluate

    def ask(part: int, most: int | None) -> Asked:
        found = cases(prepared.part(part), prepared.known(*left_out(options, part)), options.per)
        found = found if most is None else sample(found, most, options.seed)
        texts = query_text(prepared.queries.take(pa.array(found.query_rows)), text_columns(prepared.encoder, "query"))
        return Asked(found, _encode(folder, "query", prepared, found.query_rows, chosen), texts)

    progress.stage("choosing how to search, on validation pairs")
    search = choose_mode(ask(VALIDATION, options.queries), item_vectors, words, chosen.search, options)
    part = TEST if (prepared.parts == TEST).any() else VALIDATION
    progress.stage(f"ranking {prepared.n_items:,} items for {int((prepared.parts == part).sum()):,} {PARTS[part]} pairs")
    asked = ask(part, None)
    modes = ["vectors"] if words is None else ["vectors", "words", "hybrid"]
    by_mode = {
        mode: evaluate_scorer(scorer(asked, item_vectors, words, search | {"mode": mode}), asked.cases, prepared.n_items, options) for mode in modes
    }
    baselines: dict[str, Evaluated] = {}
    for name in options.baselines:
        if name == "bm25_queries" and words is not None:
            baselines[name] = by_mode["words"]  # the very same words, ranked already
            continue
        baseline = BASELINES[name](prepared, asked.cases.query_rows)
        if baseline is not None:
            baselines[name] = evaluate_scorer(baseline, asked.cases, prepared.n_items, options)
    return _Measured(PARTS[part], by_mode, baselines, asked, search)


def _exclude_seen(chosen: Config) -> bool:
    """As the config says; else on, but where it ranks per query and the key is no id."""
    options = chosen.evaluate
    return options.per == "pair" or chosen.query.key is not None if options.exclude_seen is None else options.exclude_seen


def _metrics(measured: _Measured, prepared: Prepared, chosen: Config, facts: dict[str, Any]) -> dict[str, Any]:
    options = chosen.evaluate
    keys = list_keys(measured.asked.cases, options.per)
    winner = measured.by_mode[measured.search["mode"]]

    def against(name: str, other: Evaluated) -> Comparison:
        return compare_values(("model", name), winner.values, other.values, keys)

    return {
        "model": _figures(winner),
        "modes": {mode: _figures(evaluated) for mode, evaluated in measured.by_mode.items()},
        "baselines": {name: _figures(evaluated) for name, evaluated in measured.baselines.items()},
        "against": {name: {m: t._asdict() for m, t in against(name, e).tests.items()} for name, e in measured.baselines.items()},
        "search": measured.search,
        "evaluation": {
            "part": measured.part,
            "per": options.per,
            "rankings": len(keys),
            "catalogue": prepared.n_items,
            "select": options.select,
            "left_out": _left_out(chosen),
        },
        "training": facts,
        "data": prepared.report,
    }


def _left_out(chosen: Config) -> str:
    if chosen.evaluate.per == "pair":
        training = "training ones included" if chosen.evaluate.exclude_seen else "but not those of training"
        return f"other known matches of the same key, {training}, are left out of a pair's ranking"
    return "what the key matched in training is left out" if chosen.evaluate.exclude_seen else "nothing is left out"


def _figures(evaluated: Evaluated) -> dict[str, dict[str, float]]:
    def plain(figure: Interval) -> dict[str, float]:
        return {name: float(part) for name, part in figure._asdict().items()}

    return {name: plain(figure) for name, figure in evaluated.figures.items()}


def _write_bundle(
    folder: Path, prepared: Prepared, item_vectors: Array, words: Any, measured: _Measured, metrics: dict[str, Any], chosen: Config
) -> None:
    model = folder / "model"
    layout.write_encoder(model, prepared.encoder)
    files.write_text(model / "config.toml", configs.to_toml(chosen, locations=False))
    files.write_json(model / "metrics.json", {name: part for name, part in metrics.items() if name != "data"})
    files.write_json(model / "golden.json", _golden(prepared, measured, item_vectors))
    files.write_text(model / "card.md", _card(metrics, chosen))
    fingerprint = layout.seal_model(
        model,
        dimensions=chosen.model.dimensions,
        similarity=chosen.model.similarity,
        search=measured.search,
        query_text=text_columns(prepared.encoder, "query"),
        schema=asdict(chosen.schema),
    )
    layout.write_catalogue(folder, fingerprint, [layout.Segment(item_vectors, prepared.items, words)])


def _golden(prepared: Prepared, measured: _Measured, item_vectors: Array) -> list[dict[str, Any]]:
    """A few queries with their best items by vectors: whoever loads the bundle can try whether it answers the same."""
    asked = measured.asked
    kept = []
    for n in range(min(GOLDEN, len(asked.cases.query_rows))):
        scores = item_vectors @ asked.vectors[n]
        best = np.argsort(-scores, kind="stable")[:5]
        query = prepared.queries.slice(int(asked.cases.query_rows[n]), 1).to_pylist()[0]
        kept.append({"query": query, "rows": best, "scores": scores[best].astype(float)})
    return kept


def _card(metrics: dict[str, Any], chosen: Config) -> str:
    """A model card: what it is, what it was trained on, how well it does, what it is not for."""
    data, evaluation = metrics["data"], metrics["evaluation"]
    names = list(metrics["model"])
    rows = {"model": metrics["model"], **metrics["baselines"]}
    table = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    table += [f"| {name} | " + " | ".join(_cell(figures[m]) for m in names) + " |" for name, figures in rows.items()]
    sides = {side: ", ".join(f"{f.column} ({f.type})" for f in chosen.schema.features(side)) for side in ("query", "item")}
    return "\n".join(
        [
            "# Model card",
            "",
            f"A two-tower retrieval model of {chosen.model.dimensions} dimensions. The query reads {sides['query']}; the item reads {sides['item']}.",
            "",
            f"Trained on {data['split']['train']:,} pairs over a catalogue of {data['items']:,} items; {data['split']['validation']:,} pairs chose the epoch and the search mode.",
            f"Measured on {evaluation['rankings']:,} {evaluation['part']} rankings of the whole catalogue, with 95% intervals; {evaluation['left_out']}.",
            "",
            *table,
            "",
            f"Searched by {metrics['search']['mode']}. Scores are raw similarities: they order items for one query and are no probabilities.",
            "The model knows what the log shows: it repeats the log's habits, gaps and mistakes, and knows nothing of later changes.",
            "",
        ]
    )


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
