"""Questions as they are typed, and answers as they are shown."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower.bundle import Found, Retriever
from twotower.errors import ConfigError, choices
from twotower.search.filters.wire import MOST_JSON

NEAR = 0.6  # how alike two names are for one to be a slip of the other


def question(retriever: Retriever, words: list[str]) -> str | dict[str, str]:
    """The words of a command line as a query: one text, or name=value for each column."""
    columns = retriever.encoder.columns("query")
    named = [word.partition("=") for word in words]
    if all(equals and name in columns for name, equals, _ in named):
        return {name: value for name, _, value in named}
    if retriever.history is not None and any(equals and name == retriever.history.column_name for name, equals, _ in named):
        raise ConfigError("the history of a query is passed with --history ID,ID,...")
    if not columns:
        raise ConfigError(f'this model reads a history and nothing else, so "{words[0]}" says nothing to it. Leave it out: --history ID,ID,...')
    if len(columns) == 1:
        _check_name(columns[0], named)
    if len(columns) > 1:
        write = f"Write: {' '.join(f'{name}=...' for name in columns)}"
        wrong = next((name for name, equals, _ in named if equals and name not in columns), None)
        if wrong is not None:
            raise ConfigError(f'there is no column "{wrong}" in a query of this model; {choices(columns, wrong)}. {write}')
        raise ConfigError(f"a query of this model has {len(columns)} columns. {write}")
    return " ".join(words)


def _check_name(column: str, named: list[tuple[str, str, str]]) -> None:
    """Raise where the words seem to name the one column, but for a slip: taken for a text they would find something all the same."""
    if not all(equals and name.isidentifier() for name, equals, _ in named):
        return
    name, _, value = named[0]
    if get_close_matches(name.lower(), [column.lower()], cutoff=NEAR):
        raise ConfigError(
            f'there is no column "{name}" in a query of this model; did you mean {column}="{value}"? If all of it is what to look for, '
            f'write {column}="{name}={value}".'
        )


def history_ids(retriever: Retriever, text: str) -> tuple[list[str], list[str]]:
    """The ids of a history as it is typed, and those of them that the catalogue lacks."""
    if retriever.history is None:
        raise ConfigError("this model reads no history; it was trained without one. Leave out --history.")
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if retriever.bundle.alone:
        return ids, []
    return ids, [name for name, row in zip(ids, retriever.find(pa.array(ids, pa.string())), strict=True) if row < 0]


def filter_of(text: str) -> str | Mapping[str, Any]:
    """A filter as it is typed: itself, or what stands in the file that it names, as in @cheap.json."""
    if not text.startswith("@"):
        return text
    try:
        with Path(text[1:]).open(encoding="utf-8") as file:
            return file.read(MOST_JSON + 1)
    except OSError as error:
        raise ConfigError(f"--where {text} names the file {text[1:]}, which cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--where {text} names the file {text[1:]}, which is no text in UTF-8") from None


def ids_of(retriever: Retriever, text: str | None, option: str, known: bool = False) -> list[str] | None:
    """The ids of an option as they are typed, ID,ID,...; of those that the catalogue lacks it is told, or with `known` DataError is raised."""
    if text is None:
        return None
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise ConfigError(f"{option} takes the ids of items, as in {option} 13,14")
    if known:
        retriever.rows_of(ids)
        return ids
    unknown = [name for name, row in zip(ids, retriever.find(pa.array(ids, pa.string())), strict=True) if row < 0]
    if unknown:
        print(f"twotower: the catalogue lacks {', '.join(unknown[:5])}; {option} passes over that", file=sys.stderr)
    return ids


def answers(retriever: Retriever, found: Found) -> list[dict[str, Any]]:
    """What was found for one query: id, score and the columns of each item."""
    shown = retriever.show(found.rows)  # only as many as there are, where more were asked for
    return [answer_of(row, score) for row, score in zip(shown, found.scores, strict=False)]


def answer_of(row: Mapping[str, Any], score: float) -> dict[str, Any]:
    """An item that was found, from the columns that are shown of it."""
    return {"id": row["_id"], "score": float(score), "item": {name: value for name, value in row.items() if name != "_id"}}


def shown_columns(retriever: Retriever) -> list[str]:
    """The columns of an item to show beside its id."""
    same = {"_id", retriever.bundle.model["schema"]["item"]["id"]}
    return [name for name in retriever.items.column_names if name not in same]
