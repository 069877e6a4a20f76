"""Search of a million vectors: exact beside FAISS and beside bare reading, an index chosen by its recall, one byte a number, filters, and bulk.

Made vectors are of length 1 about 10,000 centres, 128 dimensions, with queries about the same centres. Real ones are those of the demo's
bundle, repeated with noise, and asked its validation queries. What is compared takes turns in one process, and a ratio is the median of
those of the turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import told_by
from benchmarks.rows import Asked, Figure
from benchmarks.rows.demo import bundle
from twotower.search.index import Approximate, Exact, best_of_each, choose
from twotower.search.index.automatic import milliseconds, recall_of
from twotower.search.vectors import stored

N, DIMENSIONS, CENTRES, QUERIES = 1_000_000, 128, 10_000, 1000
SPREAD = 0.5  # of vectors about their centre, as long as that is 1
NOISE = 0.3  # of copies of real vectors
TURNS, K = 9, 10
FILTERS = {"50%": 0.5, "1%": 0.01, ".01%": 0.0001}
BULK, BULK_DIMENSIONS, BULK_SAMPLE, BULK_K = 200_000, 64, 20_000, 50

Array = np.ndarray[Any, np.dtype[Any]]


def measure(asked: Asked) -> Iterator[Figure]:
    """Made vectors, then real ones, then many queries at once."""
    n = 20_000 if asked.smoke else N
    found = told_by("benchmarks.rows.lookup", "exact", str(n))
    yield Figure(
        f"exact, one query among {n:,} x {DIMENSIONS}, beside faiss Flat", f"{found['float32']:.1f} ms: {found['faiss']:.2f}x", "1.3x", found
    )
    told = f"{found['rate']:.1f} GB/s, reading alone {found['bare']:.1f} GB/s"
    yield Figure("what it reads in that time", told)
    yield Figure("stored as float16, as int8", f"{found['float16']:.2f}x, {found['int8']:.2f}x of float32")
    yield Figure("allowed 50%, 1%, .01%", ", ".join(f"{found[name]:.2f}x" for name in FILTERS), "2x of all")
    for made, words in (("made", ()), ("real", (str(bundle(asked.folder)),))):
        found = told_by("benchmarks.rows.lookup", made, str(n), *words)
        told = (
            f"{found['kind']} at {found['breadth']}: {found['milliseconds']:.2f} ms, recall {found['recall']:.3f}, built in {found['seconds']:.0f} s"
        )
        yield Figure(f"chosen for a recall of .95, {made} vectors; exact {found['exact_milliseconds']:.1f} ms", told, "2 ms, .95, 300 s", found)
        told = f"recall {found['int8_recall']:.3f}, {found['int8_bytes']:.2f} of the bytes, {found['int8_milliseconds']:.2f} ms"
        yield Figure(f"one byte a number, scored again, {made} vectors", told, ".99 at .25")
    found = told_by("benchmarks.rows.lookup", "bulk", str(2000 if asked.smoke else BULK))
    told = f"{found['seconds']:.0f} s: {found['ratio']:.2f}x, {found['product']:.2f}x of the product alone"
    yield Figure(f"{found['queries']:,} queries among {found['n']:,} x {BULK_DIMENSIONS}, k = {BULK_K}, beside product and best", told, "2x", found)


def mixture(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Vectors and queries of length 1."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((CENTRES, DIMENSIONS), dtype=np.float32) / np.float32(DIMENSIONS**0.5)
    both = centres[generator.integers(CENTRES, size=n + QUERIES)]
    both += np.float32(SPREAD / DIMENSIONS**0.5) * generator.standard_normal(both.shape, dtype=np.float32)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both[:n], both[n:]


def repeated(n: int, run: Path) -> tuple[Array, Array]:
    """The vectors of a run's bundle, again and again with noise, and its validation queries."""
    from twotower.runs.held import held_of
    from twotower.runs.run import open_run

    held = held_of(open_run(run), "ask its queries")
    generator = np.random.default_rng(0)
    vectors = held.items[np.arange(n) % len(held.items)]
    vectors = vectors + np.float32(NOISE / vectors.shape[1] ** 0.5) * generator.standard_normal(vectors.shape, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), held.queries()[:QUERIES]


def taken(ways: Mapping[str, Callable[[], Any]], turns: int = TURNS) -> dict[str, list[float]]:
    """Seconds of each, in turns, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, work in ways.items():
            begun = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, beside: str) -> float:
    """The median over turns of one over the other."""
    return statistics.median(one / other for one, other in zip(seconds[name], seconds[beside], strict=True))


def exact(n: int) -> dict[str, float]:
    """One query: by us, by faiss, and the vectors only read; of other kinds; with filters."""
    import faiss

    vectors, queries = mixture(n)
    query, index, flat = queries[:1], Exact(vectors), faiss.IndexFlatIP(DIMENSIONS)
    flat.add(vectors)
    generator = np.random.default_rng(1)
    masks = {name: generator.random(n) < share for name, share in FILTERS.items()}
    kinds = {kind: Exact(stored(vectors, kind)) for kind in ("float16", "int8")}
    with ThreadPoolExecutor(2) as pool:
        halves = np.array_split(vectors, 2)
        ways: dict[str, Callable[[], Any]] = {"float32": lambda: index.search(query, K), "faiss": lambda: flat.search(query, K)}
        ways["bare"] = lambda: list(pool.map(np.max, halves))
        ways |= {name: lambda mask=mask: index.search(query, K, mask) for name, mask in masks.items()}
        ways |= {kind: lambda other=other: other.search(query, K) for kind, other in kinds.items()}
        seconds = taken(ways)
    found = {name: ratio(seconds, name, "float32") for name in [*masks, *kinds]}
    rates = {"rate": "float32", "bare": "bare"}
    found |= {name: vectors.nbytes / 1e9 / statistics.median(seconds[way]) for name, way in rates.items()}
    return found | {"float32": 1000 * statistics.median(seconds["float32"]), "faiss": ratio(seconds, "float32", "faiss")}


def chosen(n: int, run: str | None = None) -> dict[str, Any]:
    """What is chosen for .95; and one byte a number against exact search."""
    vectors, queries = mixture(n) if run is None else repeated(n, Path(run))
    found = choose(vectors, queries)[1]._asdict()
    index = Approximate(vectors, "int8")
    half = len(queries) // 2
    wanted = Exact(vectors).search(queries[:half], K).rows
    breadth = 1
    # Half of what may be missed on the queries that it is chosen on: others may do worse.
    while breadth < index.widest and recall_of(index.at(breadth).search(queries[:half], K), wanted) < 0.995:
        breadth *= 2
    broad = index.at(min(breadth, index.widest))
    others = queries[half:]
    found["int8_recall"] = recall_of(broad.search(others, K), Exact(vectors).search(others, K).rows)
    return found | {"int8_breadth": broad.breadth, "int8_milliseconds": milliseconds(broad, others), "int8_bytes": index.nbytes / vectors.nbytes}


def bulk(n: int) -> dict[str, Any]:
    """Many queries: by us, and as the product of blocks whose best are taken, and as the bare product."""
    generator = np.random.default_rng(0)
    q = min(n, BULK_SAMPLE)
    vectors, queries = (generator.standard_normal((m, BULK_DIMENSIONS), dtype=np.float32) for m in (n, q))
    index, block = Exact(vectors), max(1, (1 << 24) // n)

    def products(then: Callable[[Array], Any]) -> None:
        for start in range(0, q, block):
            then(queries[start : start + block] @ vectors.T)

    ways = {
        "ours": lambda: index.search(queries, BULK_K),
        "best": lambda: products(lambda scores: best_of_each(scores, BULK_K)),
        "product": lambda: products(len),
    }
    seconds = taken(ways, 2)
    told = {"seconds": statistics.median(seconds["ours"]), "ratio": ratio(seconds, "ours", "best"), "product": ratio(seconds, "ours", "product")}
    return told | {"queries": q, "n": n}


if __name__ == "__main__":
    ways = {"exact": exact, "made": chosen, "real": chosen, "bulk": bulk}
    print(json.dumps(ways[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])))
