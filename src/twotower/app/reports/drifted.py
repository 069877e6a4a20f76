"""Whether the data have moved so far that training again pays, as a document."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from twotower.app.reports.documents import Document, Facts, Paragraph, Part, Section, Table
from twotower.app.reports.results import NAMES
from twotower.learning.statistics import Interval
from twotower.runs.drifting import Drift, Figure, Moved


def drifted(told: Drift) -> Document:
    """The document of a drift."""
    parts: list[Part] = [Facts(_facts(told)), Section("How good it still is", [_figures(told), Paragraph(_changes(told))])]
    parts.append(Section("What the model does not know", [_rates(told)]))
    if told.moved:
        parts.append(Section("What has moved", [_moved(told.moved), Paragraph(_queries(told))]))
    if told.lacking or told.notes:
        parts.append(Section("To know before believing it", [Paragraph(_sentence(line)) for line in (*told.lacking, *told.notes)]))
    return Document("Does training again pay?", verdict(told), "warning" if told.pays else "note" if told.verdict != "keep" else "good", parts)


def verdict(told: Drift) -> str:
    """What to do, in a sentence."""
    because = "; ".join(told.reasons)
    if told.verdict == "train":
        return f"Training again pays: {because}."
    if told.verdict == "refresh":
        add = f"twotower refresh {shlex.quote(told.bundle)} --items catalogue.parquet"
        return f"Add the new items first, which needs no training ({add}), and look again: {because}."
    if told.verdict == "few":
        return f"Too few to say: {told.keys:,} keys ask here, and below 30, then or now, no fall can be told from luck."
    if told.verdict == "unknown":
        return (
            f"No new items to speak of; whether {told.select} fell cannot be said, since the bundle keeps no figure of launch that is measured alike."
        )
    figure = told.figures[told.select]
    assert figure.launch is not None and figure.difference is not None
    if figure.difference.high < 0:
        return f"Training again need not pay yet: {told.select} fell from {figure.launch.value:.3f} to {figure.now.value:.3f}, within the tolerance."
    return f"Training again need not pay: {told.select} was {figure.launch.value:.3f} and is {figure.now.value:.3f}, and no fall is sure."


def _facts(told: Drift) -> list[tuple[str, str]]:
    dropped = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in told.dropped.items() if count)
    launch = "" if told.catalogues[0] is None else f" ({told.catalogues[0]:,} at launch)"
    return [
        ("bundle", told.bundle),
        ("pairs", f"{told.pairs:,} of {told.keys:,} keys, in {told.rows:,} rows of {told.source}"),
        ("not ranked", dropped or "none"),
        ("ranked", f"{told.rankings:,} rankings per {told.per}, of {told.catalogues[1]:,} items{launch}, by {NAMES[told.mode]}"),
    ]


def _figures(told: Drift) -> Table:
    rows = [[name, _told(each.launch), _told(each.now), _told(each.misses), _difference(each)] for name, each in told.figures.items()]
    alike = "at launch as now known matches from training are not left out, since a bundle holds no training log" if told.part else ""
    caption = "Unknown items as misses: pairs of items that the catalogue lacks count 0; elsewhere they are left out."
    method = (
        "Intervals of 95%: each figure's from resampling keys (bootstrap, Efron & Tibshirani 1993), that of the difference from those two "
        "(Zou & Donner 2008)."
    )
    caption = " ".join([caption, *([f"Measured alike: {alike}."] if alike else []), method])
    return Table(
        ["metric", f"launch{f' ({told.part})' if told.part else ''}", "now", "unknown items as misses", "difference"], rows, caption, (1, 2, 3, 4)
    )


def _changes(told: Drift) -> str:
    """What would change the verdict."""
    figure = told.figures[told.select]
    rule = [f"Training again pays once a fall of {told.select} is sure and above {told.tolerance:.0%} of what it was"]
    if figure.launch is not None:
        rule.append(f", which is below {float(figure.launch.value) * (1 - told.tolerance):.3f}")
    rule.append(f", or once the share of pairs of whose query or item nothing is known has surely grown by more than {told.unknown:.0%}.")
    if figure.launch is not None and not figure.fallen:
        if told.needed is None:
            rule.append(" How many pairs would show such a fall cannot be worked out: the figure of launch is itself too unsure, or none varies.")
        else:
            rule.append(f" About {told.needed:,} pairs such as these would show such a fall four times in five; here are {told.rankings:,}.")
    return "".join(rule)


def _rates(told: Drift) -> Table:
    rows = [[rate.name, _share(rate.launch), _share(rate.now)] for rate in told.rates]
    return Table(["of all pairs, the share", "launch", "now"], rows, "", (1, 2))


def _moved(moved: Sequence[Moved]) -> Table:
    rows = [
        [
            each.name,
            f"{each.distance:.3f}" + (f" (launch {each.before:.3f})" if each.before is not None else ""),
            f"{each.floor:.3f}",
            "yes" if each.sure else "no",
            f"{each.stability:.2f}",
            f"{each.most}: {each.then:.0%} to {each.now:.0%}",
        ]
        for each in moved
    ]
    caption = (
        "Moved: the share that would have to be elsewhere (total variation); of items, from those of training. Luck: what two samples as large from "
        "one population stay below nineteen times in twenty, whole keys taken together (Rao & Scott 1981). Sure: after all are taken together "
        "(Holm 1979). None of it is a reason by itself."
    )
    return Table(["", "moved", "luck", "sure", "PSI", "most"], rows, caption, (1, 2, 4))


def _queries(told: Drift) -> str:
    if told.told_apart is None:
        return "Whether the new queries lie elsewhere in the space than those of launch cannot be said: too few keys ask."
    area = told.told_apart
    sure = "They lie elsewhere" if area.low > 0.5 else "They cannot be told apart"
    return (
        f"Query vectors, new against launch: {sure}. A line trained on some ranks a new one above an old one {float(area.value):.0%} of the time "
        f"[{float(area.low):.0%}, {float(area.high):.0%}], where luck gives 50% (a two-sample test by a classifier, Lopez-Paz & Oquab 2017)."
    )


def _told(figure: Interval | None) -> str:
    return "-" if figure is None else f"{float(figure.value):.3f} [{float(figure.low):.3f}, {float(figure.high):.3f}]"


def _share(figure: Interval | None) -> str:
    if figure is None:
        return "not known"
    if figure.low == figure.high:
        return f"{float(figure.value):.1%}"
    return f"{float(figure.value):.1%} [{float(figure.low):.1%}, {float(figure.high):.1%}]"


def _difference(figure: Figure) -> str:
    apart = figure.difference
    if apart is None:
        return "-"
    sure = apart.low > 0 or apart.high < 0
    return f"{float(apart.value):+.3f} [{float(apart.low):+.3f}, {float(apart.high):+.3f}]" + ("" if sure else " (may be luck)")


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")
