"""Questions as they are typed, and answers as they are shown."""

from __future__ import annotations

from typing import Any

from twotower.bundle import Found, Retriever
from twotower.errors import ConfigError, choices


def question(retriever: Retriever, words: list[str]) -> str | dict[str, str]:
    """The words of a command line as a query: one text, or name=value for each column."""
    columns = retriever.encoder.columns("query")
    named = [word.partition("=") for word in words]
    if all(equals and name in columns for name, equals, _ in named):
        return {name: value for name, _, value in named}
    if len(columns) > 1:
        write = f"Write: {' '.join(f'{name}=...' for name in columns)}"
        wrong = next((name for name, equals, _ in named if equals and name not in columns), None)
        if wrong is not None:
            raise ConfigError(f'there is no column "{wrong}" in a query of this model; {choices(columns, wrong)}. {write}')
        raise ConfigError(f"a query of this model has {len(columns)} columns. {write}")
    return " ".join(words)


def answers(retriever: Retriever, found: Found) -> list[dict[str, Any]]:
    """What was found for one query: id, score and the columns of each item."""
    shown = retriever.show(found.rows)  # only as many as there are, where more were asked for
    return [
        {"id": row["_id"], "score": float(score), "item": {name: value for name, value in row.items() if name != "_id"}}
        for row, score in zip(shown, found.scores, strict=False)
    ]


def shown_columns(retriever: Retriever) -> list[str]:
    """The columns of an item to show beside its id."""
    same = {"_id", retriever.bundle.model["schema"]["item"]["id"]}
    return [name for name in retriever.items.column_names if name not in same]
