"""tldr: all 7,424 pages ranked for each of the 2,997 test pairs, from nothing and with the encoder; hit@10 and mrr.

Peers: BM25, over the pages alone and with their training queries, and sentence-transformers' all-MiniLM-L6-v2, as it is and tuned.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import quality
from benchmarks.rows import Asked, Figure
from benchmarks.sentences import TUNED, peers

TINY = ("train.epochs=1", "model.dimensions=16")
PLAIN = (
    "query.features=[{column='query',type='text'}]",
    "item.features=[{column='id',type='id'},{column='command',type='text'},{column='description',type='text'}]",
)


def measure(asked: Asked) -> Iterator[Figure]:
    """From nothing, with the encoder, then peers."""
    test = quality.trained("tldr", asked, TINY)
    yield from quality.of_model(test, "twotower, from nothing", "hit@10 .72, mrr .51")
    yield from quality.of_baselines(test, "baseline")
    test = quality.trained("tldr_encoder", asked, (*TINY, *PLAIN))
    yield from quality.of_model(test, "twotower, pretrained encoder and hashed words", "hit@10 .78, mrr .56")
    yield from peers(test, asked, {"untuned": {}, "tuned": TUNED | {"window": 64}})
