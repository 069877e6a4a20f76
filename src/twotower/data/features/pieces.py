"""Texts as word pieces of a vocabulary that is learnt from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le, Lt

from twotower.data.columns import Column, Ragged, lengths_of, offsets_of
from twotower.data.features.feature import Form, Part, State
from twotower.data.tokens import frozen, token_ids
from twotower.data.values import to_text
from twotower.errors import ConfigError

UNKNOWN_PIECE = "[UNK]"


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Word pieces in their order, read by a small network that is trained from nothing: for many pairs of short texts.

    vocabulary: how many pieces are learnt at most, of the training texts (byte-pair encoding: Sennrich et al. 2016). length: pieces
    read of a text, at most. network: a `cnn` over two, three and four pieces at a time (Kim 2014), or a `transformer` of `heads`
    (Vaswani et al. 2017). layers: of the network. width: of the pieces and of its layers. pool: of what it makes of them,
    the `max` or `mean`. dropout: in it. crop: a training step reads a random part of a text, which leaves out up to this share of it; forget: and, of
    that part, not this share of the pieces. table: features of one table name share pieces and their embeddings.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    from_log: ClassVar[bool] = False
    worded: ClassVar[bool] = True
    nested: ClassVar[bool] = False

    column: str
    type: Literal["pieces"] = "pieces"
    network: Literal["cnn", "transformer"] = "cnn"
    vocabulary: Annotated[int, Ge(64), Le(1 << 20)] = 8192
    length: Annotated[int, Ge(1), Le(1024)] = 64
    layers: Annotated[int, Ge(1), Le(24)] = 1
    width: Annotated[int, Ge(1), Le(4096)] = 128
    heads: Annotated[int, Ge(1), Le(64)] = 4
    pool: Literal["max", "mean"] = "mean"
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    crop: Annotated[float, Ge(0), Lt(1)] = 0.0
    forget: Annotated[float, Ge(0), Lt(1)] = 0.0
    table: str | None = None

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        if self.network == "transformer" and self.width % self.heads:
            raise ConfigError(f"the pieces of {self.column} have width = {self.width}, which heads = {self.heads} do not divide. Change one.")

    def normalise(self, column: pa.Array) -> pa.Array:
        return to_text(column, exact=False)

    def fit(self, parts: Iterable[Part], last: State | None = None) -> State:
        """The tokeniser uint8 [b], learnt of each text once, and the number of its pieces, int64 [1]. One that is there spells new words too."""
        if last is not None:
            return last
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

        self.check()
        tokeniser = Tokenizer(models.BPE(unk_token=UNKNOWN_PIECE))  # of the trainers there are, the one that gives the same pieces each time
        tokeniser.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokeniser.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.BpeTrainer(vocab_size=self.vocabulary, special_tokens=[UNKNOWN_PIECE], show_progress=False)
        tokeniser.train_from_iterator(self._texts(parts), trainer)
        return {"tokeniser": frozen(tokeniser, self.length), "pieces": np.array([tokeniser.get_vocab_size()])}

    def _texts(self, parts: Iterable[Part]) -> Iterator[list[str]]:
        for column, _ in parts:
            yield self.normalise(column).drop_null().to_pylist()

    def encode(self, column: pa.Array, state: State) -> Ragged:
        """The pieces' numbers plus one, int32; 0 is left for padding. A missing text has none."""
        texts = self.normalise(column)
        found = token_ids(state["tokeniser"], texts.drop_null().to_pylist())
        lengths = np.zeros(len(texts), np.int64)
        lengths[np.asarray(texts.is_valid())] = lengths_of(found)
        return Ragged(found.values + np.int32(1), offsets_of(lengths))

    def form(self, state: State, dimensions: int) -> Form:
        return Form(np.int64, ragged=True, high=1 + int(state["pieces"][0]), longest=self.length)

    def unknown(self, encoded: Column) -> int:
        """Rows that hold a piece which stands for what the vocabulary cannot spell."""
        assert isinstance(encoded, Ragged)
        rows = np.repeat(np.arange(len(encoded.offsets) - 1), lengths_of(encoded))
        return len(np.unique(rows[encoded.values == 1]))

    def missing(self, encoded: Column) -> int:
        assert isinstance(encoded, Ragged)
        return int(np.count_nonzero(lengths_of(encoded) == 0))
