"""A tower that reads one text by a pretrained encoder, as a folder that `SentenceTransformer(folder)` loads.

The tower becomes the encoder's own modules, then a linear layer that holds all that was trained behind them, then unit length where the
similarity is a cosine. What reads more than one text, or has a body that is not linear, is no such folder and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower import files
from twotower.bundle import Retriever
from twotower.config import read
from twotower.data import pretrained
from twotower.data.columns import Array
from twotower.data.features import Pretrained
from twotower.data.schema import SIDES, Side, feature_name
from twotower.errors import ConfigError

KIND = "sentence_transformers.models."  # the names under which every version of the library knows its modules
LINEAR = ("none", "linear")  # bodies that one matrix can stand for
OWN = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "README.md"}


class Part(NamedTuple):
    """What one folder is made of."""

    feature: Pretrained
    digest: str  # of the encoder
    matrix: Array  # float32 [d, w]
    bias: Array | None  # float32 [d]
    network: Mapping[str, Array]  # the encoder's own weights where they were trained too, by the names of its `network`


def sides_of(retriever: Retriever) -> tuple[dict[Side, Part], dict[Side, str]]:
    """The sides that such a folder can hold, and for each of the others the reason why not."""
    parts: dict[Side, Part] = {}
    reasons: dict[Side, str] = {}
    options = read(retriever.bundle.folder / "model" / "config.toml").model
    for side in SIDES:
        features = retriever.encoder.features[side]
        if len(features) != 1 or not isinstance(features[0], Pretrained):
            reasons[side] = (
                f"the {side} tower reads {', '.join(f'{f.column} ({f.type})' for f in features)}, and not one text of type pretrained alone"
            )
        elif options.body not in LINEAR:
            reasons[side] = f'the {side} tower has the body "{options.body}", and such a folder holds no other than {" or ".join(LINEAR)}'
        else:
            parts[side] = _part(retriever, side, features[0])
    return parts, reasons


def _part(retriever: Retriever, side: Side, feature: Pretrained) -> Part:
    path = retriever.bundle.folder / "model" / "weights.safetensors"
    tensors = files.read_tensors(path)
    aliases = json.loads(files.tensor_metadata(path).get("aliases", "{}"))
    own = {name.removeprefix(f"{side}."): tensors[aliases.get(name, name)] for name in (*tensors, *aliases) if name.startswith(f"{side}.")}
    state = retriever.encoder.states[side][feature_name(feature)]
    width, d = int(state["width"][0]), retriever.bundle.dimensions
    kept = own["layers.0.projection"].T if width != d else np.eye(d, dtype=np.float32)
    # Where the encoder is not tuned, the last column of the change is for a text that is missing.
    matrix, bias = (kept + own["layers.0.change.weight"][:, :width]) * own["gains"][0], None
    if "body.change.weight" in own:
        matrix, bias = matrix + own["body.change.weight"] @ matrix, own["body.change.bias"]
    network = {name.removeprefix("layers.0.network."): array for name, array in own.items() if name.startswith("layers.0.network.")}
    return Part(feature, state["digest"].tobytes().hex(), np.asarray(matrix, np.float32), bias, network)


def alike(one: Part, other: Part) -> bool:
    """Whether two sides are one tower."""
    arrays = [(one.matrix, other.matrix), *((array, other.network.get(name)) for name, array in one.network.items())]
    if (one.bias is None) != (other.bias is None) or len(one.network) != len(other.network):
        return False
    arrays += [(one.bias, other.bias)] if one.bias is not None else []
    same = all(b is not None and np.array_equal(a, b) for a, b in arrays)
    return same and one.digest == other.digest and (one.feature.prefix, one.feature.window) == (other.feature.prefix, other.feature.window)


def encoder_folder(part: Part, retriever: Retriever, named: str | None) -> Path:
    """The folder of the encoder that a side was trained on: the one named, the run's, or the one installed. Raises ConfigError if it is another."""
    place = named
    if place is None:
        run = retriever.bundle.folder.parent / "config.toml"
        kept = [f.folder for side in SIDES for f in read(run).schema.features(side) if isinstance(f, Pretrained)] if run.exists() else []
        place = next((each for each in kept if pretrained.name_of(each) == pretrained.name_of(part.feature.folder)), part.feature.folder)
    try:
        folder = pretrained.locate(place)
    except ConfigError as error:
        raise ConfigError(f"a bundle does not hold the encoder in the form of its library; name its folder with --encoder. {error}") from None
    if pretrained.digest_of(folder) != part.digest:
        raise ConfigError(f"the encoder in {folder} is not the one that this model was trained on. Name that one with --encoder FOLDER.")
    return folder


def write_sentences(part: Part, source: Path, folder: Path, *, unit: bool) -> None:
    """Write one side into an empty folder. source: of its encoder. unit: whether its vectors have length 1."""
    recipe = pretrained.recipe_of(source)
    for path in sorted(path for path in source.rglob("*") if any(path.match(pattern) for pattern in pretrained.READ) and path.is_file()):
        name = path.relative_to(source).as_posix()
        # Weights of other libraries and forms are not what was read.
        if name not in OWN and not any(each.startswith(".") for each in Path(name).parts) and name.partition("/")[0] not in ("onnx", "openvino"):
            files.copy_file(path, folder / name)
    width = part.matrix.shape[1]
    if (source / "modules.json").exists():
        modules = [(each["type"].rpartition(".")[2], each["path"]) for each in files.read_json(source / "modules.json")]
        modules = [each for each in modules if each[0] != "Normalize"]
    else:
        modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
        files.write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True})
    if part.network:
        _write_trained(part.network, recipe, folder)
    modules += [("Normalize", f"{len(modules)}_Normalize"), ("Dense", f"{len(modules) + 1}_Dense")]
    _write_dense(part, folder / modules[-1][1])
    modules += [("Normalize", f"{len(modules)}_Normalize")] if unit else []
    listed = [{"idx": n, "name": str(n), "path": path, "type": KIND + kind} for n, (kind, path) in enumerate(modules)]
    for kind, path in modules:
        if kind == "Normalize":
            files.make_folder(folder / path)
    files.write_json(folder / "modules.json", listed)
    window = min(part.feature.window, recipe.window)
    files.write_json(folder / "sentence_bert_config.json", {"max_seq_length": window, "do_lower_case": recipe.lower})
    prompts = {"prompts": {"text": part.feature.prefix}, "default_prompt_name": "text"} if part.feature.prefix else {}
    files.write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine" if unit else "dot", **prompts})


def _write_dense(part: Part, folder: Path) -> None:
    d, width = part.matrix.shape
    identity = "torch.nn.modules.linear.Identity"
    files.write_json(
        folder / "config.json", {"in_features": width, "out_features": d, "bias": part.bias is not None, "activation_function": identity}
    )
    tensors = {"linear.weight": part.matrix} | ({} if part.bias is None else {"linear.bias": part.bias})
    files.write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})


def _write_trained(network: Mapping[str, Array], recipe: pretrained.Recipe, folder: Path) -> None:
    """Put the encoder's trained weights in the place of those that it came with."""
    body: dict[str, Any] = {name.removeprefix("body."): array for name, array in network.items() if name.startswith("body.")}
    for path in folder.glob("*.safetensors*"):
        files.remove_file(path)
    files.write_tensors(folder / "model.safetensors", body, {"format": "pt"})
    for number, name in enumerate(recipe.dense):
        # A layer and its activation take two places each.
        dense = {f"linear.{kind}": network[f"dense.{2 * number}.{kind}"] for kind in ("weight", "bias") if f"dense.{2 * number}.{kind}" in network}
        files.write_tensors(folder / name / "model.safetensors", dense, {"format": "pt"})
