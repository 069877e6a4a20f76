"""ONNX equals torch in every shape, and both read one file of weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch

import twotower
from twotower import files
from twotower.bundle.graphs import open_graph, run_graph
from twotower.config import read
from twotower.data.columns import Ragged, offsets_of, take_rows
from twotower.data.encoder import Encoder
from twotower.data.features import Categories, Category, History, Id, Number, Text, Time, Vector
from twotower.data.schema import feature_name
from twotower.errors import BundleError, TwotowerError
from twotower.exports.towers import check_parity, read_weights, write_model
from twotower.model.options import ModelOptions
from twotower.model.towers import build

SIDES = ("query", "item")


# --- every feature and every body, of made encoders ---------------------------------------------------------------


def learnt(feature, values):
    column = pa.array(values)
    return feature.fit([(column, np.ones(len(column), np.int64))])


def made_encoder(**features):
    """An encoder of these (feature, values to learn of) by side."""
    sides = {side: features.get(side, [(Id(column="sku"), ["a", "b", "c"])]) for side in SIDES}
    return Encoder(
        {side: tuple(feature for feature, _ in sides[side]) for side in SIDES},
        {side: {feature_name(feature): {} if values is None else learnt(feature, values) for feature, values in sides[side]} for side in SIDES},
    )


NAMES, TEXTS = ["x", "y", "z", None], ["red shoe", "blue hat of wool", None]
EXPORTED = {
    "id": (Id(column="a", buckets=3, dropout=0.2), NAMES),
    "category": (Category(column="a"), NAMES),
    "categories mean": (Categories(column="a"), ["x|y", "z", None]),
    "categories sum": (Categories(column="a", pool="sum"), ["x|y", "z", None]),
    "categories weighted": (Categories(column="a", pool="weighted"), ["x:0.5|y:2", "z", None]),
    "number": (Number(column="a"), [1.0, 2.0, None]),
    "number quantile": (Number(column="a", scale="quantile", bins=5), [1.0, 2.0, None]),
    "time": (Time(column="a", zone="Europe/Berlin"), ["2024-05-01", None]),
    "vector as wide": (Vector(column="a"), [[float(n == m) for n in range(16)] for m in range(3)]),
    "vector wider": (Vector(column="a", scale="standard"), np.random.default_rng(0).normal(size=(9, 40)).tolist()),
    "vector narrower": (Vector(column="a", scale="none"), [[100.0, 200.0], None]),
    "vector of nothing": (Vector(column="a"), pa.nulls(2)),
    "text": (Text(column="a", buckets=512), TEXTS),
    "text of nothing": (Text(column="a", buckets=512), pa.nulls(2)),
    **{
        f"history {pool} of {items}, {last}": (History(column="a", pool=pool, items=items, last=last, forget=0.1), None)
        for pool in ("mean", "recency", "attention", "transformer")
        for items in ("tower", "ids")
        for last in (7, 50)
    },
    **{
        f"history {pool} of tower, {last}": (History(column="a", pool=pool, last=last), None)
        for pool in ("attention", "transformer")
        for last in (1, 2)
    },
}


def shaken(model):
    """The model off its start, as training would leave it."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", EXPORTED)
def test_every_feature_is_exported(name, tmp_path):
    """`write_model` compares the graph with torch on no rows, one, many long ones, one empty row and none but empty ones."""
    encoder = made_encoder(query=[EXPORTED[name]])
    write_model(tmp_path, shaken(build(encoder, ModelOptions(dimensions=16, similarity="dot"))), encoder)


@pytest.mark.parametrize("body", ["none", "linear", "mlp", "residual", "cross", "custom"])
def test_every_body_is_exported_over_many_features(body, tmp_path):
    names = ["id", "categories weighted", "number quantile", "time", "vector wider", "text", "history transformer of tower, 7"]
    columns = [(replace(EXPORTED[name][0], column=f"c{n}"), EXPORTED[name][1]) for n, name in enumerate(names)]
    encoder = made_encoder(query=columns)
    bodies = {side: lambda f, d: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(f * d, d), torch.nn.Tanh()) for side in SIDES}
    model = build(encoder, ModelOptions(dimensions=16, body=body, hidden=(24,)), bodies=bodies if body == "custom" else None)
    write_model(tmp_path, shaken(model), encoder)


def test_raw_values_reach_the_graph_as_they_reach_torch(tmp_path):
    """From raw rows, missing and unknown ones among them, by both roads."""
    names = ["id", "categories mean", "categories weighted", "number", "time", "vector narrower", "text"]
    columns = [(replace(EXPORTED[name][0], column=f"c{n}"), EXPORTED[name][1]) for n, name in enumerate(names)]
    encoder = made_encoder(query=columns)
    model = shaken(build(encoder, ModelOptions(dimensions=16)))
    write_model(tmp_path, model, encoder)
    raw = [["x", "x|y", "x:2|new:1", 3.5, "2024-05-01 10:00", [1.0, 2.0], "red hat"], ["new", "new", "new", None, None, None, None], [None] * 7]
    for rows in ([0, 1, 2], [2], [2, 2], [1]):
        encoded = encoder.encode("query", {f"c{n}": [raw[row][n] for row in rows] for n in range(7)})
        expected = model.encode("query", encoded).numpy()
        np.testing.assert_allclose(run_graph(open_graph(tmp_path, "query"), encoded, 16), expected, atol=1e-5)


@pytest.fixture(scope="module")
def encoder(world_folder):
    folder = world_folder / "bundle" / "model"
    return Encoder.restore(files.read_json(folder / "encoder.json"), files.read_tensors(folder / "states.safetensors"))


@pytest.fixture(scope="module")
def moved():
    """Options that use every part of a tower."""
    return ModelOptions(dimensions=32, body="mlp", hidden=(64,), dropout=0.3)


@pytest.fixture(scope="module")
def written(encoder, moved, tmp_path_factory):
    """(folder, model): a model with an mlp that is no identity, written."""
    model = build(encoder, moved, 1)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("written")
    write_model(folder, model, encoder)
    return folder, model


def columns(encoder, side, n, lengths, seed=0):
    """Rows of known buckets and codes; lengths: of the texts."""
    generator = np.random.default_rng(seed)
    made = {}
    for feature in encoder.features[side]:
        state = encoder.states[side][f"{feature.column}:{feature.type}"]
        if feature.type == "text":
            offsets = offsets_of(np.broadcast_to(lengths, n))
            made[f"{feature.column}:{feature.type}"] = Ragged(generator.choice(state["buckets"], int(offsets[-1])), offsets)
        else:
            made[f"{feature.column}:{feature.type}"] = generator.integers(0, len(state["hashes"]) + 2, n)
    return made


SHAPES = {
    "no rows": (0, 4),
    "all empty": (5, 0),
    "one empty": (4, [3, 0, 7, 1]),
    "one by one": (1, 1),
    "many long": (256, 50),
    "ragged": (9, range(9)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", SIDES)
def test_the_graph_equals_torch(encoder, written, side, shape):
    folder, model = written
    n, lengths = SHAPES[shape]
    rows = columns(encoder, side, n, list(lengths) if not isinstance(lengths, int) else lengths)
    found = run_graph(open_graph(folder, side), rows, 32)
    expected = model.encode(side, rows).numpy()
    assert found.shape == expected.shape == (n, 32)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max(initial=0) < 1e-5
    if shape == "many long":
        assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_blocks_change_nothing(encoder, written, monkeypatch):
    folder, _ = written
    rows = columns(encoder, "query", 60, np.random.default_rng(1).integers(0, 30, 60))
    graph = open_graph(folder, "query")
    whole = run_graph(graph, rows, 32)
    monkeypatch.setattr("twotower.bundle.graphs.VALUES_AT_ONCE", 40)
    np.testing.assert_allclose(run_graph(graph, rows, 32), whole, atol=1e-6)


@pytest.mark.parametrize("side", SIDES)
def test_graphs_hold_no_weights_of_their_own(written, side):
    folder, _ = written
    graph = onnx.load(str(folder / f"{side}.onnx"), load_external_data=False).graph
    outside = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    inside = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    assert {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"} == {"weights.safetensors"}
    assert sum(tensor.ByteSize() for tensor in inside) < 2048
    named = [tensor.name for tensor in outside]
    for part in ("table.weight", "row_of", "scale", "body.steps.1.weight"):
        assert any(part in name for name in named), (part, named)
    assert (folder / f"{side}.onnx").stat().st_size < 60_000
    assert (folder / "weights.safetensors").stat().st_size > 300_000


def test_shared_weights_are_kept_once(written):
    folder, model = written
    kept = files.read_tensors(folder / "weights.safetensors")
    tables = [name for name in kept if "row_of" in name]
    assert len(tables) == 1
    aliases = json.loads(files.tensor_metadata(folder / "weights.safetensors")["aliases"])
    assert set(aliases) | set(kept) == set(model.state_dict())


def test_weights_come_back(written, encoder, moved):
    folder, model = written
    other = build(encoder, moved, 2)
    other.load_state_dict(read_weights(folder))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_weights_of_a_run_embed_its_catalogue(world_run, world_folder, encoder):
    """Three roads to one vector: stored, by the graph, by torch with the weights read back."""
    folder = world_folder / "bundle" / "model"
    model = build(encoder, read(folder / "config.toml").model)
    model.load_state_dict(read_weights(folder))
    retriever = world_run.retriever
    shown = encoder.encode("item", retriever.items)
    np.testing.assert_allclose(model.encode("item", shown).numpy(), retriever.vectors, atol=1e-5)
    np.testing.assert_allclose(run_graph(open_graph(folder, "item"), take_rows(shown, np.arange(36)), 32), retriever.vectors, atol=1e-6)


def test_a_graph_that_differs_is_not_kept(written, encoder, moved, tmp_path):
    folder, _ = written
    with pytest.raises(TwotowerError, match="differs from torch"):
        check_parity(folder, build(encoder, moved, 9), encoder)


@pytest.mark.parametrize("fault", ["missing", "garbage", "no weights"])
def test_a_graph_that_cannot_be_loaded_says_so(written, tmp_path, fault):
    folder = tmp_path / "model"
    shutil.copytree(written[0], folder)
    if fault == "garbage":
        (folder / "query.onnx").write_bytes(b"not a graph")
    else:
        (folder / {"missing": "query.onnx", "no weights": "weights.safetensors"}[fault]).unlink()
    with pytest.raises(BundleError, match=r"query\.onnx"):
        open_graph(folder, "query")


def test_nothing_in_a_bundle_names_a_place_of_this_machine(world_folder):
    places = [str(world_folder).encode(), str(Path(twotower.__file__).parent).encode(), str(Path.cwd()).encode(), b"stack_trace"]
    files = [path for path in (world_folder / "bundle").rglob("*") if path.is_file()]
    assert files
    assert [(path.name, place) for path in files for place in places if place in path.read_bytes()] == []
