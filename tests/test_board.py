"""TensorBoard: what it shows is what the run says, also of a run that was broken off."""

import json
import os
import signal

import pytest

import twotower as tt
from conftest import WORLD_CONFIG
from twotower.errors import MissingExtra
from twotower.runs import board
from twotower.runs.progress import Progress
from twotower.runs.run import Stopped

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
CONFIG = WORLD_CONFIG | {"train": {"epochs": 3, "batch_size": 64, "patience": 0}}


def shown(folder):
    """What TensorBoard's own reader finds: {name: {step: value}}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    return {name: {event.step: event.value for event in read.Scalars(name)} for name in read.Tags()["scalars"]}


def test_the_board_shows_the_runs_own_numbers(world, tmp_path):
    heard = []

    def stop(event):
        heard.append(event)
        if len(heard) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        tt.train(*world, config=CONFIG, output=tmp_path / "run", tensorboard=True, progress=Progress(training=stop))
    first = shown(tmp_path / "run")
    assert len(first["train/loss"]) == 6
    run = tt.train(*world, config=CONFIG, output=tmp_path / "run", tensorboard=True, resume=True, progress=Progress(training=heard.append))
    found = shown(run.folder)
    losses = {event.step: event.loss for event in heard if hasattr(event, "loss")}
    assert found["train/loss"] == pytest.approx(losses) and set(losses) == set(range(1, run.metrics["training"]["steps"] + 1))
    history = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    assert list(found["validation/mrr"].values()) == pytest.approx([line["mrr"] for line in history])
    last = run.metrics["training"]["steps"]
    assert {name.removeprefix("test/"): values[last] for name, values in found.items() if name.startswith("test/")} == pytest.approx(
        {name: figure["value"] for name, figure in run.metrics["model"].items()}
    )
    again = tt.train(*world, config=CONFIG, output=tmp_path / "run", overwrite=True)
    assert not (again.folder / "tensorboard").exists()


def test_without_the_extra_it_is_refused_before_any_work(world, tmp_path, monkeypatch, typed):
    monkeypatch.setattr(board, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"twotower\[tensorboard\]"):
        tt.train(*world, config=CONFIG, output=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "c.toml").write_text("")
    code, _, err = typed("train", tmp_path / "c.toml", "--tensorboard", "--dry-run")
    assert code == 2 and "--tensorboard" in err
