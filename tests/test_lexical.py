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
from twotower.search.lexical import Lexical, tokenize

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


@settings(max_examples=300, deadline=None)
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


@settings(max_examples=60, deadline=None)
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
def test_the_state_comes_back_from_files_without_pickle(texts, tmp_path):
    lexical = Lexical.build(iter(texts))
    arrays = {}
    for name, array in lexical.arrays().items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=False)
        arrays[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    restored = Lexical.restore(arrays, list(lexical.vocabulary))
    queries = ["list files", "folder", "", "unknown"]
    assert restored.scores(queries).tobytes() == lexical.scores(queries).tobytes()
    assert restored.search(queries, 3).rows.tolist() == lexical.search(queries, 3).rows.tolist()


def test_a_damaged_state_is_refused():
    lexical = Lexical.build(TEXTS)
    arrays = lexical.arrays()
    damaged = [
        ({**arrays, "weights": arrays["weights"][1:]}, lexical.vocabulary),
        ({**arrays, "n": np.asarray(2)}, lexical.vocabulary),
        (arrays, lexical.vocabulary[1:]),
        (arrays, [*lexical.vocabulary[1:], lexical.vocabulary[1]]),
        ({name: array for name, array in arrays.items() if name != "rows"}, lexical.vocabulary),
    ]
    for state in damaged:
        with pytest.raises(BundleError):
            Lexical.restore(*state)


def test_options_that_cannot_be_meant_raise():
    for options in ({"k1": 0.0}, {"b": 1.1}, {"b": -0.1}):
        with pytest.raises(ConfigError):
            Lexical.build(TEXTS, **options)
    with pytest.raises(ConfigError):
        Lexical.build(TEXTS).search(["list"], 0)


PROGRAM = """
import hashlib, sys
from twotower.search.lexical import Lexical
assert "bm25s" not in sys.modules
lexical = Lexical.build({texts!r})
digest = hashlib.sha256(b"".join(array.tobytes() for array in lexical.arrays().values()))
for module in [name for name in sys.modules if name.startswith("bm25s")]:
    sys.modules[module] = None  # from here on an import raises
restored = Lexical.restore(lexical.arrays(), lexical.vocabulary)
restored.search(["list"], 2)
print(digest.hexdigest(), lexical.vocabulary)
"""


def test_same_bytes_in_every_process_and_look_up_without_the_library():
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
