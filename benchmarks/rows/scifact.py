"""SciFact as in BEIR: all 5,183 abstracts ranked for each of 300 claims, ndcg@10.

Many a test claim is a training claim turned round ("show" for "lack"), about the same abstract, so what was learnt of that one answers it. The
claims about abstracts that no training claim names are therefore told apart: there an encoder shows what it has learnt of the language.
The encoder stays as it is, heads are trained, and words are searched beside vectors where validation prefers it; peers rank by one of both.
Peers: BM25, and sentence-transformers' all-MiniLM-L6-v2, as it is and tuned on the same claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import quality
from benchmarks.rows import Asked, Figure
from benchmarks.sentences import TUNED, peers
from twotower.data.splits import TRAIN, VALIDATION

TINY = (
    "train.epochs=1",
    "query.features=[{column='claim',type='text'}]",
    "item.features=[{column='title',type='text'},{column='abstract',type='text',words=32}]",
    "model.dimensions=16",
)


def measure(asked: Asked) -> Iterator[Figure]:
    """The recipe and its peers, on all claims and on those about abstracts that are new."""
    test = quality.trained("scifact", asked, TINY)
    yield from quality.of_model(test, "twotower, pretrained encoder", "ndcg@10 .68; go for .72")
    yield from quality.of_baselines(test, "baseline")
    # Some nine hundred pairs: one epoch, as for large sets, would be fifteen steps.
    ways: dict[str, dict[str, Any]] = {"untuned": {}, "tuned": TUNED | {"epochs": 4}}
    yield from peers(test, asked, ways)
    new = about_new(test)
    where = f"{len(new.asked.query_rows)} claims about abstracts that no training claim names"
    yield Figure(f"twotower, {where}", quality.told(new.ours.figures), "", quality.numbers(new.ours))
    for figure in peers(new, asked, ways):
        yield figure._replace(what=f"{figure.what}, those claims")


def about_new(test: quality.Tested) -> quality.Tested:
    """The claims none of whose abstracts stands in a training or validation pair."""
    known = np.concatenate([test.prepared.part(part).item_rows for part in (TRAIN, VALIDATION)])
    relevant = test.asked.relevant
    named = np.add.reduceat(np.isin(relevant.values, known), relevant.offsets[:-1])
    which = np.flatnonzero(named == 0)
    values = {name: one[which] for name, one in test.ours.values.items()}
    asked = test.asked.take(which)
    return test._replace(asked=asked, ours=quality.summarise_values(values, test.keys[which], test.options))
