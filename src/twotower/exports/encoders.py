"""A bundle that holds the query encoder alone: for an application that asks another store for items.

It has the model's query tower and its own part of the weights, no item tower and no item vectors, and says which model it is of. Where
the query tower reads histories it also keeps what stands for an item in one: the item's vector, or the id's code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twotower import files, manifests
from twotower.bundle import Retriever
from twotower.bundle.golden import GOLDEN, GOLDEN_ITEMS, golden_of
from twotower.bundle.graphs import graph_name
from twotower.bundle.layout import ALONE, CURRENT, ENCODER_FORMAT, HISTORY, write_encoder
from twotower.data.encoder import Encoder
from twotower.data.prepared import ID
from twotower.data.schema import feature_name
from twotower.errors import BundleError, MissingExtra

WEIGHTS = "weights.safetensors"
COPIED = ("config.toml", "metrics.json", "card.md")
OF_MANIFEST = ("kind", "format", "made_by", "files", "sha256", "of")  # what a manifest says of itself


def write_query_encoder(retriever: Retriever, folder: Path) -> None:
    """Write the bundle of a retriever's query encoder into an empty folder."""
    bundle, model = retriever.bundle, folder / "model"
    write_graph(bundle.folder / "model", model)
    write_encoder(model, _query_side(bundle.encoder))
    for name in COPIED:
        files.copy_file(bundle.folder / "model" / name, model / name)
    golden, _ = golden_of(bundle)
    files.write_json(model / GOLDEN, [{"query": each["query"], "vector": each["vector"]} for each in golden])
    if (bundle.folder / "model" / GOLDEN_ITEMS).exists():
        files.copy_file(bundle.folder / "model" / GOLDEN_ITEMS, model / GOLDEN_ITEMS)
    if retriever.history is not None:
        files.write_table(model / HISTORY / "items.arrow", retriever.items.select([ID]))
        if retriever.history.feature.items == "tower":
            # What stands for the items, at its full width however narrow the retriever searches.
            files.write_array(model / HISTORY / "vectors.npy", np.asarray(retriever.history.stand_ins, np.float32))
    facts = {name: value for name, value in bundle.model.items() if name not in OF_MANIFEST}
    manifests.write_manifest(model, "query encoder", ENCODER_FORMAT, of=bundle.fingerprint, **facts)
    files.write_text(folder / CURRENT, ALONE + "\n")


def _query_side(encoder: Encoder) -> Encoder:
    """The encoder without the item side, but for the ids that a history is read by."""
    named = encoder.item_id
    by_ids = any(getattr(feature, "items", None) == "ids" for feature in encoder.features["query"])
    kept = (named,) if by_ids and named is not None else ()
    states = {feature_name(feature): encoder.states["item"][feature_name(feature)] for feature in kept}
    return Encoder({"query": encoder.features["query"], "item": kept}, {"query": encoder.states["query"], "item": states})


def write_graph(source: Path, goal: Path) -> None:
    """The query graph of a model folder, with a file of only those weights that it points at."""
    onnx = _onnx()
    graph = onnx.load(str(source / graph_name("query")), load_external_data=False)
    names = {place: name for name, (place, _) in files.tensor_places(source / WEIGHTS).items()}
    outside = {tensor.name: _place(tensor) for tensor in graph.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    if not set(outside.values()) <= names.keys():
        raise BundleError(
            f"{source / graph_name('query')} points past the tensors of {WEIGHTS}: one of them is damaged. Copy the bundle again, whole."
        )
    wanted = {names[place] for place in outside.values()}
    # Read one by one from the mapped file would be leaner; the weights of one model fit into memory, as they do to run it.
    files.write_tensors(goal / WEIGHTS, {name: array for name, array in files.read_tensors(source / WEIGHTS).items() if name in wanted})
    places = files.tensor_places(goal / WEIGHTS)
    for tensor in graph.graph.initializer:
        if tensor.name in outside:
            for entry in tensor.external_data:
                if entry.key == "offset":
                    entry.value = str(places[names[outside[tensor.name]]][0])
    files.write_bytes(goal / graph_name("query"), graph.SerializeToString())


def _place(tensor: Any) -> int:
    """Where in the weights file a tensor of a graph begins."""
    return int(next((entry.value for entry in tensor.external_data if entry.key == "offset"), 0))


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtra("exporting a query encoder", "train") from None
    return onnx
