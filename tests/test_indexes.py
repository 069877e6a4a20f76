"""Indexes that a bundle keeps: found by their segment, refused where they are of others, and of use for a catalogue that has grown."""

import json

import numpy as np
import pytest

from tests.test_index import clustered
from twotower.bundle.indexes import Grown, saved_index, write_index
from twotower.errors import BundleError, ConfigError, DataError
from twotower.search.index import Approximate, Chosen, Exact

N = 2500
TOLD = Chosen("ivf", 9, 0.97, 0.5, 4.0, 1.5, 12345, "because")


@pytest.fixture(scope="module")
def index():
    return Approximate(clustered(N), "ivf", breadth=9)


def test_what_was_written_is_found_by_its_segment(index, tmp_path):
    vectors, queries = clustered(N), clustered(N + 9)[N:]
    assert saved_index(tmp_path, vectors, "abc") is None
    place = write_index(tmp_path, index, "abc", TOLD)
    assert place == tmp_path / "indexes" / "abc" and [path.name for path in place.parent.iterdir()] == ["abc"]
    back, told = saved_index(tmp_path, vectors, "abc", everything=True)
    assert told == TOLD and (back.kind, back.breadth) == ("ivf", 9)
    np.testing.assert_array_equal(back.search(queries, 5).rows, index.search(queries, 5).rows)
    assert saved_index(tmp_path, vectors, "abd") is None
    write_index(tmp_path, index.at(3), "abc", TOLD._replace(breadth=3))
    assert saved_index(tmp_path, vectors, "abc")[0].breadth == 3 and len(list(place.parent.iterdir())) == 1


def test_one_of_others_or_a_damaged_one_is_refused(index, tmp_path):
    vectors = clustered(N)
    place = write_index(tmp_path, index, "abc", TOLD)
    with pytest.raises(BundleError, match="other vectors"):
        saved_index(tmp_path, vectors[:-1], "abc")
    place.rename(place.with_name("abd"))
    with pytest.raises(BundleError, match="not the index"):
        saved_index(tmp_path, vectors, "abd")
    place = write_index(tmp_path, index, "abc", TOLD)
    whole = (place / "index.npy").read_bytes()
    (place / "index.npy").write_bytes(whole[:500] + b"x" + whole[501:])
    with pytest.raises(BundleError, match="sha256"):
        saved_index(tmp_path, vectors, "abc")
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(BundleError, match="Upgrade"):
        saved_index(tmp_path, vectors, "abc")
    for name in ("", "../model", "a/b"):
        with pytest.raises(ConfigError, match="letters and digits"):
            saved_index(tmp_path, vectors, name)


def test_an_unfinished_one_leaves_nothing(index, tmp_path, monkeypatch):
    monkeypatch.setattr(Approximate, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_index(tmp_path, index, "abc", TOLD)
    assert list((tmp_path / "indexes").iterdir()) == []


def test_one_that_is_killed_leaves_a_folder_that_can_be_written_to(index, tmp_path, monkeypatch):
    place = write_index(tmp_path, index, "abc", TOLD)
    for made in (place.with_name("abc-old"), place.with_name(".abc.1a.part")):
        made.mkdir()
        (made / "index.npy").write_bytes(b"half")
    write_index(tmp_path, index.at(3), "abc", TOLD._replace(breadth=3))
    assert [path.name for path in place.parent.iterdir()] == ["abc"]
    # Until the new one is whole, the one before stays.
    monkeypatch.setattr(Approximate, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_index(tmp_path, index, "abc", TOLD)
    assert saved_index(tmp_path, clustered(N), "abc")[0].breadth == 3


@pytest.mark.parametrize("covered", [0, 700, 1200, 1500])
@pytest.mark.parametrize("share", [1, 0.5, 0.003, 0])
def test_a_grown_catalogue_is_searched_as_a_whole(covered, share):
    """Whole numbers, so that there are ties across the border."""
    generator = np.random.default_rng(0)
    vectors = generator.integers(-2, 3, (1500, 4)).astype(np.float32)
    queries = generator.integers(-2, 3, (20, 4)).astype(np.float32)
    grown = Grown(Exact(vectors[:covered]), covered, vectors[covered:])
    allow = None if share == 1 else generator.random(1500) < share
    for one, other in zip(grown.search(queries, 12, allow), Exact(vectors).search(queries, 12, allow), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(grown) == 1500
    with pytest.raises(DataError, match=r"bool \[1500\]"):
        grown.search(queries, 3, np.ones(covered, bool) if covered < 1500 else np.ones(3, bool))


def test_what_was_added_behind_an_approximate_index_is_found(index):
    vectors = clustered(N + 40)
    grown = Grown(index, N, vectors[N:])
    hits = grown.search(vectors[N:], 5)
    assert (hits.rows[:, 0] == np.arange(N, N + 40)).all()
    best = np.argsort(-(vectors[N:] @ vectors.T), axis=1)[:, :5]
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(hits.rows, best, strict=True)]) > 0.95
