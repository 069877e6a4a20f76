"""What other libraries hold in memory or stream is read as it means itself, and can be read again."""

import gc
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.sources import open_source
from twotower.errors import DataError

ROWS = {"q": ["x", "y", None], "n": [1, 2, 3]}


def read(data):
    source = open_source(data, "pairs")
    first, second = ([batch.to_pydict() for batch in source.batches()] for _ in range(2))
    assert first == second
    return pa.Table.from_batches(list(source.batches())).to_pydict()


class Stream:
    """Tells its rows once, as a foreign library might."""

    def __init__(self, table):
        self.reader = table.to_reader(2)

    def __arrow_c_stream__(self, requested_schema=None):
        return self.reader.__arrow_c_stream__(requested_schema)


def test_a_stream_that_tells_its_rows_once_is_read_again_and_again():
    rows = pa.table(ROWS)
    assert read(Stream(rows)) == read(rows.to_reader()) == read(pd.DataFrame(ROWS).astype({"q": object})) == ROWS
    assert open_source(Stream(rows)).digest() == open_source(rows.to_reader()).digest() == open_source(rows).digest()


def test_what_is_written_down_goes_with_its_source(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_source(Stream(pa.table(ROWS)))
    chosen = source.select(["q"])
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    del source
    gc.collect()
    assert chosen.head().to_pydict() == {"q": ROWS["q"]}
    del chosen
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def batches():
        yield from pa.table(ROWS).to_batches()
        raise OSError("the line went dead")

    with pytest.raises(DataError, match=r"pairs cannot be read as a stream.*the line went dead"):
        open_source(pa.RecordBatchReader.from_batches(pa.table(ROWS).schema, batches()), "pairs")
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [pa.table({"q": pa.array([], pa.string())}), pa.table({})])
def test_a_stream_without_rows_is_one_clear_error(rows):
    with pytest.raises(DataError, match="pairs has no rows"):
        open_source(Stream(rows), "pairs")


def test_a_stream_with_a_name_twice_is_one_clear_error():
    with pytest.raises(DataError, match="'q' twice"):
        open_source(Stream(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["q", "q"])))


def test_relations_of_duckdb():
    duckdb = pytest.importorskip("duckdb")
    rows = pa.table(ROWS)
    assert read(duckdb.from_arrow(rows)) == ROWS
    assert read(duckdb.sql("SELECT range AS n, [range, 7] AS v FROM range(3)"))["v"] == [[0, 7], [1, 7], [2, 7]]


def test_frames_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(ROWS)
    assert read(frame) == read(frame.lazy()) == ROWS
    assert read(frame.with_columns(polars.col("q").cast(polars.Categorical))) == ROWS
    with pytest.raises(DataError, match="pairs is one Series"):
        open_source(frame["q"], "pairs")


def test_data_sets_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(ROWS)
    assert read(rows) == read(rows.to_iterable_dataset()) == ROWS
    assert read(rows.select([2, 0])) == {"q": [None, "x"], "n": [3, 1]}
    with pytest.raises(DataError, match=r"several sets.*data\['train'\]"):
        open_source(datasets.DatasetDict(train=rows), "pairs")


def test_arrays_with_names():
    array = np.array([(1, "x", [1, 2]), (2, "y", [3, 4])], [("n", int), ("q", "U3"), ("v", float, 2)])
    assert read(array) == {"n": [1, 2], "q": ["x", "y"], "v": [[1.0, 2.0], [3.0, 4.0]]}
    for bad in (np.zeros((2, 2)), pd.Series([1, 2], name="q")):
        with pytest.raises(DataError):
            open_source(bad)


CELLS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(-2, 2)), min_size=1, max_size=12)


@settings(max_examples=60)
@given(CELLS)
def test_a_sparse_matrix_is_its_cells_that_are_not_zero(cells):
    sparse = pytest.importorskip("scipy.sparse")
    rows, columns, values = zip(*cells, strict=True)
    matrix = sparse.coo_array((np.array(values, float), (rows, columns)), shape=(4, 5))
    dense = matrix.toarray()
    expected = [{"query": r, "item": c, "weight": dense[r, c]} for r in range(4) for c in range(5) if dense[r, c]]
    if not expected:
        with pytest.raises(DataError, match="no rows"):
            open_source(matrix)
        return
    for form in (matrix, matrix.tocsr(), matrix.tocsc(), sparse.csr_matrix(matrix)):
        before = form.copy()
        assert open_source(form).head().to_pylist() == expected
        assert (before != form).nnz == 0


def test_cells_that_are_stored_twice_are_summed():
    sparse = pytest.importorskip("scipy.sparse")
    twice = sparse.csr_array((np.array([1.0, 2.0, -1.0, 1.0]), np.array([1, 1, 0, 0]), np.array([0, 4])), shape=(1, 2))
    assert open_source(twice).head().to_pylist() == [{"query": 0, "item": 1, "weight": 3.0}]
    assert twice.nnz == 4


def test_stored_zeros_are_counted(caplog):
    sparse = pytest.importorskip("scipy.sparse")
    with caplog.at_level(logging.WARNING, "twotower"):
        open_source(sparse.coo_array(([1.0, 0.0, 0.0], ([0, 1, 1], [0, 0, 1]))), "pairs")
    assert caplog.messages == ["pairs: 2 stored zeros are no pairs and are left out"]
    with pytest.raises(DataError, match="weights of pairs are numbers"):
        open_source(sparse.csr_array(np.array([[1j]])))


def test_no_library_is_imported_to_know_its_frames():
    source = Path(open_source.__code__.co_filename).with_name("frames.py").read_text()
    assert not any(f"import {name}" in source for name in ("pandas", "polars", "scipy", "datasets", "duckdb"))
