"""What a notebook shows of a run: its figures beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def figures_html(metrics: Mapping[str, Any], folder: str) -> str:
    """A table of the model by how it searches, and of its baselines, with 95% intervals."""
    names, told = list(metrics["model"]), metrics["evaluation"]
    rows = {f"two towers, searched by {mode}": row for mode, row in metrics["modes"].items() if mode != "words"} | dict(metrics["baselines"])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr><th>{escape(name)}</th>{''.join(_cell(row[metric]) for metric in names)}</tr>" for name, row in rows.items())
    caption = (
        f"{escape(folder)}: {told['rankings']:,} {told['part']} rankings of {told['catalogue']:,} items; it searches by {metrics['search']['mode']}"
    )
    return f"<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(figure: Mapping[str, float]) -> str:
    return f"<td>{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]</td>"
