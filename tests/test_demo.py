"""The demo, end to end, as a newcomer runs it: what it promises in its table is true."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import twotower

pytestmark = pytest.mark.slow


def typed(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(Path(twotower.__file__).parents[1]), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "twotower.app.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def told(folder) -> dict:
    demo = typed("demo", "--json", folder=folder)
    assert demo.returncode == 0, demo.stderr
    return json.loads(demo.stdout)


def test_the_model_finds_what_was_held_out(told):
    metrics = told["metrics"]
    assert metrics["evaluation"]["rankings"] == 2997 and metrics["evaluation"]["part"] == "test"
    assert metrics["model"]["hit@10"]["value"] >= 0.70
    assert metrics["model"]["mrr"]["value"] >= 0.50
    best = max(figures["mrr"]["value"] for figures in metrics["baselines"].values())
    assert metrics["model"]["mrr"]["value"] > best


def test_strangers_are_answered_at_least_as_well_as_by_word_search(told):
    strangers = told["strangers"]
    searched = strangers[told["metrics"]["search"]["mode"]]
    assert searched["asked"] == 120
    assert searched["found"] >= strangers["bm25_queries"]["found"]


def test_the_run_answers_afterwards(told, folder):
    found = typed("search", "runs/demo", "show disk usage of each folder", "-k", "5", "--json", folder=folder)
    assert found.returncode == 0 and len(json.loads(found.stdout)) == 5
    assert {"command", "description", "example"} <= json.loads(found.stdout)[0]["item"].keys()


def test_again_it_replaces_itself_and_shows_answers_and_a_miss(told, folder):
    again = typed("demo", "--set", "train.epochs=1", folder=folder)
    assert again.returncode == 0, again.stderr
    lines = again.stdout.splitlines()
    assert sum(line.endswith("  found") for line in lines) >= 1
    assert sum(line.endswith("  missed") for line in lines) >= 1
    assert any(line.startswith(" ✓ ") for line in lines)
    assert json.loads((folder / "runs/demo/metrics.json").read_text())["training"]["best_epoch"] == 1
