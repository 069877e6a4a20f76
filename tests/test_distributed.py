"""Several processes train one model: what they come to is what one comes to, and what ends one of them ends all."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import ranked
import twotower as tt
from conftest import WORLD_CONFIG
from test_blockwise import OPTIONS, batch_of, vectors_of
from twotower.config import from_values, to_toml
from twotower.errors import DataError
from twotower.learning.distributed import ALONE, shares
from twotower.learning.reader import Views, _whole
from twotower.model.blockwise import Share, loss_of

RANKED = Path(ranked.__file__)


def environment(**more):
    """What a process of ours is started with: our sources, one thread, and no trace of a launcher that may have started this one."""
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    path = os.pathsep.join([str(Path(tt.__file__).parents[1]), str(RANKED.parent)])
    return own | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def started(check, folder, count=2):
    """Processes that know of each other, told to check something."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    command = [sys.executable, str(RANKED), check, str(folder)]
    return [subprocess.Popen(command, env=environment(**shared, RANK=str(rank)), stderr=subprocess.PIPE, text=True) for rank in range(count)]


def told(processes):
    """What they said, once all of them have ended."""
    return [process.communicate(timeout=300)[1] for process in processes]


def test_two_processes_come_to_what_one_comes_to(tmp_path):
    """Losses, gradients, weights, what the optimisers remember, and metrics, in every kind of world; and two hold the same bits."""
    for name in ranked.CASES:
        ranked.begun(name, tmp_path / "prepared")
    processes = started("cases", tmp_path)
    alone = {name: ranked.learnt(name, tmp_path / "prepared") for name in ranked.CASES}
    said = told(processes)
    assert [process.returncode for process in processes] == [0, 0], said
    for number, name in enumerate(ranked.CASES):
        first, second = (np.load(tmp_path / f"{number}.{rank}.npz") for rank in range(2))
        assert [key for key in first.files if first[key].tobytes() != second[key].tobytes()] == [], name
        compare(name, {key.replace("|", "/"): first[key] for key in first.files}, alone[name])


def compare(case, found, wanted):
    assert found.keys() == wanted.keys() and len(found) > 6
    most = max(float(np.abs(value).max()) for key, value in wanted.items() if key.startswith("gradient"))
    for key, value in wanted.items():
        scale = most if key.startswith("gradient") else 1.0
        # AdamW moves by the sign of what is nothing but rounding: what has no gradient to speak of has no weight to compare.
        gradient = wanted.get(f"gradient of {key}")
        real = True if gradient is None else np.abs(gradient) > 1e-5 * most
        np.testing.assert_allclose(np.where(real, found[key], 0), np.where(real, value, 0), rtol=1e-3, atol=2e-5 * scale, err_msg=f"{case}: {key}")


def test_what_ends_one_ends_all_and_is_said_once(tmp_path):
    with pytest.raises(DataError) as alone:
        ranked.poisoned(ALONE, tmp_path / "prepared")
    processes = started("failures", tmp_path)
    said = told(processes)
    first, second = (json.loads((tmp_path / f"ends.{rank}.json").read_text()) for rank in range(2))
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL], said
    pairs = list(zip(first, second, strict=False))
    assert len(first) == len(ranked.ENDS) and len(second) == len(ranked.ENDS) - 1
    # Both stop at the same step; one of them says so, and in the words that one process alone would find.
    assert sorted(end[0] for end in pairs[0]) == ["Elsewhere", "NoNumber"]
    assert next(end[1] for end in pairs[0] if end[0] == "NoNumber") == str(alone.value)
    assert [[end[0] for end in pair] for pair in pairs[1:]] == [
        ["DataError", "Elsewhere"],
        ["Elsewhere", "DataError"],
        ["DataError", "Elsewhere"],
        ["Elsewhere", "ConfigError"],
        ["KeyboardInterrupt", "Elsewhere"],
    ]
    assert first[-1][0] == "TwotowerError" and "is gone" in first[-1][1] and "--resume" in first[-1][1]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_shares_are_all_there_is_and_about_equal(n, ranks):
    bounds = shares(n, ranks)
    assert len(bounds) == ranks + 1 and bounds[0] == 0 and bounds[-1] == n
    assert np.diff(bounds).min() >= n // ranks and np.diff(bounds).max() <= -(-n // ranks)


def test_a_window_is_read_by_one_rank():
    windows = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    history = Views("h", windows, windows, (windows, windows), False)
    bounds = shares(len(windows), 2, _whole(history))
    assert bounds.tolist() == [0, 5, 10]
    assert shares(len(windows), 3, _whole(history)).tolist() == [0, 3, 5, 10]
    assert _whole(history._replace(windows=None)) is None


@pytest.mark.parametrize("count", [2, 3, 40])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_losses_of_shares_add_up_to_that_of_the_batch(options, count):
    """Gradients, too; with more shares than views some are empty."""
    batch = batch_of()
    leaves = vectors_of(batch)
    whole = loss_of(*leaves, batch, options)
    wanted = gradients(whole.mean, leaves)
    bounds = shares(len(batch.query_rows), count)
    parts = []
    for number, (start, end) in enumerate(itertools.pairwise(bounds.tolist())):
        queries = leaves[0] if options.symmetric else leaves[0][start:end]
        parts.append(loss_of(queries, *leaves[1:], batch, options, share=Share(number, count, start, end)))
    total = sum(part.mean for part in parts)
    torch.testing.assert_close(torch.cat([part.each for part in parts]), whole.each)
    for one, other in zip((total, *gradients(total, leaves)), (whole.mean, *wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def gradients(loss, leaves):
    """Zeros where the loss reads no temperature."""
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]


# --- torchrun -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(world, tmp_path):
    """A config on the disk, beside its data."""
    for name, table in zip(("pairs", "items"), world, strict=True):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    data = {"pairs": "pairs.parquet", "items": "items.parquet"}
    train = {"epochs": 8, "batch_size": 32, "correction": False, "patience": 0, "learning_rate": 0.01}
    (tmp_path / "shop.toml").write_text(to_toml(from_values(WORLD_CONFIG | {"data": data, "train": train})))
    return tmp_path


@pytest.fixture
def torchrun():
    """Starts our command under torchrun; what still runs when a test ends is ended."""
    processes = []

    def start(folder, *arguments):
        processes.append(_torchrun(folder, *arguments))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def _torchrun(folder, *arguments, count=2, **options):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "twotower"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*launcher, *map(str, arguments)], cwd=folder, env=environment(), **streams, **options)


def weights(run):
    return {name: path.read_bytes() for path in [*run.glob("bundle/model/*.safetensors")] for name in [path.name]}


def likely(one, other):
    """Two runs whose models are the same but for rounding."""
    left, right = (tt.load(run) for run in (one, other))
    asked = [{"asked": f"subject{topic} sort1"} for topic in range(6)]
    np.testing.assert_allclose(left.embed_queries(asked), right.embed_queries(asked), atol=2e-3)
    for name, figure in tt.open_run(one).metrics["model"].items():
        assert figure["value"] == pytest.approx(tt.open_run(other).metrics["model"][name]["value"], abs=0.01)


@pytest.mark.slow
def test_torchrun_trains_one_model_stops_saves_and_goes_on(shop, torchrun):
    whole = torchrun(shop, "train", "shop.toml", "-o", "runs/whole", "--json")
    out, said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert json.loads(out) == tt.open_run(shop / "runs/whole").metrics  # said once, and nothing else on stdout
    assert said.count("exporting the item tower") == 1 and said.count("validation mrr") == 8
    alone = tt.train(config=shop / "shop.toml", output=shop / "runs/alone")
    likely(shop / "runs/whole", alone.folder)

    broken = torchrun(shop, "train", "shop.toml", "-o", "runs/broken")
    history = shop / "runs/broken/history.jsonl"
    while broken.poll() is None and (not history.exists() or history.read_text().count("\n") < 3):
        time.sleep(0.02)
    broken.send_signal(signal.SIGTERM)
    _, said = broken.communicate(timeout=300)
    assert broken.returncode != 0 and said.count("stopped after step") == 1, said
    command = re.search(r"torchrun --standalone --nproc-per-node 2 -m twotower train shop.toml -o runs/broken --resume", said)
    assert command and not (shop / "runs/broken/metrics.json").exists()
    shutil.copytree(shop / "runs/broken", shop / "runs/other")

    again = torchrun(shop, "train", "shop.toml", "-o", "runs/broken", "--resume")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert weights(shop / "runs/broken") == weights(shop / "runs/whole") != {}  # bit for bit, with as many processes
    tt.train(config=shop / "shop.toml", output=shop / "runs/other", resume=True)
    likely(shop / "runs/other", shop / "runs/whole")  # with another number, but for rounding


@pytest.mark.slow
def test_a_mistake_is_said_once_and_nothing_is_left(shop, torchrun):
    for arguments, wanted in (
        (["train", "shop.toml", "-o", "runs/x", "--set", "split.by=column"], "twotower: "),
        (["train", "shop.toml"], "name it with -o"),
        (["train", "shop.toml", "-o", "runs/x", "--dry-run"], "without torchrun"),
        (["train", "nothing.toml", "-o", "runs/x"], "there is no config nothing.toml"),
    ):
        process = torchrun(shop, *arguments)
        out, said = process.communicate(timeout=120)
        assert process.returncode != 0 and out == "" and said.count(wanted) == 1, said
        assert re.search(r"exitcode\s*: 2 ", said), said
        assert "this is a fault of twotower" not in said
        assert not (shop / "runs/x").exists()
