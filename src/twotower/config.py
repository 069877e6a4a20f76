"""One TOML file <-> one frozen object.

Every block is a dataclass beside the code that reads it; this module only composes, reads and writes them. All that is wrong
with a config is said at once, each with the choices there are.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

from annotated_types import Ge

from twotower.bundle.retriever import SearchOptions
from twotower.data.features import FEATURES, History, Id, Pretrained
from twotower.data.pretrained import placed
from twotower.data.schema import SIDES, ItemSide, PairColumns, QuerySide, Schema, read_alike
from twotower.data.sources.databases import SqlOptions
from twotower.data.splits import SplitOptions
from twotower.errors import ConfigError, choices
from twotower.learning.options import EvaluateOptions, TrainOptions
from twotower.model.options import CONTENT, RAW, READERS_OF_LOSSES, ModelOptions

VERSION = 1
Place = str | tuple[str, ...] | SqlOptions  # a path or a glob, several of them, or a query


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the data are: paths, globs or lists of them, relative to the config, or a query, { sql = "SELECT ..." }.

    items: the catalogue, if there is one. queries: a table of what is known of each query, if the pairs name queries by id.
    validation, test: pairs of their own for these parts, with `split.by = "files"`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    pairs: Place | None = None
    items: Place | None = None
    queries: Place | None = None
    validation: Place | None = None
    test: Place | None = None


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What of the machine is used.

    threads: of the processor, all by default; of each process, where several train together. memory: of the data engine, like "4GB".
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    threads: Annotated[int, Ge(1)] | None = None
    memory: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    query: QuerySide
    item: ItemSide
    version: Literal[1] = 1
    data: DataOptions = DataOptions()
    pairs: PairColumns = PairColumns()
    split: SplitOptions = SplitOptions()
    model: ModelOptions = ModelOptions()
    train: TrainOptions = TrainOptions()
    evaluate: EvaluateOptions = EvaluateOptions()
    search: SearchOptions = SearchOptions()
    machine: MachineOptions = MachineOptions()

    @property
    def schema(self) -> Schema:
        """What the columns are."""
        return Schema(query=self.query, item=self.item, pairs=self.pairs)

    def check(self) -> None:
        """Raise ConfigError for what no single option can see."""
        for place in vars(self.data).values():
            if isinstance(place, SqlOptions):
                place.check()
        self.schema.check()
        self.split.check()
        self.model.check()
        self.train.check()
        self.evaluate.check()
        self._check_loss()
        self._check_warm_start()
        worded = {side: any(feature.worded for feature in self.schema.features(side)) for side in SIDES}
        tuned = any(isinstance(f, Pretrained) and f.tune for side in SIDES for f in self.schema.features(side))
        if self.train.pretrained_learning_rate != TrainOptions.pretrained_learning_rate and not tuned:
            raise ConfigError("[train] pretrained_learning_rate is for an encoder that is tuned, and no feature has tune = true. Leave it out.")
        plain = all(feature.type in ("id", "category", "categories", "text") for side in SIDES for feature in self.schema.features(side))
        if self.train.weight_decay and self.model.body == "none" and plain:
            raise ConfigError('[train] weight_decay decays matrices, and with [model] body = "none" these features have only tables. Leave it out.')
        if self.search.mode in ("words", "hybrid") and not worded["query"]:
            raise ConfigError(f'[search] mode = "{self.search.mode}" needs a text feature in [query]; use mode = "auto" or "vectors"')
        if self.search.words_weight is not None and self.search.mode in ("vectors", "words"):
            raise ConfigError(f'[search] words_weight is for mode = "hybrid" or "auto", and mode is "{self.search.mode}". Leave it out.')
        if self.evaluate.pretrained is not None and not all(worded.values()):
            raise ConfigError("[evaluate] pretrained compares words with words, so both sides need a text feature. Leave it out.")
        if self.evaluate.per == "query" and self.schema.repeats == "keep":
            raise ConfigError('[evaluate] per = "query" ranks an item once, so it needs [pairs] repeats = "count" or "first"')

    def _check_loss(self) -> None:
        """Raise ConfigError for a loss that data and model do not fit."""
        loss = f'[train] loss = "{self.train.loss}"'
        if not self.train.correct_positive and not self.train.correction:
            raise ConfigError("[train] correct_positive = false says how to correct, and correction is off. Leave it out.")
        if self.train.loss in RAW and (self.model.temperature, self.model.learn_temperature) != (ModelOptions.temperature, True):
            raise ConfigError(f"{loss} takes similarities as they are, so no temperature divides them. Leave out what [model] says of it.")
        if self.train.loss == "cosine_contrastive" and self.model.similarity != "cosine":
            raise ConfigError(f'{loss} needs [model] similarity = "cosine"')
        if self.train.loss == "pointwise" and self.pairs.label is None:
            raise ConfigError(f"{loss} learns from labels, those of 0 among them: name their column, [pairs] label, or take another loss")
        if self.train.together and any(isinstance(feature, History) and feature.pool == "transformer" for feature in self.query.features):
            raise ConfigError('[train] together deals pairs to batches by key, and pool = "transformer" brings them together already. Leave it out.')
        if self.train.positives == "graded" and self.pairs.label is None:
            raise ConfigError('[train] positives = "graded" orders matches by their labels: name their column, [pairs] label, or leave it out')
        self._check_teacher()
        if self.train.mine_duplicates != TrainOptions.mine_duplicates and not any(f.type in CONTENT for f in self.item.features):
            raise ConfigError(
                f"[train] mine_duplicates compares what items hold, and [item] has no feature of it ({', '.join(CONTENT)}). Leave it out."
            )
        if any(width >= self.model.dimensions for width in self.train.widths):
            raise ConfigError(f"[train] widths are beginnings of the vectors, so below [model] dimensions = {self.model.dimensions}")

    def _check_warm_start(self) -> None:
        """Raise ConfigError for a warm start that would change nothing."""
        named = f'[train] warm_start = "{self.train.warm_start}"'
        items, queries = self.item.features, self.query.features
        if self.train.warm_start == "factors":
            ids = {side: [f for f in self.schema.features(side) if isinstance(f, Id) and f.type == "id"][:1] for side in SIDES}
            history = [feature for feature in queries if isinstance(feature, History)]
            if not ids["item"] or not (ids["query"] or history):
                raise ConfigError(f'{named} starts ids: it needs a feature of type "id" on the item side, and one or a history on the query side')
            if any(feature.pool == "transformer" for feature in history):
                raise ConfigError(f'{named} starts from the mean of a history, and pool = "transformer" makes something else of it. Leave it out.')
            if self.model.body == "mlp":
                raise ConfigError(f'{named} starts from the sum of the features, and [model] body = "mlp" makes something else of it. Leave it out.')
            if not history and ids["query"][0].table is not None and ids["query"][0].table == ids["item"][0].table:
                raise ConfigError(f"{named} gives ids of queries and of items vectors of their own, and both share a table. Leave one out.")
        if self.train.warm_start == "catalogue":
            columns = {feature.column for feature in items if feature.worded}
            if len(columns) < 2 or not any(read_alike(asks, told) for asks in queries for told in items):
                raise ConfigError(
                    f"{named} finds items by their texts, one of which the query side reads instead: it needs two texts of the items, "
                    'and a feature of [query] that reads words alike: "text" hashed alike, "pieces" of one table, or "pretrained" with tune = true'
                )

    def _check_teacher(self) -> None:
        """Raise ConfigError for a teacher whom the loss does not fit, and for what is said of one who is not there."""
        train, named = self.train, self.pairs.teacher is not None
        if named and train.teacher is not None:
            raise ConfigError("[pairs] teacher, a column of scores, and [train] teacher, a finished model, are two teachers. Leave one out.")
        if not named and train.teacher is None:
            idle = [name for name in ("teacher_weight", "teacher_temperature") if getattr(train, name) != getattr(TrainOptions, name)]
            if idle:
                raise ConfigError(
                    f"[train] {' and '.join(idle)} say how to learn from a teacher, and there is none: name a finished run, [train] teacher, or a "
                    "column of scores, [pairs] teacher, or leave them out"
                )
            return
        if train.loss in RAW:
            raise ConfigError(
                f'[train] loss = "{train.loss}" takes similarities as they are, and only those over a temperature make a distribution that can be '
                "compared with a teacher's. Take another loss, or no teacher."
            )
        if train.teacher_weight == 1:
            unread = [name for name in ("loss", *READERS_OF_LOSSES) if named or name not in ("correction", "correct_positive")]
            idle = [name for name in unread if getattr(train, name) != getattr(TrainOptions, name)]
            if idle:
                raise ConfigError(f"[train] teacher_weight = 1 leaves nothing to the loss, so {', '.join(idle)} would say nothing. Leave them out.")


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


def portable(schema: Schema) -> Schema:
    """A schema without the places of encoders on this machine."""
    sides = {side: tuple(f.portable() if isinstance(f, Pretrained) else f for f in schema.features(side)) for side in SIDES}
    return replace(schema, query=replace(schema.query, features=sides["query"]), item=replace(schema.item, features=sides["item"]))


def absolute(data: DataOptions, folder: Path) -> DataOptions:
    """The places with those that are relative taken from a folder."""

    def one(place: str) -> str:
        return os.path.normpath((folder / Path(place).expanduser()).absolute())

    def each(place: Place | None) -> Place | None:
        if isinstance(place, SqlOptions):
            return replace(place, folder=place.folder or str(folder.absolute()))
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
        if not equals or not last:
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
    # A step that names a member of a union, such as `str` or `tuple[str, ...]`, is no part of the user's file.
    place = [step for step in entry["loc"] if isinstance(step, int) or (step.isidentifier() and step not in NO_PART)]
    name = where + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    name = name.lstrip(".")
    if entry["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
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


def _options(of: type, blocks: list[str]) -> list[str]:
    """The names of the options of a block."""
    for block in blocks:
        hint = get_type_hints(of).get(block)
        of = next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), of)
    return [field.name for field in fields(of)]


# --- writing ------------------------------------------------------------------------------------------------------


def to_values(config: Config) -> dict[str, Any]:
    """A config as plain values, what is None left out."""
    return dict(_filled(asdict(config)))


def _filled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(item) for name, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_toml(config: Config, *, locations: bool = True) -> str:
    """A config as TOML, every option written out; without `locations`, where the data lie is left out."""
    if not locations:
        bare = portable(config.schema)
        named = config.train.teacher and Path(config.train.teacher).name
        config = replace(config, query=bare.query, item=bare.item, train=replace(config.train, teacher=named))
    values = to_values(config)
    if not locations:
        values.pop("data")
        values["evaluate"].pop("pretrained", None)
        for name in ("mine_teacher", "mine_teacher_margin"):
            values["train"].pop(name, None)
    order = ["version", "data", "pairs", "query", "item", "split", "model", "train", "evaluate", "search", "machine"]
    lines = [f"version = {values.pop('version')}"]
    for block in sorted(values, key=order.index):
        if values[block]:
            lines += ["", f"[{block}]", *(f"{name} = {toml(value)}" for name, value in values[block].items())]
    return "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """One value as TOML, on one line but for lists of tables."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_bare(name)} = {toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], Mapping):
            return "[\n" + "".join(f"  {toml(item)},\n" for item in value) + "]"
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _bare(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)
