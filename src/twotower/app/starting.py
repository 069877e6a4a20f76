"""The config that `twotower init` writes: what matters, with the reason for each choice beside it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from twotower.config import toml
from twotower.data.features import FeatureOptions
from twotower.data.inference import Guess, infer
from twotower.data.schema import Side, feature_name
from twotower.data.sources import open_source

MOST_LEFT = 12  # columns left out that have a line of their own
LONGEST = 300  # letters of a comment


def starting_config(pairs: str, items: str | None, output: Path, queries: str | None = None) -> str:
    """A commented config for these files, with paths relative to where it will stand."""
    guess = infer(open_source(pairs), None if items is None else open_source(items), queries=None if queries is None else open_source(queries))
    blocks = [_data(pairs, items, queries, output, guess), _pairs(guess), _query(guess), _item(guess), _split(guess), *_dials(guess), _next(output)]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _comment(text: str) -> str:
    """A comment of one line, whatever the names in it hold."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"# {plain if len(plain) <= LONGEST else plain[: LONGEST - 3] + '...'}"


def _set(name: str, value: Any, why: str | None = None) -> str:
    """One option, and the reason for its value."""
    return f"{name} = {toml(value)}" + (f"   {_comment(why)}" if why else "")


def _data(pairs: str, items: str | None, queries: str | None, output: Path, guess: Guess) -> list[str]:
    def written(place: str) -> str:
        path = Path(place).expanduser()
        return path.as_posix() if path.is_absolute() else Path(os.path.relpath(path, output.absolute().parent)).as_posix()

    lines = ["# A config of twotower. Paths are relative to this file; every option is in docs/config.md."]
    if guess.advice:
        lines.append(_comment(guess.advice))
    lines += ["version = 1", "", "[data]", _set("pairs", written(pairs))]
    lines.append(_set("items", written(items)) if items else '# items = "catalogue.parquet"   # a table of the items, if there is one')
    return [*lines, _set("queries", written(queries))] if queries else lines


def _pairs(guess: Guess) -> list[str]:
    schema, reasons = guess.schema.pairs, guess.reasons
    lines = ["[pairs]"]
    if schema.item is not None:
        lines.append(_set("item", schema.item, "the column of the pairs that holds the item's id"))
    if schema.query is not None:
        lines.append(_set("query", schema.query, "the column of the pairs that holds the query's id"))
    for name in ("time", "label", "weight"):
        if getattr(schema, name) is not None:
            lines.append(_set(name, getattr(schema, name), reasons[f"pairs.{name}"]))
    if "pairs.match" in reasons:
        lines.append(f"# match = {reasons['pairs.match']}   # with it only those from here on are matches, and those below explicit non-matches")
    if "pairs.event" in reasons:
        event, weights = reasons["pairs.event"].split(", event_weights", 1)
        lines += [_comment(f"{event}   # what each kind of event counts; kinds that are not listed are dropped"), _comment(f"event_weights{weights}")]
    if schema.time is None and guess.split.by == "random":
        lines.append('# ordered = true   # if the log stands in order of time; [split] by = "last" then asks what comes next')
    return [*lines, _set("repeats", guess.schema.repeats, REPEATS[guess.schema.repeats])]


def _query(guess: Guess) -> list[str]:
    query, reasons = guess.schema.query, guess.reasons
    lines = ["[query]"]
    if query.id is not None:
        lines += [_comment(reasons["query.id"]), _set("id", query.id)]
    if query.key is not None:
        lines.append(_set("key", query.key, reasons["query.key"]))
    lines += _features(guess, "query")
    if query.key is not None and any(feature.type == "history" for feature in query.features):
        lines.append(_comment(f"where people come again, their id may help too: {toml({'column': query.id or query.key, 'type': 'id'})}"))
    return lines


def _item(guess: Guess) -> list[str]:
    item, reasons = guess.schema.item, guess.reasons
    lines = ["[item]", _comment(reasons["item.id"])]
    if item.id is not None:
        lines.append(_set("id", item.id))
    lines += _features(guess, "item")
    return [*lines, _set("payload", item.payload, "shown with results")] if item.payload else lines


def _features(guess: Guess, side: Side) -> list[str]:
    """The features, a line each with its reason, and what is left out."""
    lines = ["features = ["]
    for feature in guess.schema.features(side):
        lines.append(f"  {toml(_written(feature))},   {_comment(guess.reasons[f'{side}.{feature_name(feature)}'])}")
    return [*lines, "]", *_left(guess.left[side])]


def _written(feature: FeatureOptions) -> Mapping[str, Any]:
    """A feature as its column, its type and what differs from the defaults."""
    usual = {field.name: field.default for field in fields(feature)}
    shown = {name: getattr(feature, name) for name in usual}
    return {name: value for name, value in shown.items() if name in ("column", "type") or value != usual[name]}


def _left(left: Mapping[str, str]) -> Iterable[str]:
    for name, why in list(left.items())[:MOST_LEFT]:
        yield _comment(f'left out: "{name}" {why}' if why.split()[0] in VERBS else f'left out: "{name}"; {why}')
    if len(left) > MOST_LEFT:
        yield _comment(f"left out for such reasons, too: {', '.join(list(left)[MOST_LEFT:])}")


REPEATS = {
    "count": 'the same pair again makes it weigh more; or "keep", "first"',
    "first": 'the same pair again is left out: a history then never tells what comes again; or "keep"',
    "keep": "every pair is kept",
}
VERBS = ("holds", "is", "was", "gives", "looks", "numbers", "repeats", "could", "does")


def _split(guess: Guess) -> list[str]:
    lines = ["[split]", _comment(guess.reasons["split.by"]), _set("by", guess.split.by)]
    if guess.split.by == "column":
        return [*lines, _set("column", guess.split.column), "# validation = 0.1   # drawn from the training pairs, where the column names none"]
    test, validation = guess.split.shares()
    number = int if guess.split.by == "last" else float
    what = {"last": "pairs of each key", "group": "of the questions"}.get(guess.split.by, "of the pairs")
    return [*lines, f"test = {number(test)}   # {what}", f"validation = {number(validation)}"]


def _dials(guess: Guess) -> list[list[str]]:
    """The blocks of the model, its training and how it is measured."""
    reasons = guess.reasons
    model = [
        "[model]",
        _set("dimensions", guess.dimensions, "wider is better and slower, up to a point"),
        'similarity = "cosine"',
        "temperature = 0.1   # learned from there; nothing matters more",
    ]
    train = [
        "[train]",
        _set("epochs", guess.epochs),
        _set("batch_size", guess.batch_size, reasons["train.batch_size"]),
        _set("correction", guess.correction, reasons["train.correction"]),
        "patience = 2   # validations without a better metric before it stops",
    ]
    measure = [
        "[evaluate]",
        _set("metrics", guess.metrics),
        _set("select", guess.select, "picks the best epoch and how to search"),
        *([_set("per", guess.per, reasons["evaluate.per"])] if guess.per == "query" else []),
        _set("baselines", guess.baselines, "what a model has to beat, measured in the same table"),
    ]
    return [model, train, measure]


def _next(output: Path) -> list[str]:
    name = shlex.quote(output.name)
    return [_comment(f"Next: twotower check {name}, which examines the data; then twotower train {name} -o runs/first")]
