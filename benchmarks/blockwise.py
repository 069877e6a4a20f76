"""The softmax loss in blocks beside the plain one: python benchmarks/blockwise.py

8,192 views against 8,192 candidates of 64 dimensions, forward and backward, in turns; then the memory that each takes, in a process of
its own. Plain is what one writes first: the matrix of logits, the correction, the mask of known matches, cross-entropy, autograd.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from first_light import Rows, keep
from twotower.data.batches import Batch, complete, draft
from twotower.data.columns import group
from twotower.data.prepared import Log
from twotower.model.blockwise import loss_of
from twotower.model.options import LossOptions

SIZE, DIMENSIONS, TURNS = 8192, 64, 7


def batch_of(pairs: int) -> Batch:
    """So many pairs of as many queries and items, none twice; each query is known to match another item of the batch too."""
    rows = np.arange(pairs)
    other = (rows + 1) % pairs
    known = group(np.concatenate([rows, rows]), np.concatenate([rows, other]), pairs)
    part = draft(Log(rows, rows, rows, *np.ones((2, pairs), np.float32)), rows)
    return complete(part, rows, np.full(pairs, -1.0, np.float32), known)


def vectors() -> list[Tensor]:
    """Queries, items and the log of the scale."""
    generator = torch.Generator().manual_seed(0)
    made = [functional.normalize(torch.randn(SIZE, DIMENSIONS, generator=generator), dim=1) for _ in range(2)]
    return [one.requires_grad_() for one in (*made, torch.tensor(2.3))]


def plain(batch: Batch, queries: Tensor, items: Tensor, log_scale: Tensor) -> Tensor:
    """By one matrix."""
    logits = queries @ items.T * log_scale.exp() - torch.as_tensor(batch.log_prob)
    rows = torch.arange(SIZE)
    hidden = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    hidden[rows, (rows + 1) % SIZE] = True
    return functional.cross_entropy(logits.masked_fill(hidden, -torch.inf), rows)


def ways(batch: Batch) -> dict[str, Callable[[list[Tensor]], Tensor]]:
    """What is compared."""
    return {
        "plain": lambda given: plain(batch, *given),
        "in blocks": lambda given: loss_of(*given, batch, LossOptions()).mean,
        "in blocks, bfloat16 products": lambda given: loss_of(*given, batch, LossOptions(), half=True).mean,
    }


def peak(way: str) -> float:
    """The bytes by which a process of its own grows."""
    told = subprocess.run([sys.executable, __file__, "--grow", way], capture_output=True, text=True, check=True)
    return float(told.stdout)


def grow(way: str) -> None:
    """Print by how much one step of a way raises the peak of this process, after a small one has loaded what it needs."""
    given, batch = vectors(), batch_of(SIZE)
    functional.cross_entropy(given[0][:64] @ given[1][:64].T, torch.arange(64)).backward()
    before = peak_of_this()
    ways(batch)[way](given).backward()
    print(peak_of_this() - before)


def peak_of_this() -> int:
    """The most bytes that this process has held. Not ru_maxrss, which begins at what its parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/RESULTS.md")
    parser.add_argument("--grow", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.grow:
        grow(asked.grow)
        return
    batch = batch_of(SIZE)
    took: dict[str, list[float]] = {way: [] for way in ways(batch)}
    losses = {}
    for turn in range(TURNS + 1):
        for way, of in ways(batch).items():
            given = vectors()
            began = time.perf_counter()
            loss = of(given)
            loss.backward()
            if turn:
                took[way].append(time.perf_counter() - began)
            losses[way] = loss.item()
    rows: Rows = []
    wanted = {"in blocks": "3x, 1/20 of the memory", "in blocks, bfloat16 products": "5x"}
    memory = {way: peak(way) for way in took}
    for way, seconds in took.items():
        ratio = np.median(took["plain"]) / np.median(seconds)
        figures = f"{np.median(seconds) * 1000:.0f} ms, {ratio:.1f}x; {memory[way] / 1e6:.0f} MB; loss {losses[way]:.5f}"
        rows.append((f"{SIZE:,} x {SIZE:,} x {DIMENSIONS}, forward and backward, {way}", figures, wanted.get(way, "")))
    table = ["| what | measured | wanted |", "|---|---|---|", *(f"| {what} | {figure} | {want} |" for what, figure, want in rows)]
    keep("python benchmarks/blockwise.py", table, asked.write)


if __name__ == "__main__":
    main()
