"""Writes trained towers in forms that run without torch.

`write_model` puts both towers as ONNX graphs beside one safetensors file: the graphs hold no weights of their own but point
into that file, so tables that the towers share exist once.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from twotower import files
from twotower.bundle.graphs import graph_name, open_graph, run_graph
from twotower.data.columns import Array, Column, Columns, Ragged, row_count, take_rows
from twotower.data.encoder import Encoder
from twotower.data.features import History, Text
from twotower.data.schema import SIDES, Side, feature_name
from twotower.errors import MissingExtra, TwotowerError
from twotower.model.towers import Tower, TwoTower, distinct

WEIGHTS = "weights.safetensors"
SMALL = 1024  # bytes: smaller tensors stay inside the graph
TOLERANCE = 1e-5  # how far the exported vectors may be from torch's, for numbers up to 1
MOST = 1 << 30  # entries of a row that may have any number


def _need_exporter() -> None:
    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401  the exporter of torch needs both
    except ImportError:
        raise MissingExtra("exporting a model", "train") from None


class _Exported(nn.Module):
    """A tower whose columns come as positional arguments, in the order of its features."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, *columns: Tensor) -> Tensor:
        return self.tower(dict(zip(self.tower.names, columns, strict=True)))  # type: ignore[no-any-return]


def write_model(folder: Path, model: TwoTower, encoder: Encoder, stage: Callable[[str], None] = lambda _: None) -> None:
    """Write `weights.safetensors`, `query.onnx` and `item.onnx`, and check them against torch. stage: is told what comes next."""
    stage("exporting the weights")
    _need_exporter()
    import onnx_ir

    model = model.cpu().eval()
    tensors, aliases = distinct(model)
    names = {name: tensor.numpy() for name, tensor in tensors.items()}
    files.write_tensors(folder / WEIGHTS, names, {"aliases": json.dumps(aliases)})
    places = files.tensor_places(folder / WEIGHTS)
    for side in SIDES:
        stage(f"exporting the {side} tower")
        known = {name.removeprefix(f"{side}."): aliases.get(name, name) for name in model.state_dict() if name.startswith(f"{side}.")}
        graph = _graph(model.tower(side), encoder, side, model.dimensions)
        _point(graph, {name: (names[own], *places[own]) for name, own in known.items()})
        _forget_origin(graph)
        files.write_bytes(folder / graph_name(side), onnx_ir.to_proto(graph).SerializeToString())
    stage("comparing what was exported with what was trained")
    check_parity(folder, model, encoder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a written model."""
    path = folder / WEIGHTS
    tensors = {name: torch.from_numpy(array) for name, array in files.read_tensors(path).items()}
    aliases = json.loads(files.tensor_metadata(path)["aliases"])
    return tensors | {alias: tensors[name] for alias, name in aliases.items()}


def _graph(tower: Tower, encoder: Encoder, side: Side, dimensions: int) -> Any:
    """The graph of a tower, any number of rows and any length of ragged columns."""
    rows = torch.export.Dim("rows")
    arguments, shapes = [], []
    for number, feature in enumerate(encoder.features[side]):
        form = feature.form(encoder.states[side][feature_name(feature)], dimensions)
        # Examples of 2 rows and length 3: the exporter takes sizes 0 and 1 for constants.
        longest = _longest(feature)
        shape = (2, *([min(3, longest)] if form.ragged else []), *([] if form.width is None else [form.width]))
        arguments.append(torch.ones(shape, dtype=torch.from_numpy(np.empty(0, form.dtype)).dtype))
        length = torch.export.Dim.STATIC if longest == 1 else torch.export.Dim(f"length{number}", max=longest)
        shapes.append({0: rows, 1: length} if form.ragged else {0: rows})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Exported(tower),
            tuple(arguments),
            dynamo=True,
            dynamic_shapes=(tuple(shapes),),
            input_names=[f"column{number}" for number in range(len(arguments))],
            output_names=["vectors"],
            verbose=False,
        )
    if program is None:
        raise TwotowerError("the tower could not be exported to ONNX")
    return program.model


def _longest(feature: Any) -> int:
    """How many entries one row may have."""
    return feature.last if isinstance(feature, History) else MOST


def _forget_origin(model: Any) -> None:
    """Drop the exporter's notes: stack traces with the paths of whoever trained the model."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _point(model: Any, known: Mapping[str, tuple[Array, int, int]]) -> None:
    """Replace the weights inside a graph by pointers into the weights file; known: name -> (array, offset, bytes)."""
    import onnx_ir

    for name, value in model.graph.initializers.items():
        entry = known.get(name.removeprefix("tower."))
        if entry is None or entry[2] < SMALL:
            continue
        array, offset, size = entry
        held = value.const_value.numpy()
        if held.shape == array.shape and np.array_equal(held, array):  # else the exporter changed it, and it stays inside
            value.const_value = onnx_ir.ExternalTensor(WEIGHTS, offset, size, value.const_value.dtype, shape=value.const_value.shape, name=name)


def check_parity(folder: Path, model: TwoTower, encoder: Encoder) -> None:
    """Compare the written graphs with torch on made rows: one empty row, all empty, one by one, many long ones."""
    generator = np.random.default_rng(0)
    for side in SIDES:
        session = open_graph(folder, side)
        many = _made(encoder, side, 256, 50, model.dimensions, generator)
        one = _made(encoder, side, 1, 1, model.dimensions, generator)
        some_empty = {name: _emptied(column, 1) for name, column in _made(encoder, side, 8, 5, model.dimensions, generator).items()}
        empty = {name: _emptied(column, 8) for name, column in _made(encoder, side, 8, 5, model.dimensions, generator).items()}
        for columns in (many, one, some_empty, empty, take_rows(one, np.empty(0, np.int64))):
            expected = model.encode(side, columns).numpy()
            found = run_graph(session, columns, expected.shape[1])
            worst = float(np.abs(found - expected).max(initial=0.0))
            if found.shape != expected.shape or not worst <= TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
                n = row_count(next(iter(columns.values())))
                raise TwotowerError(f"the exported {side} tower differs from torch by {worst:.2e} on {n} rows; it was not kept")


def _made(encoder: Encoder, side: Side, n: int, length: int, dimensions: int, generator: np.random.Generator) -> Columns:
    """Made rows of every feature: any codes that its table has, any numbers."""
    columns: dict[str, Column] = {}
    for feature in encoder.features[side]:
        name = feature_name(feature)
        state = encoder.states[side][name]
        form = feature.form(state, dimensions)
        own = min(length, _longest(feature), form.longest or length)
        size = n * own if form.ragged else n
        high = _item_ids(encoder) if isinstance(feature, History) and feature.items == "ids" else form.high
        first = 1 if form.ragged else 0  # 0 pads
        values: Array = generator.integers(first, max(first + 1, high), size) if high else generator.standard_normal((size, form.width or 1))
        if isinstance(feature, Text) and len(state["buckets"]):
            values[::2] = generator.choice(state["buckets"], len(values[::2]))  # few others have a row of their own
        if high and form.width:
            values = np.stack([values.astype(np.float64), generator.random(size)], axis=1)  # codes and their weights
        values = np.asarray(values, form.dtype)
        columns[name] = Ragged(values, np.arange(n + 1) * own) if form.ragged else values
    return columns


def _item_ids(encoder: Encoder) -> int:
    """How many codes the ids of the item side have."""
    named = encoder.item_id
    assert named is not None  # else there would be no table to read
    return named.form(encoder.states["item"][feature_name(named)], 1).high


def _emptied(column: Column, rows: int) -> Column:
    """A column whose first rows hold nothing."""
    if not isinstance(column, Ragged):
        emptied = column.copy()
        emptied[:rows] = 0
        return emptied
    first = column.offsets[rows]
    return Ragged(column.values[first:], np.maximum(column.offsets - first, 0))
