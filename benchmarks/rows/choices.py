"""What each part of the recipe for texts is worth, on validation pairs of the shipped sample; the test pairs stay closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.rows import Asked, Figure
from twotower import config
from twotower.data.preparation import prepare
from twotower.data.prepared import Prepared
from twotower.data.samples import load_sample
from twotower.data.sources import open_source
from twotower.data.splits import VALIDATION
from twotower.learning import training
from twotower.learning.baselines import lexical, texts
from twotower.learning.evaluation import Scorer, cases, left_out, rank
from twotower.learning.evaluation import measure as metrics_of
from twotower.model.towers import TwoTower, build
from twotower.runs.measuring import Asked as Answered
from twotower.runs.measuring import scorer

METRICS = ("hit@10", "mrr")
TEXTS = "[{column='id',type='id'},{column='command',type='text'%s},{column='platform',type='category'},{column='description',type='text'%s}]"


def texts_with(options: str) -> list[str]:
    """Settings that give every text feature these options."""
    return [f"query.features=[{{column='query',type='text',{options}}}]", "item.features=" + TEXTS % (f",{options}", f",{options}")]


CHOICES: dict[str, list[str]] = {
    "recipe": [],
    "correction=on": ["train.correction=true"],
    "dimensions=128": ["model.dimensions=128"],
    "tables=apart": ["model.shared_tables=false"],
    "word-pairs=off": texts_with("pairs=false"),
    "pieces=off": texts_with("pieces=[]"),
    "buckets=65536": texts_with("buckets=65536"),
    "temperature=0.05": ["model.temperature=0.05", "model.learn_temperature=false"],
    "similarity=dot": ["model.similarity='dot'"],
    "body=mlp": ["model.body='mlp'"],
}


def trained(settings: list[str], cache: Path) -> tuple[Prepared, TwoTower, config.Config]:
    """The sample's recipe with settings, trained; nothing but training and validation pairs is read."""
    sample = load_sample("tldr")
    chosen = config.read(sample.config, ["split.validation=0.1", *settings])
    prepared = prepare(open_source(sample.pairs, "pairs"), open_source(sample.items, "items"), chosen.schema, chosen.split, cache)
    model = build(prepared.encoder, chosen.model, chosen.train.seed)
    data = training.data_of(prepared, chosen.train, chosen.evaluate)
    training.fit(training.start(model, data, chosen.train), data, chosen.train, chosen.evaluate)
    return prepared, model, chosen


def line(what: str, by: Scorer, asked: Answered, n_items: int) -> Figure:
    """The metrics of a scorer on validation cases."""
    ranks = rank(by, asked.cases.relevant, asked.cases.excluded, n_items=n_items)
    found = {name: float(values.mean()) for name, values in metrics_of(ranks, METRICS).items()}
    return Figure(what, ", ".join(f"{name} {value:.4f}" for name, value in found.items()), "", found)


def answered(prepared: Prepared, model: TwoTower, chosen: config.Config) -> tuple[Answered, np.ndarray]:
    """The validation cases with their vectors and words, and the vectors of the items."""
    found = cases(prepared.part(VALIDATION), prepared.known(*left_out(chosen.evaluate, VALIDATION)), "pair")
    words = texts(prepared, "query")
    queries = model.encode("query", prepared.columns["query"]).numpy()[found.query_rows]
    return Answered(found, queries, [words[row] for row in found.query_rows]), model.encode("item", prepared.columns["item"]).numpy()


def ranks_added(asked: Answered, items: np.ndarray, words: Scorer, weight: float) -> Scorer:
    """Reciprocal rank fusion over the whole catalogue (Cormack et al. 2009)."""

    def reciprocal(scores: np.ndarray) -> np.ndarray:
        place = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
        return 1 / (61.0 + place)

    def both(block: slice) -> np.ndarray:
        lexical_scores = words(block)
        return (reciprocal(asked.vectors[block] @ items.T) + weight * reciprocal(lexical_scores) * (lexical_scores > 0)).astype(np.float32)

    return both


def fusion(prepared: Prepared, asked: Answered, items: np.ndarray) -> Iterator[Figure]:
    """Vectors, words, and both by added scores and by added ranks."""
    index = lexical(prepared, with_queries=True)
    assert index is not None
    yield line("words alone", lambda block: index.scores(asked.texts[block]), asked, len(items))
    for weight in (0.15, 0.3, 0.5):
        added = scorer(asked, items, index, {"mode": "hybrid", "words_weight": weight})
        yield line(f"vectors + words, scores added, weight {weight}", added, asked, len(items))
    for weight in (0.25, 0.5, 1.0):
        by_rank = ranks_added(asked, items, lambda block: index.scores(asked.texts[block]), weight)
        yield line(f"vectors + words, ranks added, weight {weight}", by_rank, asked, len(items))


def measure(asked: Asked) -> Iterator[Figure]:
    """Train each choice."""
    for name in ["recipe"] if asked.smoke else CHOICES:
        tiny = ["train.epochs=1", "model.dimensions=16"] if asked.smoke else []
        prepared, model, settings = trained([*CHOICES[name], *tiny], asked.folder)
        found, items = answered(prepared, model, settings)
        yield line(name, scorer(found, items, None, {"mode": "vectors"}), found, len(items))
        if name == "recipe":
            yield from fusion(prepared, found, items)
