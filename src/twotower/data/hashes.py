"""Hashes of texts and of the words and letter pieces in them, over whole columns at a time, in plain numpy.

All code points of a column stand in one array. A polynomial prefix sum over it modulo 2^64 gives the hash of any span with
one subtraction and one product, so every word and every piece costs a handful of array operations. The functions are part
of the format: a change needs a new name in `HASH`, since the rows of a trained table hang on them.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twotower.data.columns import Array, offsets_of

HASH = "polynomial-64-1"

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, hence invertible modulo 2^64
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_SEPARATOR = 0  # between texts
_OPEN, _CLOSE = 1, 2  # around words, so that pieces know where a word begins and ends
_CHUNK = 1 << 20  # code points worked on at once: bounds memory


def mix(values: Array) -> Array:
    """A bijective scrambling of uint64 values (the finaliser of SplitMix64; Steele, Lea and Flood 2014)."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@functools.lru_cache(maxsize=4)
def _powers(length: int) -> tuple[Array, Array]:
    """Powers of the base and of its inverse, 0..length."""
    steps = np.full(length + 1, _BASE), np.full(length + 1, _INVERSE)
    steps[0][0] = steps[1][0] = np.uint64(1)
    return np.multiply.accumulate(steps[0]), np.multiply.accumulate(steps[1])


WORD, PAIR, PIECE = 0, 1, 2


class Hashed(NamedTuple):
    """Hashes of what is in each of n texts, and what each is a hash of."""

    values: Array  # uint64 [sum of lengths]
    kinds: Array  # uint8, as values: WORD, PAIR or PIECE
    offsets: Array  # int64 [n + 1]


class _Spans(NamedTuple):
    """Hashes of any spans of one array of code points."""

    prefix: Array  # uint64 [n + 1]
    inverse: Array  # uint64 [n + 1]

    def hashes(self, starts: Array, ends: Array) -> Array:
        return mix((self.prefix[ends] - self.prefix[starts]) * self.inverse[starts])


def _prefixed(codes: Array) -> _Spans:
    # The tables of powers are made for rounded lengths, so that few are ever made.
    power, inverse = _powers(1 << max(10, len(codes).bit_length()))
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(mix(codes.astype(np.uint64) + np.uint64(1)) * power[: len(codes)], out=prefix[1:])
    return _Spans(prefix, inverse)


def _code_points(texts: Sequence[str]) -> tuple[Array, Array]:
    """All texts as uint32 code points, each behind the next with a separator after it, and each one's offsets [n + 1]."""
    joined = "\0".join(texts) + "\0"
    if joined.count("\0") != len(texts):
        joined = "\0".join(text.replace("\0", " ") for text in texts) + "\0"
    codes = np.frombuffer(joined.encode("utf-32-le", "replace"), np.uint32)
    offsets = np.zeros(len(texts) + 1, np.int64)
    offsets[1:] = np.flatnonzero(codes == _SEPARATOR) + 1
    return codes, offsets


def hash_texts(texts: Sequence[str]) -> Array:
    """One uint64 hash for each text [n]; equal texts have equal hashes, different ones differ but for one chance in 2^64."""
    if not len(texts):
        return np.empty(0, np.uint64)
    codes, offsets = _code_points(texts)
    return _prefixed(codes).hashes(offsets[:-1], offsets[1:] - 1)


# --- words and pieces ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _kinds() -> Array:
    """What each code point is: 0 between words, 1 part of a word, 2 a word of its own, 3 not yet looked up."""
    kinds = np.full(0x110000, 3, np.uint8)
    kinds[:0x250] = [_kind(code) for code in range(0x250)]
    return kinds


def _kind(code: int) -> int:
    character = chr(code)
    # Scripts written without spaces: each ideograph or kana is a word, and word pairs make up for the lost order.
    if 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF:
        return 2 if character.isalnum() else 0
    return 1 if character.isalnum() or unicodedata.category(character)[0] == "M" else 0


def _kinds_of(codes: Array) -> Array:
    table = _kinds()
    kinds = table[codes]
    if (kinds == 3).any():
        new = np.unique(codes[kinds == 3])
        table[new] = [_kind(int(code)) for code in new]
        kinds = table[codes]
    return kinds


def fold(text: str) -> str:
    """The form of a text in which words are compared: compatible characters unified, case folded."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def hash_words(texts: Sequence[str], *, pairs: bool, pieces: Sequence[int], limit: int) -> Hashed:
    """Hashes of the words, word pairs and letter pieces of each text.

    pieces: the lengths of the letter pieces, cut from each word with its two ends marked. limit: the number of words of a
    text that are read. In a row words come first, then pairs, then pieces by length.
    """
    rows: list[Hashed] = []
    start, size = 0, 0
    for end, text in enumerate(texts, 1):
        size += len(text) + 1
        if size >= _CHUNK or end == len(texts):
            rows.append(_hash_chunk(texts[start:end], pairs, pieces, limit))
            start, size = end, 0
    if not rows:
        return Hashed(np.empty(0, np.uint64), np.empty(0, np.uint8), np.zeros(1, np.int64))
    if len(rows) == 1:
        return rows[0]
    lengths = np.concatenate([np.diff(part.offsets) for part in rows])
    return Hashed(np.concatenate([p.values for p in rows]), np.concatenate([p.kinds for p in rows]), offsets_of(lengths))


def _hash_chunk(texts: Sequence[str], pairs: bool, pieces: Sequence[int], limit: int) -> Hashed:
    # The separator is no letter and composes with none, so a whole chunk is folded at once.
    codes, _ = _code_points(fold("\0".join([t.replace("\0", " ") if "\0" in t else t for t in texts])).split("\0"))
    kinds = _kinds_of(codes)
    starts, ends, text_of = _words(codes, kinds, limit)
    # The words alone, each between its marks.
    lengths = ends - starts + 2
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    marked = np.empty(int(offsets[-1]), np.uint32)
    inside = np.repeat(starts - offsets[:-1] - 1, lengths) + np.arange(len(marked))
    marked[:] = codes[np.minimum(inside, len(codes) - 1)]
    marked[offsets[:-1]], marked[offsets[1:] - 1] = _OPEN, _CLOSE
    spans = _prefixed(marked)
    word_hashes = spans.hashes(offsets[:-1], offsets[1:])
    parts = [(word_hashes, text_of, WORD)]
    if pairs:
        first = np.flatnonzero(text_of[1:] == text_of[:-1])
        parts.append((mix(word_hashes[first] * _BASE + word_hashes[first + 1]), text_of[first], PAIR))
    if pieces:
        left = np.repeat(offsets[1:], lengths) - np.arange(len(marked))  # to the end of the word, this letter included
        text_at = np.repeat(text_of, lengths)
        for length in pieces:
            at = np.flatnonzero(left >= length)
            parts.append((spans.hashes(at, at + length) ^ np.uint64(length), text_at[at], PIECE))
    return _interleave(parts, len(texts))


def _words(codes: Array, kinds: Array, limit: int) -> tuple[Array, Array, Array]:
    """Where words start and end in the codes, and the text each belongs to; the first `limit` words of each text."""
    inside, alone = kinds > 0, kinds == 2
    before = np.zeros(len(codes), bool)
    before[1:] = inside[:-1] & ~alone[:-1]
    # The last code is a separator, hence never inside a word.
    starts = np.flatnonzero(inside & (~before | alone))
    joined = np.zeros(len(codes), bool)
    joined[:-1] = inside[1:] & ~alone[1:]
    ends = np.flatnonzero(inside & (~joined | alone)) + 1
    separators = np.flatnonzero(codes == _SEPARATOR)
    text_of = np.searchsorted(separators, starts)
    if len(starts) > limit:
        counts = np.bincount(text_of, minlength=len(separators))
        if counts.max() > limit:
            rank = np.arange(len(starts)) - np.repeat(np.cumsum(counts) - counts, counts)
            keep = rank < limit
            starts, ends, text_of = starts[keep], ends[keep], text_of[keep]
    return starts, ends, text_of


def _interleave(parts: list[tuple[Array, Array, int]], n_texts: int) -> Hashed:
    """Parts, each (values, text of each value in rising order, kind), as one row a text, the parts in their order."""
    counts = np.stack([np.bincount(text_of, minlength=n_texts) for _, text_of, _ in parts])  # [parts, n]
    offsets = offsets_of(counts.sum(0))
    values, kinds = np.empty(int(offsets[-1]), np.uint64), np.empty(int(offsets[-1]), np.uint8)
    place = offsets[:-1] + np.cumsum(counts, 0) - counts  # where part p of text i goes
    for (hashes, text_of, kind), count, goal in zip(parts, counts, place, strict=True):
        shift = goal - (np.cumsum(count) - count)
        at = np.arange(len(hashes)) + shift[text_of]
        values[at], kinds[at] = hashes, kind
    return Hashed(values, kinds, offsets)
