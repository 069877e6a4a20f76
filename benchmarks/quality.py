"""How a quality is measured: a recipe is trained as anybody would, and peers are ranked on its test pairs by the same evaluation.

Peers learn from training and validation pairs together, since their settings are fixed; ours chooses its epoch by the validation pairs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

import twotower as tt
from benchmarks import environments, sets
from benchmarks.fingerprints import digest, modules
from benchmarks.rows import HERE, MARK, Asked, Figure
from twotower import config as configs
from twotower import files, runs
from twotower.data.columns import Array
from twotower.data.preparation import prepare
from twotower.data.prepared import Prepared, open_prepared
from twotower.data.sources import open_source
from twotower.data.splits import TEST
from twotower.learning.baselines import texts
from twotower.learning.evaluation import Cases, Evaluated, Scorer, cases_of, dot_scorer, evaluate, list_keys
from twotower.learning.options import EvaluateOptions
from twotower.learning.statistics import Interval, interval, paired_test
from twotower.learning.views import before, reading
from twotower.runs import Run
from twotower.runs.comparing import Comparison


class Tested(NamedTuple):
    """The test pairs of a run, and what each of its rankings came to."""

    run: Run
    prepared: Prepared
    asked: Cases
    options: EvaluateOptions
    ours: Evaluated

    @property
    def keys(self) -> Array:
        """Whose each ranking is."""
        return list_keys(self.asked, self.options.per)


def trained(recipe: str, asked: Asked, tiny: Sequence[str] = (), name: str = "", settings: Sequence[str] = (), fresh: bool = False) -> Tested:
    """A recipe trained to its end. tiny: settings of a smoke test. name: of the run folder, by default the recipe's.

    What a row that was broken off had trained, by the same code and settings, is taken up again; fresh: never.
    """
    for each in sets.read_by(recipe):
        sets.made(each)
    path, output = HERE / "recipes" / f"{recipe}.toml", asked.folder / (name or recipe)
    settings = [*settings, *(tiny if asked.smoke else ()), *asked.settings, f"machine.threads={environments.THREADS}"]
    mark = output.with_suffix(MARK)
    told = json.dumps([settings, *(digest(file) for file in sorted({path, Path(sets.__file__), *modules(Path(runs.__file__))}))])
    same = not fresh and mark.exists() and mark.read_text(encoding="utf-8") == told
    if not (same and (output / "metrics.json").exists()):
        resume = same and (output / "checkpoint.safetensors").exists()
        mark.write_text(told, encoding="utf-8")
        tt.train(config=path, settings=settings, output=output, resume=resume, overwrite=not resume)
    return tested(runs.open_run(output))


def tested(run: Run) -> Tested:
    """The test pairs of a finished run."""
    options = configs.read(run.folder / "config.toml").evaluate
    prepared = open_prepared(run.folder.parent / "prepared" / files.read_json(run.folder / "prepared.json")["folder"])
    seen = before(prepared, TEST, reading(prepared.encoder, prepared.columns["item"]))
    asked = cases_of(prepared, TEST, options, seen)
    rankings = pq.read_table(run.folder / "rankings.parquet")
    values = {name.removeprefix("metric "): rankings.column(name).to_numpy() for name in rankings.column_names if name.startswith("metric ")}
    return Tested(run, prepared, asked, options, summarise_values(values, list_keys(asked, options.per), options))


def summarise_values(values: Mapping[str, Array], keys: Array, options: EvaluateOptions) -> Evaluated:
    """Values [rankings] of each metric with their means and intervals."""
    found = interval(np.stack(list(values.values()), axis=1), groups=keys, generator=np.random.default_rng(options.seed))
    return Evaluated(dict(values), {name: Interval(*(part[n] for part in found)) for n, name in enumerate(values)})


def ranked(test: Tested, scorer: Scorer) -> Evaluated:
    """What somebody else's scores come to on the same rankings."""
    return evaluate(scorer, test.asked, test.prepared.n_items, test.options)


def told(figures: Mapping[str, Any]) -> str:
    """Figures with their intervals, of a run's metrics or of an evaluation."""
    parts = {name: (f["value"], f["low"], f["high"]) if isinstance(f, Mapping) else tuple(f)[:3] for name, f in figures.items()}
    return ", ".join(f"{name} {value:.4f} [{low:.4f}, {high:.4f}]" for name, (value, low, high) in parts.items())


def numbers(evaluated: Evaluated) -> dict[str, Any]:
    """The same for a file."""
    return {name: {part: float(value) for part, value in figure._asdict().items()} for name, figure in evaluated.figures.items()}


def of_model(test: Tested, what: str, wanted: str = "") -> Iterator[Figure]:
    """The lines of our own model: its figures, how it was trained, and the baselines that ranked beside it."""
    facts, report = test.run.metrics["training"], test.run.metrics["evaluation"]
    mode = test.run.metrics["search"]["mode"]
    seconds = f"; {facts['training_seconds']:.0f} s of training, best epoch {facts['best_epoch']}"
    yield Figure(
        f"{what}, searched by {mode}", told(test.ours.figures) + seconds, wanted, numbers(test.ours) | {"training": facts, "evaluation": report}
    )
    for other, found in test.run.metrics["modes"].items():
        if other != mode and other != "words":
            yield Figure(f"{what}, searched by {other}", told(found))


def of_baselines(test: Tested, what: str) -> Iterator[Figure]:
    """The baselines that ranked beside a run."""
    for name, found in test.run.metrics["baselines"].items():
        yield Figure(f"{what}, {name}", told(found), "", dict(found))


def of_peer(test: Tested, what: str, answer: environments.Answer) -> Iterator[Figure]:
    """The lines of a peer: its figures on the same rankings, and how much better ours is on the selecting metric, paired."""
    found = ranked(test, scorer_of(test, answer))
    metric = test.options.select
    test_of = paired_test(test.ours.values[metric], found.values[metric], groups=test.keys, generator=np.random.default_rng(0))
    better = f"ours {metric} {float(test_of.difference):+.4f} [{float(test_of.low):+.4f}, {float(test_of.high):+.4f}]"
    facts = ", ".join(f"{name} {value}" for name, value in answer.facts.items() if name != "seconds")
    yield Figure(
        f"{what} ({facts})", f"{told(found.figures)}; {answer.facts['seconds']:.1f} s; {better}", "", numbers(found) | {"facts": answer.facts}
    )


def scorer_of(test: Tested, answer: environments.Answer) -> Scorer:
    """A peer's scores for the cases: of vectors, or of a matrix. Its queries are our keys, or our query rows where there are words."""
    asked = test.asked.query_rows if answer.facts.get("by") == "rows" else test.asked.query_keys
    answer.facts.pop("by", None)
    if "scores" in answer.arrays:
        scores = answer.arrays["scores"]
        return lambda block: scores[asked[block]]
    return dot_scorer(answer.arrays["queries"][asked], answer.arrays["items"])


def difference(what: str, compared: Comparison, metric: str) -> Figure:
    """How much better the first of two runs is, with the interval of the paired difference."""
    test = compared.tests[metric]
    return Figure(what, f"{metric} {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}]", "above 0", {"difference": float(test.difference)})


def log_of(prepared: Prepared) -> dict[str, Array]:
    """The pairs that peers learn from, training and validation, in the order of the log."""
    log = prepared.log.take(np.flatnonzero((prepared.parts != TEST) & (np.asarray(prepared.log.labels) > 0)))
    return {"keys": log.query_keys, "rows": log.query_rows, "items": log.item_rows}


def sizes(prepared: Prepared) -> dict[str, int]:
    """How many keys and items there are."""
    return {"n_keys": int(prepared.report["keys"]), "n_items": prepared.n_items}


def words_of(prepared: Prepared) -> dict[str, list[str]]:
    """The words of every query row and item: what our own towers read as text."""
    return {"query_texts": texts(prepared, "query"), "item_texts": texts(prepared, "item")}


def validated(recipe: str, settings: Sequence[str] = ()) -> dict[str, float]:
    """The validation figures of a recipe with settings; the test pairs stay closed."""
    from twotower.learning import training, warming
    from twotower.model.towers import build

    for each in sets.read_by(recipe):
        sets.made(each)
    chosen = configs.read(HERE / "recipes" / f"{recipe}.toml", settings)
    with tempfile.TemporaryDirectory() as folder:
        data = prepared_of(chosen, environments.MADE / "prepared")
        material = training.data_of(data, chosen.train, chosen.evaluate)
        state = training.start(build(data.encoder, chosen.model, chosen.train.seed), material, chosen.train)
        warming.warm(state, material, data, chosen.train)
        training.fit(state, material, chosen.train, chosen.evaluate, folder=Path(folder), report=_show)
        return training.validate(state.model, material, chosen.evaluate)[0]


def _show(event: Any) -> None:
    if hasattr(event, "metrics"):
        print(event.epoch, {name: round(value, 4) for name, value in event.metrics.items()}, flush=True)


def prepared_of(chosen: configs.Config, cache: Path) -> Prepared:
    """The data of a config, prepared."""
    opened = {
        name: open_source(place, name)
        for name in ("pairs", "items", "queries", "validation", "test")
        if (place := getattr(chosen.data, name)) is not None
    }
    pairs, items = opened.pop("pairs"), opened.pop("items", None)
    return prepare(pairs, items, chosen.schema, chosen.split, cache, **opened)
