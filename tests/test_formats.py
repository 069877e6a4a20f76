"""Bundles of every past format stay readable. Each is a run on the planted world; from the second on, words are counted."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import twotower as tt
from twotower.bundle import verify, versions
from twotower.files import read_json

STORED = sorted((Path(__file__).parent / "data").glob("bundle-*"))


def test_there_is_one_for_each_format():
    assert [folder.name for folder in STORED] == ["bundle-1", "bundle-2"]


@pytest.mark.parametrize("stored", STORED, ids=lambda folder: folder.name)
def test_a_stored_bundle_answers_as_it_did(stored: Path, tmp_path: Path):
    folder = tmp_path / "bundle"
    shutil.copytree(stored, folder)
    verify(folder)
    tt.rollback(folder, "1")  # what the golden queries were asked of
    retriever = tt.load(folder)
    for golden in read_json(folder / "model" / "golden.json"):
        found = retriever.search(golden["query"], k=5, mode="vectors")
        np.testing.assert_allclose(found.scores, golden["scores"], atol=1e-5)
        assert len(set(found.rows) & set(golden["rows"])) >= 4  # equal scores may change places
    assert retriever.search("subject3 sort1 noise2 n9", k=1).ids[0] == 1010


def test_a_stored_catalogue_that_grew():
    """The second has four versions: a price that changed, an item that was added, one that was removed."""
    folder = Path(__file__).parent / "data" / "bundle-2"
    assert [(version.version, version.rows) for version in versions(folder)] == [("000001", 36), ("000002", 36), ("000003", 37), ("000004", 36)]
    retriever = tt.load(folder)
    assert retriever.show(retriever.rows_of([1000]))[0]["price"] == 99.5
    assert retriever.search("novinka", k=1, mode="words").ids.tolist() == [2000]
    assert retriever.find(pa.array([1035])).tolist() == [-1]
