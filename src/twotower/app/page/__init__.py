"""The page that a server shows to people: plain HTML, CSS and JavaScript, with nothing to build and nothing from elsewhere.

`scheme` sets the colours before the first paint; `page` holds what is asked and shown; it draws by `frame` (what stands around), `filters` and
`cards`, and asks by `asking`. What comes from a server is put on the page as text alone. To add a file: here, in `FILES`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    **dict.fromkeys(("scheme.js", "page.js", "asking.js", "cards.js", "elements.js", "filters.js", "frame.js"), "text/javascript; charset=utf-8"),
    "icon.svg": "image/svg+xml",
}


@cache
def read(name: str) -> tuple[bytes, str]:
    """One of its files, and the type of that. Raises KeyError for anything else, before anything is read."""
    media = FILES[name]
    return (resources.files(__name__) / name).read_bytes(), media
