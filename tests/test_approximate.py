"""What FAISS is trusted with: it loses nothing when it looks at all, is the same by its seed, and comes back from a folder as it was."""

import json
import sys

import numpy as np
import pytest

from tests.test_index import clustered
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra
from twotower.files import write_array, write_json
from twotower.search.index import Approximate, Exact, approximate
from twotower.search.index.approximate import KINDS
from twotower.search.vectors import stored

N = 3000


@pytest.fixture(params=sorted(KINDS), scope="module")
def built(request):
    return Approximate(clustered(N), request.param, seed=1)


def recall(found, wanted):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.rows.tolist(), wanted.rows.tolist(), strict=True)])


def test_who_looks_at_all_of_it_misses_nothing(built):
    queries = clustered(N + 60)[N:]
    wanted = Exact(clustered(N)).search(queries, 10)
    found = built.at(built.widest).search(queries, 10)
    assert recall(found, wanted) == 1 if built.kind != "pq" else recall(found, wanted) > 0.99
    np.testing.assert_allclose(found.scores, wanted.scores, atol=2e-3 if built.kind == "pq" else 1e-6)


def test_breadth_buys_recall(built):
    rough = np.random.default_rng(0).normal(size=(N + 100, 16)).astype(np.float32)  # no clusters at all
    index = Approximate(rough[:N], built.kind)
    wanted = Exact(rough[:N]).search(rough[N:], 10)
    narrow, wide = (recall(index.at(breadth).search(rough[N:], 10), wanted) for breadth in (1, 40))
    assert narrow < wide - 0.03 and index.breadth == KINDS[built.kind].breadth
    assert built.at(7).breadth == 7 and built.at(7)._built is built._built


def test_scores_of_coarse_codes_are_those_of_the_vectors():
    """The codes know the vectors only about; what is told is exact, and the order is by that."""
    vectors = clustered(N)
    for kind in ("int8", "pq"):
        index = Approximate(vectors, kind)
        rough = index._built.search(vectors[:20], 10)[0]
        hits = index.search(vectors[:20], 10)
        products = np.einsum("qd,qkd->qk", vectors[:20], vectors[hits.rows])
        np.testing.assert_allclose(hits.scores, products, atol=1e-6)
        assert np.abs(rough - products).max() > 1e-4
        assert (hits.rows[:, 0] == np.arange(20)).all()


@pytest.mark.parametrize("stored_as", ["float16", "int8"])
def test_stored_vectors_are_indexed_as_what_they_are_read_as(built, stored_as):
    vectors = stored(clustered(N), stored_as)
    hits = Approximate(vectors, built.kind).search(clustered(20), 5)
    np.testing.assert_allclose(hits.scores, np.einsum("qd,qkd->qk", clustered(20), np.asarray(vectors)[hits.rows]), atol=1e-5)


def test_the_same_seed_gives_the_same_index(built):
    import faiss

    def bytes_of(index):
        return faiss.serialize_index(index._built).tobytes()

    faiss.omp_set_num_threads(2)
    again = Approximate(clustered(N), built.kind, seed=1)
    assert faiss.omp_get_max_threads() == 2
    assert bytes_of(again) == bytes_of(built)
    assert bytes_of(Approximate(clustered(N), built.kind, seed=2)) != bytes_of(built)


def test_a_graph_is_linked_by_one_thread(monkeypatch):
    """Several would link vectors in the order in which they come; seldom enough that equal bytes alone would not tell."""
    import faiss

    threads, add = [], faiss.IndexHNSWFlat.add
    monkeypatch.setattr(faiss.IndexHNSWFlat, "add", lambda self, rows: (threads.append(faiss.omp_get_max_threads()), add(self, rows)))
    faiss.omp_set_num_threads(2)
    Approximate(clustered(N), "hnsw")
    assert threads == [1] and faiss.omp_get_max_threads() == 2


def test_the_bytes_told_are_about_those_of_the_file(built, tmp_path):
    built.save(tmp_path, "abc")
    size = (tmp_path / "index.npy").stat().st_size
    assert size / 1.5 < built.nbytes < 1.2 * size


@pytest.mark.parametrize("n", [0, 5, N])
def test_saved_and_restored_it_is_the_same(built, n, tmp_path):
    vectors = clustered(n)
    index = built.at(5) if n == N else Approximate(vectors, built.kind, breadth=5, seed=1)
    index.save(tmp_path, "abc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", "index.npy"]
    back = Approximate.restore(tmp_path, vectors, "abc")
    assert (back.kind, back.breadth, back.seed, len(back), back.nbytes) == (index.kind, 5, 1, n, index.nbytes)
    queries = clustered(N + 9)[N:]
    for allow in (None, np.arange(n) % 2 == 0):
        for one, other in zip(back.search(queries, 4, allow), index.search(queries, 4, allow), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_index_of_others_or_a_damaged_one_is_refused(tmp_path):
    vectors = clustered(N)
    Approximate(vectors, "ivf").save(tmp_path, "abc")
    for other, digest in ((vectors, "abd"), (vectors[:-1], "abc"), (vectors[:, :-1], "abc")):
        with pytest.raises(BundleError, match="other vectors"):
            Approximate.restore(tmp_path, other, digest)
    facts = json.loads((tmp_path / "index.json").read_text())
    for change in ({"kind": "os.system"}, {"breadth": 0}, {"breadth": "8"}, {"seed": None}):
        write_json(tmp_path / "index.json", facts | change)
        with pytest.raises(BundleError, match="damaged"):
            Approximate.restore(tmp_path, vectors, "abc")
    write_json(tmp_path / "index.json", facts)
    whole = np.load(tmp_path / "index.npy")
    Approximate(vectors[:2000], "ivf").save(tmp_path / "fewer", "abc")
    for bad in (whole[:100], whole[:-9], np.zeros(0, np.uint8), np.load(tmp_path / "fewer" / "index.npy")):
        write_array(tmp_path / "index.npy", bad)
        with pytest.raises(BundleError, match=r"index\.npy"):
            Approximate.restore(tmp_path, vectors, "abc")


def test_what_cannot_be_meant_raises(monkeypatch):
    with pytest.raises(ConfigError, match='did you mean "hnsw"'):
        Approximate(clustered(5), "hsnw")
    for breadth in (0, -1):
        with pytest.raises(ConfigError, match="breadth"):
            Approximate(clustered(5), "ivf", breadth=breadth)
    bad = clustered(N)
    bad[N - 1, 3] = np.inf
    for kind in KINDS:
        with pytest.raises(DataError, match="not numbers"):
            Approximate(bad, kind)
    monkeypatch.setitem(sys.modules, "faiss", None)
    for kind in KINDS:
        with pytest.raises(MissingExtra, match=r"twotower\[ann\]"):
            Approximate(clustered(5), kind)


@pytest.mark.parametrize(("d", "parts"), [(128, 32), (64, 16), (16, 4), (6, 1), (7, 1), (1, 1), (12, 3), (10, 2)])
def test_vectors_are_cut_into_equal_parts_of_four_numbers_or_more(d, parts):
    assert approximate.parts(d) == parts
