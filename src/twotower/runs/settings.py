"""What a run goes by: the config in force - read, given or inferred - and the sources that it names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower import config as configs
from twotower.config import Config
from twotower.data import inference
from twotower.data.preparation.intake import Sources
from twotower.data.schema import Side
from twotower.data.sources import Source, open_source
from twotower.data.sources.databases import SqlOptions
from twotower.errors import ConfigError
from twotower.learning import alternating, pretrained
from twotower.runs.teachers import require_teacher

if TYPE_CHECKING:
    from twotower.model.bodies import Custom

logger = logging.getLogger("twotower")

PARTS_OF_DATA = ("pairs", "items", "queries", "validation", "test")


def settle(given: Mapping[str, Any], config: Any, settings: Sequence[str]) -> tuple[Config, Sources, str]:
    """The config in force, the data that it names or that were given, and advice for who left the config to us."""
    opened = {name: open_source(data, name) for name, data in given.items() if data is not None}
    resolved, advice = _resolve(opened, config, settings)
    chosen = _located(resolved, given)
    if chosen.train.teacher is not None:  # as the places of data: the run is continued by its config from anywhere
        chosen = replace(chosen, train=replace(chosen.train, teacher=str(Path(chosen.train.teacher).absolute())))
    chosen = replace(chosen, evaluate=replace(chosen.evaluate, exclude_seen=_exclude_seen(chosen)))
    named = {name: getattr(chosen.data, name) for name in PARTS_OF_DATA if name not in opened}
    opened |= {name: open_source(place, name) for name, place in named.items() if place is not None}
    if "pairs" not in opened:
        raise ConfigError("[data] pairs is missing: name the file of pairs, or pass them from Python")
    sources = Sources(**opened)
    if sources.items is None and chosen.item.unlisted == "keep":
        raise ConfigError('[item] unlisted = "keep" is about items that a catalogue lacks, and there is no catalogue. Leave it out.')
    if chosen.evaluate.pretrained is not None:
        pretrained.require(chosen.evaluate.pretrained)
    if "als" in chosen.evaluate.baselines:
        alternating.require()
    pretrained.ready(chosen.schema, logger.info)
    require_teacher(chosen.train.teacher)
    return chosen, sources, advice


def check_bodies(chosen: Config, bodies: Mapping[Side, Custom] | None) -> None:
    """Raise ConfigError for modules that the config does not ask for, or that are missing."""
    if bodies and chosen.model.body != "custom":
        raise ConfigError(f'bodies were passed, and [model] body = "{chosen.model.body}" would not use them. Set body = "custom".')
    wanted = ["item"] if chosen.model.shared_body else ["query", "item"]
    idle = [str(side) for side in bodies or {} if side not in wanted]
    if idle:
        raise ConfigError(f"bodies were passed for {', '.join(idle)}, and the only one used would be that of: {', '.join(wanted)}. Leave it out.")
    if chosen.model.body == "custom" and not all(side in (bodies or {}) for side in wanted):
        raise ConfigError(
            f'[model] body = "custom" needs modules that only Python can pass: twotower.train(..., bodies={{"{wanted[0]}": make}}), where '
            f"make(features, dimensions) gives a torch.nn.Module; wanted are {' and '.join(wanted)}"
        )


def _resolve(opened: Mapping[str, Source], config: Config | Mapping[str, Any] | str | Path | None, settings: Sequence[str]) -> tuple[Config, str]:
    """The config in force - given, read, or inferred - with its overrides; and what an inference advises."""
    if isinstance(config, (str, Path)):
        return configs.read(Path(config), settings), ""
    advice = ""
    if config is None:
        if "pairs" not in opened:
            raise ConfigError("there is nothing to train on: give pairs, or a config that names them")
        guess = inference.infer(opened["pairs"], opened.get("items"), queries=opened.get("queries"))
        config, advice = infer_config(guess), guess.advice or ""
    values = configs.to_values(config) if isinstance(config, Config) else config
    return configs.from_values(configs.override(values, settings)), advice


def infer_config(guess: inference.Guess) -> Config:
    """The config of a guess."""
    given = Config(query=guess.schema.query, item=guess.schema.item, pairs=guess.schema.pairs, split=guess.split)
    values = configs.to_values(given)
    values["model"] |= {"dimensions": guess.dimensions}
    values["train"] |= {"correction": guess.correction, "epochs": guess.epochs, "batch_size": guess.batch_size}
    values["evaluate"] |= {"metrics": guess.metrics, "select": guess.select, "per": guess.per, "baselines": guess.baselines}
    return configs.from_values(values)


def _located(chosen: Config, given: Mapping[str, Any]) -> Config:
    """The config with the places of data that were given as paths, all absolute: the run is continued by it from anywhere."""

    def place(own: Any, named: Any) -> Any:
        if own is None:
            return named
        if isinstance(own, SqlOptions):
            return own
        if isinstance(own, Mapping) and set(own) <= {field.name for field in fields(SqlOptions)} and "sql" in own:
            return SqlOptions(**own)
        one = (own,) if isinstance(own, (str, Path)) else own
        paths = isinstance(one, (list, tuple)) and all(isinstance(each, (str, Path)) for each in one)
        return tuple(map(str, one)) if paths else None

    places = {name: place(given.get(name), getattr(chosen.data, name)) for name in PARTS_OF_DATA}
    return replace(chosen, data=configs.absolute(configs.DataOptions(**places), Path()), train=configs.judged(chosen.train, Path()))


def _exclude_seen(chosen: Config) -> bool:
    """As the config says; else on, but where it ranks per query and nothing names who asks."""
    options, named = chosen.evaluate, chosen.query.key is not None or chosen.query.id is not None
    return options.per == "pair" or named if options.exclude_seen is None else options.exclude_seen
