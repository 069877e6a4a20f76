"""ONNX equals torch in every shape, and both read one file of weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import twotower
from twotower import files
from twotower.bundle.graphs import open_graph, run_graph
from twotower.config import read
from twotower.data.columns import Ragged, offsets_of, take_rows
from twotower.data.encoder import Encoder
from twotower.errors import BundleError, TwotowerError
from twotower.exports import check_parity, read_weights, write_model
from twotower.model.options import ModelOptions
from twotower.model.towers import build

SIDES = ("query", "item")


@pytest.fixture(scope="module")
def encoder(world_folder):
    folder = world_folder / "bundle" / "model"
    return Encoder.restore(files.read_json(folder / "encoder.json"), files.read_tensors(folder / "states.safetensors"))


@pytest.fixture(scope="module")
def moved():
    """Options that use every part of a tower."""
    return ModelOptions(dimensions=32, body="mlp", hidden=(64,), dropout=0.3, shared_body=True)


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
    for part in ("table.weight", "row_of", "scale", "steps.1.weight"):
        assert any(part in name for name in named), (part, named)
    assert (folder / f"{side}.onnx").stat().st_size < 60_000
    assert (folder / "weights.safetensors").stat().st_size > 300_000


def test_shared_weights_are_kept_once(written):
    folder, model = written
    kept = files.read_tensors(folder / "weights.safetensors")
    tables = [name for name in kept if "row_of" in name]
    assert len(tables) == 1
    assert not any(name.startswith("item.body") for name in kept)
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
