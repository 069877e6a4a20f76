"""banking77: the 77 intents ranked for each of 3,080 texts; an intent is an item with its name for a text, accuracy is hit@1.

Peers: sentence-transformers' all-MiniLM-L6-v2 by the nearest name of an intent, as it is and tuned.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import quality
from benchmarks.rows import Asked, Figure
from benchmarks.sentences import TUNED, peers

WORDS = ("query.features=[{column='text',type='text'}]", "item.features=[{column='intent',type='id'},{column='name',type='text'}]")
TINY = ("train.epochs=1", "model.dimensions=16", "train.pretrained_learning_rate=2e-5")


def measure(asked: Asked) -> Iterator[Figure]:
    """From nothing, with the encoder, then peers."""
    test = quality.trained("banking77", asked, TINY)
    yield from quality.of_model(test, "twotower, from nothing")
    yield from quality.of_baselines(test, "baseline")
    test = quality.trained("banking77_encoder", asked, (*TINY, *WORDS))
    yield from quality.of_model(test, "twotower, pretrained encoder", "hit@1 .93; go for .94")
    yield from peers(test, asked, {"untuned": {}, "tuned": TUNED | {"epochs": 4}})
