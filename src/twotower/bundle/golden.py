"""Golden queries: a few that a model keeps with their vectors, by which it is tried whether it reads them as when it was made.

Histories among them are read by the items as they were then, whatever has become of the catalogue since.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle.layout import Bundle
from twotower.bundle.memory import Memory
from twotower.data.features import History

GOLDEN = "golden.json"
GOLDEN_ITEMS = "golden-items.npy"  # vectors float32 [m, d] of the items that histories name, in the order of `named`

Golden = list[dict[str, Any]]


def named(golden: Golden, feature: History) -> list[str]:
    """The ids of the items that the histories of golden queries name, each once."""
    return list(dict.fromkeys(item for each in golden for item in each["query"].get(feature.column) or ()))


def golden_of(bundle: Bundle) -> tuple[Golden, Memory | None]:
    """The golden queries of a bundle that can be tried, and what their histories are read by; None where that is the catalogue."""
    golden: Golden = files.read_json(bundle.folder / "model" / GOLDEN)
    feature = next((feature for feature in bundle.encoder.features["query"] if isinstance(feature, History)), None)
    if feature is None:
        return golden, None
    ids, kept = named(golden, feature), bundle.folder / "model" / GOLDEN_ITEMS
    if feature.items == "tower" and not kept.exists():
        # Written when no vectors were kept: after a change of the catalogue nothing tells what a history was read by.
        as_made = bundle.alone or bundle.catalogue.get("parent") is None
        return [each for each in golden if as_made or not each["query"].get(feature.column)], None
    vectors = files.read_array(kept) if feature.items == "tower" else np.empty((len(ids), 0), np.float32)
    return golden, Memory.of(bundle.encoder, pa.chunked_array([pa.array(ids, pa.string())]), vectors)
