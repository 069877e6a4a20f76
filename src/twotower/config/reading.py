"""From a file or plain values to a Config, and what is wrong with them in our words."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from twotower.config.blocks import Config, DataOptions, Place
from twotower.data.features import FEATURES, Pretrained
from twotower.data.pretrained import placed
from twotower.data.schema import SIDES
from twotower.data.sources.databases import SqlOptions
from twotower.errors import ConfigError, choices
from twotower.learning.options import TrainOptions

VERSION = 1


def read(path: Path, settings: Sequence[str] = ()) -> Config:
    """Read a config file; settings are overrides like `train.epochs=3`. Raises ConfigError, all faults at once."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} cannot be read: it is no file. Name the TOML file.")
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        hint = f"; {choices(near, path.name)}" if near else ". Write one: twotower init PAIRS -o twotower.toml"
        raise ConfigError(f"there is no config {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a TOML file in UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    config = _overridden(values, settings, str(path))
    encoder = config.evaluate.pretrained
    if config.train.teacher is not None:
        teacher = path.parent.absolute() / Path(config.train.teacher).expanduser()
        config = replace(config, train=replace(config.train, teacher=os.path.normpath(teacher)))
    measured = replace(config.evaluate, pretrained=encoder and placed(encoder, path.parent))
    taught = judged(config.train, path.parent)
    sides = {side: _placed(getattr(config, side), path.parent) for side in SIDES}
    return replace(config, data=absolute(config.data, path.parent), train=taught, evaluate=measured, **sides)


def judged(train: TrainOptions, folder: Path) -> TrainOptions:
    """The options with the place of the teacher, if it is relative, taken from a folder."""
    place = train.mine_teacher
    return train if place is None else replace(train, mine_teacher=os.path.normpath((folder / Path(place).expanduser()).absolute()))


def _placed(side: Any, folder: Path) -> Any:
    """A side whose encoders that lie beside the config are named by their whole path."""
    features = tuple(replace(f, folder=placed(f.folder, folder)) if isinstance(f, Pretrained) else f for f in side.features)
    return replace(side, features=features)


def absolute(data: DataOptions, folder: Path) -> DataOptions:
    """The places with those that are relative taken from a folder."""

    def one(place: str) -> str:
        return os.path.normpath((folder / Path(place).expanduser()).absolute())

    def each(place: Place | None) -> Place | None:
        if isinstance(place, SqlOptions):
            return replace(place, folder=one(place.folder or ""))
        return one(place) if isinstance(place, str) else place and tuple(map(one, place))

    return DataOptions(**{place.name: each(getattr(data, place.name)) for place in fields(data)})


def _overridden(values: Mapping[str, Any], settings: Sequence[str], where: str) -> Config:
    """The Config of a file's values and overrides; what is wrong with an override alone is not told as a fault of the file."""
    changed = override(values, settings)
    try:
        return from_values(changed, where)
    except ConfigError as error:
        if not settings or not _sound(values):
            raise
        guilty = [one for one in settings if _sound(override(values, [other for other in settings if other != one]))] or settings
        # Their names alone: a value may hold a password.
        named = " ".join(f"--set {one.partition('=')[0].strip()}" for one in guilty)
        told = str(error)
        raise ConfigError(f"{named}{told.removeprefix(where) if told.startswith(f'{where} has ') else ': ' + told}") from None


def _sound(values: Mapping[str, Any]) -> bool:
    try:
        from_values(values)
    except ConfigError:
        return False
    return True


def override(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The values with settings like `train.epochs=3` put in; what stands behind = is a TOML value, or else a text."""
    changed = _copied(values)
    for setting in settings:
        name, equals, text = setting.partition("=")
        *blocks, last = [part.strip() for part in name.split(".")]
        if not equals or not all((*blocks, last)):
            raise ConfigError(f'--set "{setting}" sets nothing; write it like train.epochs=3')
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        target: Any = changed
        for block in blocks:
            target = target.setdefault(block, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {name.strip()}: {block} is a value, not a block")
        target[last] = value
    return changed


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """The blocks copied, so that they can be changed; what they hold is shared."""
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def from_values(values: Mapping[str, Any], where: str = "the config") -> Config:
    """A Config of plain values. Raises ConfigError naming everything that is wrong."""
    from pydantic import TypeAdapter, ValidationError

    newer = values.get("version", VERSION)
    if isinstance(newer, int) and newer > VERSION:
        raise ConfigError(f"{where} has version = {newer}; this twotower reads up to {VERSION}. Upgrade: pip install -U twotower")
    faults: list[str] = []
    values = {**values, **({"data": _queries(values["data"], faults)} if isinstance(values.get("data"), Mapping) else {})}
    for side in ("query", "item"):
        if isinstance(values.get(side), Mapping) and isinstance(values[side].get("features"), (list, tuple)):
            features = [_feature(entry, f"{side}.features[{n}]", faults) for n, entry in enumerate(values[side]["features"])]
            values[side] = {**values[side], "features": [asdict(f) for f in features if f is not None]}
    try:
        # As JSON, since only there strict types still let a list be a tuple: "3" and true are no numbers of epochs.
        config = TypeAdapter(Config).validate_json(json.dumps(values, default=_told), strict=True)
    except ValidationError as error:
        faults += [_fault(entry, Config) for entry in error.errors()]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"{where} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:\n{listed}")
    config.check()
    return config


def _told(value: Any) -> Any:
    """A value that JSON does not know: an option object as its values, anything else as its text."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _queries(places: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The places of data, with what is wrong with a query told here: nothing of it is shown, since it may hold a password."""
    known = [field.name for field in fields(SqlOptions)]
    for name, place in places.items():
        if isinstance(place, (list, tuple)) and not all(isinstance(each, str) for each in place):
            faults.append(f"data.{name}: a list may name files, and nothing else; a query stands alone")
        if not isinstance(place, Mapping):
            continue
        strange = [str(option) for option in place if option not in known]
        faults += [f"data.{name}.{option}: there is no such option; {choices(known, option)}" for option in strange]
        wrong = [option for option in known if option in place and not isinstance(place[option], str | None)]
        faults += [f"data.{name}.{option}: it must be a text" for option in wrong]
        if "sql" not in place:
            faults.append(f"data.{name}.sql: it is needed and missing")
    sound = [name for name in places if not any(fault.startswith((f"data.{name}.", f"data.{name}:")) for fault in faults)]
    return {name: places[name] for name in sound}


def _feature(entry: Any, where: str, faults: list[str]) -> Any:
    """A feature of plain values, or None and faults."""
    from pydantic import TypeAdapter, ValidationError

    if is_dataclass(entry):
        return entry
    if not isinstance(entry, Mapping) or entry.get("type") not in FEATURES:
        kind = entry.get("type") if isinstance(entry, Mapping) else entry
        faults.append(f"{where}.type: {json.dumps(kind, default=str)} is no type of feature; {choices(FEATURES, str(kind))}")
        return None
    try:
        return TypeAdapter(FEATURES[entry["type"]]).validate_json(json.dumps(dict(entry), default=_told), strict=True)
    except ValidationError as error:
        faults += [_fault(fault, FEATURES[entry["type"]], where) for fault in error.errors()]
        return None


NO_PART = ("str", "int", "float", "bool", "tuple", "SqlOptions")


def _fault(entry: Any, of: type, where: str = "") -> str:
    """One of pydantic's complaints in our words."""
    strange = entry["type"] in ("unexpected_keyword_argument", "extra_forbidden")
    *steps, last = entry["loc"] or ("",)
    # A step that names a member of a union, such as `str` or `tuple[str, ...]`, is no part of the user's file; an option that nobody knows is.
    place = [step for step in steps if _is_part(step)] + [last] * (strange or _is_part(last))
    name = where + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    name = name.lstrip(".")
    if strange:
        known = _options(of, [step for step in place[:-1] if isinstance(step, str)])
        return f"{name}: there is no such option; {choices(known, str(place[-1]), most=40)}"
    if entry["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{name}: it is needed and missing"
    if entry["type"] == "literal_error":
        return f"{name}: {json.dumps(entry['input'], default=str)} is none of {entry['ctx']['expected']}"
    message = entry["msg"][0].lower() + entry["msg"][1:]
    if place[:1] == ["data"]:
        return f"{name}: {message}"  # where the data are may hold a password
    return f"{name}: {json.dumps(entry['input'], default=str)} - {message}"


def _is_part(step: int | str) -> bool:
    return isinstance(step, int) or (step.isidentifier() and step not in NO_PART)


def _options(of: type, blocks: list[str]) -> list[str]:
    """The names of the options of a block."""
    for block in blocks:
        hint = get_type_hints(of).get(block)
        of = next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), of)
    return [field.name for field in fields(of)]
