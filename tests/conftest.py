"""What the tests share: a planted world that any model must solve, and its run."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

# Idle OpenMP threads that spin starve the other worker of a parallel run.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A shell's background job ignores Ctrl-C, and so would what is tested to obey it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's business: a busy one must not fail a test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

WORLD_TOPICS = 12
WORLD_CONFIG: dict[str, Any] = {
    "pairs": {"item": "thing"},
    "query": {"features": [{"column": "asked", "type": "text", "buckets": 4096}]},
    "item": {
        "id": "name",
        "features": [{"column": "name", "type": "id"}, {"column": "title", "type": "text", "buckets": 4096}, {"column": "kind", "type": "category"}],
        "payload": ["title", "price"],
    },
    "split": {"by": "random", "test": 0.15, "validation": 0.15},
    "model": {"dimensions": 32},
    "train": {"epochs": 6, "batch_size": 64, "correction": False},
}


def planted_world(seed: int = 0, queries: int = 400, items_per_topic: int = 3) -> tuple[pa.Table, pa.Table]:
    """(pairs, items): a query's words name a topic in one language, an item's in another, so no word is shared.

    Each query is right for one item: topic t and variant v, both said in words that only training can connect.
    """
    generator = np.random.default_rng(seed)
    items = [
        {"name": 1000 + n, "title": f"tovar{n // items_per_topic} vid{n % items_per_topic}", "kind": f"k{n % 2}", "price": float(n)}
        for n in range(WORLD_TOPICS * items_per_topic)
    ]
    pairs = []
    for number in range(queries):
        item = int(generator.integers(len(items)))
        words = [f"subject{item // items_per_topic}", f"sort{item % items_per_topic}", f"noise{generator.integers(40)}", f"n{number}"]
        pairs.append({"asked": " ".join(generator.permutation(words)), "thing": items[item]["name"], "clicks": 1 + int(generator.integers(3))})
    return pa.Table.from_pylist(pairs), pa.Table.from_pylist(items)


@pytest.fixture(scope="session")
def world() -> tuple[pa.Table, pa.Table]:
    return planted_world()


@pytest.fixture(scope="session")
def world_run(world: tuple[pa.Table, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run on the planted world; read it, never write into it."""
    from twotower import train

    return train(*world, config=WORLD_CONFIG, output=tmp_path_factory.mktemp("world") / "run")


@pytest.fixture(scope="session")
def world_folder(world_run: Any) -> Path:
    return Path(world_run.folder)


@pytest.fixture
def typed(monkeypatch, capsys):
    """Types a command; (exit code, stdout, stderr)."""
    from twotower.app import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["twotower", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed here; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    """A real browser, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()
