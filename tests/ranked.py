"""What tests/test_distributed.py starts as one of several processes: python tests/ranked.py CHECK FOLDER, told by the environment which one it is."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import WORLD_CONFIG, planted_world
from test_worlds import config_of, walks
from twotower.config import from_values
from twotower.data.columns import Ragged
from twotower.data.preparation import prepare
from twotower.data.sources import open_source
from twotower.errors import ConfigError, DataError, TwotowerError
from twotower.learning import training
from twotower.learning.caching import Shared
from twotower.learning.distributed import ALONE, shares, together
from twotower.learning.material import Mined
from twotower.learning.moving import alike, mined_alike, tables
from twotower.model.towers import build

MOVES = 4


def worlds() -> dict[str, tuple[dict, list | tuple]]:
    """What is trained on, by name: a config and its rows."""
    log = walks(people=40)
    twice = {"column": "item", "type": "id"}
    text = {name: WORLD_CONFIG[name] for name in ("pairs", "query", "item", "split")}
    named = {
        "ids": ({"pairs": {"repeats": "first"}, "query": {"key": "user", "features": [{"column": "user", "type": "id"}]}}, log),
        "texts": (text, planted_world(queries=150)),
        "histories by vector": (config_of({"pool": "mean", "items": "tower", "last": 3}), log),
        "histories by id": (config_of({"pool": "attention", "items": "ids", "last": 3}), log),
        "windows by vector": (config_of({"pool": "transformer", "items": "tower", "last": 3, "layers": 1}), log),
        "windows by id": (config_of({"pool": "transformer", "items": "ids", "last": 3, "layers": 1}), log),
    }
    named["ids"] = ({**named["ids"][0], "item": {"id": "item", "features": [twice]}, "split": {"by": "random", "test": 0.1, "validation": 0.1}}, log)
    return named


# name of the world, options of training, options of the model
CASES = {
    "ids": ("ids", {}, {}),
    # All features as long: cosines know nothing of it, the gains have no gradient but rounding, and AdamW would move them by its sign.
    "texts": ("texts", {"learning_rate": 1e-7}, {"similarity": "cosine"}),
    "texts, mlp, clipped": ("texts", {"clip_norm": 0.1}, {"body": "mlp", "hidden": [16]}),
    "symmetric": ("texts", {"symmetric": True, "correction": False}, {}),
    "widths, symmetric": ("texts", {"symmetric": True, "widths": [4, 8]}, {}),
    "accumulated": ("texts", {"accumulate": 2, "batch_size": 16}, {}),
    "chunks": ("histories by vector", {"chunk_size": 5}, {}),
    "chunks of windows": ("windows by id", {"chunk_size": 5}, {}),
    "adam": ("ids", {"table_optimizer": "adam", "table_learning_rate": 0.01}, {}),
    "drawn": ("ids", {"negatives": "drawn", "draws": 7}, {}),
    "full, bpr": ("ids", {"negatives": "full", "loss": "bpr"}, {}),
    "together": ("ids", {"together": 2, "positives": "among"}, {}),
    "a last batch of one": ("ids", {"batch_size": 97}, {}),
    **{name: (name, {}, {}) for name in ("histories by vector", "histories by id", "windows by vector", "windows by id")},
}


def config_of_case(name):
    world, train, model = CASES[name]
    blocks, rows = worlds()[world]
    options = {"batch_size": 48, "epochs": 2, "patience": 0, "learning_rate": 0.01, **train}
    return from_values(
        blocks | {"model": {"dimensions": 16, "similarity": "dot", **model}, "train": options, "evaluate": {"metrics": ["hit@1"]}}
    ), rows


def begun(name, folder, team=ALONE, **changed):
    """(state, data, config) of a case before its first step."""
    config, rows = config_of_case(name)
    sources = (open_source(rows[0], "pairs"), open_source(rows[1], "items")) if isinstance(rows, tuple) else (open_source(rows, "pairs"), None)
    prepared = prepare(*sources, config.schema, config.split, folder)
    data = training.data_of(prepared, config.train, config.evaluate, team=team)
    return training.start(build(prepared.encoder, config.model, 0), data, config.train), data, config


def learnt(name, folder, team=ALONE):
    """Losses and weights after some moves, the gradients of the first, and the metrics then."""
    state, data, config = begun(name, folder, team)
    found, losses, first = {}, [], []
    moved = training.move

    def look(state, gathered, weight, options, rate):
        if not first:
            named = tables(state.model)
            rows = gathered.rows
            for table, module in named.items():
                if module in rows:
                    whole = torch.zeros_like(module.weight)
                    whole[rows[module].touched] = rows[module].gradient
                    found[f"gradient of {table}"] = whole.numpy().copy()
            found.update({f"gradient of {n}": p.grad.numpy().copy() for n, p in state.model.named_parameters() if p.grad is not None})
            first.append(True)
        moved(state, gathered, weight, options, rate)

    training.move = look
    try:
        while len(losses) < MOVES:
            losses += [step.loss for step in training.steps(state, data, config.train)]
    finally:
        training.move = moved
    found |= {name: tensor.numpy() for name, tensor in state.model.state_dict().items()}
    found |= {f"moments/{table}/{name}": m.numpy() for table, kept in state.moments.items() for name, m in kept.items()}
    found["losses"] = np.array(losses)
    metrics, _ = training.validate(state.model, data, config.evaluate)
    found["metrics"] = np.array([metrics["hit@1"], metrics["mrr"]])
    return found


def check_cases(team, folder):
    collectives(team)
    for number, name in enumerate(CASES):
        found = learnt(name, folder / "prepared", team)
        np.savez(folder / f"{number}.{team.rank}.npz", **{key.replace("/", "|"): value for key, value in found.items()})


class Known:
    """Vectors of one share, and what comes back to them."""

    def __init__(self, vectors):
        self.vectors, self.given = vectors.clone().requires_grad_(), None

    def backward(self):
        self.given = self.vectors.grad


def collectives(team):
    """Everything that ranks tell each other, against the same computed by one of them alone."""
    for n in (0, 1, 2, 5, 8):
        whole = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
        pulls = [torch.randn(n, 3, generator=torch.Generator().manual_seed(10 + rank)) for rank in range(team.count)]
        bounds = shares(n, team.count)
        own = Known(whole[team.own(bounds)])
        shared = Shared(own, bounds, team)
        assert torch.equal(shared.vectors.detach(), whole)
        (shared.vectors * pulls[team.rank]).sum().backward()  # twice, as where a history reads what the loss reads
        (shared.vectors**2).sum().backward()
        shared.backward()
        assert torch.allclose(own.given, (sum(pulls) + 2 * team.count * whole)[team.own(bounds)], atol=1e-6)
    sizes = np.array([[3, 0, 3, 0], [1, 2, 1, 2]])
    mine = [torch.arange(k) + 100 * team.rank for k in sizes[team.rank, :2]] + [torch.full((k, 3), team.rank + 0.5) for k in sizes[team.rank, 2:]]
    for rank, found in enumerate(team.gather_packed(mine, sizes)):
        assert [one.shape[0] for one in found] == sizes[rank].tolist() and found[0].tolist() == [100 * rank + k for k in range(sizes[rank, 0])]
        assert all((one == rank + 0.5).all() for one in found[2:])
    assert team.gather_all(torch.arange(3 * team.rank)).tolist() == [0, 1, 2]
    assert team.any(team.rank == 1) and not team.any(False)
    assert team.agreed([team.rank, 0.1]) == [0.0, 0.1]
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(model.bias, float("nan"))
    alike(model, team)
    with torch.no_grad():
        model.weight[0, 0] += team.rank * 1e-6
    with pytest.raises(TwotowerError, match="different weights"):
        alike(model, team)
    items = np.arange(9)
    mined_alike(Mined(0, np.zeros(3, np.int64), Ragged(items, np.array([0, 9]))), team)
    items[:2] = items[:2][:: 1 - 2 * team.rank]  # the same ones, in another order
    with pytest.raises(TwotowerError, match="mined different negatives"):
        mined_alike(Mined(0, np.zeros(3, np.int64), Ragged(items, np.array([0, 9]))), team)


# --- what ends one ends all -----------------------------------------------------------------------------------------


def poisoned(team, folder):
    """A user whose vector is no number, whom the share of one rank reads."""
    state, data, config = begun("ids", folder, team)
    state.model.query.layers[0].table.weight[-1] = torch.nan
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    try:
        while True:
            next(training.steps(state, data, config.train))
    finally:
        assert all(torch.equal(tensor, before[name]) or state.step for name, tensor in state.model.state_dict().items() if "table" not in name)


def failing(rank):
    def fail(team, folder):
        team.connect()
        if team.rank == rank:
            raise DataError(f"rank {rank} cannot go on")
        team.add(torch.zeros(3))

    return fail


def unprepared(team, folder):
    if team.first:
        raise DataError("the data are no good")
    team.hear("prepared")


def unconnected(team, folder):
    """One fails when the other is ready to connect."""
    if not team.first:
        raise ConfigError("no card for this one")
    team.connect()


def stopped(team, folder):
    team.connect()
    if team.first:
        raise KeyboardInterrupt
    team.hear("finished")


def killed(team, folder):
    team.connect()
    if not team.first:
        os.kill(os.getpid(), signal.SIGKILL)
    team.add(torch.zeros(3))


def poison(team, folder):
    team.connect()
    poisoned(team, folder)


ENDS = [poison, failing(0), failing(1), unprepared, unconnected, stopped, killed]


def failures(folder):
    """What each end raises here, one after another: a new meeting follows each."""
    rank, found = os.environ["RANK"], []
    for end in ENDS:
        begun = time.monotonic()
        try:
            with together() as team:
                end(team, folder / "prepared")
        except (TwotowerError, KeyboardInterrupt) as error:
            found.append([type(error).__name__, str(error), time.monotonic() - begun])
        (folder / f"ends.{rank}.json").write_text(json.dumps(found))


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "failures":
        failures(folder)
        return
    with together() as team:
        team.connect()
        check_cases(team, folder)


if __name__ == "__main__":
    main()
