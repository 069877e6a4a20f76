"""goodbooks, the sample that ships: the last five books of every reader out of 10,000, then books that training never saw.

Every difference is paired by ranking, with its 95% interval. Settings were chosen on validation pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import twotower as tt
from benchmarks import quality
from benchmarks.rows import Asked, Figure
from twotower.data.samples import load_sample

IDS = [
    "query.features=[{column='user_id',type='id'}]",
    "item.features=[{column='book_id',type='id'}]",
    "train.epochs=10",
]
COLD = (
    "[{column='book_id',type='id',dropout=0.5},{column='title',type='text'},{column='authors',type='categories',separator=', '},"
    "{column='year',type='number',scale='quantile'},{column='language',type='category'}]"
)
TINY = ["train.epochs=1", "train.batch_size=8192"]


def measure(asked: Asked) -> Iterator[Figure]:
    """Every reader's last books; then cold ones."""
    yield from last_five(asked)
    yield from cold(asked)


def last_five(asked: Asked) -> Iterator[Figure]:
    """All that is known of readers and books, against ids alone and the baselines."""
    sample, tiny = load_sample("goodbooks"), TINY if asked.smoke else []
    common = {"config": sample.config, "overwrite": True}
    run = tt.train(sample.pairs, sample.items, settings=tiny, output=asked.folder / "whole", **common)
    ids = tt.train(sample.pairs, sample.items, settings=[*IDS, *tiny], output=asked.folder / "ids", **common)
    select = run.metrics["evaluation"]["select"]
    yield Figure("history, ids, titles, authors, year, language", quality.told(run.metrics["model"]), "", run.metrics["model"])
    for name, figures in run.metrics["baselines"].items():
        yield Figure(name, quality.told(figures), "", figures)
    yield Figure("ids of readers and books alone", quality.told(ids.metrics["model"]), "", ids.metrics["model"])
    for name, tests in run.metrics["against"].items():
        test = tests[select]
        yield Figure(f"against {name}", f"{select} {test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]", "above 0", test)
    yield quality.difference("against ids alone", tt.compare(run.folder, ids.folder), select)


def cold(asked: Asked) -> Iterator[Figure]:
    """A tenth of the books never seen in training, against a tenth of the pairs drawn at random; each pair ranked for itself."""
    sample, tiny = load_sample("goodbooks"), TINY if asked.smoke else []
    each = ["evaluate.per='pair'", "evaluate.metrics=['recall@20']", "evaluate.select='recall@20'", "evaluate.baselines=[]"]
    by = {part: [f"split.by='{split}'", "split.test=0.1", "split.validation=0.05"] for part, split in (("warm", "random"), ("cold", "cold_items"))}
    for name, features in {"content": ["item.features=" + COLD], "ids alone": IDS}.items():
        found = {}
        for part, split in by.items():
            settings = [*each, *split, *features, *tiny]
            run = tt.train(
                sample.pairs, sample.items, config=sample.config, settings=settings, output=asked.folder / f"{part}-{name}", overwrite=True
            )
            found[part] = run.metrics["model"]["recall@20"]["value"]
            yield Figure(f"{part} books, {name}", quality.told(run.metrics["model"]), "", run.metrics["model"])
        ratio = found["cold"] / found["warm"]
        yield Figure(f"cold recall@20 over warm, {name}", f"{ratio:.2f}", "0.5" if name == "content" else "", {"ratio": ratio})
