"""Tokenisers as bytes that travel with a model: opened once, and run over whole columns.

A tokeniser is the JSON of the library `tokenizers`, with its window set and its padding off: what pads a batch is the layer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from twotower.data.columns import Array, Ragged, offsets_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXTS_AT_ONCE = 4096


def to_array(content: bytes) -> Array:
    """Bytes as a state array, uint8 [b]."""
    return np.frombuffer(content, np.uint8)


def frozen(tokeniser: Tokenizer, window: int) -> Array:
    """A tokeniser as a state array, uint8 [b]: it cuts texts after `window` tokens and pads none."""
    tokeniser.no_padding()
    tokeniser.enable_truncation(window)
    return to_array(tokeniser.to_str().encode())


def token_ids(tokeniser: Array, texts: Sequence[str]) -> Ragged:
    """The token ids int32 of each text [n], as the tokeniser counts them: from 0."""
    opened = _opened(tokeniser.tobytes())
    parts, lengths = [np.empty(0, np.int32)], []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        for found in opened.encode_batch_fast(list(texts[start : start + TEXTS_AT_ONCE])):
            parts.append(np.asarray(found.ids, np.int32))
            lengths.append(len(found.ids))
    return Ragged(np.concatenate(parts), offsets_of(lengths))


@functools.lru_cache(maxsize=8)
def _opened(content: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(content.decode())
