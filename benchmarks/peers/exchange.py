"""What a peer's script reads and writes: files in the folder that it is called with."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def settings() -> dict[str, Any]:
    """What is asked."""
    return words("settings")


def words(name: str) -> Any:
    """A JSON file that was given."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def array(name: str) -> np.ndarray:
    """An array that was given."""
    return np.load(FOLDER / f"{name}.npy")


def answer(packages: tuple[str, ...], facts: dict[str, Any], **arrays: np.ndarray) -> None:
    """Write what was found, with the versions that found it."""
    for name, values in arrays.items():
        np.save(FOLDER / f"out_{name}.npy", values)
    facts = {"version": " ".join(f"{name} {version(name)}" for name in packages), **facts}
    (FOLDER / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
