"""Opens bundles to be asked, through their own vectors or a store's, checks them, and builds the index that a bundle keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import overload

import numpy as np

from twotower import files
from twotower.bundle.catalogue import stored_rows, vectors_of
from twotower.bundle.golden import golden_of
from twotower.bundle.growth import WAIT
from twotower.bundle.indexes import AUTO, forget_index, sample_queries, write_index
from twotower.bundle.layout import find_bundle, open_bundle, verify_files
from twotower.bundle.lineage import in_one
from twotower.bundle.remote import Remote
from twotower.bundle.retriever import Retriever
from twotower.errors import BundleError, ConfigError
from twotower.search.index import Approximate, Chosen, choose
from twotower.stores import open_store

GOLDEN_TOLERANCE = 1e-4


@overload
def load(
    place: Path | str, *, threads: int | None = None, index: str = AUTO, width: int | None = None, store: None = None, name: str = "items"
) -> Retriever: ...
@overload
def load(
    place: Path | str, *, threads: int | None = None, index: str = AUTO, width: int | None = None, store: str, name: str = "items"
) -> Remote: ...
def load(
    place: Path | str, *, threads: int | None = None, index: str = AUTO, width: int | None = None, store: str | None = None, name: str = "items"
) -> Retriever | Remote:
    """The retriever of a bundle, or of the bundle of a run. Raises BundleError unless it loads exactly.

    index: how vectors are searched. `auto` takes the index that the bundle keeps (`build_index`), else `exact`; the others, `hnsw`, `ivf`, `int8`
    and `pq`, are built here and need the extra `ann`. It serves the mode `vectors` and `similar`; searches that weigh words too read the
    whole catalogue. width: how many of the dimensions to search by, the first ones; for models trained with nested widths, whose first
    dimensions mean the most. store: the URL of a store, or `env:NAME`, through which items are found instead (docs/stores.md). name: of the
    items there.
    """
    if store is not None and (index != AUTO or width is not None):
        raise ConfigError("a store has an index and a width of its own: leave out index and width")
    retriever = Retriever(open_bundle(place, alone=True), threads, index, width, Path(place))
    return retriever if store is None else Remote(retriever, open_store(store, name))


def build_index(place: Path | str, recall: float = 0.95, *, memory: int | None = None, progress: Callable[[str], None] = lambda _: None) -> Chosen:
    """Choose the index of a bundle's vectors by a recall, measured on queries that were held out, and keep it in the bundle for `load`.

    recall: the share of the exact first ten that is to be found. memory: the bytes that the index may take beside the vectors. Where exact
    search does as well, none is kept; where one is, the catalogue is written as one segment. One that grows keeps it: rows behind it are
    searched exactly.
    """
    folder = find_bundle(place)
    with files.held(folder, WAIT):
        bundle = open_bundle(folder)
        index, chosen = choose(vectors_of(bundle, stored_rows(bundle)), sample_queries(bundle), recall, memory, progress=progress)
        if isinstance(index, Approximate):
            write_index(folder, index, in_one(bundle).catalogue["segments"][0], chosen)
        else:
            forget_index(folder, bundle.catalogue["segments"][0])
    return chosen


def verify(place: Path | str) -> None:
    """Check every byte of a bundle, and that its model reads the golden queries as when it was made, or raise BundleError."""
    verify_files(place)
    check_golden(load(place))


def check_golden(retriever: Retriever) -> None:
    """Raise BundleError unless the model reads its golden queries as when it was made."""
    golden, memory = golden_of(retriever.bundle)
    if not golden:
        return
    # Vectors rather than answers: a catalogue may have grown since.
    vectors = retriever.embedded(retriever.query_table([each["query"] for each in golden]), memory or retriever.history)
    for each, vector in zip(golden, vectors, strict=True):
        if not np.allclose(vector, each["vector"], atol=GOLDEN_TOLERANCE):
            raise BundleError(f"{retriever.bundle.folder} is whole, but here its model reads {each['query']} otherwise than where it was made")
