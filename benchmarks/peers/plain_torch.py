"""What one writes first in PyTorch: two embeddings, the matrix of a batch's logits, cross-entropy, dense Adam."""

from __future__ import annotations

import time

import numpy as np
import torch
from exchange import answer, array, settings
from torch.nn import functional


def main() -> None:
    """Train for some steps and tell the seconds of those after the first ones."""
    asked = settings()
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(0)
    users, items = torch.as_tensor(array("keys")), torch.as_tensor(array("items"))
    tables = torch.nn.ModuleList([torch.nn.Embedding(count, asked["dimensions"]) for count in (asked["n_keys"], asked["n_items"])])
    optimizer = torch.optim.Adam(tables.parameters(), lr=1e-3)
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
    size, seconds = asked["batch_size"], []
    for step in range(asked["warm"] + asked["steps"]):
        begun = time.perf_counter()
        rows = order[torch.arange(step * size, (step + 1) * size) % len(order)]
        logits = tables[0](users[rows]) @ tables[1](items[rows]).T  # (b, b)
        loss = functional.cross_entropy(logits, torch.arange(size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    answer(("torch",), {"seconds": float(np.sum(seconds[asked["warm"] :])), "pairs": size * asked["steps"]})


main()
