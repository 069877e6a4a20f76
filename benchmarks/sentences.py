"""sentence-transformers beside ours: the same words, vectors of its own, ranked by our evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import quality
from benchmarks.environments import remembered
from benchmarks.rows import Asked, Figure

# As its documentation has it: in-batch negatives without duplicates, one epoch, a tenth of it warm-up.
TUNED = {"epochs": 1, "batch_size": 64, "learning_rate": 2e-5, "precision": "bfloat16"}
# As the authors of its static models train them, on fewer pairs for more epochs.
STATIC = {"dimensions": 1024, "epochs": 10, "batch_size": 2048, "learning_rate": 0.2, "precision": "float32"}


def peers(test: quality.Tested, asked: Asked, ways: Mapping[str, dict[str, Any]]) -> Iterator[Figure]:
    """The encoder all-MiniLM-L6-v2 in some ways."""
    for name, settings in ways.items():
        tiny = ({"few": 64, "window": 8} | ({"steps": 2} if settings else {})) if asked.smoke else {}
        settings = {**settings, **tiny}
        log = quality.log_of(test.prepared)
        arrays = {"rows": log["rows"], "items": log["items"]} if settings.get("epochs") else {}
        answer = remembered("sentences", {"model": "encoder", **settings}, arrays, **quality.words_of(test.prepared))
        yield from quality.of_peer(test, f"all-MiniLM-L6-v2 by sentence-transformers, {name}", answer)
