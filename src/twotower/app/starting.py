"""The config that `twotower init` writes: what matters, with the reason for each choice beside it."""

from __future__ import annotations

import os
from pathlib import Path

from twotower.config import toml
from twotower.data.inference import Guess, infer
from twotower.data.schema import FeatureOptions
from twotower.data.sources import open_source


def starting_config(pairs: str, items: str | None, output: Path) -> str:
    """A commented config for these files, with paths relative to where it will stand."""
    guess = infer(open_source(pairs), None if items is None else open_source(items))
    lines = [*_data(pairs, items, output), *_sides(guess), *_split(guess), *_rest(guess)]
    return "\n".join(lines) + "\n"


def _data(pairs: str, items: str | None, output: Path) -> list[str]:
    def written(place: str) -> str:
        path = Path(place).expanduser()
        return path.as_posix() if path.is_absolute() else Path(os.path.relpath(path, output.absolute().parent)).as_posix()

    lines = ["# A config of twotower. Paths are relative to this file; every option is in docs/config.md.", "version = 1", "", "[data]"]
    lines.append(f"pairs = {toml(written(pairs))}")
    return [*lines, f"items = {toml(written(items))}" if items else '# items = "catalogue.parquet"   # a table of the items, if there is one', ""]


def _sides(guess: Guess) -> list[str]:
    schema, reasons = guess.schema, guess.reasons
    lines = ["[pairs]"]
    if schema.pairs.item is not None:
        lines.append(f"item = {toml(schema.pairs.item)}   # the column of the pairs that holds the item's id")
    if schema.pairs.time is not None:
        lines.append(f"time = {toml(schema.pairs.time)}   # orders the log")
    if "pairs.event" in reasons:
        lines += [f"# {line}   # what each kind of event counts" for line in reasons["pairs.event"].split(", ", 1)]
    lines += ['repeats = "count"   # the same pair again makes it weigh more; or "keep", "first"', "", "[query]"]
    if schema.query.key is not None:
        lines.append(f"key = {toml(schema.query.key)}   # its other matches are never counted against it")
    lines += [f"# {reasons['query.features']}", f"features = {_features(schema.query.features)}", "", "[item]"]
    if schema.item.id is not None:
        lines += [f"# {reasons['item.id']}", f"id = {toml(schema.item.id)}"]
    lines += [f"# {reasons['item.features']}", f"features = {_features(schema.item.features)}"]
    if schema.item.payload:
        lines.append(f"payload = {toml(schema.item.payload)}   # shown with results")
    return [*lines, ""]


def _features(features: tuple[FeatureOptions, ...]) -> str:
    return toml([{"column": feature.column, "type": feature.type} for feature in features])


def _split(guess: Guess) -> list[str]:
    lines = ["[split]", f"# {guess.reasons['split.by']}", f"by = {toml(guess.split.by)}"]
    test, validation = guess.split.shares()
    number = int if guess.split.by == "last" else float
    what = "pairs of each key" if guess.split.by == "last" else "of the queries"
    return [*lines, f"test = {number(test)}   # {what}", f"validation = {number(validation)}", ""]


def _rest(guess: Guess) -> list[str]:
    return [
        "[model]",
        f"dimensions = {guess.dimensions}   # wider is better and slower, up to a point",
        'similarity = "cosine"',
        "temperature = 0.1   # learned from there; nothing matters more",
        "",
        "[train]",
        f"epochs = {guess.epochs}",
        "batch_size = 1024   # pairs; every other item of the batch is a negative",
        f"correction = {toml(guess.correction)}   # {guess.reasons['train.correction']}",
        "patience = 2   # validations without a better metric before it stops",
        "",
        "[evaluate]",
        'metrics = ["hit@1", "hit@10", "ndcg@10", "mrr"]',
        'select = "mrr"   # picks the best epoch and how to search',
    ]
