"""All that training changes, as one object, and its checkpoint: that object in a file, so that resume is exact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower import files
from twotower.data.columns import Array, Ragged
from twotower.errors import BundleError
from twotower.learning.material import Mined
from twotower.learning.memory import Entries, Memory
from twotower.model.optimizers import Moments
from twotower.model.probabilities import Meetings
from twotower.model.towers import TwoTower, distinct, restore

FORMAT = 1


@dataclass
class TrainState:
    """Everything that training changes."""

    model: TwoTower
    optimizer: torch.optim.AdamW
    moments: dict[str, Moments]  # what is remembered of each table, by its name in the model
    epoch: int = 0
    batch: int = 0  # the next one of this epoch
    step: int = 0
    best: float = -np.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    since_best: int = 0  # validations
    losses: float = 0.0  # summed over the batches of this epoch
    seconds: float = 0.0  # of training, validation left out
    done: bool = False
    memory: Memory | None = None  # item vectors of the batches before
    meetings: Meetings | None = None  # how often items are met
    mined: Mined | None = None  # the hard negatives in use
    mine_first: int = 0  # the epoch before which they are mined first; like `content`, a function of the weights at the start, not saved
    content: Array | None = None  # float32 [items, d]  what items hold


_NUMBERS = ("epoch", "batch", "step", "best", "best_epoch", "since_best", "losses", "seconds", "done")
CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"


def save(state: TrainState, folder: Path) -> None:
    """Write the whole state as one file, atomically."""
    arrays: dict[str, Array] = {}
    for name, tensor in distinct(state.model)[0].items():
        arrays[f"model/{name}"] = tensor.cpu().numpy()
    for name, tensor in state.best_weights.items():
        arrays[f"best/{name}"] = tensor.cpu().numpy()
    for name, tensor in _flat(state.moments).items():
        arrays[f"moments/{name}"] = tensor.cpu().numpy()
    for number, entry in state.optimizer.state_dict()["state"].items():
        for name, tensor in entry.items():
            arrays[f"optimizer/{number}/{name}"] = tensor.cpu().numpy()
    arrays |= _negatives(state)
    numbers = {name: getattr(state, name) for name in _NUMBERS}
    numbers["mined"] = None if state.mined is None else state.mined.epoch
    numbers["best"] = None if state.best == -np.inf else state.best
    files.write_tensors(folder / CHECKPOINT, arrays, {"format": str(FORMAT), "state": json.dumps(numbers)})


def _negatives(state: TrainState) -> dict[str, Array]:
    """What decides the negatives of the steps to come."""
    arrays: dict[str, Array] = {}
    if state.memory is not None:
        kept = {**state.memory.entries._asdict(), "vectors": state.memory.vectors.cpu().numpy()}
        arrays |= {f"memory/{name}": array for name, array in kept.items()}
    if state.meetings is not None:
        arrays |= {f"meetings/{name}": array for name, array in state.meetings._asdict().items()}
    if state.mined is not None:
        mined = {"lists": state.mined.lists, "items": state.mined.items.values, "offsets": state.mined.items.offsets}
        arrays |= {f"mined/{name}": array for name, array in mined.items()}
    return arrays


def _flat(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    return {f"{table}/{name}": tensor for table, kept in moments.items() for name, tensor in kept.items()}


def resume(state: TrainState, folder: Path, mend: bool = True) -> None:
    """Bring a fresh state to where the checkpoint was. Raises BundleError if there is none or it does not fit.

    mend: whether the history is brought there too, which one process alone may do.
    """
    load(state, folder)
    if not mend:
        return
    # What was learnt after the checkpoint is learnt again, and told again.
    kept = [line for line in files.read_lines(folder / HISTORY) if line["epoch"] <= state.epoch]
    files.write_text(folder / HISTORY, "".join(files.json_text(line, indent=None) + "\n" for line in kept))


def load(state: TrainState, folder: Path) -> None:
    """Put the checkpoint of a folder into a fresh state, and leave the folder as it is. Raises BundleError as `resume`."""
    path = folder / CHECKPOINT
    if not path.exists():
        raise BundleError(f"{folder} holds no {CHECKPOINT}, so there is nothing to resume. Start anew with --overwrite.")
    arrays, metadata = files.read_tensors(path), files.tensor_metadata(path)
    number = metadata.get("format", "")
    if not number.isdecimal() or "state" not in metadata:
        raise BundleError(f"{path} is no checkpoint of ours. Start anew with --overwrite.")
    if int(number) > FORMAT:
        raise BundleError(f"{path} was written by a newer version. Upgrade: pip install -U twotower")
    try:
        _restore(state, {name: torch.from_numpy(array).to(state.model.device) for name, array in arrays.items()}, json.loads(metadata["state"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise BundleError(f"{path} does not fit this config: {error}") from None


def _restore(state: TrainState, arrays: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Put the arrays and numbers of a checkpoint into a fresh state. Raises RuntimeError, ValueError or KeyError if they do not fit."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    restore(state.model, under("model/"))
    moments = under("moments/")
    if {name: a.shape for name, a in moments.items()} != {name: a.shape for name, a in _flat(state.moments).items()}:
        raise ValueError("its tables are others")
    loaded: dict[int, dict[str, Tensor]] = {}
    for place, tensor in under("optimizer/").items():
        number, name = place.split("/")
        loaded.setdefault(int(number), {})[name] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": loaded})
    state.moments = {table: {name: moments[f"{table}/{name}"] for name in kept} for table, kept in state.moments.items()}
    state.best_weights = under("best/")
    if state.memory is not None:
        kept = under("memory/")
        state.memory = Memory(Entries(*(kept[name].cpu().numpy() for name in Entries._fields)), kept["vectors"])
    if state.meetings is not None:
        met = under("meetings/")
        state.meetings = Meetings(*(met[name].cpu().numpy() for name in Meetings._fields))
    if numbers.get("mined") is not None:
        lists, items, offsets = (under("mined/")[name].cpu().numpy() for name in ("lists", "items", "offsets"))
        state.mined = Mined(numbers["mined"], lists, Ragged(items, offsets))
    for name in _NUMBERS:
        setattr(state, name, numbers[name])
    state.best = -np.inf if numbers["best"] is None else numbers["best"]
