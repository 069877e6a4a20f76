"""`check`: the data of a config prepared as training prepares them, examined, and told as a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twotower import config as configs
from twotower.config import Config
from twotower.data.doctor import Asked, Diagnosis, examine
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import ConfigError

CACHE = Path("runs") / "prepared"  # where train, left to itself, looks too


def asked_of(chosen: Config) -> Asked:
    """What a config asks of its data."""
    return Asked(chosen.train.batch_size, chosen.train.correction, chosen.model.temperature)


def check_data(config: Path, settings: Sequence[str] = (), *, fast: bool = False, progress: Callable[[str], None] = lambda _: None) -> Diagnosis:
    """Examine the data that a config names. Raises ConfigError or DataError where they cannot even be read."""
    chosen = configs.read(config, settings)
    if chosen.data.pairs is None:
        raise ConfigError(f"{config} names no data: [data] pairs is missing")
    pairs = open_source(chosen.data.pairs, "pairs")
    items = None if chosen.data.items is None else open_source(chosen.data.items, "items")
    places = {name: getattr(chosen.data, name, None) for name in ("queries", "validation", "test")}
    others: dict[str, Any] = {name: open_source(place, name) for name, place in places.items() if place is not None}
    machine = chosen.machine
    prepared = prepare(pairs, items, chosen.schema, chosen.split, CACHE, **others, threads=machine.threads, memory=machine.memory, progress=progress)
    return examine(pairs, items, chosen.schema, chosen.split, prepared, asked_of(chosen), fast=fast, progress=progress)
