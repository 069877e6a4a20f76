"""A sentence encoder that somebody else trained, as it is: what training has to beat where both sides have words.

Needs the extra `text`. `data/pretrained.py` says what an encoder is, and where it may be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower.data import pretrained
from twotower.data.columns import Array, take
from twotower.data.features import Pretrained
from twotower.data.prepared import Prepared
from twotower.data.schema import SIDES, Schema, Side, feature_name
from twotower.data.vectors import Workplace

Embed = Callable[[Sequence[str]], Array]  # texts [n] -> unit vectors float32 [n, d]


def require(folder: str | Path) -> None:
    """Raise ConfigError if a folder holds no encoder, MissingExtra if the extra `text` is not installed."""
    pretrained.locate(str(folder))


def ready(schema: Schema, say: Callable[[str], None]) -> None:
    """Bring here every encoder that a schema names, before any work; what has to be fetched is said. Raises what `require` raises."""
    for side in SIDES:
        for feature in schema.features(side):
            if isinstance(feature, Pretrained):
                pretrained.locate(feature.folder, say)


def as_it_is(prepared: Prepared, query_rows: Array) -> tuple[Array, Array] | None:
    """The unit vectors of these queries [q, d] and of the catalogue [n, d] by the encoder that both sides read, before any training.

    None where a side reads none, or the other another. What is not tuned was encoded when the data were prepared.
    """
    features = {side: [f for f in prepared.encoder.features[side] if isinstance(f, Pretrained)] for side in SIDES}
    if not all(features.values()) or len({feature.folder for found in features.values() for feature in found}) > 1:
        return None
    queries = _summed(prepared, "query", features["query"], query_rows)
    return queries, _summed(prepared, "item", features["item"], np.arange(prepared.n_items))


def _summed(prepared: Prepared, side: Side, features: Sequence[Pretrained], rows: Array) -> Array:
    """The vectors of a side's texts added up, of unit length."""
    table = prepared.queries if side == "query" else prepared.items
    total = np.zeros(1, np.float32)
    for feature in features:
        if feature.tune:
            still = replace(feature, tune=False)
            texts = table.column(feature.column).take(pa.array(rows)).combine_chunks()
            encoded = still.encode(texts, still.fit(()), Workplace(prepared.folder.parent / "vectors"))
        else:
            encoded = take(prepared.columns[side][feature_name(feature)], rows)
        total = total + np.asarray(encoded)[:, :-1]
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


@functools.lru_cache(maxsize=2)
def open_encoder(folder: str | Path, prefix: str = "", window: int = 256, kept: Path | None = None) -> Embed:
    """The encoder of a folder. kept: where vectors are kept between runs. Raises what `require` raises."""
    feature = Pretrained(column="", folder=str(folder), prefix=prefix, window=window)
    state = feature.fit(())

    def embed(texts: Sequence[str]) -> Array:
        return np.asarray(feature.encode(pa.array(texts, pa.string()), state, Workplace(kept)))[:, :-1]

    return embed


@functools.lru_cache(maxsize=2)
def embed_documents(folder: str, texts: tuple[str, ...]) -> Array:
    """The vectors [n, d] of a catalogue's texts; kept, since they take minutes and are asked for more than once."""
    return open_encoder(folder)(texts)


def shipped() -> str | None:
    """The folder of all-MiniLM-L6-v2 where a package that carries its weights is installed with the extra `text`."""
    found = pretrained.shipped()
    return None if found is None else str(found)
