"""One TOML file <-> one frozen object.

Every block is a dataclass beside the code that reads it; this package only composes, reads and writes them. All that is wrong
with a config is said at once, each with the choices there are.
"""

from twotower.config.blocks import Config, DataOptions, MachineOptions
from twotower.config.reading import absolute, from_values, judged, override, read
from twotower.config.writing import portable, to_toml, to_values, toml

__all__ = [
    "Config",
    "DataOptions",
    "MachineOptions",
    "absolute",
    "from_values",
    "judged",
    "override",
    "portable",
    "read",
    "to_toml",
    "to_values",
    "toml",
]
