"""What tuning may change: settings by their dotted names, each with the values that it may take.

A feature's option is named by its column: `item.features.title.dropout`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

from twotower import config as configs
from twotower.config import Config
from twotower.data.features import FEATURES, History, Id, Pretrained, Text
from twotower.data.prepared import Prepared
from twotower.data.schema import SIDES
from twotower.data.splits import TRAIN
from twotower.errors import ConfigError, choices
from twotower.model.options import RAW, READERS_OF_BODIES, READERS_OF_LOSSES

TUNED = ("model", "train", "query", "item")  # blocks that decide what is learnt; the others decide what is measured, and by what
FULL_UP_TO = 20_000  # items that a step may well score each time
STEPS_OF_EPOCH = 8  # at least, with the largest batch that is tried
WIDTHS = (16, 512)
END = 0.05  # of a span: whatever lies in it lies at an end
BEYOND = 4  # times, where steps are factors


class Choices(NamedTuple):
    """Some values."""

    values: tuple[Any, ...]

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values


class Span(NamedTuple):
    """Numbers from low to high. log: steps are factors."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high


Space = dict[str, Choices | Span]


class Trial(Protocol):
    """What suggests a value for a name."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number."""


# What reads a setting: another one, where it has one of these values. Elsewhere it is not searched for, and left out.
READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"model.{name}": ("model.body", bodies) for name, bodies in READERS_OF_BODIES.items()},
    **{f"train.{name}": ("train.loss", losses) for name, losses in READERS_OF_LOSSES.items()},
    **{f"train.{name}": ("train.negatives", ("drawn", "mixed")) for name in ("draws", "power")},
}


# --- values of a config by name -----------------------------------------------------------------------------------


def _place(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """(the block or feature that holds a setting, its name there). Raises ConfigError where there is none."""
    block, _, rest = name.partition(".")
    if block not in TUNED or not rest:
        raise ConfigError(f'[tune] space: "{name}" cannot be tuned. Name a setting of {", ".join(TUNED)}, like train.learning_rate.')
    if not rest.startswith("features."):
        return values.setdefault(block, {}), rest
    column, _, option = rest.removeprefix("features.").rpartition(".")
    features = values.get(block, {}).get("features", ())
    found = [feature for feature in features if feature.get("column", feature["type"]) == column]
    if not found or not option:
        known = [str(feature.get("column", feature["type"])) for feature in features]
        hint = f"; {choices(known, column)}, like {block}.features.{known[0]}.dropout" if known else ""
        raise ConfigError(f'[tune] space: "{name}" names no feature of [{block}]{hint}')
    # A column may be read in several ways: meant is the first that has such an option.
    having = [feature for feature in found if option in (field.name for field in fields(FEATURES[feature["type"]]))]
    return (having or found)[0], option


def value_in(values: dict[str, Any], name: str) -> Any:
    """The value that a setting has."""
    place, option = _place(values, name)
    return place.get(option)


def changed(chosen: Config, picked: Mapping[str, Any]) -> Config:
    """The config with these settings, those left out that nothing reads any more. Raises ConfigError where they do not fit."""
    values = _copied(configs.to_values(chosen))
    for name, value in picked.items():
        place, option = _place(values, name)
        if value is None:
            place.pop(option, None)
        else:
            place[option] = list(value) if isinstance(value, tuple) else value
    for name, (reader, readers) in READ_BY.items():
        place, option = _place(values, name)
        if value_in(values, reader) not in readers:
            place.pop(option, None)
    return configs.from_values(values)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def own_values(chosen: Config, space: Space) -> dict[str, Any]:
    """What the config itself says of the settings of a space, as far as they are read."""
    values = configs.to_values(chosen)
    own = {name: value_in(values, name) for name in space if _is_read(values, name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}


def label(value: Any) -> Any:
    """A value as a study keeps it: a list as its text."""
    return configs.toml(list(value)) if isinstance(value, (list, tuple)) else value


def _is_read(values: dict[str, Any], name: str) -> bool:
    reader, readers = READ_BY.get(name, ("", ()))
    return not reader or value_in(values, reader) in readers


def suggested(trial: Trial, space: Space, chosen: Config) -> dict[str, Any]:
    """A value for every setting that is read, those first that decide what is."""
    values = _copied(configs.to_values(chosen))
    picked: dict[str, Any] = {}
    for name in sorted(space, key=lambda name: name in READ_BY):
        if not _is_read(values, name):
            continue
        within = space[name]
        if isinstance(within, Choices):
            labels = {label(value): value for value in within.values}
            picked[name] = labels[trial.suggest_categorical(name, list(labels))]
        elif within.whole:
            picked[name] = trial.suggest_int(name, int(within.low), int(within.high), log=within.log)
        else:
            picked[name] = trial.suggest_float(name, within.low, within.high, log=within.log)
        place, option = _place(values, name)
        place[option] = picked[name]
    return picked


def stored(space: Space) -> dict[str, Any]:
    """A space as plain values."""
    return {name: within._asdict() for name, within in space.items()}


def declaration(within: Choices | Span) -> list[Any] | dict[str, Any]:
    """What a config says for it, in `[tune.space]`."""
    return list(within.values) if isinstance(within, Choices) else {"low": within.low, "high": within.high, "log": within.log}


def restored(told: Mapping[str, Any]) -> Space:
    """What `stored` gave."""

    def one(within: Mapping[str, Any]) -> Choices | Span:
        if "values" in within:
            return Choices(tuple(tuple(value) if isinstance(value, list) else value for value in within["values"]))
        return Span(**within)

    return {name: one(within) for name, within in told.items()}


def further(space: Space, picked: Mapping[str, Any]) -> Space:
    """Where to search next for the settings that were picked at an end of where they were searched: around their values.

    Left out are choices of names and of one or two numbers, and what can lie no further, such as a dropout of 0.
    """
    found = {name: _around_end(space[name], value) for name, value in picked.items() if name in space and _is_number(value)}
    return {name: within for name, within in found.items() if within is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _around_end(within: Choices | Span, value: float) -> Choices | Span | None:
    if isinstance(within, Choices):
        whole = len(within.values) > 2 and all(isinstance(each, int) and not isinstance(each, bool) for each in within.values)
        at_end = whole and value in (min(within.values), max(within.values)) and value > 1
        return Choices((int(value) // 2, int(value), 2 * int(value))) if at_end else None
    low, high, log, whole = within
    at = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
    if END < at < 1 - END or (at <= END and not low):
        return None
    if log:
        around = Span(value / BEYOND, value * BEYOND, log, whole)
    else:
        beyond = value + (high - low) / 2
        around = Span(max(value / 2, value - (high - low) / 2), (value + 1) / 2 if high < 1 <= beyond else beyond, log, whole)
    return around._replace(low=max(1, round(around.low)), high=round(around.high)) if whole else around


# --- spaces -------------------------------------------------------------------------------------------------------


def declared(space: Mapping[str, Any], chosen: Config) -> Space:
    """A user's own space. Raises ConfigError naming what is wrong with it."""
    found: Space = {name: _within(name, told) for name, told in space.items()}
    for name, within in found.items():
        _place(configs.to_values(chosen), name)
        beside = _readers(chosen, name, found)
        if not beside:
            reader, readers = READ_BY[name]
            raise ConfigError(
                f'[tune] space: nothing reads "{name}": it is for {reader} = {" or ".join(readers)}. Leave it out, or search {reader} too.'
            )
        ends = within.values if isinstance(within, Choices) else within[:2]
        faults = [_fault(chosen, name, value, beside) for value in ends]
        whole = isinstance(within, Span) and bool(_fault(chosen, name, (within.low + int(within.low) + 1) / 2, beside))
        if isinstance(within, Span) and whole and within.low == int(within.low) and within.high == int(within.high):
            found[name] = within = within._replace(low=int(within.low), high=int(within.high), whole=True)
            faults = [_fault(chosen, name, value, beside) for value in within[:2]]
        wrong = next(filter(None, faults), "")
        if wrong:
            raise ConfigError(f'[tune] space: not all values of "{name}" can be set: {wrong}')
        if isinstance(within, Span) and own_values(chosen, {name: within}).get(name, within.low) is None:
            raise ConfigError(f'[tune] space: your config leaves "{name}" out, and that lies in no span. Set it there, or give a list of values.')
    return with_own(found, chosen)


def _readers(chosen: Config, name: str, space: Space) -> list[dict[str, Any]]:
    """The settings of the one that reads it with which it is read, those of the config first; nothing beside where no other decides."""
    if name not in READ_BY:
        return [{}]
    reader, readers = READ_BY[name]
    within = space.get(reader)
    there = [value_in(configs.to_values(chosen), reader), *(within.values if isinstance(within, Choices) else ())]
    return [{reader: value} for value in dict.fromkeys(there) if value in readers]


def _fault(chosen: Config, name: str, value: Any, beside: Sequence[Mapping[str, Any]]) -> str:
    """Why a value cannot be set with any of some settings beside it; nothing where it can."""
    told = ""
    for others in beside:
        try:
            changed(chosen, {**others, name: value})
        except ConfigError as error:
            told = told or str(error).splitlines()[-1].strip()
        else:
            return ""
    return told


def _within(name: str, told: Any) -> Choices | Span:
    if isinstance(told, (list, tuple)) and len(told) > 1:
        return Choices(tuple(tuple(value) if isinstance(value, list) else value for value in told))
    if isinstance(told, Mapping) and {"low", "high"} <= told.keys() <= {"low", "high", "log"}:
        low, high, log = told["low"], told["high"], told.get("log", False)
        if all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high)) and low < high and isinstance(log, bool):
            if log and low <= 0:
                raise ConfigError(f'[tune] space: "{name}" goes by factors, so its low must be above 0, and it is {low}')
            return Span(low, high, log)
    raise ConfigError(f'[tune] space: "{name}" is {told!r}. Write a list of values, or {{ low = 0.01, high = 0.3, log = true }} with low below high.')


def ready(chosen: Config, prepared: Prepared, advised: Mapping[str, Any]) -> Space:
    """What is worth searching for with these features and this much data.

    advised: what the doctor says of settings, which are then among the values. Of features only what layers know is among them, so that the data
    are prepared once for all trials.
    """
    values = configs.to_values(chosen)
    space = dict(_ready(chosen, prepared))
    space = with_own({name: within for name, within in space.items() if _is_known(values, name)}, chosen)
    for name, value in advised.items():
        if name in space:
            space[name] = _stretched(space[name], value)
    return {name: kept for name, within in space.items() if (kept := _sound(chosen, name, within)) is not None}


def _is_known(values: dict[str, Any], name: str) -> bool:
    with suppress(ConfigError):
        return value_in(values, name) is not None
    return False


def _ready(chosen: Config, prepared: Prepared) -> Iterator[tuple[str, Choices | Span]]:
    model, train = chosen.model, chosen.train
    pairs = int((prepared.parts == TRAIN).sum())
    kinds = {feature.type for side in SIDES for feature in chosen.schema.features(side)}
    yield "train.table_learning_rate", _around(train.table_learning_rate, 4)
    yield "train.learning_rate", _around(train.learning_rate, 4)
    if any(isinstance(feature, Pretrained) and feature.tune for side in SIDES for feature in chosen.schema.features(side)):
        yield "train.pretrained_learning_rate", _around(train.pretrained_learning_rate, 4)
    if train.loss not in RAW:
        yield "model.temperature", Span(0.03, 0.3, log=True)
    sizes = [size for size in (train.batch_size // 4, train.batch_size, 4 * train.batch_size) if 32 <= size <= max(32, pairs // STEPS_OF_EPOCH)]
    yield "train.batch_size", Choices(tuple(sizes))
    yield "train.epochs", Choices((max(1, train.epochs // 2), train.epochs, 2 * train.epochs))
    if not chosen.train.widths:
        yield (
            "model.dimensions",
            Choices(tuple(d for d in (model.dimensions // 2, model.dimensions, 2 * model.dimensions) if WIDTHS[0] <= d <= WIDTHS[1])),
        )
    if model.body != "custom" and not model.shared_body:
        yield "model.body", Choices(("none", "linear", "residual"))
        yield "model.dropout", Span(0.0, 0.5)
    yield "train.correction", Choices((True, False))
    worded = kinds & {"text", "pieces", "pretrained"}
    if not worded:
        yield "train.loss", Choices(("softmax", "bilateral") if train.loss in ("softmax", "bilateral") else (train.loss,))
        yield "train.positive_temperature", Span(0.5, 2.0)
        if train.loss != "pointwise" and train.negatives in ("in_batch", "mixed", "full"):
            full = ("full",) if prepared.n_items <= FULL_UP_TO and not train.memory and not train.mined else ()
            yield "train.negatives", Choices(("in_batch", "mixed", *full))
            yield "train.power", Choices((0.0, 0.5, 1.0))
        if "history" not in kinds:  # factors start from its mean, which other pools make something else of
            yield "train.warm_start", Choices(("none", "factors"))
    else:
        yield "train.symmetric", Choices((False, True))
    yield from _of_features(chosen, ordered=prepared.log.moments is not None)


def _of_features(chosen: Config, ordered: bool) -> Iterator[tuple[str, Choices | Span]]:
    for side in SIDES:
        for feature in chosen.schema.features(side):
            name = f"{side}.features.{feature.column}"
            if isinstance(feature, Text):
                yield f"{name}.dropout", Span(0.0, 0.4)
            elif type(feature) is Id and feature.type == "id" and side == "item":
                yield f"{name}.dropout", Span(0.0, 0.3)
            elif isinstance(feature, History):
                if ordered:  # the others ask what came when
                    yield f"{name}.pool", Choices(("mean", "recency", "attention", "transformer"))
                yield f"{name}.dropout", Span(0.0, 0.4)


def _around(value: float, factor: float) -> Span:
    return Span(value / factor, value * factor, log=True)


def with_own(space: Space, chosen: Config) -> Space:
    """The space stretched so far that what the config itself says lies within."""
    own = own_values(chosen, space)
    return {name: within if name not in own else _stretched(within, own[name]) for name, within in space.items()}


def _stretched(within: Choices | Span, value: Any) -> Choices | Span:
    if isinstance(value, list):
        value = tuple(value)
    if within.holds(value):
        return within
    if isinstance(within, Choices):
        return Choices((*within.values, value))
    if value is None:
        return within
    # Zero has no place where steps are factors.
    log = within.log and value > 0
    return within._replace(low=min(within.low, value), high=max(within.high, value), log=log)


def _sound(chosen: Config, name: str, within: Choices | Span) -> Choices | Span | None:
    """The part of it that the config allows beside all else that it says; None where that leaves nothing to choose."""
    reader, readers = READ_BY.get(name, ("", ()))
    beside = [{}] if not reader or value_in(configs.to_values(chosen), reader) in readers else [{reader: value} for value in readers]
    if isinstance(within, Span):
        return None if any(_fault(chosen, name, end, beside) for end in within[:2]) else within
    kept = tuple(value for value in within.values if not _fault(chosen, name, value, beside))
    return Choices(kept) if len(kept) > 1 else None
