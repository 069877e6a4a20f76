"""Hashes of texts, words and pieces against a second, plain implementation."""

import itertools
import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.hashes import PAIR, PIECE, WORD, hash_texts, hash_words

TWO64 = 1 << 64
BASE = 0x9E3779B97F4A7C15
TEXTS = st.text(st.one_of(st.sampled_from("ab cB-é日本かな3\u0301ﬁ"), st.characters(codec="utf-8", exclude_characters="\0")), max_size=15)


def mixed(value):
    value ^= value >> 30
    value = value * 0xBF58476D1CE4E5B9 % TWO64
    value ^= value >> 27
    value = value * 0x94D049BB133111EB % TWO64
    return value ^ value >> 31


def plain(codes):
    """The hash of a sequence of code points, term by term."""
    return mixed(sum(mixed(code + 1) * pow(BASE, place, TWO64) for place, code in enumerate(codes)) % TWO64)


def is_alone(character):
    code = ord(character)
    spaceless = 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF
    return spaceless and character.isalnum()


def split_words(text):
    words, word = [], ""
    for character in unicodedata.normalize("NFKC", text).casefold() if not text.isascii() else text.lower():
        part = character.isalnum() or unicodedata.category(character)[0] == "M"
        spaceless = 0x3040 <= ord(character) <= 0x30FF or 0x3400 <= ord(character) <= 0x9FFF or 0xF900 <= ord(character) <= 0xFAFF
        spaceless = spaceless or 0x20000 <= ord(character) <= 0x3FFFF
        if is_alone(character) or not part or spaceless:
            words += [word] if word else []
            word = ""
            words += [character] if is_alone(character) else []
        else:
            word += character
    return words + ([word] if word else [])


def second(text, pairs, pieces, limit):
    marked = [[1, *map(ord, word), 2] for word in split_words(text)[:limit]]
    hashes = [plain(codes) for codes in marked]
    found = [(value, WORD) for value in hashes]
    if pairs:
        found += [(mixed((one * BASE + two) % TWO64), PAIR) for one, two in itertools.pairwise(hashes)]
    for length in pieces:
        found += [(plain(codes[at : at + length]) ^ length, PIECE) for codes in marked for at in range(len(codes) - length + 1)]
    return found


def rows(hashed):
    return [
        list(zip(hashed.values[a:b].tolist(), hashed.kinds[a:b].tolist(), strict=True))
        for a, b in zip(hashed.offsets[:-1], hashed.offsets[1:], strict=True)
    ]


@settings(max_examples=150)
@given(st.lists(TEXTS, max_size=5), st.booleans(), st.sampled_from([(), (3,), (2, 4)]), st.integers(1, 4))
def test_the_fast_one_equals_the_plain_one(texts, pairs, pieces, limit):
    hashed = hash_words(texts, pairs=pairs, pieces=pieces, limit=limit)
    assert rows(hashed) == [second(text, pairs, pieces, limit) for text in texts]


@given(st.lists(TEXTS, max_size=6))
def test_a_text_has_one_hash_whatever_its_neighbours(texts):
    assert hash_texts(texts).tolist() == [plain(map(ord, text)) for text in texts]


def test_worked_by_hand():
    assert plain([]) == 0  # a sum of nothing
    assert hash_texts([""]).tolist() == [0]
    assert hash_texts(["A"]).tolist() == [mixed(mixed(66))]
    kinds = hash_words(["Ab cd"], pairs=True, pieces=(3,), limit=9).kinds.tolist()
    assert kinds == [WORD] * 2 + [PAIR] + [PIECE] * 4  # <ab> gives <ab and ab>


def test_many_chunks_equal_one_text_at_a_time():
    generator = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in generator.integers(0, 50, size)) for size in [3, 0, 200_000, 1, 150_000, 2, 2]]
    together = rows(hash_words(texts, pairs=True, pieces=(3,), limit=10**6))
    for text, row in zip(texts, together, strict=True):
        assert rows(hash_words([text], pairs=True, pieces=(3,), limit=10**6)) == [row]


def test_a_million_texts_have_a_million_hashes():
    assert len(np.unique(np.sort(hash_texts([f"{n}" for n in range(300_000)] + [f"id-{n:06d}" for n in range(300_000)])))) == 600_000


def test_case_width_and_composition_make_no_other_word():
    assert (
        len({tuple(rows(hash_words([text], pairs=True, pieces=(3,), limit=9))[0]) for text in ["Café ﬁne", "CAFE\u0301 fine", "ｃａｆé FINE"]}) == 1
    )
