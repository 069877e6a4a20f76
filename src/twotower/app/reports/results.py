"""Results of other modules as tables for a terminal or as plain text.

Nothing here computes a figure. What is printed to a person is also there as data, so `--json` needs no renderer. Each function
gives something that rich can draw; `show` draws it, as wide as the terminal is, or in whole lines where there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from twotower.app.reports.documents import Tone, plain_text
from twotower.app.reports.tables import Fitting, columns_of, faint

if TYPE_CHECKING:
    from twotower.app.demonstration import Answered
    from twotower.runs.approximation import Approximate
    from twotower.runs.comparing import Comparison
    from twotower.runs.estimates import Estimate
    from twotower.runs.worth import Told

NAMES = {
    "model": "the model",
    "vectors": "two towers",
    "words": "words alone",
    "hybrid": "two towers + words",
    "bm25": "BM25, item words",
    "bm25_queries": "BM25, training queries too",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "ease_low_rank": "EASE, low rank",
    "gf_cf": "GF-CF",
    "als": "ALS",
    "popularity": "popularity",
    "recent_popularity": "popularity of late",
    "popularity_by_category": "popularity by category",
    "pretrained": "pretrained encoder, untuned",
}
COUNTED = {"item": "every item", "key": "everybody who asks"}  # in means of means
BRIEF = 24  # characters: what may share a line with its neighbours on a narrow page


class Verdict(NamedTuple):
    """One sentence, in its tone."""

    tone: Tone
    said: str


# --- figures ------------------------------------------------------------------------------------------------------


def figures(metrics: Mapping[str, Any]) -> RenderableType:
    """The table of a finished run: the model by each search mode, then the baselines; and what follows from it."""
    told = metrics["evaluation"]
    of = "rankings of the pairs given" if told["part"] == "given" else f"{told['part']} rankings"
    caption = f"{told['rankings']:,} {of}, each of all {told['catalogue']:,} items; {told['left_out']}. In brackets: 95% interval."
    if len(metrics["modes"]) > 1:
        caption += " ➤: how it searches, chosen on validation pairs."
    if metrics["against"]:
        caption += (
            f" To the model, where there is room: the difference in {told['select']}, paired; in parentheses where luck may give as much (Holm)."
        )
    macro = metrics.get("macro") or {}
    for of, told_of in COUNTED.items():
        if of in macro:
            caption += f" With {told_of} counted alike: {told['select']} {_number(macro[of][told['select']]['value'])}."
    # Intervals of every metric where there is room, else of the one that counts, else of none.
    # Narrower still, the interval of that one is worth more than how far the baselines are.
    ways = [_figures(metrics, intervals, beside) for intervals, beside in (([*metrics["model"]], True), ([told["select"]], True))]
    ways += [_figures(metrics, intervals, False) for intervals in ([told["select"]], [])]
    return Group("", Fitting(*ways), "", faint(caption), "", escape(verdict(metrics).said))


def _figures(metrics: Mapping[str, Any], intervals: Sequence[str], beside: bool) -> Table:
    names = list(metrics["model"])
    beside = beside and bool(metrics["against"])
    table = columns_of("", *names, *(["to the model"] if beside else []))
    for mode, row in told_modes(metrics).items():
        chosen = mode == metrics["search"]["mode"]
        table.add_row(Text(("➤ " if chosen else "  ") + NAMES[mode]), *_cells(row, names, intervals), style="bold" if chosen else "")
    for name, row in metrics["baselines"].items():
        table.add_row(Text("  " + NAMES.get(name, name)), *_cells(row, names, intervals), *([distance(metrics, name)] if beside else []))
    return table


def distance(metrics: Mapping[str, Any], baseline: str) -> str:
    """How far a baseline is above or below the model by the selecting metric, in parentheses where that is not sure."""
    test = metrics["against"][baseline][metrics["evaluation"]["select"]]
    said = f"{-test['difference']:+.3f}".replace("0.", ".", 1)
    return said if _sure(test) else f"({said})"


def _sure(test: Mapping[str, Any]) -> bool:
    """Whether a difference is more than luck gives, all baselines taken together where a run says so."""
    return bool(test.get("holm", test["p_value"]) < 0.05)


def slices(metrics: Mapping[str, Any]) -> RenderableType:
    """The selecting metric on parts of the rankings, beside the baseline that is best on all of them."""
    found, select = metrics["slices"], metrics["evaluation"]["select"]
    if not found["cuts"]:
        return Group("", faint("Nothing is known of these rankings by which they could be divided."))
    against = found["against"]
    ways = [_slices(found, select, intervals) for intervals in (True, False)]
    told = f"{select}; in brackets: 95% interval. A slice of fewer than 30 keys is too few to say anything."
    if against:
        told += f" The last column: what is sure beside {NAMES.get(against, against)}, all slices tested together (Holm)."
    return Group("", Fitting(*ways), "", faint(told))


def _slices(found: Mapping[str, Any], select: str, intervals: bool) -> Table:
    against = found["against"]
    table = columns_of("slices", "rankings", NAMES["model"], *([NAMES.get(against, against), ""] if against else [""]))
    table.columns[-1].justify = "left"
    for cut in found["cuts"]:
        table.add_row(Text(cut["by"], style="bold"))
        for row in cut["slices"]:
            figure = row["figures"][select]
            shown = _figure(figure) if intervals else _number(figure["value"])
            said = {"worse": "WORSE", "unclear": ""}.get(row["verdict"], row["verdict"])
            table.add_row(Text("  " + row["name"]), f"{row['rankings']:,}", shown, *([_number(row["baseline"])] if against else []), said)
    return table


def features(found: Told) -> RenderableType:
    """What each feature is worth, the most first."""
    told = (
        f"By vectors, on {found.rankings:,} validation rankings, where the model has {_number(found.whole)} {found.metric}. Without a feature: its "
        "values are dealt out anew among those who ask, or among the items. Lost: with its 95% interval; what is sure, all features taken "
        "together (Holm). What two features say alike neither of them is worth alone."
    )
    return Group("", Fitting(_worths(found, True), _worths(found, False)), "", faint(told))


def _worths(found: Told, intervals: bool) -> Table:
    table = columns_of("what a feature is worth", f"{found.metric} without it", "lost", "")
    for part in sorted(found.features, key=lambda part: -part.lost):
        lost = f"{part.lost:+.3f}" + (f" [dim]{escape('[')}{part.low:+.3f}, {part.high:+.3f}][/dim]" if intervals else "")
        said = "" if part.sure else "nothing that is sure" if intervals else "unsure"
        table.add_row(Text(f"{part.side}: {part.feature} ({part.type})"), _number(part.without), lost, said)
    return table


def approximate(found: Approximate) -> RenderableType:
    """What an approximate index loses, and what it saves."""
    table = columns_of("", "recall", f"hit@{found.k}", "one query", "building")
    table.add_row("exact", "1", _number(found.exact_hit), f"{found.exact_milliseconds:.2f} ms", "-")
    table.add_row(found.name, _number(found.recall), _number(found.hit), f"{found.milliseconds:.2f} ms", _duration(found.seconds))
    lost = f"{float(found.lost.difference):+.4f} [{float(found.lost.low):+.4f}, {float(found.lost.high):+.4f}]"
    told = (
        f"{found.queries:,} validation queries, {found.items:,} items, by vectors. Recall: the share of the exact first {found.k} that it finds. "
        f"hit@{found.k}: how often the right item is among them, with nothing left out; exact search has {lost} more."
    )
    slower = "" if found.milliseconds < 0.9 * found.exact_milliseconds else " Exact search is as fast here: stay with it."
    return Group("", table, "", faint(told + slower))


def told_modes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of each search mode, but for words where a baseline is the same and they are not how it searches."""
    twice = metrics["search"]["mode"] != "words" and metrics["modes"].get("words") in metrics["baselines"].values()
    return {mode: row for mode, row in metrics["modes"].items() if not (mode == "words" and twice)}


def _cells(row: Mapping[str, Any], names: Sequence[str], intervals: Sequence[str]) -> list[str]:
    return [_figure(row[name]) if name in intervals else _number(row[name]["value"]) for name in names]


def _figure(figure: Mapping[str, float | None]) -> str:
    value, low, high = (_number(figure[part]) for part in ("value", "low", "high"))
    return f"{value} [dim]{escape('[')}{low}, {high}][/dim]"


def _number(value: float | None) -> str:
    """Three decimals, without the zero in front."""
    if value is None:
        return "-"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """Whether the model pays."""
    select, against = metrics["evaluation"]["select"], metrics["against"]
    if not against:
        return Verdict("note", f"Searched by {NAMES[metrics['search']['mode']]}; there was no baseline to compare with.")
    best = max(against, key=lambda name: metrics["baselines"][name][select]["value"])
    test = against[best][select]
    gain = f"{test['difference']:+.3f} {select} [{test['low']:+.3f}, {test['high']:+.3f}]"
    tone: Tone = "note" if not _sure(test) else "good" if test["difference"] > 0 else "warning"
    word = {"good": "better than", "warning": "WORSE than"}.get(tone, "not clearly different from")
    said = f"The model is {word} its best baseline ({NAMES.get(best, best)}): {gain}, paired, p = {test.get('holm', test['p_value']):.4f}."
    if best == "pretrained" and tone != "good":
        said += " Training does not pay here: use the untuned encoder, or bring more pairs."
    return Verdict(tone, said)


def comparison(compared: Comparison) -> RenderableType:
    """Two models side by side, metric by metric."""
    a, b = compared.names
    long = max(len(a), len(b)) > 14
    table = columns_of("", *(("A", "B") if long else (escape(a), escape(b))), "difference", "p")
    for name, test in compared.tests.items():
        first, second = (_number(figure) for figure in compared.figures[name])
        gain = f"{float(test.difference):+.3f} [dim]{escape('[')}{float(test.low):+.3f}, {float(test.high):+.3f}][/dim]"
        table.add_row(name, first, second, gain, f"{float(test.p_value):.4f}")
    names = f"A is {a}, B is {b}. " if long else ""
    first, second = ("A", "B") if long else (a, b)
    told = f"{names}{compared.rankings:,} rankings that both answered, compared one by one. difference: {first} - {second}, with its 95% interval."
    return Group("", table, "", faint(" ".join([told, *unlike(compared, (first, second))])))


def unlike(compared: Comparison, names: Sequence[str]) -> list[str]:
    """What was not the same for both, and so is part of the difference."""
    a, b = names
    said = []
    if compared.catalogues is not None and compared.catalogues[0] != compared.catalogues[1]:
        said.append(f"The catalogues differ, and more items are harder to rank: {a} has {compared.catalogues[0]:,}, {b} {compared.catalogues[1]:,}.")
    if compared.left_out is not None and compared.left_out[0] != compared.left_out[1]:
        said.append(f"{a}: {compared.left_out[0]}; {b}: {compared.left_out[1]}.")
    return said


def strangers(rows: Mapping[str, Mapping[str, Any]], k: int) -> RenderableType:
    """How many strangers' questions find an accepted item among the first k."""
    table = columns_of("strangers' questions", "found", f"hit@{k}")
    for name, row in rows.items():
        table.add_row(Text("  " + NAMES.get(name, name)), f"{row['found']} of {row['asked']}", _figure(row))
    told = "In words of our own, written before any model was seen; each lists the pages that would satisfy a person."
    return Group("", table, "", faint(told))


# --- data and facts -----------------------------------------------------------------------------------------------


def dropped(counts: Mapping[str, int]) -> list[str]:
    """What of a file could not be measured: a line, or none if all could."""
    told = {
        "of_unlisted_event": "of an event without weight",
        "without_query": "without a query",
        "that_are_no_match": "whose label says that they are no match",
        "item_not_in_catalogue": "whose item the catalogue lacks",
        "repeated": "that repeat another",
    }
    said = ", ".join(f"{count:,} {told.get(name, name)}" for name, count in counts.items() if count)
    return [f"Rows left out: {said}."] if said else []


def data(report: Mapping[str, Any]) -> str:
    """What was read and what became of it: a line, and one for each thing worth knowing."""
    said, more = data_facts(report)
    return "\n".join([said, *(f"  {count} {text}" for count, text in more)])


def data_facts(report: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The same apart: the line, and the counts of all else with what they count."""
    split = report["split"]
    parts = ", ".join(f"{split[name]:,} {name}" for name in ("train", "validation", "test"))
    # Whoever is known by a history alone is one query row to us, and somebody to the reader.
    asked = f"{report['keys']:,} keys" if report["query_rows"] == 1 else f"{report['query_rows']:,} queries"
    said = f"{report['pairs']:,} pairs of {asked} and {report['items']:,} items: {parts} (split by {split['by']})"
    told = {
        "pairs_merged": "repeated pairs merged",
        "pairs_without_query": "pairs without a query dropped",
        "pairs_without_item": "pairs without an item dropped",
        "pairs_of_unlisted_event": "pairs of an event without weight dropped",
        "pairs_of_unlisted_item": "pairs whose item the catalogue lacks",
        "pairs_of_unlisted_query": "pairs whose query the table of queries lacks",
        "pairs_before_since": "pairs older than asked for, dropped",
        "pairs_outside_core": "pairs of keys or items with too few matches, dropped",
        "non_matches": "explicit non-matches in the log, counted among the pairs",
        "non_matches_outside_train": "non-matches of validation and test dropped: there is nothing to find in them",
        "non_matches_of_matches": "non-matches of pairs that are matches too: none where training has the match",
        "pairs_without_teacher_score": "pairs that the teacher did not score",
        "keys_without_match": "keys without any match",
        "query_table_rows_without_id": "rows of the table of queries without an id, dropped",
        "query_table_ids_repeated": "repeated ids in the table of queries, the first row kept",
        "catalogue_rows_without_id": "catalogue rows without an id dropped",
        "catalogue_ids_repeated": "repeated catalogue ids, the first row kept",
        "items_without_pairs": "items without any pair",
        "test_pairs_of_item_new_to_train": "test pairs of items that training never shows",
        "test_keys_in_train": "test keys that occur in training too (a key is who asks, or else what is asked)",
        "test_pairs_in_train": "test pairs that training holds too: figures are too good by them",
    }
    return said, [(f"{report[name]:,}", text) for name, text in told.items() if report.get(name)]


def facts(told: Mapping[str, Any]) -> RenderableType:
    """Names and values, one a line."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in told.items():
        if name == "figures":
            value = ", ".join(f"{metric} {_number(figure['value'])}" for metric, figure in value.items())
        elif isinstance(value, Mapping):
            value = ", ".join(f"{column} ({kind})" for column, kind in value.items())
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        elif isinstance(value, int):
            value = f"{value:,}"
        table.add_row(name.replace("_", " "), Text(str(value)))
    return table


def estimate(told: Estimate) -> RenderableType:
    """What training would take, in units that people read."""
    tables = ", ".join(f"{name} {bytes_told(size)}" for name, size in sorted(told.tables.items(), key=lambda entry: -entry[1])[:4])
    free = "" if told.available is None else f", {bytes_told(told.available)} free"
    epochs = _duration(told.epoch_seconds * told.epochs)
    more = {"beside it": f"time and memory of {' and of '.join(told.beside)} come on top"} if told.beside else {}
    return facts(
        {
            "data": f"{told.pairs:,} pairs to train on, {told.queries:,} queries, {told.items:,} items",
            "steps": f"{told.epochs} epochs of {told.batches:,} batches",
            "tables": f"{bytes_told(sum(told.tables.values()))}: {tables}" if tables else "none",
            "other weights": bytes_told(told.parameters),
            "memory": f"about {bytes_told(told.memory)} at most{free}",
            "an epoch": f"about {_duration(told.epoch_seconds)}, at {told.step_seconds * 1000:,.0f} ms a step; all epochs {epochs}",
            "the catalogue": f"about {_duration(told.catalogue_seconds)} to embed, after every epoch that is validated",
            "disk": f"{bytes_told(told.prepared_bytes)} of prepared data, about {bytes_told(told.run_bytes)} for the run, checkpoint and bundle",
        }
        | more
    )


def bytes_told(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit in ("bytes", "kB") else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


# --- items found --------------------------------------------------------------------------------------------------


def found(answers: Sequence[Mapping[str, Any]], columns: Sequence[str], mode: str, diverse: bool = False) -> RenderableType:
    """Items found for one query: rank, score, id and the columns to show; below each other where the page is narrow."""
    table = columns_of("", "score", "id", *map(escape, columns), texts=3 + len(columns))
    table.columns[0].justify = table.columns[1].justify = "right"
    narrow = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        narrow.add_column(justify="right", no_wrap=True)
    narrow.add_column(overflow="fold")
    for rank, answer in enumerate(answers, 1):
        shown = [plain_text(answer["item"].get(name)) for name in columns]
        score, name = f"{answer['score']:.3f}", plain_text(answer["id"])
        table.add_row(str(rank), score, Text(name), *map(Text, shown))
        brief = " · ".join(text for text in shown if 0 < len(text) <= BRIEF and text != name)
        long = [Text(text, style="dim") for text in shown if len(text) > BRIEF]
        narrow.add_row(str(rank), score, Group(Text(name, style="bold"), *([Text(brief)] if brief else []), *long))
    scores = [answer["score"] for answer in answers]
    if all(a >= b for a, b in itertools.pairwise(scores)):
        return Fitting(table, narrow)
    return Group(
        Fitting(table, narrow),
        "",
        faint(f"Ordered by {NAMES[mode]}{' and by unlikeness' if diverse else ''}; the score is the similarity of the vectors alone."),
    )


def answer(told: Answered) -> RenderableType:
    """What was found for a question, below it where somebody has said what is right: a line, and one for each long column."""
    mark = "" if told.accepted is None else "[green]found[/green]" if any(told.accepted) else "[red]missed[/red]"
    parts: list[RenderableType] = ["", f"[bold]{escape(plain_text(told.question))}[/bold]  {mark}"] if mark else []
    if not told.found:
        parts.append("  nothing was found: the model knows nothing of what this question holds")
    for number, item in enumerate(told.found):
        first, *rest = (plain_text(value, 110) for value in item.values())
        right = told.accepted is not None and told.accepted[number]
        parts.append(Padding(Text.assemble("✓ " if right else "  ", (first, "cyan"), "  ", *rest[:1]), (0, 0, 0, 1), expand=False))
        parts += [Padding(Text(text, style="dim"), (0, 0, 0, 7), expand=False) for text in rest[1:] if text]
    return Group(*parts)
