"""Bundles opened with an index that they keep, with fewer dimensions, with vectors stored in less, or through a store."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import WORLD_CONFIG
from tests.test_index import clustered
from twotower import load, train
from twotower.bundle import build_index, compact, publish, verify
from twotower.bundle.growth import MOST_SEGMENTS
from twotower.bundle.indexes import sample_queries, write_index
from twotower.bundle.layout import Segment, find_bundle, open_bundle, write_segment, write_version
from twotower.errors import BundleError, ConfigError
from twotower.files import read_array
from twotower.search.index import Approximate, Chosen, Exact, automatic

N = 3000
TOLD = Chosen("ivf", 4, 1.0, 0.1, 0.2, 1.0, 1000, "a test")


@pytest.fixture
def copied(world_folder, tmp_path):
    return Path(shutil.copytree(world_folder / "bundle", tmp_path / "bundle"))


@pytest.fixture
def large(copied):
    """The bundle with 3,000 items whose vectors lie in clusters."""
    bundle = open_bundle(copied)
    first = bundle.segments[0]
    rows = np.arange(N) % len(first.items)
    items = first.items.take(pa.array(rows)).drop_columns("_id").add_column(0, "_id", pa.array(np.arange(N) + 1000))
    items = items.set_column(items.schema.get_field_index("name"), "name", pa.array(np.arange(N) + 1000))
    vectors = clustered(N, bundle.dimensions)
    segment = Segment(vectors, items, None)
    write_version(copied, bundle.fingerprint, [write_segment(copied, segment, bundle.fingerprint)], N, parent="000001")
    return copied


def searched(retriever, vectors, k=10, allow=None):
    return retriever.catalogue.index.search(vectors, k, allow)


def test_an_index_is_built_kept_and_used(large, monkeypatch):
    monkeypatch.setattr(automatic, "EXACT_NUMBERS", 0)
    monkeypatch.setattr(automatic, "milliseconds", lambda index, queries: 2.0 if isinstance(index, Exact) else 1.0)
    chosen = build_index(large, 0.9)
    assert chosen.kind != "exact" and chosen.recall > 0.8
    retriever = load(large)
    assert retriever.catalogue.chosen == chosen and not isinstance(retriever.catalogue.index, Exact)
    assert isinstance(load(large, index="exact").catalogue.index, Exact)
    queries = sample_queries(retriever.bundle)[:40]
    exact = Exact(np.asarray(retriever.vectors)).search(queries, 10).rows
    found = searched(retriever, queries).rows
    assert np.mean([np.isin(one, other).mean() for one, other in zip(exact, found, strict=True)]) > 0.8
    assert build_index(large, 1.0).kind == "exact" and load(large).catalogue.chosen is None
    assert not any((large / "indexes").iterdir())


def test_a_catalogue_that_grew_keeps_its_index(large):
    bundle = open_bundle(large)
    built = Approximate(bundle.segments[0].vectors, "ivf")
    write_index(large, built, bundle.catalogue["segments"][0], TOLD)
    retriever = load(large)
    gone = list(range(1000, 1400))
    retriever.remove_items(gone)
    retriever.update_items([{"name": 2000, "title": "tovar3 vid1"}])
    retriever.add_items([{"name": 9000, "title": "tovar9 vid2", "kind": "k0", "price": 1.0}])
    now = retriever.catalogue
    assert now.chosen == TOLD and len(retriever) == N - 400 + 1
    every = retriever.vectors[retriever.rows_of([9000, 2000])]
    found = searched(retriever, every, k=3)
    assert retriever.catalogue.ids.take(pa.array(found.rows[:, 0])).to_pylist() == [9000, 2000]
    queries = sample_queries(retriever.bundle)[:60]
    exact = Exact(np.asarray(retriever.vectors))
    generator = np.random.default_rng(0)
    for allow in (None, generator.random(len(retriever)) < 0.5, generator.random(len(retriever)) < 0.01):
        wanted, found = exact.search(queries, 10, allow), searched(retriever, queries, 10, allow)
        ids = retriever.catalogue.ids.take(pa.array(found.rows[found.rows >= 0])).to_pylist()
        assert not set(ids) & (set(gone))
        assert allow is None or allow[found.rows[found.rows >= 0]].all()
        alike = np.mean([np.isin(one, other).mean() for one, other in zip(wanted.rows, found.rows, strict=True)])
        assert alike > 0.8
        there = found.rows >= 0
        query = np.nonzero(there)[0]
        np.testing.assert_allclose(
            found.scores[there], np.einsum("nd,nd->n", queries[query], np.asarray(retriever.vectors)[found.rows[there]]), atol=1e-5
        )
    compact(large)
    assert load(large).catalogue.chosen is None  # of another segment


def test_an_index_that_is_of_no_more_use_is_said_and_goes_with_its_segment(large, tmp_path, caplog):
    bundle = open_bundle(large)
    kept = bundle.catalogue["segments"][0]
    write_index(large, Approximate(bundle.segments[0].vectors, "ivf"), kept, TOLD)
    write_index(large, Approximate(bundle.segments[0].vectors, "ivf"), "e" * 16, TOLD)  # of a segment that no version names
    publish(large, tmp_path / "served")
    assert [path.name for path in (find_bundle(tmp_path / "served") / "indexes").iterdir()] == [kept]
    retriever = load(large)
    for number in range(MOST_SEGMENTS):
        assert retriever.catalogue.chosen == TOLD and not caplog.messages
        retriever.update_items([{"name": 1000, "price": 100.0 + number}])
    assert len(retriever.bundle.segments) == 1 and retriever.catalogue.chosen is None
    assert len(caplog.messages) == 1 and f"twotower index {large}" in caplog.text
    assert (large / "indexes" / kept).is_dir()  # for whoever goes back to a version that has the segment
    compact(large, keep=1)
    assert not list((large / "indexes").iterdir()) and len(caplog.messages) == 1


def test_an_index_of_other_vectors_is_refused(large):
    bundle = open_bundle(large)
    name = bundle.catalogue["segments"][0]
    write_index(large, Approximate(bundle.segments[0].vectors[:-1], "ivf"), name, TOLD)
    with pytest.raises(BundleError):
        load(large)


def test_few_items_are_searched_exactly(copied, typed):
    assert build_index(copied).kind == "exact"
    assert not (copied / "indexes").exists() or not any((copied / "indexes").iterdir())
    code, out, _ = typed("index", copied)
    assert code == 0 and "searched exactly" in out
    for arguments, said in ((["--recall", "1.5"], "recall"), (["--memory", "much"], "200MB")):
        code, out, err = typed("index", copied, *arguments)
        assert (code, out) == (2, "") and said in err and "Traceback" not in err


# --- vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "share"), [("float16", 0.5), ("int8", 0.25 + 4 / 128)])
def test_vectors_may_be_stored_in_less(world, tmp_path, kind, share):
    run = train(
        *world, config=WORLD_CONFIG | {"train": {"epochs": 2, "batch_size": 64}}, settings=[f"search.vectors='{kind}'"], output=tmp_path / "run"
    )
    folder = tmp_path / "run" / "bundle"
    bundle = open_bundle(folder)
    segment = folder / "segments" / bundle.catalogue["segments"][0]
    assert read_array(segment / "vectors.npy").dtype.name == kind
    told = run.metrics["storage"]
    assert told["kind"] == kind and told["recall"] > 0.9 and told["bytes"] / told["float32_bytes"] == pytest.approx(share)
    assert f"stored as {kind}, {share:.0%} of float32" in (folder / "model" / "card.md").read_text()
    retriever = load(folder)
    exact = retriever.embed_items(retriever.items)
    np.testing.assert_allclose(np.asarray(retriever.vectors), exact, atol=0.01)
    for mode in ("vectors", "hybrid", "words"):
        found = retriever.search(["subject3 sort1", "subject5 sort0"], k=36, mode=mode)
        assert found.rows.shape == (2, 36)
    near = retriever.embed_queries(["subject3 sort1"]) @ np.asarray(retriever.vectors).T
    assert retriever.search("subject3 sort1", k=5, mode="vectors").scores.tolist() == pytest.approx(np.sort(near[0])[::-1][:5].tolist(), abs=1e-5)
    retriever.add_items([{"name": 9000, "title": "tovar9 vid2", "kind": "k0", "price": 1.0}])
    retriever.update_items([{"name": 1000, "price": 5.0}])
    assert read_array(folder / "segments" / retriever.bundle.catalogue["segments"][1] / "vectors.npy").dtype.name == kind
    np.testing.assert_allclose(np.asarray(retriever.vectors), retriever.embed_items(retriever.items), atol=0.01)
    compact(folder)
    assert len(load(folder)) == 37
    verify(folder)


def test_fewer_dimensions(world_folder):
    whole, narrow = load(world_folder), load(world_folder, width=8)
    vectors = np.asarray(whole.vectors)[:, :8]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(narrow.vectors), vectors, atol=1e-6)
    queries = whole.embed_queries(["subject3 sort1"])[:, :8]
    queries /= np.linalg.norm(queries)
    found = narrow.search("subject3 sort1", k=5, mode="vectors")
    assert found.scores.tolist() == pytest.approx(np.sort(queries @ vectors.T)[0, ::-1][:5].tolist(), abs=1e-5)
    for width in (0, 33):
        with pytest.raises(ConfigError, match=f"32 dimensions.*{width}"):
            load(world_folder, width=width)
    with pytest.raises(ConfigError, match="fewer dimensions"):
        narrow.remove_items(1000)


def test_a_store_has_an_index_of_its_own(world_folder, tmp_path):
    with pytest.raises(ConfigError, match="of its own"):
        load(world_folder, store=f"lancedb://{tmp_path}", width=8)
