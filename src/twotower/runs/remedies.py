"""What else than data might make a model better: changes of a config, each tried beside it by a forecast.

To add one: its name and the settings that it changes in `remedies_of`; what the config does not allow, or has already, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twotower import config as configs
from twotower.config import Config
from twotower.data import pretrained
from twotower.data.features import Pretrained
from twotower.data.schema import SIDES
from twotower.errors import ConfigError
from twotower.runs.spaces import changed

# These change the data, and no setting.
DROPPED, MENDED = "without the pairs that look wrong", "the pairs that look wrong mended"


def remedies_of(chosen: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """What else might help, of all that the config allows: names and the settings that they change."""
    ways: dict[str, dict[str, Any]] = {
        "vectors twice as wide": {"model.dimensions": 2 * chosen.model.dimensions},
        "twice the epochs": {"train.epochs": 2 * chosen.train.epochs},
    }
    dropout = _dropout(chosen)
    ways |= {"dropout": dropout} if dropout else {}
    if chosen.train.warm_start == "none":
        ways |= {f"a warm start from the {start}": {"train.warm_start": start} for start in ("catalogue", "factors")}
    worded = all(any(feature.worded for feature in chosen.schema.features(side)) for side in SIDES)
    encoded = any(isinstance(feature, Pretrained) for side in SIDES for feature in chosen.schema.features(side))
    if worded and not encoded and pretrained.shipped() is not None:
        ways["a pretrained encoder beside the words"] = {"pretrained": pretrained.SHIPPED}
    for name, settings in ways.items():
        try:
            changed_by(chosen, settings)
        except ConfigError:
            continue
        yield name, settings
    yield DROPPED, {}
    yield MENDED, {}


def _dropout(chosen: Config) -> dict[str, Any]:
    """Dropout of a fifth of words and of item ids, where there is none."""
    found: dict[str, Any] = {}
    for side in SIDES:
        for feature in chosen.schema.features(side):
            if feature.type == "text" or (feature.type == "id" and side == "item"):
                found |= {f"{side}.features.{feature.column}.dropout": 0.2} if not getattr(feature, "dropout", 1) else {}
    return found


def changed_by(chosen: Config, settings: Mapping[str, Any]) -> Config:
    """A config with the settings of a remedy. Raises ConfigError where it does not take them."""
    if "pretrained" not in settings:
        return changed(chosen, settings)
    values = configs.to_values(chosen)
    for side in SIDES:
        columns = dict.fromkeys(feature.column for feature in chosen.schema.features(side) if feature.worded)
        more = [{"column": column, "type": "pretrained", "folder": settings["pretrained"]} for column in columns]
        values[side]["features"] = [*values[side]["features"], *more]
    return configs.from_values(values)


def heavier(remedy: str) -> float:
    """How much longer a training takes with a remedy, about."""
    return {"vectors twice as wide": 1.5, "twice the epochs": 2.0, "a pretrained encoder beside the words": 2.0}.get(remedy, 1.0)
