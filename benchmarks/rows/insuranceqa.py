"""InsuranceQA: all 27,413 answers ranked for each test question, ndcg@10 with all its right answers, from nothing and with the encoder.

Peers: BM25, over the answers alone and with their training questions, and sentence-transformers' all-MiniLM-L6-v2, as it is and tuned.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import quality
from benchmarks.rows import Asked, Figure
from benchmarks.sentences import TUNED, peers

TINY = ("train.epochs=1", "model.dimensions=16", "item.features=[{column='answer',type='text',words=16}]")
TINY_ENCODER = ("train.epochs=1", "query.features=[{column='question',type='text'}]", TINY[2], "model.dimensions=16")


def measure(asked: Asked) -> Iterator[Figure]:
    """From nothing, with the encoder, then peers on the same questions."""
    test = quality.trained("insuranceqa", asked, TINY)
    yield from quality.of_model(test, "twotower, from nothing", "ndcg@10 .28")
    yield from quality.of_baselines(test, "baseline")
    test = quality.trained("insuranceqa_encoder", asked, TINY_ENCODER)
    yield from quality.of_model(test, "twotower, pretrained encoder", "ndcg@10 .36; go for .40")
    yield from peers(test, asked, {"untuned": {}, "tuned": TUNED | {"window": 128}})
