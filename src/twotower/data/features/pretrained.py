"""Texts through a sentence encoder that somebody else trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le

from twotower.data import pretrained
from twotower.data.columns import Array, Column, Ragged, lengths_of, offsets_of
from twotower.data.features.feature import Form, Part, State
from twotower.data.tokens import to_array, token_ids
from twotower.data.values import to_text
from twotower.data.vectors import Workplace, computed_once
from twotower.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A text as the vector that a pretrained sentence encoder makes of it (Reimers and Gurevych 2019).

    folder: of the encoder, in the form of sentence-transformers or Hugging Face; the name of one on the hub, like
    sentence-transformers/all-MiniLM-L6-v2; or `shipped`, for the weights that an installed package carries. tune: train it too; else it
    stays as it is, each text is encoded once, and what is trained is a small change of its vectors. prefix: stands before each text,
    such as "query: " for the encoders of the e5 family. window: tokens read of a text, at most.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = True
    nested: ClassVar[bool] = False

    column: str
    folder: str = pretrained.SHIPPED
    type: Literal["pretrained"] = "pretrained"
    tune: bool = False
    prefix: str = ""
    window: Annotated[int, Ge(4), Le(8192)] = 256

    @property
    def costly(self) -> bool:
        """Whether `encode` is slow, and takes a Workplace."""
        return not self.tune

    def portable(self) -> Pretrained:
        """The same without the place of its folder on this machine."""
        return replace(self, folder=pretrained.name_of(self.folder))

    def outside(self) -> str:
        """A digest of what is read beside the data. Raises ConfigError or MissingExtra if it is not there."""
        return pretrained.digest_of(pretrained.locate(self.folder))

    def normalise(self, column: pa.Array) -> pa.Array:
        return to_text(column, exact=False)

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The tokeniser uint8 [b], the width int64 [1] and the digest uint8 [32] of the encoder; its graph uint8 [g] unless it is tuned.

        It learns nothing of the data. What is tuned has the number of its tokens and its window, int64 [1], and its weights in the layer.
        """
        folder = pretrained.locate(self.folder)
        digest = pretrained.digest_of(folder)
        if last is not None:
            if last["digest"].tobytes().hex() != digest:
                raise ConfigError(
                    f"the encoder in {folder} is not the one that the last model reads {self.column} with. Put that back, or start anew."
                )
            return last
        state = {"tokeniser": pretrained.tokeniser_of(folder, self.window), "digest": to_array(bytes.fromhex(digest))}
        if self.tune:
            module = pretrained.network(folder)
            window = min(self.window, pretrained.recipe_of(folder).window)
            return state | {"width": np.array([module.width]), "tokens": np.array([module.vocabulary]), "window": np.array([window])}
        graph = pretrained.graph_of(folder, digest)
        return state | {"width": np.array([graph.width]), "graph": graph.content}

    def encode(self, column: pa.Array, state: State, workplace: Workplace | None = None) -> Column:
        """Float32 [n, w + 1]: the unit vector, and whether the text is missing. Tuned: its tokens' ids plus one, int32; a missing text has none."""
        texts = self.normalise(column)
        present = np.flatnonzero(np.asarray(texts.is_valid()))
        read = [self.prefix + text for text in texts.drop_null().to_pylist()]
        if self.tune:
            found = token_ids(state["tokeniser"], read)
            lengths = np.zeros(len(texts), np.int64)
            lengths[present] = lengths_of(found)
            return Ragged(found.values + np.int32(1), offsets_of(lengths))
        width = int(state["width"][0])
        encoded = np.zeros((len(texts), width + 1), np.float32)
        encoded[:, -1] = 1
        if len(present):
            encoded[present, :-1] = self._vectors(read, state, width, workplace or Workplace())
            encoded[present, -1] = 0
        return encoded

    def _vectors(self, texts: Sequence[str], state: State, width: int, workplace: Workplace) -> Array:
        digest = state["digest"].tobytes().hex()

        def compute(some: Sequence[str]) -> Array:
            ids = token_ids(state["tokeniser"], some)
            return pretrained.run(state["graph"], digest, Ragged(ids.values + np.int32(1), ids.offsets), width)

        # The tokeniser holds the window, and the texts the prefix.
        name = hashlib.sha256(digest.encode() + state["tokeniser"].tobytes()).hexdigest()[:16]
        return computed_once(texts, width, compute, name, workplace)

    def form(self, state: State, dimensions: int) -> Form:
        if self.tune:
            return Form(np.int64, ragged=True, high=1 + int(state["tokens"][0]), longest=int(state["window"][0]))
        return Form(np.float32, width=1 + int(state["width"][0]))

    def unknown(self, encoded: Column) -> int:
        return 0

    def missing(self, encoded: Column) -> int:
        if isinstance(encoded, Ragged):
            return int(np.count_nonzero(lengths_of(encoded) == 0))
        return int(np.count_nonzero(np.asarray(encoded)[:, -1]))
