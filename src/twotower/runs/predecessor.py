"""The run that a new one continues: what of it must be there, whether it fits, and what the new one keeps of it to be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower import config as configs
from twotower import files, manifests
from twotower.bundle import layout
from twotower.config import Config
from twotower.data.encoder import Encoder
from twotower.data.prepared import Prepared
from twotower.data.schema import SIDES, Side, feature_name
from twotower.errors import BundleError, ConfigError
from twotower.learning.options import TrainOptions

if TYPE_CHECKING:
    from twotower.learning.checkpoints import TrainState
    from twotower.learning.inheritance import Inherited
    from twotower.model.bodies import Custom

KEPT = "last"  # the folder in a run's, while it is not finished
# What may be another each time, since no weight and no encoding hangs on it; all else decides what the weights mean.
FREE_OF_FEATURES = {"crop", "dropout", "forget", "minimum", "unknown_values"}
FREE_OF_MODEL = {"dropout", "feature_dropout", "learn_temperature", "temperature"}


@dataclass(frozen=True)
class Last:
    """A finished model to go on from."""

    name: str  # as it was given
    model: Path  # the folder of its model, in a bundle
    checkpoint: Path | None  # the run's folder, where there is one
    fingerprint: str
    config: Config
    encoder: Encoder


def open_last(place: Path | str) -> Last:
    """A finished run, or a bundle, whose model is checked against its sha256. Raises BundleError if it is neither."""
    path = Path(place)
    bundle = layout.find_bundle(path)
    if bundle != path and not (path / "metrics.json").exists():
        raise BundleError(f"the run {path} did not finish. Continue it: twotower train {path / 'config.toml'} -o {path} --resume")
    model = bundle / "model"
    manifest = manifests.read_manifest(model, "model", layout.MODEL_FORMAT)
    encoder = Encoder.restore(files.read_json(model / "encoder.json"), files.read_tensors(model / "states.safetensors"))
    checkpoint = path if bundle != path else None
    return Last(str(path), model, checkpoint, layout.fingerprint_of(manifest), configs.read(model / "config.toml"), encoder)


def fitting(place: Path | str | None, chosen: Config, output: Path | None = None) -> Last | None:
    """The model to go on from, if one is named. Raises BundleError or ConfigError unless it fits the config and lies elsewhere than `output`."""
    if place is None:
        return None
    if output is not None and Path(place).resolve() in (output.resolve(), (output / "bundle").resolve()):
        raise ConfigError(f"{output} is the run to go on from, and cannot be the one to write too. Choose another folder with -o.")
    last = open_last(place)
    check(last, chosen)
    return last


def check(last: Last, chosen: Config) -> None:
    """Raise ConfigError for all that keeps the last model's weights from meaning the same in the new one."""
    different = [told for side in SIDES for told in _features_differ(side, last.config, chosen)]
    begun, new = asdict(last.config.model), asdict(chosen.model)
    different += [
        f"[model] {name} was {begun[name]!r} and is {new[name]!r}" for name in begun if name not in FREE_OF_MODEL and begun[name] != new[name]
    ]
    if chosen.model.learn_temperature and begun["temperature"] != new["temperature"]:
        different.append(f"[model] temperature began at {begun['temperature']} and is {new['temperature']}, and what was learned of it goes on")
    if different:
        more = f"; and {len(different) - 5} more" if len(different) > 5 else ""
        raise ConfigError(
            f"{last.name} is another kind of model: {'; '.join(different[:5])}{more}. Its weights would mean nothing here. "
            f"Set these as they were - its config is {last.model / 'config.toml'} - or start anew, without the last run."
        )


def _features_differ(side: Side, last: Config, chosen: Config) -> list[str]:
    """In words, how the features of one side are others."""
    before, now = ({feature_name(f): _declared(f) for f in configs.portable(one.schema).features(side)} for one in (last, chosen))
    if list(before) != list(now):
        return [f"[{side}] features were {', '.join(before)} and are {', '.join(now)}"]
    return [
        f"[{side}] {name} had {option} = {old!r} and has {now[name].get(option)!r}"
        for name, declared in before.items()
        for option, old in declared.items()
        if now[name].get(option) != old
    ]


def _declared(feature: Any) -> dict[str, Any]:
    return {option: value for option, value in asdict(feature).items() if option not in FREE_OF_FEATURES}


# --- what a run keeps of it until it is finished --------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """What must be known of the last model to prepare the same data again: not where it was."""

    fingerprint: str
    encoder: Encoder


def keep(kept: Kept, folder: Path) -> None:
    """Write it into a run's folder."""
    with files.new_folder(folder / KEPT) as building:
        files.write_json(building / "fingerprint.json", kept.fingerprint)
        layout.write_encoder(building, kept.encoder)


def kept_in(folder: Path, last: Last | None) -> Kept | None:
    """What a run to resume was begun from, if from anything. Raises ConfigError if that is not the `last` that is named now."""
    place = folder / KEPT
    if not place.is_dir():
        if last is not None:
            raise ConfigError(f"{folder} was begun from nothing, not from {last.name}. Resume it without that, or start anew with --overwrite.")
        return None
    encoder = Encoder.restore(files.read_json(place / "encoder.json"), files.read_tensors(place / "states.safetensors"))
    kept = Kept(files.read_json(place / "fingerprint.json"), encoder)
    if last is not None and last.fingerprint != kept.fingerprint:
        raise ConfigError(f"{folder} was begun from another model than {last.name}. Resume it without naming one, or start anew with --overwrite.")
    return kept


# --- its weights --------------------------------------------------------------------------------------------------


def continue_from(state: TrainState, prepared: Prepared, last: Last, chosen: Config, bodies: Mapping[Side, Custom] | None) -> Inherited:
    """Give a fresh state what the last model has learnt. Raises ConfigError or BundleError if it does not fit."""
    from twotower.exports.towers import read_weights
    from twotower.learning import checkpoints, moving
    from twotower.learning.inheritance import inherit
    from twotower.model.optimizers import TABLES, dense_optimizer
    from twotower.model.towers import build

    # The features as they are declared now, since only these know where an encoder lies on this machine.
    encoder = Encoder(prepared.encoder.features, {side: last.encoder.states[side] for side in SIDES})
    model = build(encoder, replace(chosen.model, learn_temperature=last.config.model.learn_temperature), bodies=bodies).to(state.model.device)
    optimizer = dense_optimizer(moving.dense_rates(model, last.config.train), last.config.train.weight_decay)
    before = checkpoints.TrainState(model, optimizer, {})
    if last.checkpoint is not None:
        before.moments = moving.moments_of(model, last.config.train)
        try:
            checkpoints.load(before, last.checkpoint)
            before.best_weights = {}
        except BundleError as error:
            told = str(error).removesuffix(" Start anew with --overwrite.")
            raise BundleError(f"{told} Its bundle alone, {last.model.parent}, can be gone on from, without what the optimiser remembers.") from None
    try:
        # These are checked against their sha256. They are read last, so that they and what the checkpoint holds are not there at once.
        model.load_state_dict(read_weights(last.model))
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip()
        raise ConfigError(f"the model of {last.name} is built differently: {told}. Start anew, without the last run.") from None
    return inherit(state, prepared.encoder, before, encoder, TABLES[chosen.train.table_optimizer].kept)


def described(inherited: Inherited, last: Last, options: TrainOptions) -> str:
    """In a line, what the new run begins with, and how long it will train."""
    rows = f"{inherited.known:,} rows known and {inherited.new:,} new"
    memory = "" if inherited.moments else "; its optimiser begins anew"
    epochs = f"{options.epochs} epoch{'s' * (options.epochs != 1)}, by [train] again"
    return f"going on from {last.name} ({last.fingerprint[:16]}): {rows}{memory}; {epochs}"
