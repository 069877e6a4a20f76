"""From data to a finished run folder."""

from __future__ import annotations

import json
import logging
import textwrap
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower import config as configs
from twotower import files
from twotower.bundle import layout
from twotower.bundle.loading import load
from twotower.bundle.retriever import Retriever
from twotower.config import Config
from twotower.data.doctor import Asked, Finding, examine
from twotower.data.preparation import prepare
from twotower.data.preparation.intake import Sources
from twotower.data.prepared import ID, ROW, Log, Prepared, open_prepared, read_as
from twotower.data.schema import Side
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, TwotowerError
from twotower.learning import distributed
from twotower.learning.distributed import ALONE, Team, together
from twotower.runs.board import BOARD, Board, need_board
from twotower.runs.estimates import Estimate, enough_memory, probe
from twotower.runs.finishing import finish
from twotower.runs.predecessor import KEPT, Kept, Last, continue_from, described, fitting, keep, kept_in
from twotower.runs.progress import Progress, watching
from twotower.runs.resumption import same_config
from twotower.runs.settings import check_bodies, settle
from twotower.runs.shown import figures_html
from twotower.runs.signals import interrupts
from twotower.runs.teachers import fingerprints, judge, taught_by

if TYPE_CHECKING:
    from twotower.learning.checkpoints import TrainState
    from twotower.learning.training import Data
    from twotower.model.bodies import Custom
    from twotower.model.towers import TwoTower

logger = logging.getLogger("twotower")

# What a run folder may hold: all that `overwrite` ever removes.
OURS = {"config.toml", "prepared.json", "history.jsonl", "checkpoint.safetensors", "metrics.json", "rankings.parquet", "strangers.json", "bundle"}
FINDINGS = "findings.json"  # of the data, as training saw them
OURS |= {KEPT, BOARD, FINDINGS}


class Stopped(TwotowerError):
    """Training was asked to stop; its state is saved."""


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    folder: Path

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return dict(files.read_json(self.folder / "metrics.json"))

    @cached_property
    def findings(self) -> list[dict[str, Any]] | None:
        """What was found in the data before training, the gravest first; None of a run that kept nothing of it."""
        path = self.folder / FINDINGS
        return list(files.read_json(path)) if path.exists() else None

    @cached_property
    def retriever(self) -> Retriever:
        """Searches, scores and embeds with the run's bundle."""
        return load(self.folder)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {figure['value']:.3f}" for name, figure in self.metrics["model"].items())
        return f"<Run {self.folder}: {figures}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return figures_html(self.metrics, str(self.folder))


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
    queries: Any = None,
    validation: Any = None,
    test: Any = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    settings: Sequence[str] = (),
    bodies: Mapping[Side, Custom] | None = None,
    output: str | Path | None = None,
    last: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Prepare, train, evaluate and write a run with its bundle.

    pairs, items, queries, validation, test: paths, data frames, Arrow tables, dicts, SQL; by default what the config names. config: a
    Config, its plain values or a TOML file; without one the schema is inferred. settings: overrides like "train.epochs=3". bodies:
    for `body = "custom"`, by side a function of (features, dimensions) that makes its module. output: the run folder, by default a
    new one under `runs/`. last: a finished run, or a bundle, of the same features and model, whose weights training goes on from.
    tensorboard: also write losses and figures for TensorBoard, into the run folder. progress: who is told what happens; by default stderr.
    Raises ConfigError, DataError, OutputError or MissingExtra before any training.
    Started several times by torchrun, all of these processes train one model; the first prepares, speaks and writes.
    """
    _need_extra()
    if tensorboard:
        need_board()
    with together() as team:
        if team.count > 1 and output is None:
            raise ConfigError("several processes train one model in one run folder: name it with -o (output in Python)")
        if not team.first:
            assert output is not None
            return _along(team, Path(output), resume, bodies)
        given = {"pairs": pairs, "items": items, "queries": queries, "validation": validation, "test": test}
        return _lead(team, given, config, settings, bodies, output, last, resume, overwrite, tensorboard, progress)


def _lead(
    team: Team,
    given: Mapping[str, Any],
    config: Any,
    settings: Sequence[str],
    bodies: Mapping[Side, Custom] | None,
    output: str | Path | None,
    last: str | Path | None,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    progress: Progress | None,
) -> Run:
    """`train` in the only process, or in the first."""
    if resume and config is None and output is not None and (Path(output) / "config.toml").exists():
        config = Path(output) / "config.toml"
    chosen, sources, advice = settle(given, config, settings)
    check_bodies(chosen, bodies)
    _device(chosen)
    folder = Path(output) if output is not None else _new_name(Path("runs"))
    before = fitting(last, chosen, folder)
    with files.held(folder):
        if resume:
            same_config(folder, chosen)
        else:
            files.claim_folder(folder, overwrite=overwrite, ours=OURS, room=200 << 20)
        logger.info("writing %s", folder)
        if progress is not None:
            return _train(team, sources, chosen, folder, resume, tensorboard, progress, bodies, before)
        with watching() as told:
            told.stage(f"a run in {folder}")
            if advice:
                told.stage(advice)
            return _train(team, sources, chosen, folder, resume, tensorboard, told, bodies, before)


def estimate(
    config: Config | Mapping[str, Any] | str | Path,
    settings: Sequence[str] = (),
    *,
    bodies: Mapping[Side, Custom] | None = None,
    output: str | Path | None = None,
    last: str | Path | None = None,
    progress: Progress | None = None,
    **data: Any,
) -> Estimate:
    """What training would take, without doing it: the data are prepared, which training finds again, and a few steps are tried.

    data: pairs, items, queries, validation and test, as for `train`. output: the run folder that is meant. last: the run that it would go on
    from.
    """
    _need_extra()
    if distributed.several():
        raise ConfigError("what a run will take is tried by one process: ask without torchrun")
    chosen, sources, _ = settle(data, config, settings)
    check_bodies(chosen, bodies)
    _device(chosen)
    told = progress or Progress()
    before = fitting(last, chosen)
    cache = (Path(output).parent if output is not None else Path("runs")) / "prepared"
    prepared = prepared_of(sources, chosen, cache, told, before)
    if before is not None:
        chosen = replace(chosen, train=chosen.train.continued())
    model, data_read, state = begun_of(prepared, chosen, bodies, told)
    told.stage("trying some steps")
    return probe(prepared, model, data_read, state, chosen.train)


def prepared_of(sources: Sources, chosen: Config, cache: Path, progress: Progress, last: Last | Kept | None = None) -> Prepared:
    machine = chosen.machine
    return prepare(
        sources.pairs,
        sources.items,
        chosen.schema,
        chosen.split,
        cache,
        queries=sources.queries,
        validation=sources.validation,
        test=sources.test,
        threads=machine.threads,
        memory=machine.memory,
        progress=progress.stage,
        last=None if last is None else last.encoder,
    )


def _examined(sources: Sources, prepared: Prepared, chosen: Config, progress: Progress) -> tuple[Finding, ...]:
    """What the fast part of an examination finds. Raises DataError for what cannot work."""
    asked = Asked(chosen.train.batch_size, chosen.train.correction, chosen.model.temperature)
    found = examine(sources.pairs, sources.items, chosen.schema, chosen.split, prepared, asked, fast=True, progress=progress.stage)
    if found.stops:
        raise DataError(found.message())
    return found.findings


def begun_of(
    prepared: Prepared,
    chosen: Config,
    bodies: Mapping[Side, Custom] | None,
    progress: Progress,
    team: Team = ALONE,
    queries: int | None = None,
) -> tuple[TwoTower, Data, TrainState]:
    """The model, what the loop reads, and the state before the first step. queries: of a validation, where not so many as suit."""
    import torch
    from threadpoolctl import threadpool_limits

    from twotower.learning import training
    from twotower.model.towers import build

    threads = chosen.machine.threads
    if team.count > 1 and not threads:
        # torchrun sets OMP_NUM_THREADS to 1, since it cannot know how many are wanted: here the cores of a machine are shared evenly.
        threads = max(1, distributed.cores() // distributed.local_count())
    if threads:
        torch.set_num_threads(threads)
        threadpool_limits(threads, "blas")  # of NumPy, by which is ranked
    enough_memory(prepared, chosen.model, chosen.train, distributed.local_count() if team.count > 1 else 1)
    team.connect()
    teacher = chosen.train.teacher
    taught = None if teacher is None else taught_by(teacher, prepared, chosen.item.id, threads, progress)
    data = training.data_of(prepared, chosen.train, chosen.evaluate, taught, team, queries)
    if chosen.train.mine_teacher is not None:
        data = data._replace(judge=judge(chosen.train.mine_teacher, prepared))
    model = build(prepared.encoder, chosen.model, chosen.train.seed, bodies).to(_device(chosen))
    return model, data, training.start(model, data, chosen.train)


def _train(
    team: Team,
    sources: Sources,
    chosen: Config,
    folder: Path,
    resume: bool,
    tensorboard: bool,
    progress: Progress,
    bodies: Mapping[Side, Custom] | None,
    last: Last | None,
) -> Run:
    from twotower.learning import training

    kept = kept_in(folder, last) if resume else last and Kept(last.fingerprint, last.encoder)
    prepared = prepared_of(sources, chosen, folder.parent / "prepared", progress, kept)
    begun = files.read_json(folder / "prepared.json") if resume else {}
    teachers = fingerprints(chosen.train)
    for name in ("teacher", "mine_teacher"):
        if resume and begun.get(name) != teachers.get(name):
            told = f"the {name} of {folder}, {getattr(chosen.train, name)}, has changed since it was begun"
            raise BundleError(f"{told}, so it cannot be continued. Start anew.")
    if resume and begun["folder"] != prepared.folder.name:
        raise BundleError(f"the data of {folder} have changed since it was begun, so it cannot be continued. Start anew with --overwrite.")
    findings = _examined(sources, prepared, chosen, progress)
    running = replace(chosen, train=chosen.train.continued()) if kept else chosen
    team.tell("prepared", files.json_text([prepared.folder.name, configs.to_toml(chosen), kept is not None]))
    model, data, state = begun_of(prepared, running, bodies, progress, team)
    if last is not None and not resume:
        progress.stage(described(continue_from(state, prepared, last, chosen, bodies), last, running.train))
    # Only now, so that data which are refused cost no earlier run and leave no new one.
    if not resume:
        files.empty_folder(folder, OURS)
    files.write_text(folder / "config.toml", configs.to_toml(chosen))
    files.write_json(folder / "prepared.json", prepared.report | {"folder": prepared.folder.name} | teachers)
    files.write_json(folder / FINDINGS, findings)
    if kept and not resume:
        keep(kept, folder)
        training.save(state, folder)  # from here on it can be resumed without the last run, and the other processes find it
    team.tell("begun")
    with Board(folder / BOARD, progress) if tensorboard else nullcontext() as board:
        _fit(state, data, prepared, running, folder, resume, board.progress if board else progress, known=kept is not None)
        facts = {"steps": state.step, "best_epoch": state.best_epoch, "training_seconds": round(state.seconds, 2), "temperature": model.temperature}
        finish(folder, prepared, model, chosen, facts | ({"from": kept.fingerprint} if kept else {}), progress)
        if board:
            board.figures(Run(folder).metrics)
    files.remove_folder(folder / KEPT)
    team.tell("finished")
    return Run(folder)


def _along(team: Team, folder: Path, resume: bool, bodies: Mapping[Side, Custom] | None) -> Run:
    """What every process but the first does: wait for the data, train along, and wait until all is written."""
    name, text, continued = json.loads(team.hear("prepared"))
    chosen = configs.from_values(tomllib.loads(text))
    running = replace(chosen, train=chosen.train.continued()) if continued else chosen
    prepared = read_as(open_prepared(folder.parent / "prepared" / name), chosen.schema)
    _, data, state = begun_of(prepared, running, bodies, Progress(), team)
    team.hear("begun")
    _fit(state, data, prepared, running, folder, resume or continued, Progress(), known=continued)
    del data, state  # what follows may take hours, and their memory
    team.hear("finished")
    return Run(folder)


def _fit(state: TrainState, data: Data, prepared: Prepared, chosen: Config, folder: Path, resume: bool, progress: Progress, *, known: bool) -> None:
    """Train to the end; known: from what an earlier run has learnt. Raises Stopped where it was asked to stop before it."""
    from twotower.learning import training, warming

    team = data.team
    if resume:
        training.resume(state, folder, mend=team.first)
    where = folder if team.first else None
    with interrupts(once=team.count > 1) as asked:
        if chosen.train.warm_start != "none" and not state.step:
            progress.stage(f"a warm start: {chosen.train.warm_start}")
        finished = warming.warm(state, data, prepared, chosen.train, folder=where, stop=asked.is_set)
        progress.stage(training.described(data))
        try:
            finished = finished and training.fit(
                state, data, chosen.train, chosen.evaluate, known=known, folder=where, stop=asked.is_set, report=progress.training
            )
        except training.NoNumber as error:
            raise DataError(" ".join([str(error), *_named(error.pairs, data.material.epochs.log, prepared)])) from None
    if not finished:
        raise Stopped(f"stopped after step {state.step:,}, all of it saved in {folder}. Go on with --resume and the same config.")


def _named(pairs: Sequence[int], log: Log, prepared: Prepared) -> Iterator[str]:
    """The pairs of a log, as a sentence, if there are any: what the query holds, in short, and the item's name."""
    names = prepared.items.column(ID)
    told = []
    for pair in pairs:
        row = prepared.queries.slice(int(log.query_rows[pair]), 1).to_pylist()[0]
        asks = ", ".join(f"{name} {textwrap.shorten(repr(value), 60)}" for name, value in row.items() if name != ROW) or "a history"
        told.append(f"{asks} -> {names[int(log.item_rows[pair])].as_py()!r}")
    if told:
        yield f"Look at {'; '.join(told)}."


def _device(chosen: Config) -> str:
    """Where to train. Raises ConfigError for a device that is not there."""
    import torch

    there = torch.cuda.is_available()
    if chosen.machine.device == "cuda" and not there:
        raise ConfigError('[machine] device = "cuda", but torch sees no CUDA device here. Set device = "cpu" or "auto".')
    device = ("cuda" if there else "cpu") if chosen.machine.device == "auto" else chosen.machine.device
    if device == "cpu" or not distributed.several():
        return device
    cards, rank = torch.cuda.device_count(), distributed.local_rank()
    if rank >= cards:
        raise ConfigError(
            f"there are {distributed.local_count()} processes on this machine and {cards} CUDA devices, and each needs one of its own. "
            f'Start {cards}, or set [machine] device = "cpu".'
        )
    torch.cuda.set_device(rank)
    return f"cuda:{rank}"


def _need_extra() -> None:
    """Said before any work: what is missing would else be missed only at the end, in exporting."""
    if not all(find_spec(name) for name in ("torch", "duckdb", "onnx", "onnxscript", "filelock")):
        raise MissingExtra("training", "train")


def _new_name(parent: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (parent / (stamp + (f"-{n}" if n else "")) for n in range(1000))
    return next(path for path in names if not path.exists())
