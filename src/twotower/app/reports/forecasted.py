"""What a forecast says, as a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twotower.app.reports.documents import Document, Facts, Paragraph, Part, Picture, Section, Statement, Table, Tone
from twotower.learning.growth import HALF, MOST, Grown, Like
from twotower.runs.remedies import DROPPED, MENDED

NEAR = 4.0  # times the data, past which a curve is stretched far
COUNTED = {"queries": "queries", "pairs": "training pairs, thinned out for everybody", "items": "items"}


def forecasted(result: Mapping[str, Any], folder: str) -> Document:
    """The document of `forecast.json`. folder: where it is."""
    tone, verdict = _verdict(result)
    now = result["now"]
    facts = [
        ("now", f"{result['metric']} {now['value']:.3f}, by vectors, mean of {now['seeds']} trainings, on {now['rankings']:,} validation rankings"),
        ("data", f"{now['pairs']:,} training pairs of {now['queries']:,} queries, {now['items']:,} items"),
        ("trainings", f"{len(result['trainings']):,} in a budget of {result['budget']}"),
    ]
    parts: list[Part] = [Facts(facts), *_more(result), *_target(result), *_beside(result), *_slices(result), *_suspects(result), *_points(result)]
    return Document("Whether more data would help", verdict, tone, parts, folder)


def _verdict(result: Mapping[str, Any]) -> tuple[Tone, str]:
    metric, curve = result["metric"], result["axes"].get("queries")
    if curve is None or not curve["sound"]:
        return "warning", f"{metric} does not grow along a power law of these data, so nothing is said of more of them."
    twice = curve["at"]["2"]
    gain = twice["value"] - curve["here"]["value"]
    best = max(result["remedies"], key=lambda row: row["difference"], default=None)
    told = f"Twice the queries would bring {metric} from {curve['here']['value']:.3f} to {_interval(twice)}"
    if best is not None and best["low"] > 0 and best["holm"] < 0.05 and best["difference"] > gain:
        return "note", f"{told}; {best['name']} brings more, {best['difference']:+.3f}."
    if twice["low"] > curve["here"]["value"]:
        if best is None:
            return "good", f"{told}."
        return "good", f"{told}; nothing else that was tried {'brings as much' if best['difference'] < gain else 'is surely better'}."
    return "note", f"{told}: that is no more than luck may give."


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _more(result: Mapping[str, Any]) -> list[Part]:
    """What more queries, and more pairs of each, would bring."""
    parts: list[Part] = []
    axes, metric = result["axes"], result["metric"]
    for axis in ("queries", "pairs"):
        if axis in axes:
            parts.append(_curve(axes[axis], axis, metric))
    gains = {axis: curve["at"]["2"]["value"] - curve["here"]["value"] for axis, curve in axes.items() if curve.get("sound")}
    if len(gains) == 2:
        more, less = ("queries", "pairs of each") if gains["queries"] >= gains["pairs"] else ("pairs of each query", "queries")
        told = f"More {more} pay more than more {less}: {max(gains.values()):+.3f} against {min(gains.values()):+.3f} for twice as many."
        parts.append(Paragraph(told))
    if "items" in axes:
        small, whole = (of(axes["items"]["points"], key=lambda point: point["size"]) for of in (min, max))
        told = (
            f"In a catalogue of {small['size']:,} items, with the pairs that name them, {metric} is {small['value']:.3f}; in all {whole['size']:,} "
        )
        parts.append(Paragraph(f"{told}it is {whole['value']:.3f}, for the same validation pairs. How it goes on for more items is not forecast."))
    return [Section("More data", parts)] if parts else []


def _curve(curve: Mapping[str, Any], axis: str, metric: str) -> Part:
    """What a curve says of larger sizes."""
    if not curve["sound"]:
        told = f"By {COUNTED[axis]}: the points lie {curve['off']:.0f} times as far from the best power law as luck allows: it is drawn no further."
        return Statement("warning", told, "Look at the points below.")
    rows = [["as many as now", f"{curve['largest']:,.0f}", _interval(curve["here"]), ""]]
    for times, found in curve["at"].items():
        far = "stretched far" if float(times) > NEAR else ""
        rows.append([f"{times} times as many", f"{float(times) * curve['largest']:,.0f}", _interval(found), far])
    caption = (
        "In brackets: where a training on so many would come to nine times in ten, on the same validation queries. With endlessly many: "
        f"{_interval(curve['ceiling'])}."
    )
    return Table([COUNTED[axis], "", metric, ""], rows, caption, (1, 2))


def _target(result: Mapping[str, Any]) -> list[Part]:
    target, curve = result["target"], result["axes"].get("queries")
    if target is None or curve is None or not curve["sound"]:
        return []
    metric, found, ceiling = result["metric"], curve["needed"], curve["ceiling"]
    if curve["here"]["low"] >= target:
        return [Section("The target", [Paragraph(f"{metric} {target} is reached with the data that there are.")])]
    if found is None:
        sure = "is out of reach" if ceiling["high"] < target else "is more likely out of reach than not"
        told = f"{metric} {target} {sure} with this model, however many queries: its end is at {_interval(ceiling)}."
        return [Section("The target", [Statement("warning", told, "Look for another model: what else was tried is below.")])]
    times = found["value"] / curve["largest"]
    high = f"{found['high']:,.0f}" if found["high"] is not None else "out of reach"
    told = f"{metric} {target} takes about {found['value']:,.0f} queries, {times:.1f} times as many as now [{found['low']:,.0f}, {high}]."
    far = " That is stretched far: collect some first, and ask again." if times > NEAR else ""
    return [Section("The target", [Paragraph(told + far)])]


def _beside(result: Mapping[str, Any]) -> list[Part]:
    """What else was tried with the same data, beside twice the queries."""
    if not result["remedies"]:
        return []
    rows = [(row["difference"], [row["name"], f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"]) for row in result["remedies"]]
    curve = result["axes"].get("queries")
    if curve is not None and curve["sound"]:
        here, twice = curve["here"]["value"], curve["at"]["2"]
        told = f"{twice['value'] - here:+.3f} [{twice['low'] - here:+.3f}, {twice['high'] - here:+.3f}]"
        rows.append((twice["value"] - here, ["twice the queries", told]))
    ordered = [row for _, row in sorted(rows, key=lambda entry: -entry[0])]
    caption = "Differences to the config as it is, by validation ranking with the same seeds; twice the queries by the curve."
    return [Section("What pays most now", [Table(["", result["metric"]], ordered, caption, (1,))])]


def _slices(result: Mapping[str, Any]) -> list[Part]:
    rows = result["slices"]
    if len(rows) < 2:
        return []
    told = [
        [row["name"], f"{row['rankings']:,}", f"{row['value']:.3f}", f"{row['grown']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"] for row in rows
    ]
    parts: list[Part] = [Table(["", "rankings", result["metric"], "by the second half of the data"], told, numbers=(1, 2, 3))]
    hungriest = max(rows[1:], key=lambda row: row["grown"])
    if hungriest["low"] > rows[0]["grown"]:
        advice = "They gained more than the rest from the last doubling: pairs of theirs help most."
        parts.append(Statement("note", f"Starved: {hungriest['name']}", advice))
    return [Section("Who is starved", parts)]


def _suspects(result: Mapping[str, Any]) -> list[Part]:
    """Training pairs that look wrong, and what leaving them out brought."""
    found = result.get("suspects")
    if not found:
        return []
    if not found["count"]:
        return [Section("Pairs that look wrong", [Paragraph(f"None of {found['judged']:,} training pairs that could be judged.")])]
    told = (
        f"{found['count']:,} of {found['judged']:,} training pairs that could be judged: models that were trained without them rank their items "
        "in the lower half of the catalogue."
    )
    for name, way in ((DROPPED, "Without them"), (MENDED, "With the items that these models rank first instead")):
        row = next((row for row in result["remedies"] if row["name"] == name), None)
        if row is not None:
            told += f" {way} {result['metric']} changes by {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]."
    rows = [[pair["asked"], pair["item"], f"{pair['place']:.1%}", pair["instead"]] for pair in found["pairs"]]
    caption = "The worst of them. Wrong, or only unlike the rest: read some before you mend or drop any."
    return [Section("Pairs that look wrong", [Paragraph(told), Table(["asked", "matched", "ranked behind", "ranked first"], rows, caption, (2,))])]


def _points(result: Mapping[str, Any]) -> list[Part]:
    """What was measured."""
    parts: list[Part] = []
    for axis, curve in result["axes"].items():
        sizes = sorted({point["size"] for point in curve["points"]})
        means = [_mean([point["value"] for point in curve["points"] if point["size"] == size]) for size in sizes]
        more = [(float(times) * curve["largest"], found) for times, found in curve["at"].items()] if curve.get("sound") else []
        xs, ys = [*sizes, *(x for x, _ in more)], [*means, *(found["value"] for _, found in more)]
        band = [*((mean, mean) for mean in means), *((found["low"], found["high"]) for _, found in more)] if more else ()
        beyond = f"; beyond {sizes[-1]:,} forecast" if more else ""
        title = f"{result['metric']} by {COUNTED[axis]}{beyond}"
        parts.append(Picture("line", title, [f"{x:,.0f}" for x in xs], ys, COUNTED[axis], result["metric"], band=band))
    return [Section("What was measured", parts)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def likened(found: Like, kind: str, items: int) -> Document:
    """What is known before there are any data."""

    def told(ends: tuple[float, float, float]) -> str:
        return f"{_round(ends[1])} [{_round(ends[0])}, {_round(ends[2])}]"

    def an_item(one: Grown, share: float) -> str:
        return f"{'at most ' if one.took_fewer(share) else ''}{one.pairs_for(share) / one.items:.2g}"

    rows = [
        [
            one.name,
            f"{one.items:,}",
            f"{one.points[-1][0]:,}",
            f"{one.metric} {one.points[-1][1]:.2f}",
            an_item(one, HALF),
            an_item(one, MOST),
            one.about,
        ]
        for one in found.sets
    ]
    columns = ["set", "items", "training pairs", "came to", "pairs an item for half of it", "for nine tenths", "of what"]
    caption = "The default from nothing but the log. An order of magnitude: how alike your queries are decides more than their number."
    if any(one.took_fewer(share) for one in found.sets for share in (HALF, MOST)):
        caption += " At most: the smallest part that was measured had it already, so the figures above may be lower too."
    parts: list[Part] = [
        Facts([("half of what much data would give", f"{told(found.half)} pairs"), ("nine tenths of it", f"{told(found.most)} pairs")]),
        Table(columns, rows, caption, range(1, 6)),
        Paragraph("With some hundreds of your own pairs, ask them instead: twotower forecast CONFIG."),
    ]
    verdict = f"For {items:,} items, {kind}: collect some {_round(found.half[1])} pairs to begin with, {_round(found.most[1])} to be near the end."
    return Document("Before there are any data", verdict, "note", parts, f"twotower forecast --like {kind} --items {items}")


def _round(count: float) -> str:
    """To one digit: no more is known."""
    digits = max(0, len(str(round(count))) - 1)
    return f"{round(count, -digits):,.0f}"
