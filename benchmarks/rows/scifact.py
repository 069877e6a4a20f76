"""SciFact as in BEIR: all 5,183 abstracts ranked for each of 300 claims, ndcg@10.

Peers: BM25, and sentence-transformers' all-MiniLM-L6-v2, as it is and tuned on the same claims.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import quality
from benchmarks.rows import Asked, Figure
from benchmarks.sentences import TUNED, peers

TINY = (
    "train.epochs=1",
    "query.features=[{column='claim',type='text'}]",
    "item.features=[{column='title',type='text'},{column='abstract',type='text',words=32}]",
    "model.dimensions=16",
)


def measure(asked: Asked) -> Iterator[Figure]:
    """The tuned recipe and its peers."""
    test = quality.trained("scifact", asked, TINY)
    yield from quality.of_model(test, "twotower, pretrained encoder", "ndcg@10 .68; go for .72")
    yield from quality.of_baselines(test, "baseline")
    # Some nine hundred pairs: one epoch, as for large sets, would be fifteen steps.
    yield from peers(test, asked, {"untuned": {}, "tuned": TUNED | {"epochs": 4}})
