"""Words: BM25 over the texts of the items, beside the vectors and as the baseline that they have to beat.

`bm25s` weighs the words once, when the texts are read. A look-up adds columns of that sparse matrix up and needs numpy
alone, so that the first answer of a fresh process does not wait for an import.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
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
        """Weighs the words of the texts [n]; `k1` > 0 and 0 <= `b` <= 1 as in Robertson & Zaragoza (2009).

        The defaults are Lucene's. For training queries of SciFact and InsuranceQA k1 = 0.9 with b = 0.4, which others
        prefer, gave 0.01 less NDCG@10, and k1 = 1.5 the same within 0.006.
        """
        if k1 <= 0 or not 0 <= b <= 1:
            raise ConfigError(f"BM25 takes k1 > 0 and 0 <= b <= 1, not k1 = {k1} and b = {b}")
        columns: dict[str, int] = {}
        # Numbered here and not by bm25s, which numbers by the order of a set: another order in every process.
        texts_columns = [[columns.setdefault(word, len(columns)) for word in tokenize(text)] for text in texts]
        if not columns:
            empty = np.empty(0, np.float32), np.empty(0, np.int32), np.zeros(1, np.int64)
            return cls(*empty, len(texts_columns), [])
        weights, rows, offsets = _weigh(texts_columns, columns, k1, b)
        return cls(weights, rows, offsets, len(texts_columns), list(columns))

    @classmethod
    def restore(cls, arrays: Mapping[str, Array], vocabulary: Sequence[str]) -> Lexical:
        """The object that gave these `arrays()` and this `vocabulary`; raises BundleError where they do not fit."""
        missing = {"weights", "rows", "offsets", "n"} - set(arrays)
        if missing:
            raise BundleError(f"the lexical state lacks the arrays {', '.join(sorted(missing))}")
        state = cls(arrays["weights"], arrays["rows"], arrays["offsets"], int(arrays["n"]), vocabulary)
        whole = (
            len(state.columns) == len(vocabulary) == len(state.offsets) - 1
            and state.offsets[0] == 0
            and state.offsets[-1] == len(state.weights) == len(state.rows)
            and bool((np.diff(state.offsets) >= 0).all())
            and (len(state.rows) == 0 or 0 <= state.rows.min() <= state.rows.max() < state.n)
        )
        if not whole:
            raise BundleError("the lexical state is damaged: its vocabulary and its arrays do not fit together")
        return state

    def arrays(self) -> dict[str, Array]:
        """Everything but the vocabulary, to be saved."""
        return {"weights": self.weights, "rows": self.rows, "offsets": self.offsets, "n": np.asarray(self.n, np.int64)}

    def scores(self, queries: Sequence[str]) -> Array:
        """The BM25 score of every text for each query: float32 [q, n], 0 where they share no word."""
        scores = np.zeros((len(queries), self.n), np.float32)
        for row, query in zip(scores, queries, strict=True):
            self._add(query, row)
        return scores

    def search(self, queries: Sequence[str], k: int, allow: Array | None = None) -> Hits:
        """The k best of the allowed texts for each query; one that shares no word with it is never a hit."""
        hits = no_hits(len(queries), k)
        check_allow(allow, self.n)
        row_scores = np.empty(self.n, np.float32)
        for rows, values, query in zip(*hits, queries, strict=True):
            row_scores.fill(0)
            self._add(query, row_scores)
            if allow is not None:
                row_scores[~allow] = 0
            found = best(row_scores, k, floor=0.0)
            rows[: found.size], values[: found.size] = found, row_scores[found]
        return hits

    def _add(self, query: str, row_scores: Array) -> None:
        """Adds the weights of the query's words to scores [n] that are 0."""
        known = Counter(column for word in tokenize(query) if (column := self.columns.get(word)) is not None)
        # Sorted, since sums of floats depend on their order and the score should not depend on that of the words.
        for column, count in sorted(known.items()):
            entries = slice(self.offsets[column], self.offsets[column + 1])
            row_scores[self.rows[entries]] += np.float32(count) * self.weights[entries]


def _weigh(texts_columns: list[list[int]], columns: dict[str, int], k1: float, b: float) -> tuple[Array, Array, Array]:
    """The sparse matrix of BM25 weights by `bm25s`: weights, rows and offsets."""
    from bm25s import BM25

    # Lucene's variant, since its idf is above 0 for every word. In the original one a word of more than half of the
    # texts weighs nothing, and a text that matches by such words alone could not be told from one without a match.
    engine = BM25(k1=k1, b=b, method="lucene")
    engine.index((texts_columns, columns), create_empty_token=False, show_progress=False)
    matrix: dict[str, Any] = engine.scores
    return (
        matrix["data"].astype(np.float32, copy=False),
        matrix["indices"].astype(np.int32, copy=False),
        matrix["indptr"].astype(np.int64, copy=False),
    )
