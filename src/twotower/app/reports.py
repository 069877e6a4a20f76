"""The one renderer: results of other modules as tables for a terminal or as plain text.

Nothing here computes a figure. What is printed to a person is also there as data, so `--json` needs no renderer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from twotower.runs.measuring import Comparison

NAMES = {
    "vectors": "two towers",
    "words": "words alone",
    "hybrid": "two towers + words",
    "bm25": "BM25 over the items' words",
    "bm25_queries": "BM25 over these + training queries",
    "popularity": "popularity",
}


def _table(*columns: str, caption: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=caption or None, caption_justify="left", caption_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def figures(metrics: Mapping[str, Any]) -> RenderableType:
    """The table of a finished run: the model by each search mode, then the baselines."""
    names = list(metrics["model"])
    told = metrics["evaluation"]
    caption = (
        f"Each of {told['rankings']:,} {told['part']} rankings orders all {told['catalogue']:,} items; {told['left_out']}. "
        "In brackets: 95% interval of the mean over queries."
    )
    table = _table("", *names, caption=caption)
    for mode, row in metrics["modes"].items():
        if mode == "words":
            continue  # the same index as the baseline below
        chosen = mode == metrics["search"]["mode"]
        table.add_row(Text(("➤ " if chosen else "  ") + NAMES[mode]), *(_figure(row[name]) for name in names), style="bold" if chosen else "")
    for name, row in metrics["baselines"].items():
        table.add_row(Text("  " + NAMES.get(name, name)), *(_figure(row[metric]) for metric in names))
    return Group(table, verdict(metrics))


def _figure(figure: Mapping[str, float | None]) -> str:
    value, low, high = (figure[part] for part in ("value", "low", "high"))
    return f"{_number(value)} [dim]{escape('[')}{_number(low)} {_number(high)}][/dim]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.3f}"


def verdict(metrics: Mapping[str, Any]) -> str:
    """Whether the model pays, in one sentence."""
    select, against = metrics["evaluation"]["select"], metrics["against"]
    if not against:
        return f"Searched by {NAMES[metrics['search']['mode']]}; there was no baseline to compare with."
    best = max(against, key=lambda name: metrics["baselines"][name][select]["value"])
    test = against[best][select]
    gain = f"{test['difference']:+.3f} {select} [{test['low']:+.3f}, {test['high']:+.3f}]"
    if test["p_value"] < 0.05:
        word = "better than" if test["difference"] > 0 else "WORSE than"
    else:
        word = "not clearly different from"
    return f"The model is {word} its best baseline, {NAMES.get(best, best)}: {escape(gain)}, paired, p = {test['p_value']:.4f}."


def dropped(counts: Mapping[str, int]) -> str:
    """What of a file could not be measured."""
    told = {"without_query": "rows without a query", "item_not_in_catalogue": "rows whose item the catalogue lacks"}
    return "; ".join(f"{count:,} {told[name]} were left out" for name, count in counts.items() if count)


def data(report: Mapping[str, Any]) -> str:
    """What was read and what became of it, in a line or two."""
    split = report["split"]
    parts = ", ".join(f"{split[name]:,} {name}" for name in ("train", "validation", "test"))
    said = [f"{report['pairs']:,} pairs of {report['query_rows']:,} queries and {report['items']:,} items; {parts} (split by {split['by']})"]
    told = {
        "pairs_merged": "repeated pairs merged",
        "pairs_without_query": "pairs without a query dropped",
        "pairs_without_item": "pairs without an item dropped",
        "pairs_of_unlisted_event": "pairs of an event without weight dropped",
        "pairs_of_unlisted_item": "pairs whose item the catalogue lacks",
        "catalogue_rows_without_id": "catalogue rows without an id dropped",
        "catalogue_ids_repeated": "repeated catalogue ids, the first row kept",
        "items_without_pairs": "items without any pair",
        "test_pairs_of_item_new_to_train": "test pairs of items that training never shows",
        "test_keys_in_train": "test queries that occur in training too",
    }
    counted = [f"{report[name]:,} {text}" for name, text in told.items() if report.get(name)]
    return "; ".join(said + counted) + "."


def found(answers: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> RenderableType:
    """Items found for one query: rank, score and the columns to show."""
    table = _table("", "score", "id", *columns)
    table.columns[2].justify = "left"
    for column in table.columns[3:]:
        column.justify = "left"
    for rank, answer in enumerate(answers, 1):
        shown = [escape(_short(answer["item"].get(name))) for name in columns]
        table.add_row(str(rank), f"{answer['score']:.3f}", escape(str(answer["id"])), *shown)
    return table


def _short(value: Any, most: int = 160) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def comparison(compared: Comparison) -> RenderableType:
    """Two models side by side, metric by metric."""
    a, b = compared.names
    table = _table("", a, b, "difference", "p", caption=f"{compared.rankings:,} rankings that both answered, compared one by one.")
    for name, test in compared.tests.items():
        first, second = compared.figures[name]
        gain = f"{float(test.difference):+.4f} [dim]{escape('[')}{float(test.low):+.4f} {float(test.high):+.4f}][/dim]"
        table.add_row(name, f"{first:.4f}", f"{second:.4f}", gain, f"{float(test.p_value):.4f}")
    return table


def strangers(rows: Mapping[str, Mapping[str, Any]], asked: int, k: int) -> RenderableType:
    """How many strangers' questions find an accepted item among the first k."""
    caption = f"{asked} questions in words of our own, written before any model was seen; each lists the pages that would satisfy a person."
    table = _table("strangers' questions", f"found in {k}", f"hit@{k}", caption=caption)
    for name, row in rows.items():
        table.add_row(Text("  " + NAMES.get(name, name)), str(row["found"]), _figure(row))
    return table


def answer(question: str, satisfied: bool | None, answers: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> RenderableType:
    """One question with what was found for it."""
    mark = {True: "[green]found[/green]", False: "[red]missed[/red]", None: ""}[satisfied]
    lines = [f"[bold]{escape(question)}[/bold]  {mark}"]
    for item in answers:
        first, *rest = (escape(_short(item["item"].get(column), 110)) for column in columns)
        lines.append(f"  [cyan]{first}[/cyan]  {rest[0] if rest else ''}")
        lines += [f"      [dim]{text}[/dim]" for text in rest[1:] if text]
    return "\n".join(lines)
