"""The one renderer: a document drawn for a terminal, as a web page or as Markdown; and the tables of a run's results.

Nothing here computes a figure. `documents` says what a report consists of, `terminal`, `webpage` and `markdown` draw it, `drawings`
draws its pictures, `rendering` picks the format of a file; `results` holds the tables that verbs print. A kind of report is one
function that makes a document, such as the one in `diagnosis`.
"""

from twotower.app.reports.documents import Document, plain_text
from twotower.app.reports.grown import chosen_index, grown, versions
from twotower.app.reports.rendering import render, suffix_of
from twotower.app.reports.results import (
    answer,
    approximate,
    comparison,
    data,
    dropped,
    estimate,
    facts,
    features,
    figures,
    found,
    slices,
    strangers,
    verdict,
)
from twotower.app.reports.tables import plain, show

__all__ = [
    "Document",
    "answer",
    "approximate",
    "chosen_index",
    "comparison",
    "data",
    "dropped",
    "estimate",
    "facts",
    "features",
    "figures",
    "found",
    "grown",
    "plain",
    "plain_text",
    "render",
    "show",
    "slices",
    "strangers",
    "suffix_of",
    "verdict",
    "versions",
]
