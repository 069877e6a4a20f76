"""Rows of tokens worked on in blocks of like length, so that padding and memory stay small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from twotower.model.layers.inputs import Bag

TOKENS_AT_ONCE = 1 << 14  # padded ones
# A block ends where rows get shorter than its first, once it has enough tokens for products to run at full speed.
SHORTER, ENOUGH_TOKENS = 0.9, {"cpu": 1 << 9, "cuda": 1 << 13}


def in_blocks(bag: Bag, width: int, work: Callable[[Tensor], Tensor]) -> Tensor:
    """What `work` makes of the rows of a Bag of codes, padded by 0: codes [m, l] -> [m, w], in all [n, w]. Rows without codes give zeros."""
    lengths = bag.offsets.diff()
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order].tolist()
    parts, start = [], 0
    while start < len(sizes) and sizes[start]:
        rows = order[start : _end(sizes, start, ENOUGH_TOKENS.get(lengths.device.type, TOKENS_AT_ONCE))]
        places = torch.arange(sizes[start], device=lengths.device)
        there = places < lengths[rows].unsqueeze(1)
        found = (bag.offsets[rows].unsqueeze(1) + places).clamp(max=len(bag.values) - 1)
        parts.append(work(bag.values[found] * there))
        start += len(rows)
    empty = torch.zeros(len(sizes) - start, width, device=lengths.device)
    return torch.cat([*parts, empty])[torch.argsort(order)]


def _end(sizes: Sequence[int], start: int, enough: int) -> int:
    """Where a block ends that begins here; sizes fall. enough: tokens."""
    most, enough = (max(1, tokens // sizes[start]) for tokens in (TOKENS_AT_ONCE, enough))
    end = start + 1
    while end < min(len(sizes), start + most) and sizes[end] and (end < start + enough or sizes[end] > SHORTER * sizes[start]):
        end += 1
    return end
