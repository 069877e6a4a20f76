"""The stores that users run already: PostgreSQL with pgvector, LanceDB, Qdrant. They know tables, vectors and filters, nothing of models. No torch.

store = open_store("postgresql://ann@db/shop")
store.search(vectors, k=10)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

from twotower.errors import ConfigError, choices
from twotower.stores.facts import Facts, Near, Version
from twotower.stores.places import Place, place_of
from twotower.stores.store import Engine, Store

__all__ = ["STORES", "Facts", "Near", "Store", "Version", "is_store", "open_store"]

# URL scheme -> the module and its function that opens an engine.
STORES: dict[str, tuple[str, str]] = {
    "postgresql": ("postgres", "open_postgres"),
    "postgres": ("postgres", "open_postgres"),
    "lancedb": ("lance", "open_lance"),
    "qdrant": ("qdrant", "open_folder"),
    "qdrant+http": ("qdrant", "open_server"),
    "qdrant+https": ("qdrant", "open_server"),
}


def is_store(given: str) -> bool:
    """Whether this names a store: a URL, or a variable that holds one."""
    return given.startswith("env:") or "://" in given


def open_store(url: str, name: str = "items") -> Store:
    """The tables of a name in the store of a URL, or of `env:NAME`. Raises ConfigError, DataError, MissingExtra."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,23}", name):
        raise ConfigError(f"{name!r} names no tables; a name is lower-case letters, digits and _, begins with a letter and has at most 24")
    place = place_of(url)
    if place.scheme not in STORES:
        raise ConfigError(f'"{place.scheme}" is no kind of store; {choices(STORES, place.scheme)}')
    module, function = STORES[place.scheme]
    opened: Callable[[Place, str], Engine] = getattr(import_module(f"twotower.stores.{module}"), function)
    return Store(opened(place, name), name)
