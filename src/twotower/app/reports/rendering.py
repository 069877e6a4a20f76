"""A document as the text of a file, in the format that the file's name asks for.

To add a format: a function from a document to text, and its entry in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from twotower.app.reports.documents import Document
from twotower.app.reports.markdown import markdown
from twotower.app.reports.webpage import webpage
from twotower.errors import ConfigError

FORMATS: Mapping[str, Callable[[Document], str]] = {".html": webpage, ".md": markdown}


def render(document: Document, path: Path) -> str:
    """The document in the format that the suffix of a path names. Raises ConfigError for another."""
    return FORMATS[suffix_of(path)](document)


def suffix_of(path: Path) -> str:
    """The suffix of a report's path. Raises ConfigError where no report is written in it."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{path}: a report is written as a web page or as Markdown; end its name in {' or '.join(FORMATS)}")
    return suffix
