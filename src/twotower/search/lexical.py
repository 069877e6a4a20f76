"""Words: BM25 over the texts of the items, beside the vectors and as the baseline that they have to beat.

Words are counted when texts are read, and weighed when a catalogue is opened, since a weight depends on all texts that are searched
together: a catalogue that grew has other ones. A look-up adds columns of that sparse matrix up.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from unicodedata import category, name, normalize

import numpy as np

from twotower.errors import BundleError, ConfigError
from twotower.search.index import Array, Hits, best, check_allow, no_hits

ASCII_WORD = re.compile("[a-z0-9]+")
UNSPACED = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER")


class _Spacing(dict[int, str]):
    """For `str.translate`: keeps what words are made of, and puts spaces in place of the rest. Filled as it is used."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = category(character)
        if name(character, "").startswith(UNSPACED):
            spaced = f" {character} "
        elif kind[0] in "LNM":  # marks as well: the vowels of Hindi or Tamil are marks, and no place to cut
            spaced = character
        else:
            spaced = "" if character == "\u00ad" else " "  # a soft hyphen says where a word may break, not that it does
        self[code] = spaced
        return spaced


_SPACING = _Spacing()


def tokenize(text: str) -> list[str]:
    """The words of a text, in order: runs of letters and digits of any script, compatibility forms and case folded.

    `Docker-compose` gives `docker` and `compose`. Nothing is stemmed and no word is stopped: no language is favoured.
    Chinese characters and hiragana, which are written without spaces, are words of one character each (as in Unicode's
    annex 29); Thai, Lao, Khmer and Burmese, which would need a dictionary, stay whole runs.
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    folded = normalize("NFKC", normalize("NFKC", text).casefold())  # folding may leave letters and marks apart
    return [word for word in folded.translate(_SPACING).split() if category(word[0])[0] != "M"]


class Counts(NamedTuple):
    """How often every word occurs in every one of n texts: a sparse matrix by columns, with its vocabulary.

    What word j counts is `counts[offsets[j]:offsets[j + 1]]`, in the texts at the same places of `rows`.
    """

    counts: Array  # int32 [entries]
    rows: Array  # int32 [entries], rising within a word
    offsets: Array  # int64 [words + 1]
    lengths: Array  # int64 [n], words of each text, those that occur twice counted twice
    vocabulary: list[str]

    def arrays(self) -> dict[str, Array]:
        """Everything but the vocabulary, to be saved."""
        return {name: array for name, array in self._asdict().items() if name != "vocabulary"}

    @classmethod
    def restore(cls, arrays: Mapping[str, Array], vocabulary: Sequence[str]) -> Counts:
        """Those that gave these `arrays()` and this `vocabulary`; raises BundleError where they do not fit."""
        _need(arrays, ("counts", "rows", "offsets", "lengths"))
        found = cls(arrays["counts"], arrays["rows"], arrays["offsets"], arrays["lengths"], list(vocabulary))
        _check(found.counts, found.rows, found.offsets, len(found.lengths), found.vocabulary)
        return found


class Words(NamedTuple):
    """What items are found by: words of their own, and where those are searched too the words of training queries that led to them."""

    own: Counts
    asked: Counts | None

    def together(self) -> Counts:
        """Both as one text an item."""
        return self.own if self.asked is None else side_by_side([self.own, self.asked])


def count(texts: Iterable[str]) -> Counts:
    """The words of the texts [n], in the order in which they are first met."""
    columns: dict[str, int] = {}
    lengths, found = array("q"), array("q")
    for text in texts:
        words = tokenize(text)
        lengths.append(len(words))
        found.extend([columns.setdefault(word, len(columns)) for word in words])
    n = np.frombuffer(lengths, np.int64) if lengths else np.empty(0, np.int64)
    column = np.frombuffer(found, np.int64) if found else np.empty(0, np.int64)
    return _summed(column, np.repeat(np.arange(len(n)), n), np.ones(len(column), np.int64), n, list(columns))


def side_by_side(parts: Sequence[Counts]) -> Counts:
    """The counts of the same n texts, put together: each text is then all of its parts."""
    column, vocabulary = _one_vocabulary(parts)
    rows, counts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "counts"))
    return _summed(column, rows, counts, np.sum([part.lengths for part in parts], axis=0), vocabulary)


def one_behind_another(parts: Sequence[Counts]) -> Counts:
    """The counts of the texts of all parts."""
    column, vocabulary = _one_vocabulary(parts)
    first = np.cumsum([0, *(len(part.lengths) for part in parts)])
    rows = np.concatenate([part.rows.astype(np.int64) + start for part, start in zip(parts, first[:-1].tolist(), strict=True)])
    return _in_order(column, rows, np.concatenate([part.counts for part in parts]), np.concatenate([part.lengths for part in parts]), vocabulary)


def taken(counts: Counts, rows: Array) -> Counts:
    """The counts of the texts at `rows`, int64 [m], in that order and each once."""
    place = np.full(len(counts.lengths), -1, np.int64)
    place[rows] = np.arange(len(rows))
    there = np.flatnonzero(place[counts.rows] >= 0)
    column = np.repeat(np.arange(len(counts.vocabulary)), np.diff(counts.offsets))[there]
    used, column = np.unique(column, return_inverse=True)
    vocabulary = [counts.vocabulary[word] for word in used.tolist()]
    return _in_order(column, place[counts.rows[there]], counts.counts[there], counts.lengths[rows], vocabulary)


def _one_vocabulary(parts: Sequence[Counts]) -> tuple[Array, list[str]]:
    """The column of every entry of all parts, in a vocabulary that holds them all."""
    columns: dict[str, int] = {}
    named = [np.array([columns.setdefault(word, len(columns)) for word in part.vocabulary], np.int64) for part in parts]
    return np.concatenate([np.repeat(names, np.diff(part.offsets)) for names, part in zip(named, parts, strict=True)]), list(columns)


def _summed(column: Array, rows: Array, counts: Array, lengths: Array, vocabulary: list[str]) -> Counts:
    """Counts of entries in any order, of which several may be of one word in one text."""
    n = max(1, len(lengths))
    places, entry = np.unique(column * n + rows, return_inverse=True)
    column, rows = np.divmod(places, n)
    return _in_order(column, rows, np.bincount(entry, weights=counts, minlength=len(places)), lengths, vocabulary)


def _in_order(column: Array, rows: Array, counts: Array, lengths: Array, vocabulary: list[str]) -> Counts:
    """Counts of entries in any order, each of another word or text."""
    places = column * max(1, len(lengths)) + rows
    if (places[1:] < places[:-1]).any():
        order = np.argsort(places, kind="stable")  # which is quick where most are in order, as those of a large part before a small one
        column, rows, counts = column[order], rows[order], counts[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=len(vocabulary)))]).astype(np.int64)
    return Counts(counts.astype(np.int32), rows.astype(np.int32), offsets, lengths.astype(np.int64), vocabulary)


class Lexical:
    """BM25 weights of every word in every text, as a sparse matrix by columns, with its vocabulary.

    The weights of word j are `weights[offsets[j]:offsets[j + 1]]`, those of the texts at the same places of `rows`.
    """

    def __init__(self, weights: Array, rows: Array, offsets: Array, n: int, vocabulary: Sequence[str]) -> None:
        self.weights = weights  # float32 [entries]
        self.rows = rows  # int32 [entries], rising within a word
        self.offsets = offsets  # int64 [words + 1]
        self.n = n
        self.vocabulary = list(vocabulary)
        self.columns = {word: column for column, word in enumerate(self.vocabulary)}

    @classmethod
    def build(cls, texts: Iterable[str], *, k1: float = 1.2, b: float = 0.75) -> Lexical:
        """Counts and weighs the words of the texts [n]."""
        return cls.weighed(count(texts), k1=k1, b=b)

    @classmethod
    def weighed(cls, words: Counts, *, k1: float = 1.2, b: float = 0.75) -> Lexical:
        """Weighs counted words; `k1` > 0 and 0 <= `b` <= 1 as in Robertson & Zaragoza (2009).

        The idf is Lucene's, above 0 for every word. In the original one a word of more than half of the texts weighs nothing, and a
        text that matches by such words alone could not be told from one without a match. The defaults are Lucene's too. For training
        queries of SciFact and InsuranceQA k1 = 0.9 with b = 0.4, which others prefer, gave 0.01 less NDCG@10, and k1 = 1.5 the same
        within 0.006.
        """
        if k1 <= 0 or not 0 <= b <= 1:
            raise ConfigError(f"BM25 takes k1 > 0 and 0 <= b <= 1, not k1 = {k1} and b = {b}")
        n, having = len(words.lengths), np.diff(words.offsets)
        average = float(words.lengths.mean()) if words.lengths.any() else 1.0
        idf = np.log1p((n - having + 0.5) / (having + 0.5)).astype(np.float32)
        norm = (k1 * (1 - b + b * words.lengths / average)).astype(np.float32)
        counts = words.counts.astype(np.float32)
        weights = np.repeat(idf, having) * (counts / (counts + norm[words.rows]))
        return cls(weights, words.rows, words.offsets, n, words.vocabulary)

    @classmethod
    def restore(cls, arrays: Mapping[str, Array], vocabulary: Sequence[str]) -> Lexical:
        """Weights as bundles of segment format 1 hold them; raises BundleError where they do not fit."""
        _need(arrays, ("weights", "rows", "offsets", "n"))
        state = cls(arrays["weights"], arrays["rows"], arrays["offsets"], int(arrays["n"]), vocabulary)
        _check(state.weights, state.rows, state.offsets, state.n, state.vocabulary)
        return state

    def scores(self, queries: Sequence[str]) -> Array:
        """The BM25 score of every text for each query: float32 [q, n], 0 where they share no word."""
        scores = np.empty((len(queries), self.n), np.float32)
        for row, query in zip(scores, queries, strict=True):
            row[:] = self._scored(query)
        return scores

    def search(self, queries: Sequence[str], k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed texts for each query; one that shares no word with it is never a hit."""
        hits = no_hits(len(queries), k)
        check_allow(allow, self.n)
        for rows, values, query in zip(*hits, queries, strict=True):
            row_scores = self._scored(query)
            if allow is not None:
                row_scores[~allow] = 0
            found = best(row_scores, k, floor=0.0)
            rows[: found.size], values[: found.size] = found, row_scores[found]
        return hits

    def _scored(self, query: str) -> Array:
        """The scores float32 [n] of one query."""
        known = Counter(column for word in tokenize(query) if (column := self.columns.get(word)) is not None)
        if not known:
            return np.zeros(self.n, np.float32)
        # Sorted, since sums of floats depend on their order and the score should not depend on that of the words.
        entries = [(slice(self.offsets[column], self.offsets[column + 1]), count) for column, count in sorted(known.items())]
        rows = np.concatenate([self.rows[own] for own, _ in entries])
        weights = np.concatenate([self.weights[own] if count == 1 else np.float32(count) * self.weights[own] for own, count in entries])
        # One pass over all of them is some four times as fast as adding word by word to scattered places.
        return np.bincount(rows, weights, self.n).astype(np.float32)


def _need(arrays: Mapping[str, Array], names: Collection[str]) -> None:
    missing = set(names) - set(arrays)
    if missing:
        raise BundleError(f"the lexical state lacks the arrays {', '.join(sorted(missing))}")


def _check(entries: Array, rows: Array, offsets: Array, n: int, vocabulary: Sequence[str]) -> None:
    whole = (
        len(set(vocabulary)) == len(vocabulary) == len(offsets) - 1
        and offsets[0] == 0
        and offsets[-1] == len(entries) == len(rows)
        and bool((np.diff(offsets) >= 0).all())
        and (len(rows) == 0 or 0 <= rows.min() <= rows.max() < n)
    )
    if not whole:
        raise BundleError("the lexical state is damaged: its vocabulary and its arrays do not fit together")
