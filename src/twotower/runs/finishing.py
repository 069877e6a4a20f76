"""The end of a run: towers exported, measured as they ship beside baselines, and sealed in a bundle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower import config as configs
from twotower import files
from twotower.bundle import layout
from twotower.bundle.asking import query_text
from twotower.bundle.golden import GOLDEN, GOLDEN_ITEMS, named
from twotower.config import Config
from twotower.data.columns import Array
from twotower.data.prepared import ID, Prepared
from twotower.data.splits import PARTS, TEST, TRAIN, VALIDATION
from twotower.data.values import to_text
from twotower.learning.baselines import INDEXED, asked_words, baseline, own_words, untuned
from twotower.learning.evaluation import Cases, Evaluated, Scorer, cases_of, dot_scorer, list_keys, macro, sample
from twotower.learning.evaluation import evaluate as evaluate_scorer
from twotower.learning.lists import list_facts, looked_at, top
from twotower.learning.pretrained import as_it_is
from twotower.learning.slices import Facts, slice_all
from twotower.learning.space import grouped, sampled, told
from twotower.learning.statistics import PairedTest, holm
from twotower.learning.views import before, reading
from twotower.runs.certainty import calibrated, fitting
from twotower.runs.comparing import compare_values, ranking_table
from twotower.runs.exported import encode_items, encode_queries
from twotower.runs.launch import write_launch
from twotower.runs.measuring import Asked, choose_mode, figures_of, indexes_of, scorer
from twotower.runs.progress import Progress
from twotower.search.calibration import Calibration
from twotower.search.index import Exact
from twotower.search.lexical import Lexical, Words
from twotower.search.thresholds import Fits
from twotower.search.vectors import Vectors, stored

if TYPE_CHECKING:
    from twotower.model.towers import TwoTower

STORAGE_QUERIES, STORAGE_K = 1000, 10  # by which it is told what storing vectors in less loses
GOLDEN_QUERIES = 8  # queries kept with their answers, to try a bundle by


class _Measured(NamedTuple):
    """The figures of a finished model."""

    part: str
    by_mode: dict[str, Evaluated]
    baselines: dict[str, Evaluated]
    asked: Asked
    search: dict[str, Any]
    item_vectors: Array  # float32 [n, d]
    words: Lexical | None  # that are searched
    lists: dict[str, Array]  # what the model, "model", and each baseline show for some of the cases, int64 [few, k]
    few: Array  # which cases these are
    calibration: Calibration | None
    fits: Fits | None


def finish(folder: Path, prepared: Prepared, model: TwoTower, chosen: Config, facts: dict[str, Any], progress: Progress) -> None:
    """Export, measure what was exported, and write bundle, metrics and rankings."""
    from twotower.exports.towers import write_model

    files.remove_folder(folder / "bundle")  # of a run that was broken off between here and its metrics
    with files.new_folder(folder / "bundle") as building:
        write_model(building / "model", model, prepared.encoder, progress.stage)
        progress.stage(f"encoding {prepared.n_items:,} items")
        encoded = encode_items(building / "model", prepared.columns["item"], chosen)
        kept = stored(encoded, chosen.search.vectors)
        measured = _measure(building / "model", prepared, np.asarray(kept), chosen, progress)
        progress.stage("measuring parts of the rankings")
        metrics = _metrics(measured, prepared, chosen, facts) | {"storage": _storage(kept, encoded, measured.asked.vectors)}
        part, asked, vectors = measured.part, measured.asked, measured.item_vectors
        write_launch(building / "model", prepared, part, asked, vectors, measured.words, measured.search, chosen)
        _write_bundle(building, prepared, measured, metrics, kept, chosen)
    table = _rankings(measured, prepared, metrics["evaluation"])
    files.write_parquet(folder / "rankings.parquet", table.to_batches(), table.schema)
    files.write_json(folder / "metrics.json", metrics)


def _storage(kept: Vectors, encoded: Array, queries: Array) -> dict[str, Any] | None:
    """What storing the item vectors in less than float32 saves and loses: None where they are float32.

    recall: the share of the first 10 by the encoded vectors that the stored ones find too, of 1,000 queries at most.
    """
    if kept.kind == "float32":
        return None
    few = queries[:: max(1, len(queries) // STORAGE_QUERIES)][:STORAGE_QUERIES]
    wanted, found = (Exact(vectors).search(few, min(STORAGE_K, len(encoded))).rows for vectors in (encoded, kept))
    alike = np.mean([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)])
    return {"kind": kept.kind, "recall": float(alike), "bytes": kept.nbytes, "float32_bytes": encoded.nbytes}


def _rankings(measured: _Measured, prepared: Prepared, told: Mapping[str, Any]) -> pa.Table:
    """What each ranking of the finished model came to, for paired comparisons with other runs."""
    asked, per = measured.asked.cases, told["per"]
    items = prepared.items.column(ID).take(pa.array(asked.relevant.values)).to_pylist()
    rows, offsets = asked.query_rows, asked.relevant.offsets
    if per == "pair":
        rows = np.repeat(rows, np.diff(offsets))
    else:
        items = [items[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
    keys = prepared.key_names[list_keys(asked, per)]
    return ranking_table(prepared.queries.take(pa.array(rows)), keys, items, measured.by_mode[measured.search["mode"]], told)


def _measure(folder: Path, prepared: Prepared, item_vectors: Array, chosen: Config, progress: Progress) -> _Measured:
    """Choose the search mode on validation pairs, then open the test pairs, once."""
    options = chosen.evaluate
    indexes = indexes_of(prepared, chosen.search)

    def ask(part: int, most: int | None) -> Asked:
        seen = before(prepared, part, reading(prepared.encoder, prepared.columns["item"]))
        found = cases_of(prepared, part, options, seen)
        found = found if most is None else sample(found, most, options.seed)
        texts = query_text(prepared.queries.take(pa.array(found.query_rows)), prepared.encoder.text_columns("query"))
        return Asked(found, encode_queries(folder, prepared, prepared.columns["query"], found, seen, item_vectors, chosen), texts)

    progress.stage("choosing how to search, on validation pairs")
    held = ask(VALIDATION, options.queries)
    search = choose_mode(held, item_vectors, indexes, chosen.search, options)
    words = indexes.get(search["words_of"])
    part = TEST if (prepared.parts == TEST).any() else VALIDATION
    progress.stage(f"ranking {prepared.n_items:,} items for {int((prepared.parts == part).sum()):,} {PARTS[part]} pairs")
    asked = ask(part, None)
    modes = ["vectors"] if words is None else ["vectors", "words", "hybrid"]
    few, lists = looked_at(asked.cases, prepared.n_items, options.seed), {}

    def measured(scores: Scorer, name: str | None) -> Evaluated:
        if name is not None:
            lists[name] = top(scores, asked.cases, few, prepared.n_items)
        return evaluate_scorer(scores, asked.cases, prepared.n_items, options)

    by_mode = {
        mode: measured(scorer(asked, item_vectors, words, search | {"mode": mode}), "model" if mode == search["mode"] else None) for mode in modes
    }
    baselines: dict[str, Evaluated] = {}
    for name in options.baselines:
        index = next((indexes[of] for of, searched in INDEXED.items() if searched == name and of in indexes), None)
        if index is None:
            other = baseline(name, prepared, asked.cases, chosen.machine.threads)
        else:
            other = scorer(asked, item_vectors, index, search | {"mode": "words"})
        if other is not None:
            baselines[name] = measured(other, name)
    still = as_it_is(prepared, asked.cases.query_rows) if options.pretrained is None else None
    if still is not None:
        baselines["pretrained"] = measured(dot_scorer(*still), "pretrained")
    if options.pretrained is not None:
        progress.stage("encoding the catalogue with the pretrained encoder")
        encoder = untuned(options.pretrained, prepared, asked.cases)
        assert encoder is not None  # a config that asks for it has words on both sides
        baselines["pretrained"] = measured(encoder, "pretrained")
    others = asked if part == TEST else None
    calibration, thresholds = calibrated(held, others, item_vectors, options.seed), fitting(held, others, item_vectors)
    return _Measured(PARTS[part], by_mode, baselines, asked, search, item_vectors, words, lists, few, calibration, thresholds)


def _metrics(measured: _Measured, prepared: Prepared, chosen: Config, facts: dict[str, Any]) -> dict[str, Any]:
    options, known = chosen.evaluate, _facts(prepared, measured, chosen)
    assert known.item_matches is not None
    wanted = measured.asked.cases.take(measured.few).relevant.values
    keys = list_keys(measured.asked.cases, options.per)
    winner = measured.by_mode[measured.search["mode"]]

    against = {name: compare_values(("model", name), winner.values, other.values, keys).tests for name, other in measured.baselines.items()}
    return {
        "model": figures_of(winner.figures),
        "modes": {mode: figures_of(evaluated.figures) for mode, evaluated in measured.by_mode.items()},
        "baselines": {name: figures_of(evaluated.figures) for name, evaluated in measured.baselines.items()},
        "against": _corrected(against),
        "macro": {of: figures_of(told) for of, told in macro(winner, measured.asked.cases, options).items()},
        "slices": slice_all(known, winner, keys, options, measured.baselines),
        "lists": list_facts(measured.lists, "model", wanted, known.item_matches, measured.item_vectors, prepared.items.column(ID)),
        "space": _space(measured.item_vectors, prepared),
        "search": measured.search,
        "calibration": None if measured.calibration is None else measured.calibration._asdict(),
        "fits": None if measured.fits is None else measured.fits._asdict(),
        "evaluation": {
            "part": measured.part,
            "per": options.per,
            "rankings": len(keys),
            "catalogue": prepared.n_items,
            "select": options.select,
            "left_out": _left_out(chosen, measured.part),
        },
        "training": facts,
        "data": prepared.report,
    }


def _space(item_vectors: Array, prepared: Prepared) -> dict[str, Any] | None:
    """What the nearest items have in common, where items have a category."""
    sample = sampled(item_vectors)
    return None if sample is None else told(sample, grouped(sample, prepared.items, prepared.encoder.features["item"]))


def _corrected(against: Mapping[str, Mapping[str, PairedTest]]) -> dict[str, dict[str, Any]]:
    """The tests of the model against each baseline, by metric, with the p-value that holds for all baselines together."""
    told: dict[str, dict[str, Any]] = {name: {metric: test._asdict() for metric, test in tests.items()} for name, tests in against.items()}
    for metric in next(iter(told.values()), {}):
        raised = holm(np.array([float(tests[metric].p_value) for tests in against.values()]))
        for name, p_value in zip(against, raised.tolist(), strict=True):
            told[name][metric]["holm"] = p_value
    return told


def _facts(prepared: Prepared, measured: _Measured, chosen: Config) -> Facts:
    """What is known of the rankings, for slices of them."""
    asked, log, train = measured.asked.cases, prepared.part(PARTS.index(measured.part)), prepared.part(TRAIN)
    train = train.take(np.flatnonzero(train.labels > 0))
    by = asked.query_keys if asked.history_keys is None else asked.history_keys
    matched = np.bincount(train.query_keys if train.history_keys is None else train.history_keys, minlength=int(by.max(initial=0)) + 1)
    return Facts(
        prepared.encoder.features,
        prepared.queries.take(pa.array(asked.query_rows)),
        prepared.items,
        asked.relevant,
        np.bincount(train.item_rows, minlength=prepared.n_items),
        matched[by],
        # Of a log that is in order without times the order may be that of each key alone.
        None if log.moments is None or chosen.pairs.time is None else log.moments[asked.pair_rows],
    )


def _left_out(chosen: Config, part: str) -> str:
    if chosen.evaluate.per == "pair":
        training = "training ones included" if chosen.evaluate.exclude_seen else "but not those of training"
        return f"other known matches of the same key, {training}, are left out of a pair's ranking"
    before = "training and validation" if part == PARTS[TEST] else "training"
    return f"what the key matched in {before} is left out" if chosen.evaluate.exclude_seen else "nothing is left out"


def _write_bundle(folder: Path, prepared: Prepared, measured: _Measured, metrics: dict[str, Any], kept: Vectors, chosen: Config) -> None:
    model = folder / "model"
    layout.write_encoder(model, prepared.encoder)
    files.write_text(model / "config.toml", configs.to_toml(chosen, locations=False))
    # The fingerprint is of what was learnt and measured: how long that took, and where the data lay, are the run's to tell.
    told = {name: part for name, part in metrics.items() if name != "data"}
    files.write_json(model / "metrics.json", told | {"training": {name: v for name, v in metrics["training"].items() if name != "training_seconds"}})
    golden = _golden(prepared, measured)
    files.write_json(model / GOLDEN, golden)
    read = reading(prepared.encoder, prepared.columns["item"])
    if read is not None and read.feature.items == "tower":
        rows = pc.index_in(pa.array(named(golden, read.feature), pa.string()), to_text(prepared.items.column(ID)))
        files.write_array(model / GOLDEN_ITEMS, measured.item_vectors[rows.to_numpy()])
    files.write_text(model / "card.md", _card(metrics, chosen))
    fingerprint = layout.seal_model(
        model,
        dimensions=chosen.model.dimensions,
        similarity=chosen.model.similarity,
        search=measured.search,
        calibration=metrics["calibration"],
        query_text=prepared.encoder.text_columns("query"),
        schema=asdict(configs.portable(chosen.schema)),
        **({"continues": metrics["training"]["from"]} if "from" in metrics["training"] else {}),
    )
    words = None if measured.words is None else Words(own_words(prepared), asked_words(prepared) if measured.search["words_of"] == "both" else None)
    layout.write_catalogue(folder, fingerprint, layout.Segment(kept, prepared.items, words))


def _golden(prepared: Prepared, measured: _Measured) -> list[dict[str, Any]]:
    """A few queries with their best items by vectors: whoever loads the bundle can try whether it answers the same."""
    asked = measured.asked
    few = np.arange(min(GOLDEN_QUERIES * GOLDEN_QUERIES, len(asked.cases.query_rows)))
    histories = _history_ids(prepared, asked.cases.take(few), PARTS.index(measured.part))
    kept: list[dict[str, Any]] = []
    for n in few.tolist():
        scores = measured.item_vectors @ asked.vectors[n]
        best = np.argsort(-scores, kind="stable")[:5]
        query = prepared.queries.slice(int(asked.cases.query_rows[n]), 1).to_pylist()[0] if prepared.queries.num_columns else {}
        query |= {name: ids[n] for name, ids in histories.items()}
        if all(value in (None, "", []) for value in query.values()) or len(kept) == GOLDEN_QUERIES:
            continue  # whoever is known by a history alone, and has none, can ask nothing
        kept.append({"query": query, "vector": asked.vectors[n].astype(float), "rows": best, "scores": scores[best].astype(float)})
    return kept


def _history_ids(prepared: Prepared, asked: Cases, part: int) -> dict[str, list[list[Any]]]:
    """The histories of cases as ids of items, by the name under which look-up takes them; empty where the model reads none."""
    read = reading(prepared.encoder, prepared.columns["item"])
    seen = before(prepared, part, read)
    if read is None or seen is None:
        return {}
    assert asked.history_keys is not None and asked.cuts is not None
    found = seen.of(asked.history_keys, asked.cuts, asked.relevant)
    ids = to_text(prepared.items.column(ID).take(pa.array(found.values))).to_pylist()
    return {read.feature.column: [ids[start:stop] for start, stop in itertools.pairwise(found.offsets.tolist())]}


def _stored(storage: Mapping[str, Any]) -> str:
    share = storage["bytes"] / storage["float32_bytes"]
    return (
        f"Item vectors are stored as {storage['kind']}, {share:.0%} of float32, and find {storage['recall']:.1%} of the first {STORAGE_K} that those "
        "would; the figures above are of the vectors as they are stored."
    )


def _card(metrics: dict[str, Any], chosen: Config) -> str:
    """A model card: what it is, what it was trained on, how well it does, what it is not for."""
    data, evaluation = metrics["data"], metrics["evaluation"]
    last = metrics["training"].get("from")
    began = f" It went on from the weights of the model {last[:16]}." if last else ""
    names = list(metrics["model"])
    rows = {"model": metrics["model"], **metrics["baselines"]}
    table = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    table += [f"| {name} | " + " | ".join(_cell(figures[m]) for m in names) + " |" for name, figures in rows.items()]
    space = metrics["space"]
    near = space and (
        f"Of an item's {space['nearest']} nearest items {space['alike']:.0%} are of its {space['by']}; by lot it would be {space['chance']:.0%}"
        f" ({space['items']:,} items drawn at random)."
    )
    sides = {side: ", ".join(f"{f.column} ({f.type})" for f in chosen.schema.features(side)) for side in ("query", "item")}
    return "\n".join(
        [
            "# Model card",
            "",
            f"A two-tower retrieval model of {chosen.model.dimensions} dimensions. The query reads {sides['query']}; the item reads {sides['item']}.",
            "",
            f"Trained on {data['split']['train']:,} pairs over a catalogue of {data['items']:,} items; "
            f"{data['split']['validation']:,} pairs chose the epoch and the search mode.{began}",
            f"Measured on {evaluation['rankings']:,} {evaluation['part']} rankings of the whole catalogue, with 95% intervals; "
            f"{evaluation['left_out']}.",
            "",
            *table,
            "",
            f"Searched by {metrics['search']['mode']}. Scores are raw similarities: they order items for one query and are no probabilities.",
            *([near] if near else []),
            *([_stored(metrics["storage"])] if metrics["storage"] else []),
            "The model knows what the log shows: it repeats the log's habits, gaps and mistakes, and knows nothing of later changes.",
            "",
        ]
    )


def _cell(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
