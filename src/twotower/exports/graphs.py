"""Both towers as ONNX with what one needs to run them without this package: what each input means, golden inputs and an example.

The features that go into a graph are made of raw values by our `Encoder`, which nothing here replaces; but where a tower reads one text
by a pretrained encoder, the tokeniser and that encoder go along, and the example goes from a text to its vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from twotower import files
from twotower.bundle import Retriever
from twotower.bundle.graphs import graph_input, graph_name, open_graph, run_graph
from twotower.data.columns import Columns
from twotower.data.encoder import to_table
from twotower.data.features import History, Pretrained
from twotower.data.schema import SIDES, Side, feature_name

GOLDEN = 8  # rows of each side
MEANINGS = {
    "id": "the code of an id in the vocabulary that training learnt; unknown ids share a few codes",
    "category": "the code of a value in the vocabulary that training learnt",
    "categories": "the codes of a set of values in the vocabulary that training learnt, padded with 0; with weights, each code beside its weight",
    "number": "a number, scaled as training learnt it, and whether it is missing",
    "time": "a moment as numbers: cycles of the calendar, its age, whether it is missing",
    "vector": "a given vector, scaled as training learnt it, and last whether it is missing: 0 or 1",
    "text": "buckets that words, word pairs and letter pieces are hashed into, padded with 0",
    "pieces": "the codes of the word pieces of a text in their order, padded with 0",
    "pretrained": "the unit vector of a text by the pretrained encoder, and last whether the text is missing: 0 or 1",
    "tuned": "the ids of the tokens of a text plus one, padded with 0",
    "history": "what stands for each item touched before, oldest first, padded with 0: its vector, or the code of its id",
}
EXAMPLE = '''"""Encodes with numpy and onnxruntime alone, and checks the vectors against those of twotower."""

import json
import pathlib

import numpy as np
import onnxruntime

here = pathlib.Path(__file__).parent


def run(graph, feeds):
    return onnxruntime.InferenceSession(str(here / graph)).run(["vectors"], feeds)[0]


for side, told in json.loads((here / "inputs.json").read_text(encoding="utf-8")).items():
    feeds = {each["name"]: np.load(here / each["golden"]) for each in told["inputs"]}
    vectors = run(told["graph"], feeds)
    assert np.allclose(vectors, np.load(here / told["vectors"]), atol=1e-4), side
    print(side, vectors.shape)
'''
EXAMPLE_OF_TEXT = """
    text = told.get("text")
    if text:  # this side reads one text: from the text itself to its vector
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(here / text["tokenizer"]))
        rows = [np.array(tokenizer.encode(text["prefix"] + each).ids) + 1 for each in text["golden"]]
        column = np.zeros((len(rows), max(map(len, rows))), np.int64)  # 0 pads
        for n, row in enumerate(rows):
            column[n, : len(row)] = row
        if text["encoder"]:
            column = np.pad(run(text["encoder"], {"codes": column}), ((0, 0), (0, 1)))  # last: the text is there
        assert np.allclose(run(told["graph"], {"column0": column}), vectors, atol=1e-4), side
"""


def write_graphs(retriever: Retriever, folder: Path) -> None:
    """Write both graphs, their weights, `inputs.json`, golden inputs with their vectors, and `example.py` into an empty folder."""
    model = retriever.bundle.folder / "model"
    for name in ("weights.safetensors", *(graph_name(side) for side in SIDES)):
        files.copy_file(model / name, folder / name)
    told = {side: _side(retriever, side, folder) for side in SIDES}
    files.write_json(folder / "inputs.json", told)
    files.write_text(folder / "example.py", EXAMPLE + (EXAMPLE_OF_TEXT if any("text" in each for each in told.values()) else ""))


def _side(retriever: Retriever, side: Side, folder: Path) -> dict[str, Any]:
    """What to know of one graph; writes its golden inputs and vectors."""
    encoder, width = retriever.encoder, retriever.bundle.dimensions
    rows = _golden(retriever, side)
    columns: Columns = retriever.query_columns(rows, retriever.history) if side == "query" else encoder.encode("item", rows, strict=False)
    inputs = []
    for number, feature in enumerate(encoder.features[side]):
        form = feature.form(encoder.states[side][feature_name(feature)], width)
        place = f"golden/{side}-column{number}.npy"
        files.write_array(folder / place, graph_input(columns[feature_name(feature)]))
        length: list[Any] = [1 if isinstance(feature, History) and feature.last == 1 else "length"] if form.ragged else []
        tuned = isinstance(feature, Pretrained) and feature.tune
        inputs.append(
            {
                "name": f"column{number}",
                "column": feature.column,
                "type": feature.type,
                "dtype": "int64" if np.dtype(form.dtype).kind in "iu" else np.dtype(form.dtype).name,
                "shape": ["rows", *length, *([] if form.width is None else [form.width])],
                "meaning": MEANINGS["tuned" if tuned else feature.type],
                "golden": place,
            }
        )
    vectors = run_graph(open_graph(retriever.bundle.folder / "model", side), columns, width)
    files.write_array(folder / f"golden/{side}-vectors.npy", vectors)
    told: dict[str, Any] = {
        "graph": graph_name(side),
        "output": {"name": "vectors", "dtype": "float32", "shape": ["rows", width]},
        "similarity": retriever.bundle.model["similarity"],
        "inputs": inputs,
        "vectors": f"golden/{side}-vectors.npy",
    }
    return told | _text(retriever, side, rows, folder)


def _golden(retriever: Retriever, side: Side) -> pa.Table:
    """A few rows to try a graph by: those that the bundle keeps, or the first of the catalogue."""
    if side == "item":
        return _with_text(retriever, side, retriever.items)
    kept = files.read_json(retriever.bundle.folder / "model" / "golden.json")
    table = (
        to_table([each["query"] for each in kept])
        if kept
        else pa.table({name: pa.array([], pa.string()) for name in retriever.encoder.columns(side)})
    )
    return _with_text(retriever, side, table)


def _with_text(retriever: Retriever, side: Side, table: pa.Table) -> pa.Table:
    """The first rows; where a text is all that a side reads, of those that hold one."""
    only = _only(retriever, side)
    if only is not None:
        few = table.slice(0, GOLDEN * GOLDEN)
        there = only.normalise(few.column(only.column).combine_chunks()).is_valid()
        table = few.filter(there)
    return table.slice(0, GOLDEN)


def _only(retriever: Retriever, side: Side) -> Pretrained | None:
    """The one feature of a side, where that is a text for a pretrained encoder."""
    features = retriever.encoder.features[side]
    return features[0] if len(features) == 1 and isinstance(features[0], Pretrained) else None


def _text(retriever: Retriever, side: Side, rows: pa.Table, folder: Path) -> dict[str, Any]:
    """How a side that reads one text goes from that to its graph's input; writes tokeniser and encoder. Empty for all others."""
    only = _only(retriever, side)
    if only is None or not rows.num_rows:
        return {}
    state = retriever.encoder.states[side][feature_name(only)]
    files.write_bytes(folder / f"{side}-tokenizer.json", state["tokeniser"].tobytes())
    encoder = None
    if not only.tune:
        # Both sides mostly hold the same one.
        encoder = f"encoder-{state['digest'].tobytes().hex()[:12]}.onnx"
        if not (folder / encoder).exists():
            files.write_bytes(folder / encoder, state["graph"].tobytes())
    texts = only.normalise(rows.column(only.column).combine_chunks()).to_pylist()
    return {"text": {"tokenizer": f"{side}-tokenizer.json", "encoder": encoder, "prefix": only.prefix, "golden": texts}}
