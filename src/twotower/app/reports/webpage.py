"""A document as one web page that needs nothing else: no script, no network, its style and its pictures within."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from html import escape
from importlib import resources

from twotower.app.reports.documents import (
    MARKS,
    Code,
    Document,
    Facts,
    Map,
    Paragraph,
    Part,
    Picture,
    Section,
    Statement,
    Table,
    plain_lines,
    plain_text,
)
from twotower.app.reports.drawings import svg

STYLE = "page.css"


def webpage(document: Document) -> str:
    """The whole page."""
    mark = MARKS[document.tone]
    style = (resources.files("twotower.app.reports") / STYLE).read_text(encoding="utf-8")
    names = (f"p{n}" for n in itertools.count(1))
    about = f'<p class="about">{_text(document.about)}</p>' if document.about else ""
    body = "\n".join(line for part in document.parts for line in _drawn(part, 2, names))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(document.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{_text(document.title)}</h1>\n{about}\n"
        f'<p class="verdict {document.tone}"><span class="sign" aria-hidden="true">{mark.sign}</span> {_text(document.verdict)}</p>\n</header>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _drawn(part: Part, level: int, names: Iterator[str]) -> Iterator[str]:
    match part:
        case Section():
            yield f"<section>\n<h{level}>{_text(part.title)}</h{level}>"
            for each in part.parts:
                yield from _drawn(each, min(6, level + 1), names)
            yield "</section>"
        case Paragraph():
            yield f'<p class="faint">{_text(part.text)}</p>' if part.faint else f"<p>{_text(part.text)}</p>"
        case Table():
            yield _table(part)
        case Facts():
            rows = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in part.rows)
            yield f'<dl class="facts">{rows}</dl>'
        case Code():
            yield f'<pre tabindex="0"><code>{escape(plain_lines(part.text))}</code></pre>'
        case Picture():
            yield f"<figure>{svg(part, next(names))}<figcaption>{_text(part.title)}{_axis(part)}</figcaption></figure>"
        case Map():
            yield f'<figure class="map">{svg(part, next(names))}<figcaption>{_text(part.title)}</figcaption></figure>'
        case Statement():
            yield from _statement(part, level, names)


def _statement(part: Statement, level: int, names: Iterator[str]) -> Iterator[str]:
    mark = MARKS[part.tone]
    tag = f'<span class="tag"><span class="sign" aria-hidden="true">{mark.sign}</span> {mark.word}</span>'
    yield f'<article class="statement {part.tone}">\n<h{level}>{tag} {_text(part.title)}</h{level}>'
    if part.advice:
        yield f'<p class="advice">{_text(part.advice)}</p>'
    if part.details:
        yield f'<p class="faint">{_text(part.details)}</p>'
    if part.examples is not None:
        yield _table(part.examples)
    if part.picture is not None:
        yield from _drawn(part.picture, level, names)
    yield "</article>"


def _table(part: Table) -> str:
    kind = [' class="number"' if n in part.numbers else "" for n in range(len(part.columns))]
    head = "".join(f'<th scope="col"{kind[n]}>{_text(name)}</th>' for n, name in enumerate(part.columns))
    rows = "".join(f"<tr>{''.join(f'<td{kind[n]}>{_text(cell)}</td>' for n, cell in enumerate(row))}</tr>\n" for row in part.rows)
    # Beside the table and not in it: a table that is wider than a phone scrolls, and its caption stays.
    caption = f"<figcaption>{_text(part.caption)}</figcaption>" if part.caption else ""
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"
    return f'<figure class="table"><div class="wide" tabindex="0">{table}</div>{caption}</figure>'


def _axis(part: Picture) -> str:
    return f'<span class="axis">{_text(part.y_label)}</span>' if part.y_label else ""


def _text(text: str) -> str:
    return escape(plain_text(text, 4000))
