"""The softmax loss in blocks beside the plain one.

8,192 views against 8,192 candidates of 64 dimensions, forward and backward, in turns; then the memory that each takes, in a process of
its own. Plain is what one writes first: the matrix of logits, the correction, the mask of known matches, cross-entropy, autograd.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.environments import THREADS
from benchmarks.processes import peak, told_by
from benchmarks.rows import Asked, Figure
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


def vectors(size: int) -> list[Tensor]:
    """Queries, items and the log of the scale."""
    generator = torch.Generator().manual_seed(0)
    made = [functional.normalize(torch.randn(size, DIMENSIONS, generator=generator), dim=1) for _ in range(2)]
    return [one.requires_grad_() for one in (*made, torch.tensor(2.3))]


def plain(batch: Batch, queries: Tensor, items: Tensor, log_scale: Tensor) -> Tensor:
    """By one matrix."""
    logits = queries @ items.T * log_scale.exp() - torch.as_tensor(batch.log_prob, device=queries.device)
    rows = torch.arange(len(queries), device=queries.device)
    hidden = torch.zeros(len(rows), len(rows), dtype=torch.bool, device=queries.device)
    hidden[rows, (rows + 1) % len(rows)] = True
    return functional.cross_entropy(logits.masked_fill(hidden, -torch.inf), rows)


def ways(batch: Batch) -> dict[str, Callable[[list[Tensor]], Tensor]]:
    """What is compared."""
    return {
        "plain": lambda given: plain(batch, *given),
        "in blocks": lambda given: loss_of(*given, batch, LossOptions()).mean,
        "in blocks, bfloat16 products": lambda given: loss_of(*given, batch, LossOptions(), half=True).mean,
    }


def grow(way: str, size: int) -> float:
    """By how much one step of a way raises the peak of this process, after a small one has loaded what it needs."""
    given, batch = vectors(size), batch_of(size)
    functional.cross_entropy(given[0][:64] @ given[1][:64].T, torch.arange(64)).backward()
    before = peak()
    ways(batch)[way](given).backward()
    return peak() - before


def measure(asked: Asked) -> Iterator[Figure]:
    """In turns; then the memory."""
    torch.set_num_threads(THREADS)
    size = 512 if asked.smoke else SIZE
    batch = batch_of(size)
    took: dict[str, list[float]] = {way: [] for way in ways(batch)}
    losses = {}
    for turn in range(2 if asked.smoke else TURNS + 1):
        for way, of in ways(batch).items():
            given = vectors(size)
            began = time.perf_counter()
            loss = of(given)
            loss.backward()
            if turn:
                took[way].append(time.perf_counter() - began)
            losses[way] = loss.item()
    wanted = {"in blocks": "3x, 1/20 of the memory", "in blocks, bfloat16 products": "5x"}
    memory = {way: float(told_by("benchmarks.rows.blockwise", way, str(size))) for way in took}
    for way, seconds in took.items():
        ratio = float(np.median(np.divide(took["plain"], seconds)))
        less = f"{memory[way] / 1e6:.0f} MB, 1/{memory['plain'] / memory[way]:.0f}"
        figures = f"{np.median(seconds) * 1000:.0f} ms, {ratio:.1f}x; {less}; loss {losses[way]:.5f}"
        values = {"seconds": seconds, "ratio": ratio, "bytes": memory[way]}
        yield Figure(f"{size:,} x {size:,} x {DIMENSIONS}, forward and backward, {way}", figures, wanted.get(way, ""), values)


if __name__ == "__main__":
    print(json.dumps(grow(sys.argv[1], int(sys.argv[2]))))
