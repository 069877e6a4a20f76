"""Vectors and words made one score."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from twotower.search.fusion import blend

DENSE = np.array([[0.8, 0.4, 0.0], [0.5, 0.6, -0.9]], np.float32)
WORDS = np.array([[0.0, 12.0, 6.0], [0.0, 0.0, 0.0]], np.float32)


def test_worked_by_hand():
    # Query 0: best similarity 0.8, best words 12; weight 0.5 adds 0.4 to the best in words and 0.2 to the half as good.
    assert_allclose(blend(DENSE, WORDS, 0.5), [[0.8, 0.8, 0.2], [0.5, 0.6, -0.9]], atol=1e-6)


def test_query_without_known_words_is_left_to_the_vectors():
    assert_array_equal(blend(DENSE, WORDS, 0.5)[1], DENSE[1])


def test_query_that_the_vectors_know_nothing_of_is_left_to_the_words():
    scores = blend(np.zeros((1, 3), np.float32), WORDS[:1], 0.5)
    assert_array_equal(np.argsort(-scores[0], kind="stable"), [1, 2, 0])


def test_scale_of_either_side_changes_no_order():
    order = np.argsort(-blend(DENSE, WORDS, 0.7), axis=1)
    assert_array_equal(np.argsort(-blend(DENSE * 30, WORDS, 0.7), axis=1), order)
    assert_array_equal(np.argsort(-blend(DENSE, WORDS * 0.01, 0.7), axis=1), order)


def test_weight_moves_the_order():
    assert np.argmax(blend(DENSE, WORDS, 0.1)[0]) == 0
    assert np.argmax(blend(DENSE, WORDS, 2.0)[0]) == 1


def test_inputs_stay_as_they_are():
    dense, words = DENSE.copy(), WORDS.copy()
    blend(dense, words, 1.0)
    assert_array_equal(dense, DENSE)
    assert_array_equal(words, WORDS)
