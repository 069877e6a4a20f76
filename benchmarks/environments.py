"""Runs peers: each is a script under `peers/` that another environment's Python runs on files of numbers.

A script is called with a folder. It reads `settings.json` and what else lies there, and writes `facts.json` and its answers beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.rows import HERE, ROOT

THREADS = int(os.environ.get("BENCH_THREADS") or 2)  # for both sides; another number is for trials alone
MADE = ROOT / ".bench"
OURS = "own"


class Answer(NamedTuple):
    """What a peer said."""

    facts: dict[str, Any]  # seconds, versions and whatever else it tells
    arrays: dict[str, np.ndarray]


def surroundings() -> dict[str, str]:
    """The environment variables of everything that is measured."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "WANDB_MODE": "disabled", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **dict.fromkeys(names, str(THREADS)), **offline, "TF_USE_LEGACY_KERAS": "1", "BENCH_THREADS": str(THREADS)}


def python_of(environment: str) -> str:
    """The Python of an environment, which make makes where it is not there."""
    if environment == OURS:
        return sys.executable
    subprocess.run(["make", "--silent", f".bench/{environment}/.installed"], cwd=ROOT, check=True, stdout=sys.stderr)
    return str(MADE / environment / "bin" / "python")


def ask(script: str, settings: dict[str, Any], arrays: dict[str, np.ndarray] | None = None, environment: str = OURS, **words: Any) -> Answer:
    """Run a peer in a fresh process and read what it answers. words: further things to know, each a JSON file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, settings, arrays or {}, words)
        return _run(script, folder, environment)


def remembered(script: str, settings: dict[str, Any], arrays: dict[str, np.ndarray], environment: str = OURS, **words: Any) -> Answer:
    """The same, or what the peer answered before to the same files: for qualities, never for times that are compared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, settings, arrays, words)
        key = hashlib.sha256()
        for path in [*sorted(folder.iterdir()), *(HERE / "peers" / part for part in (f"{script}.py", f"{environment}.txt"))]:
            key.update(path.name.encode() + path.read_bytes())
        kept = MADE / "peers" / f"{script}-{key.hexdigest()[:16]}"
        if not (kept / "facts.json").exists():
            _run(script, folder, environment)
            part = kept.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(folder, part)
            shutil.rmtree(kept, ignore_errors=True)
            part.replace(kept)
        return _read(kept)


def _write(folder: Path, settings: dict[str, Any], arrays: dict[str, np.ndarray], words: dict[str, Any]) -> None:
    (folder / "settings.json").write_text(json.dumps({"threads": THREADS, **settings}), encoding="utf-8")
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    for name, value in words.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def _run(script: str, folder: Path, environment: str) -> Answer:
    command = [python_of(environment), str(HERE / "peers" / f"{script}.py"), str(folder)]
    done = subprocess.run(command, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} failed in {environment}:\n{done.stdout[-3000:]}")
    return _read(folder)


def _read(folder: Path) -> Answer:
    arrays = {path.stem.removeprefix("out_"): np.load(path) for path in folder.glob("out_*.npy")}
    return Answer(json.loads((folder / "facts.json").read_text(encoding="utf-8")), arrays)
