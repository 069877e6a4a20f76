"""From data to a finished run folder."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twotower import config as configs
from twotower import files
from twotower.bundle import layout
from twotower.bundle.retriever import Retriever, load
from twotower.config import Config
from twotower.data import inference
from twotower.data.preparation import prepare
from twotower.data.sources import Source, open_source
from twotower.errors import BundleError, ConfigError, MissingExtra, TwotowerError
from twotower.learning import pretrained
from twotower.runs.finishing import finish
from twotower.runs.progress import Progress, watching

logger = logging.getLogger("twotower")

# What a run folder may hold: all that `overwrite` ever removes.
OURS = {"config.toml", "prepared.json", "history.jsonl", "checkpoint.safetensors", "metrics.json", "rankings.parquet", "strangers.json", "bundle"}
FREE = {"data", "machine", "search"}  # blocks that may change when a run is resumed: they decide nothing in training


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
    progress: Progress | None = None,
) -> Run:
    """Prepare, train, evaluate and write a run with its bundle.

    pairs, items: paths, data frames, Arrow tables or dicts; by default what the config names. config: a Config, its plain
    values or a TOML file; without one the schema is inferred. settings: overrides like "train.epochs=3". output: the run
    folder, by default a new one under `runs/`. progress: who is told what happens; by default stderr. Raises ConfigError,
    DataError, OutputError or MissingExtra before any training.
    """
    _need_extra()
    if resume and config is None and output is not None and (Path(output) / "config.toml").exists():
        config = Path(output) / "config.toml"
    chosen = _resolve(pairs, items, config, settings)
    chosen = _located(chosen, pairs, items)
    chosen = replace(chosen, evaluate=replace(chosen.evaluate, exclude_seen=_exclude_seen(chosen)))
    sources = _sources(pairs, items, chosen)
    if sources[1] is None and chosen.item.unlisted == "keep":
        raise ConfigError('[item] unlisted = "keep" is about items that a catalogue lacks, and there is no catalogue. Leave it out.')
    if chosen.evaluate.pretrained is not None:
        pretrained.require(chosen.evaluate.pretrained)
    folder = Path(output) if output is not None else _new_name(Path("runs"))
    if resume:
        _same_config(folder, chosen)
    else:
        files.claim_folder(folder, overwrite=overwrite, ours=OURS, room=200 << 20)
    logger.info("writing %s", folder)
    if progress is not None:
        return _train(sources, chosen, folder, resume, progress)
    with watching() as told:
        told.stage(f"a run in {folder}")
        return _train(sources, chosen, folder, resume, told)


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
    # Only now, so that data which are refused cost no earlier run and leave no new one.
    if not resume:
        files.empty_folder(folder, OURS)
    files.write_text(folder / "config.toml", configs.to_toml(chosen))
    files.write_json(folder / "prepared.json", prepared.report | {"folder": prepared.folder.name})
    model = build(prepared.encoder, chosen.model, chosen.train.seed).to(device)
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    state = training.start(model, data, chosen.train)
    if resume:
        training.resume(state, folder)
    progress.stage(training.described(data))
    with _interrupts() as asked:
        finished = training.fit(state, data, chosen.train, chosen.evaluate, folder=folder, stop=asked.is_set, report=progress.training)
    if not finished:
        raise Stopped(f"stopped after step {state.step:,}, all of it saved in {folder}. Go on with --resume and the same config.")
    facts = {"steps": state.step, "best_epoch": state.best_epoch, "training_seconds": round(state.seconds, 2), "temperature": model.temperature}
    finish(folder, prepared, model, chosen, facts, progress)
    return Run(folder)


def _need_extra() -> None:
    """Said before any work: what is missing would else be missed only at the end, in exporting."""
    if not all(find_spec(name) for name in ("torch", "duckdb", "onnx", "onnxscript")):
        raise MissingExtra("training", "train")


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
    begun = configs.read(folder / "config.toml")
    different = [name for name in asdict(begun) if name not in FREE and getattr(begun, name) != getattr(chosen, name)]
    if different:
        told = f"[{'], ['.join(different)}] differ"
        raise ConfigError(f"{folder} was begun with another config: {told}. Resume with {folder / 'config.toml'}, or start anew with --overwrite.")


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


def _exclude_seen(chosen: Config) -> bool:
    """As the config says; else on, but where it ranks per query and the key is no id."""
    options = chosen.evaluate
    return options.per == "pair" or chosen.query.key is not None if options.exclude_seen is None else options.exclude_seen
