"""Rows of tokens worked on in blocks of like length, so that padding and memory stay small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.model.layers.inputs import Bag

TOKENS_AT_ONCE = 1 << 14  # padded ones


def in_blocks(bag: Bag, width: int, work: Callable[[Tensor], Tensor]) -> Tensor:
    """What `work` makes of the rows of a Bag of codes, padded by 0: codes [m, l] -> [m, w], in all [n, w]. Rows without codes give zeros."""
    lengths = bag.offsets.diff()
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order].tolist()
    parts, start = [], 0
    while start < len(sizes) and sizes[start]:
        rows = order[start : start + max(1, TOKENS_AT_ONCE // sizes[start])]
        rows = rows[lengths[rows] > 0]
        places = torch.arange(sizes[start], device=lengths.device)
        there = places < lengths[rows].unsqueeze(1)
        found = (bag.offsets[rows].unsqueeze(1) + places).clamp(max=len(bag.values) - 1)
        parts.append(work(bag.values[found] * there))
        start += len(rows)
    empty = torch.zeros(len(sizes) - start, width, device=lengths.device)
    return torch.cat([*parts, empty])[torch.argsort(order)]
