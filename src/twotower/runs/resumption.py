"""What a run must have in common with the one it resumes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from twotower import config as configs
from twotower.config import Config
from twotower.errors import BundleError, ConfigError

FREE = frozenset({"data", "machine", "search", "tune"})  # blocks that may change when a run is resumed: they decide nothing in training


def same_config(folder: Path, chosen: Config, free: Collection[str] = FREE) -> None:
    """Raise unless a run to resume was begun with this config, but for the blocks that are free."""
    if not (folder / "config.toml").exists():
        raise BundleError(f"{folder} holds no run to resume: it has no config.toml")
    if (folder / "metrics.json").exists():
        raise BundleError(f"the run {folder} is finished; there is nothing to resume")
    begun = configs.read(folder / "config.toml")
    different = [
        f"[{name}] {option} was {old!r} and is {new!r}"
        for name in asdict(begun)
        if name not in (*free, "version")
        for option, old, new in _changes(getattr(begun, name), getattr(chosen, name))
    ]
    if different:
        told = "; ".join(different[:5])
        raise ConfigError(f"{folder} was begun with another config: {told}. Resume with {folder / 'config.toml'}, or start anew with --overwrite.")


def _changes(begun: Any, chosen: Any) -> list[tuple[str, Any, Any]]:
    """The options of a block that differ, each with what it was and is."""
    pairs = ((option.name, getattr(begun, option.name), getattr(chosen, option.name)) for option in fields(begun))
    return [(name, old, new) for name, old, new in pairs if old != new]
