"""From a Config to plain values and TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from twotower.config.blocks import Config
from twotower.data.features import Pretrained
from twotower.data.schema import SIDES, Schema


def to_values(config: Config) -> dict[str, Any]:
    """A config as plain values, what is None left out."""
    return dict(_filled(asdict(config)))


def _filled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(item) for name, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, (list, tuple)) else value


def portable(schema: Schema) -> Schema:
    """A schema without the places of encoders on this machine."""
    sides = {side: tuple(f.portable() if isinstance(f, Pretrained) else f for f in schema.features(side)) for side in SIDES}
    return replace(schema, query=replace(schema.query, features=sides["query"]), item=replace(schema.item, features=sides["item"]))


def to_toml(config: Config, *, locations: bool = True) -> str:
    """A config as TOML, every option written out; without `locations`, where the data lie is left out."""
    if not locations:
        bare = portable(config.schema)
        named = config.train.teacher and Path(config.train.teacher).name
        config = replace(config, query=bare.query, item=bare.item, train=replace(config.train, teacher=named))
    values = to_values(config)
    if not locations:
        values.pop("data")
        values.pop("tune")
        values["evaluate"].pop("pretrained", None)
        for name in ("mine_teacher", "mine_teacher_margin"):
            values["train"].pop(name, None)
    order = ["version", "data", "pairs", "query", "item", "split", "model", "train", "evaluate", "search", "tune", "machine"]
    lines = [f"version = {values.pop('version')}"]
    for block in sorted(values, key=order.index):
        if values[block]:
            lines += ["", f"[{block}]", *(f"{name} = {toml(value)}" for name, value in values[block].items())]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """One value as TOML, on one line but for lists of tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_bare(name)} = {toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], Mapping):
            return "[\n" + "".join(f"  {toml(item)},\n" for item in value) + "]"
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _bare(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)
