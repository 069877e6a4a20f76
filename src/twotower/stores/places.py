"""Where a store is: a URL, or `env:NAME` of a variable that holds one. What is shown of it holds no secret."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from twotower.errors import ConfigError


class Place(NamedTuple):
    """A store's URL and what to call it in a message. The URL may hold a secret and is never shown."""

    scheme: str
    url: str
    shown: str

    def __repr__(self) -> str:
        return f"Place({self.shown})"


def place_of(given: str) -> Place:
    """The place that a URL or `env:NAME` names. Raises ConfigError for what is neither."""
    url, shown = given.strip(), None
    if url.startswith("env:"):
        variable = url.removeprefix("env:")
        url, shown = os.environ.get(variable, "").strip(), f"the store of {given.strip()}"
        if not url:
            raise ConfigError(f"the environment variable {variable} is not set. Set it: export {variable}=postgresql://...")
    scheme, marked, _ = url.partition("://")
    if not marked:
        raise ConfigError(f"{shown or 'a store'} is named by a URL, such as postgresql://user@host/db or lancedb:///data/lance")
    return Place(scheme.lower(), url, shown or _shown(url))


def _shown(url: str) -> str:
    """A URL without user, password and options. A password may hold what should have been written otherwise in a URL: / ? # or @."""
    scheme, rest = url.split("://", 1)
    before = rest.partition("?")[0].partition("#")[0]
    if "@" in rest[len(before) :]:
        return f"{scheme.lower()}://..."
    return f"{scheme.lower()}://{before if before.startswith('/') else before.rpartition('@')[2]}"


def folder_of(place: Place) -> str:
    """The folder that lancedb:///data/lance or lancedb://relative/folder names. Raises ConfigError where none is named."""
    parts = urlsplit(place.url)
    folder = unquote(parts.netloc + parts.path)
    if not folder.strip("/"):
        raise ConfigError(f"{place.shown} names no folder; write {place.scheme}:///path/to/folder")
    return folder
