"""Vectors as they are stored: read like float32, as exact as their kind allows, and refused where they do not go together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twotower.errors import BundleError, ConfigError, DataError
from twotower.files import read_array, write_array
from twotower.search.vectors import Vectors, concatenated, stored, taken, widened

KINDS = ("float32", "float16", "int8")
ROWS = arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(1, 6)), elements=st.floats(-1000, 1000, width=32))


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=200)
@given(rows=ROWS)
def test_what_is_stored_is_as_near_as_its_kind_allows(rows):
    assert np.array_equal(np.asarray(stored(rows, "float32")), rows)
    np.testing.assert_array_equal(np.asarray(stored(rows, "float16")), rows.astype(np.float16).astype(np.float32))
    found = stored(rows, "int8")
    largest = np.abs(rows).max(axis=1, initial=0)
    assert (np.abs(np.asarray(found, np.float64) - rows) <= largest[:, None] * (0.5 / 127 + 1e-6) + 1e-27).all()
    for values, most in zip(found.values, largest, strict=True):
        assert np.abs(values.astype(int)).max() == (127 if most > 1e-27 else np.abs(values.astype(int)).max()) <= 127


def test_a_row_of_int8_worked_by_hand():
    found = stored(np.array([[0.5, -1.27, 0.0, 0.014], [0, 0, 0, 0]], np.float32), "int8")
    assert found.values.tolist() == [[50, -127, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.scales, [0.01, 0], rtol=1e-6)
    np.testing.assert_allclose(found[0], [0.5, -1.27, 0, 0.01], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_like_an_array_of_float32(kind):
    vectors = stored(unit(40, 5), kind)
    scales = np.ones(40) if vectors.scales is None else vectors.scales
    whole = (vectors.values.astype(np.float64) * scales[:, None]).astype(np.float32)
    mask = np.arange(40) % 3 == 0
    for key in (slice(None), slice(3, 17), slice(50, 60), np.array([5, 0, 5], np.int64), np.array([], np.int64), mask, 7, -1, np.int64(3)):
        found = vectors[key]
        assert found.dtype == np.float32 and found.shape == whole[key].shape
        np.testing.assert_allclose(found, whole[key], rtol=1e-6)
    assert len(vectors) == 40 and vectors.shape == (40, 5) and vectors.ndim == 2 and vectors.kind == kind
    assert np.asarray(vectors).dtype == np.float32 and np.asarray(vectors, np.float64).dtype == np.float64
    assert vectors.nbytes == {"float32": 800, "float16": 400, "int8": 360}[kind]
    with pytest.raises(IndexError):
        vectors[40]


def test_every_float16_there_is_is_widened_as_numpy_does():
    """Zeros of both signs, what is smaller than normal, inf and nan too: all 65,536, with the odd ones beside the usual and alone."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    for values in (every.reshape(-1, 16), finite.reshape(-1, 16), finite.reshape(16, -1)[:, 3:50]):
        for out in (None, np.empty(values.shape, np.float32)):
            found = widened(values, out)
            assert out is None or found is out
            np.testing.assert_array_equal(found, values.astype(np.float32))
            np.testing.assert_array_equal(np.signbit(found), np.signbit(values))


def test_reading_changes_nothing_that_is_stored():
    """int8 is scaled in place after it was widened: the copy, and not what is stored."""
    for kind in KINDS:
        vectors = stored(unit(9, 4), kind)
        before = vectors.values.copy()
        first, again = vectors[2:5], vectors[2:5]
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(vectors.values, before)


def test_float32_is_not_copied():
    rows = unit(9, 4)
    vectors = stored(rows, "float32")
    assert np.shares_memory(vectors[2:5], rows) and np.shares_memory(np.asarray(vectors), rows)
    assert not np.shares_memory(np.array(vectors, copy=True), rows)
    with pytest.raises(ValueError, match="copy"):
        np.array(stored(rows, "int8"), copy=False)
    half = stored(rows, "float16")
    assert stored(half, "float16") is half and concatenated([half]) is half and taken(half) is half


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_mapped_it_is_the_same(kind, tmp_path):
    vectors = stored(unit(5000, 8), kind)
    for name, array in vectors.arrays().items():
        write_array(tmp_path / f"{name}.npy", array)
    back = Vectors.restore({path.stem: read_array(path) for path in tmp_path.iterdir()})
    assert back.kind == kind and (kind == "int8" or isinstance(back.values, np.memmap))
    np.testing.assert_array_equal(np.asarray(back), np.asarray(vectors))
    np.testing.assert_array_equal(back[np.array([4999, 3])], vectors[np.array([4999, 3])])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 3, 8])
def test_narrowed_rows_are_of_length_1_again_and_point_the_same_way(kind, width):
    rows = unit(60, 8) * np.linspace(0.5, 2, 60, dtype=np.float32)[:, None]
    rows[7] = 0
    rows[8, :width] = 0
    vectors = stored(rows, kind)
    narrow = vectors.narrowed(width)
    assert narrow.kind == kind and narrow.shape == (60, width)
    cut = np.asarray(vectors, np.float64)[:, :width]
    length = np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.asarray(narrow), np.divide(cut, length, out=np.zeros_like(cut), where=length > 0), atol=1e-3 if kind == "float16" else 1e-6
    )
    np.testing.assert_array_equal(np.asarray(vectors.narrowed(width, unit=False)), np.asarray(vectors)[:, :width])
    for wrong in (0, 9):
        with pytest.raises(ConfigError, match="1 to 8"):
            vectors.narrowed(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_go_behind_each_other(kind):
    rows = unit(30, 4)
    parts = [stored(part, kind) for part in (rows[:10], rows[10:10], rows[10:])]
    np.testing.assert_array_equal(np.asarray(concatenated(parts)), np.asarray(stored(rows, kind)))
    other = stored(rows, "int8" if kind == "float32" else "float32")
    for mix in ([parts[0], other], [parts[0], stored(rows[:, :3], kind)], []):
        with pytest.raises(DataError, match="one kind"):
            concatenated(mix)


def test_a_plain_array_is_taken_as_it_is():
    rows = unit(6, 3)
    assert taken(rows).kind == "float32" and taken(rows.astype(np.float16)).kind == "float16"
    np.testing.assert_array_equal(np.asarray(taken(np.array([[1, 2], [3, 4]]))), [[1, 2], [3, 4]])
    with pytest.raises(DataError, match="shape"):
        taken(rows[0])


def test_what_cannot_be_held_is_refused():
    rows = unit(4, 3)
    for value in (np.nan, np.inf, -np.inf):
        bad = rows.copy()
        bad[2, 1] = value
        for kind in ("float16", "int8"):
            with pytest.raises(DataError, match="cannot hold"):
                stored(bad, kind)
    with pytest.raises(DataError, match="too large"):
        stored(rows * 1e6, "float16")
    with pytest.raises(ConfigError, match="did you mean"):
        stored(rows, "float61")
    with pytest.raises(DataError, match="scales"):
        Vectors(np.zeros((3, 2), np.int8))
    with pytest.raises(DataError, match="scales"):
        Vectors(rows, np.ones(4, np.float32))
    with pytest.raises(DataError, match="scales"):
        Vectors(np.zeros((3, 2), np.int8), np.ones(4, np.float32))
    with pytest.raises(DataError, match="float64"):
        Vectors(np.zeros((3, 2)))
    for arrays_ in ({}, {"values": np.zeros((3, 2), np.int8)}, {"values": rows, "more": rows}):
        with pytest.raises(BundleError):
            Vectors.restore(arrays_)
