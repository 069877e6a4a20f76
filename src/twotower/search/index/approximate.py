"""Approximate search through FAISS: faster past some 100,000 vectors, and may miss some. Needs the extra `ann`.

To add a kind: its entry in `KINDS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower import files
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, choices
from twotower.search.index.exact import Exact, similarities
from twotower.search.index.hits import Hits, checked, no_hits
from twotower.search.vectors import Array, Vectors, blocks, taken

SMALL = 1024  # rows up to which nothing is built: it could only lose
LINKS = 32  # of a vector in a graph
PER_CLUSTER = 39  # vectors of a cluster at least, on average
TRAINED = 64  # vectors that a cluster is learned from
CODES = 256  # that stand for a part of a vector
PART = 4  # numbers that share a code, at least
SCORED = 1 << 21  # numbers that are read about as soon as an approximate search ends: so few allowed are searched exactly
FOUND = 1 << 22  # candidates held at once
WIDENED = 16  # times the breadth at most, where few are allowed
RESCORED = 4, 64  # times k: candidates of coarse codes at least and at most


class Kind(NamedTuple):
    """A way to search approximately. breadth: what it looks at by default. coarse: whether what it finds is scored again, by the vectors.

    make: an empty FAISS index of vectors [n, d] by a seed, from the module, n, d and the seed. bytes: that it takes for vectors [n, d], about.
    """

    make: Callable[[Any, int, int, int], Any]
    breadth: int
    coarse: bool
    bytes: Callable[[int, int], int]


class Approximate:
    """Vectors [n, d] in a FAISS index of one of KINDS, built when it is made; the scores of hits are exact inner products.

    breadth: how much a search looks at: for `hnsw` candidates kept (efSearch, at least k), for the others clusters (nprobe); it buys recall with
    time. The codes of `int8` and `pq` choose candidates, which are scored by the vectors themselves; these may be memory-mapped. Where few rows
    are allowed, the breadth grows, and very few are searched exactly. The same seed gives the same index.
    """

    def __init__(self, vectors: Array | Vectors, kind: str, *, breadth: int | None = None, seed: int = 0) -> None:
        if kind not in KINDS:
            raise ConfigError(f'there is no approximate index "{kind}"; {choices(KINDS, kind)}')
        self._faiss = _library(kind)
        self.exact = Exact(vectors)
        self.vectors = self.exact.vectors
        self.kind = kind
        self.breadth = KINDS[kind].breadth
        self.seed = seed
        if breadth is not None:
            self.breadth = self.at(breadth).breadth
        for part in blocks(*self.vectors.shape):
            _finite(self.vectors[part])
        self._built: Any = self._build() if len(self.vectors) > SMALL else None

    def _build(self) -> Any:
        n, d = self.vectors.shape
        built = KINDS[self.kind].make(self._faiss, n, d, self.seed)
        if not built.is_trained:
            count = min(n, TRAINED * max(CODES, built.nlist))
            sample = np.sort(np.random.default_rng(self.seed).permutation(n)[:count])
            built.train(self.vectors[sample])
        threads = self._faiss.omp_get_max_threads()
        try:
            if self.kind == "hnsw":
                self._faiss.omp_set_num_threads(1)  # several would link in the order in which they come
            for part in blocks(n, d):
                built.add(np.ascontiguousarray(self.vectors[part]))
        finally:
            self._faiss.omp_set_num_threads(threads)
        return built

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        """The bytes that the index takes beside the vectors, about."""
        return 0 if self._built is None else KINDS[self.kind].bytes(*self.vectors.shape)

    @property
    def widest(self) -> int:
        """The breadth from which on more changes nothing."""
        return max(1, len(self) if self._built is None or self.kind == "hnsw" else int(self._built.nlist))

    def at(self, breadth: int) -> Approximate:
        """The same index, searched with another breadth."""
        if breadth < 1:
            raise ConfigError(f"the breadth of an index is a number of candidates or clusters, at least 1, and not {breadth}")
        other = copy.copy(self)
        other.breadth = breadth
        return other

    def search(self, queries: Array, k: int, allow: Array | None = None) -> Hits:
        """About the k best of the allowed rows for each of the queries float32 [q, d]; `allow`: bool [n]."""
        n, d = self.vectors.shape
        queries = _finite(checked(queries, allow, n, d))
        count = n if allow is None else int(np.count_nonzero(allow))
        if self._built is None or not len(queries) or (count * d <= SCORED and allow is not None):
            return self.exact.search(queries, k, allow)
        hits = no_hits(len(queries), k)
        wanted = min(k, count)
        step = max(1, FOUND // (wanted * (RESCORED[1] if KINDS[self.kind].coarse else 1)))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            hits.rows[part, :wanted], hits.scores[part, :wanted] = self._near(queries[part], wanted, allow, n / count)
        # Few clusters may hold fewer than k that are allowed.
        short = np.flatnonzero(hits.rows[:, wanted - 1] < 0)
        if len(short):
            hits.rows[short], hits.scores[short] = self.exact.search(queries[short], k, allow)
        return hits

    def _near(self, queries: Array, k: int, allow: Array | None, sparse: float) -> Hits:
        """Hits [q, k], of which one row in `sparse` is allowed; pads where fewer were found."""
        selected = None if allow is None else self._faiss.IDSelectorBitmap(np.packbits(allow, bitorder="little"))
        breadth = int(max(self.breadth, k if self.kind == "hnsw" else 1) * min(WIDENED, sparse))
        kind, wanted = KINDS[self.kind], k
        if self.kind == "hnsw":
            parameters = self._faiss.SearchParametersHNSW(efSearch=min(breadth, self.widest), sel=selected)
        else:
            parameters = self._faiss.SearchParametersIVF(nprobe=min(breadth, self.widest), sel=selected)
        if kind.coarse:
            wanted = min(len(self), k * min(max(self.breadth, RESCORED[0]), RESCORED[1]))
        scores, rows = self._built.search(queries, wanted, params=parameters)
        present = rows >= 0
        if kind.coarse:
            scores[present] = similarities(queries, np.nonzero(present)[0], self.vectors, rows[present])
        scores = np.where(present, scores, -np.inf)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]  # of equal scores the lower row first
        return Hits(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))

    def save(self, folder: Path, digest: str) -> None:
        """Write it into a folder, without the vectors; digest: of these, by which `restore` knows them."""
        built = np.zeros(0, np.uint8) if self._built is None else self._faiss.serialize_index(self._built)
        files.write_array(folder / "index.npy", built)
        n, d = self.vectors.shape
        facts = {"kind": self.kind, "breadth": self.breadth, "seed": self.seed, "rows": n, "dimensions": d, "digest": digest}
        files.write_json(folder / "index.json", facts)

    @classmethod
    def restore(cls, folder: Path, vectors: Array | Vectors, digest: str) -> Approximate:
        """The index of these vectors from a folder. Raises BundleError for one that is damaged or of others, MissingExtra without FAISS."""
        facts = files.read_json(folder / "index.json")
        vectors = taken(vectors)
        wanted = {"digest": digest, "rows": vectors.shape[0], "dimensions": vectors.shape[1]}
        if not isinstance(facts, dict) or any(facts.get(name) != value for name, value in wanted.items()):
            raise BundleError(f"the index in {folder} is of other vectors than those beside it; build it again")
        kind, breadth, seed = (facts.get(name) for name in ("kind", "breadth", "seed"))
        if kind not in KINDS or not isinstance(breadth, int) or breadth < 1 or not isinstance(seed, int):
            raise BundleError(f"{folder / 'index.json'} is damaged: it tells no index that there is. Build it again.")
        index = cls.__new__(cls)
        index._faiss = _library(kind)
        index.exact = Exact(vectors)
        index.vectors, index.kind, index.breadth, index.seed = index.exact.vectors, kind, breadth, seed
        index._built = _read(index._faiss, folder / "index.npy", *vectors.shape) if len(vectors) > SMALL else None
        return index


def _library(kind: str) -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtra(f'the index "{kind}"', "ann") from None
    return faiss


def _read(faiss: Any, path: Path, n: int, d: int) -> Any:
    array = files.read_array(path, mapped=False)
    try:
        built = faiss.deserialize_index(array)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise BundleError(f"{path} is damaged: {str(error).splitlines()[0]}. Build the index again.") from None
    if (built.ntotal, built.d) != (n, d):
        raise BundleError(f"{path} holds {built.ntotal} vectors of {built.d} dimensions, and not {n} of {d}. Build the index again.")
    return built


def _finite(vectors: Array) -> Array:
    """The vectors as FAISS takes them; it would pass over nan in silence."""
    whole = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(whole).all():
        raise DataError("an index met vectors that are not numbers: look for nan or inf in them")
    return whole


def clusters(n: int) -> int:
    """Into how many clusters n vectors are dealt: four times the root, so that finding the clusters and reading some take about as long."""
    return max(1, min(int(4 * n**0.5), n // PER_CLUSTER))


def _graph(faiss: Any, _: int, d: int, seed: int) -> Any:
    """A graph of near neighbours (Malkov and Yashunin 2018)."""
    built = faiss.IndexHNSWFlat(d, LINKS, faiss.METRIC_INNER_PRODUCT)
    built.hnsw.rng = faiss.RandomGenerator(seed)
    return built


def _clustered(built: Any, seed: int) -> Any:
    built.cp.seed, built.cp.niter, built.cp.min_points_per_centroid, built.cp.max_points_per_centroid = seed, 10, 1, TRAINED
    return built


def _flat(faiss: Any, n: int, d: int, seed: int) -> Any:
    """Clusters of vectors, of which the nearest are read (Sivic and Zisserman 2003)."""
    return _clustered(faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, clusters(n), faiss.METRIC_INNER_PRODUCT), seed)


def _bytewise(faiss: Any, n: int, d: int, seed: int) -> Any:
    """Clusters of vectors of one byte a number."""
    kind, by_residual = faiss.ScalarQuantizer.QT_8bit, False  # of what is left beside the centre codes are finer, and read at half the speed
    built = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(d), d, clusters(n), kind, faiss.METRIC_INNER_PRODUCT, by_residual)
    return _clustered(built, seed)


def _products(faiss: Any, n: int, d: int, seed: int) -> Any:
    """Clusters of vectors of one byte for each few numbers (product quantisation, Jegou et al. 2011)."""
    built = faiss.IndexIVFPQ(faiss.IndexFlatIP(d), d, clusters(n), parts(d), 8, faiss.METRIC_INNER_PRODUCT)
    built.pq.cp.seed, built.pq.cp.min_points_per_centroid, built.pq.cp.max_points_per_centroid = seed, 1, TRAINED
    return _clustered(built, seed)


def parts(d: int) -> int:
    """Into how many equal parts of at least four numbers a vector is cut, where it can be; else it is one."""
    return max(m for m in range(1, d + 1) if d % m == 0 and (d // m >= PART or m == 1))


def _beside(n: int, d: int) -> int:
    """What clusters take beside the codes: centres, and the row of each vector."""
    return 4 * clusters(n) * d + 8 * n


KINDS: dict[str, Kind] = {
    "hnsw": Kind(_graph, 128, False, lambda n, d: 4 * n * d + 8 * LINKS * n),
    "ivf": Kind(_flat, 16, False, lambda n, d: 4 * n * d + _beside(n, d)),
    "int8": Kind(_bytewise, 16, True, lambda n, d: n * d + _beside(n, d)),
    "pq": Kind(_products, 16, True, lambda n, d: n * parts(d) + _beside(n, d)),
}
