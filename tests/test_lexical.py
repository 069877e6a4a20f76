"""BM25: tokens, the formula, and a state that comes back as it was."""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import BundleError, ConfigError, DataError
from twotower.search.lexical import Counts, Lexical, count, one_behind_another, side_by_side, taken, tokenize

TEXTS = ["List all files", "", "copy files, and COPY folders", "remove a folder", "!?", "list list"]


def bm25(texts, query, k1=1.2, b=0.75):
    """Lucene's BM25 straight from the formula, without its constant factor k1 + 1."""
    documents = [tokenize(text) for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        counts, score = Counter(document), 0.0
        for word in tokenize(query):
            having = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
            norm = k1 * (1 - b + b * len(document) / average)
            score += idf * counts[word] / (counts[word] + norm)
        scores.append(score)
    return scores


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("docker-compose up -d", ["docker", "compose", "up", "d"]),
        ("snake_case, v2.0; it's", ["snake", "case", "v2", "0", "it", "s"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("ﬁne ①２", ["fine", "12"]),  # compatibility forms
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are marks and stay
        ("東京タワーへ", ["東", "京", "タワー", "へ"]),
        ("Привет, мир", ["привет", "мир"]),
        ("co\u00adoperate", ["cooperate"]),
        ("❤\ufe0f 👍", []),  # the selector after the heart is a mark without a letter
        ("", []),
        (" \t\n", []),
    ],
)
def test_tokens(text, words):
    assert tokenize(text) == words


@settings(max_examples=300)
@given(st.text())
def test_tokens_are_clean_whatever_the_text(text):
    words = tokenize(text)
    assert all(words)
    assert [word for word in words if any(character.isspace() or character in "-_.,!?'" for character in word)] == []
    assert tokenize(f"  {text}. ") == words


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_for_ascii_equals_the_long_way(text):
    assert tokenize(text + " \u00e9") == [*tokenize(text), "\u00e9"]


@pytest.mark.parametrize("query", ["list files", "files files list", "copy", "folder of files", "unknown", ""])
@pytest.mark.parametrize("options", [{}, {"k1": 0.9, "b": 0.4}])
def test_scores_are_the_formula(query, options):
    scores = Lexical.build(TEXTS, **options).scores([query])
    assert scores.dtype == np.float32 and scores.shape == (1, len(TEXTS))
    np.testing.assert_allclose(scores[0], bm25(TEXTS, query, **options), rtol=1e-5)


@settings(max_examples=60)
@given(st.lists(st.text("abc ", max_size=12), max_size=9), st.text("abcd ", max_size=8))
def test_scores_are_the_formula_for_any_texts(texts, query):
    scores = Lexical.build(texts).scores([query])
    assert scores.shape == (1, len(texts))
    if any(tokenize(text) for text in texts):
        np.testing.assert_allclose(scores[0], bm25(texts, query), rtol=1e-5)
    else:
        assert not scores.any()


def test_hits_are_the_scores_above_zero_in_order():
    lexical = Lexical.build(TEXTS)
    hits = lexical.search(["list files", "unknown", ""], 4)
    scores = lexical.scores(["list files"])[0]
    assert hits.rows[0].tolist() == [*np.argsort(-scores, kind="stable")[:3].tolist(), -1]
    assert hits.scores[0].tolist() == [*np.sort(scores)[::-1][:3].tolist(), -np.inf]
    assert (hits.rows[1:] == -1).all() and (hits.scores[1:] == -np.inf).all()


def test_a_word_of_every_text_still_finds_them():
    hits = Lexical.build(["same", "same", "same"]).search(["same"], 2)
    assert hits.rows.tolist() == [[0, 1]]
    assert (hits.scores > 0).all()


def test_the_order_of_the_words_changes_no_bit():
    generator = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(60)])
    lexical = Lexical.build([" ".join(words[generator.random(60) < generator.random()]) for _ in range(200)])
    shuffled = [" ".join(generator.permutation(words)) for _ in range(3)]
    assert len({lexical.scores([query]).tobytes() for query in shuffled}) == 1


def test_allow_leaves_texts_out():
    lexical = Lexical.build(TEXTS)
    allow = np.ones(len(TEXTS), bool)
    allow[lexical.search(["files"], 1).rows[0, 0]] = False
    assert lexical.search(["files"], 3, allow).rows[0].tolist() == [2, -1, -1]
    with pytest.raises(DataError, match="allow"):
        lexical.search(["files"], 3, allow[1:])


@pytest.mark.parametrize("texts", [TEXTS, [], ["", "?"]])
def test_counts_come_back_from_files_without_pickle(texts, tmp_path):
    counts = count(iter(texts))
    arrays = {}
    for name, array in counts.arrays().items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    restored, lexical = Lexical.weighed(Counts.restore(arrays, counts.vocabulary)), Lexical.build(texts)
    queries = ["list files", "folder", "", "unknown"]
    assert restored.scores(queries).tobytes() == lexical.scores(queries).tobytes()
    assert restored.search(queries, 3).rows.tolist() == lexical.search(queries, 3).rows.tolist()


def test_damaged_counts_are_refused():
    counts = count(TEXTS)
    arrays = counts.arrays()
    damaged = [
        ({**arrays, "counts": arrays["counts"][1:]}, counts.vocabulary),
        ({**arrays, "lengths": arrays["lengths"][:2]}, counts.vocabulary),
        (arrays, counts.vocabulary[1:]),
        (arrays, [*counts.vocabulary[1:], counts.vocabulary[1]]),
        ({name: array for name, array in arrays.items() if name != "rows"}, counts.vocabulary),
    ]
    for state in damaged:
        with pytest.raises(BundleError):
            Counts.restore(*state)


SOME = st.lists(st.text("abc ", max_size=12), max_size=6)


def counted(words):
    """Counts as plain values: for each text, how often it holds each word, and its length."""
    found = [Counter() for _ in words.lengths]
    for column, word in enumerate(words.vocabulary):
        for place in range(words.offsets[column], words.offsets[column + 1]):
            found[words.rows[place]][word] += int(words.counts[place])
    return list(zip(found, words.lengths.tolist(), strict=True))


@settings(max_examples=100)
@given(SOME, SOME, st.randoms())
def test_counts_that_are_put_together_are_those_of_the_texts_together(texts, more, random):
    own, other = count(texts), count(more)
    assert counted(own) == [(Counter(tokenize(text)), len(tokenize(text))) for text in texts]
    behind = one_behind_another([own, other])
    assert counted(behind) == counted(count([*texts, *more]))
    some = random.sample(range(len(texts) + len(more)), random.randint(0, len(texts) + len(more)))
    assert counted(taken(behind, np.array(some, np.int64))) == counted(count([[*texts, *more][row] for row in some]))
    beside = count([random.choice([*more, ""]) for _ in texts])
    both = [sum(pair, Counter()) for pair in zip([each for each, _ in counted(own)], [each for each, _ in counted(beside)], strict=True)]
    assert [each for each, _ in counted(side_by_side([own, beside]))] == both


@settings(max_examples=30)
@given(SOME, SOME, st.text("abcd ", max_size=8))
def test_what_grew_scores_as_if_it_had_always_been_whole(texts, more, query):
    grown = Lexical.weighed(one_behind_another([count(texts), count(more)])).scores([query])
    np.testing.assert_allclose(grown, Lexical.build([*texts, *more]).scores([query]), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"k1": 0.9, "b": 0.4}])
def test_weights_are_those_of_another_library(options):
    bm25s = pytest.importorskip("bm25s")
    words = [tokenize(text) for text in TEXTS]
    other = bm25s.BM25(method="lucene", **({"k1": 1.2, "b": 0.75} | options))
    other.index(words, show_progress=False)
    lexical = Lexical.build(TEXTS, **options)
    for query in ("list files", "copy", "folder of files"):
        np.testing.assert_allclose(lexical.scores([query])[0], other.get_scores(tokenize(query)), rtol=1e-5)


def test_options_that_cannot_be_meant_raise():
    for options in ({"k1": 0.0}, {"b": 1.1}, {"b": -0.1}):
        with pytest.raises(ConfigError):
            Lexical.build(TEXTS, **options)
    with pytest.raises(ConfigError):
        Lexical.build(TEXTS).search(["list"], 0)


PROGRAM = """
import hashlib
from twotower.search.lexical import count
counts = count({texts!r})
print(hashlib.sha256(b"".join(array.tobytes() for array in counts.arrays().values())).hexdigest(), counts.vocabulary)
"""


def test_same_bytes_in_every_process():
    program = PROGRAM.format(texts=TEXTS)
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""
