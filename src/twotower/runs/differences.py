"""What configs say otherwise, option by option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twotower.config import toml

NOT_SAID = "-"


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Options whose values are not the same in all of these plain values of configs, with what each of them says.

    A feature is told by its side, column and type; one that a config lacks is a single entry, without its options.
    """
    flat = [dict(_options(values)) for values in configs]
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for options in flat for name in options):
        feature = name.partition(")")[0] + ")"
        missing = name != feature and feature in found
        said = [options.get(name, NOT_SAID) for options in flat]
        if not missing and len(set(said)) > 1:
            found[name] = said
    return found


def _options(values: Mapping[str, Any], block: str = "") -> Iterator[tuple[str, str]]:
    """Each option by its whole name, and its value as TOML."""
    for name, value in values.items():
        whole = f"{block}{name}"
        if isinstance(value, Mapping):
            yield from _options(value, f"{whole}.")
        elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            for each in value:
                named = f"{block}{each.get('column', name)} ({each.get('type', '')})"
                yield named, "yes"
                yield from _options({option: told for option, told in each.items() if option not in ("column", "type")}, f"{named}.")
        else:
            yield whole, toml(value)
