"""What there is to say of a finished run, as a document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.app.reports.advice import signs
from twotower.app.reports.diagnosis import counted
from twotower.app.reports.documents import Code, Document, Facts, Map, Paragraph, Part, Picture, Section, Statement, Table
from twotower.app.reports.forecasted import forecasted
from twotower.app.reports.results import COUNTED, NAMES, data_facts, distance, told_modes, unlike, verdict

if TYPE_CHECKING:
    from twotower.app.reporting import Account, Beside, Told
    from twotower.learning.statistics import PairedTest


def account(told: Account) -> Document:
    """The document of a run."""
    found: list[Part] = [*signs(told)] or [Paragraph("Nothing that calls for a change.")]
    parts: list[Part] = [Section("How good it is", [_figures(told.metrics), *_macro(told.metrics)])]
    parts += [*_beside(told.beside, told), Section("What stands out", found)]
    parts += [*_slices(told.metrics), *_fits(told.metrics), *_forecast(told), _training(told)]
    parts += [_questions(told), *_lists(told), *_map(told)]
    said, counts = data_facts(told.metrics["data"])
    parts.append(Section("The data", [Paragraph(said), *([Table(["", "what"], counts, numbers=(0,))] if counts else [])]))
    parts += _findings(told)
    again = shlex.join(["twotower", "train", f"{told.folder}/config.toml", "-o", "runs/again"])
    parts.append(Section("How to repeat it", [Code(again), Code(told.config, "toml")]))
    whole = verdict(told.metrics)
    return Document("What the run came to", whole.said, whole.tone, parts, told.folder)


def measured(metrics: Mapping[str, Any]) -> list[Part]:
    """What the figures of a bundle say by themselves, without the run that it came from."""
    parts: list[Part] = [Section("How good it is", [_figures(metrics), *_macro(metrics)]), *_slices(metrics), *_fits(metrics)]
    if "data" in metrics:
        said, counts = data_facts(metrics["data"])
        parts.append(Section("The data", [Paragraph(said), *([Table(["", "what"], counts, numbers=(0,))] if counts else [])]))
    return parts


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(figure: Mapping[str, float]) -> str:
    return f"{_number(figure['value'])} [{_number(figure['low'])}, {_number(figure['high'])}]"


def _figures(metrics: Mapping[str, Any]) -> Table:
    """The model by each mode, and the baselines."""
    names, told = list(metrics["model"]), metrics["evaluation"]
    beside = ["to the model"] if metrics["against"] else []
    rows = []
    for mode, row in told_modes(metrics).items():
        named = f"{NAMES[mode]}{' (how it searches)' if mode == metrics['search']['mode'] else ''}"
        rows.append([named, *(_cell(row[name]) for name in names), *("" for _ in beside)])
    for name, row in metrics["baselines"].items():
        rows.append([NAMES.get(name, name), *(_cell(row[metric]) for metric in names), *([distance(metrics, name)] if beside else [])])
    caption = (
        f"{told['rankings']:,} {told['part']} rankings, each of all {told['catalogue']:,} items; {told['left_out']}. In brackets: 95% interval. "
        "How it searches was chosen on validation pairs."
    )
    if beside:
        caption += f" To the model: the difference in {told['select']}, paired; in parentheses where luck may give as much (Holm)."
    return Table(["", *names, *beside], rows, caption, range(1, len(names) + 1 + len(beside)))


def _macro(metrics: Mapping[str, Any]) -> list[Part]:
    """The model's figures where frequent items, or keys, count no more than rare ones."""
    macro, names = metrics.get("macro") or {}, list(metrics["model"])
    rows = [["every ranking", *(_cell(metrics["model"][name]) for name in names)]]
    rows += [[COUNTED[of], *(_cell(row[name]) for name in names)] for of, row in macro.items()]
    caption = "Means over items of the means over the rankings that ask for each, and the same over who asks: what is rare counts as the rest does."
    return [Table(["counted alike", *names], rows, caption, range(1, len(names) + 1))] if macro else []


def _slices(metrics: Mapping[str, Any]) -> list[Part]:
    """A table a cut, and what stands out."""
    found = metrics.get("slices")
    if not found or not found["cuts"]:
        return []
    select, against = metrics["evaluation"]["select"], found["against"]
    beside = [NAMES.get(against, against), "surely"] if against else []
    parts: list[Part] = [
        Paragraph(
            f"{select} on parts of the rankings. "
            + (f"Surely better or worse than {NAMES.get(against, against)}, all parts tested together (Holm). " if against else "")
            + "A part of fewer than 30 keys is too few to say anything.",
            faint=True,
        )
    ]
    worse = [f"{cut['by']}: {row['name']}" for cut in found["cuts"] for row in cut["slices"] if row["verdict"] == "worse"]
    if worse:
        parts.append(Statement("warning", f"Worse than {NAMES.get(against, against)} on: {'; '.join(worse)}", "Look at such questions below."))
    for cut in found["cuts"]:
        rows = [
            [
                row["name"],
                f"{row['rankings']:,}",
                _cell(row["figures"][select]),
                *([_number(row["baseline"]), {"unclear": ""}.get(row["verdict"], row["verdict"])] if against else []),
            ]
            for row in cut["slices"]
        ]
        parts.append(Table([cut["by"], "rankings", "the model", *beside], rows, numbers=(1, 2, 3) if against else (1, 2)))
    return [Section("Where it does well and where not", parts)]


TRIED = ["test queries answered", "precision there"]


def _tried(row: Mapping[str, Any]) -> list[str]:
    """What a threshold comes to on queries that it was not chosen on."""
    there = row["tried"]
    return ["-", "-"] if there is None else [f"{there['coverage']:.1%}", f"{there['precision']:.1%}"]


def _fits(metrics: Mapping[str, Any]) -> list[Part]:
    """What refusing first results below a threshold comes to."""
    found = metrics.get("fits")
    if not found:
        return []
    tried = metrics["evaluation"]["part"] == "test" and any("tried" in row for row in found["reached"])
    rows = [
        [
            f"{row['wanted']:.0%}",
            *(["-", "-"] if row["threshold"] is None else [f"{row['threshold']:.4g}", f"{row['coverage']:.1%}"]),
            *(_tried(row) if tried else []),
        ]
        for row in found["reached"]
    ]
    caption = (
        f"The first results by vectors for {found['queries']:,} validation queries: the lowest threshold from which on that share of the answers is "
        "right, as search takes it with --threshold; - where none is with 30 answers or more. It is chosen on these queries"
        + (", and tried on those of the test: how many of them it answers, and what share of those answers is right." if tried else ".")
    )
    parts: list[Part] = [
        Paragraph(
            "These validation queries all have an answer in the catalogue, so how often a query without one would be turned away is not known."
        ),
        Table(["precision wanted", "threshold", "queries answered", *TRIED[: 2 * tried]], rows, caption, range(3 + 2 * tried)),
    ]
    if metrics["search"]["mode"] != "vectors":
        said = f"This model searches by {metrics['search']['mode']}, which may put another item first: these figures hold for --mode vectors."
        parts.append(Paragraph(said, faint=True))
    if len(found["points"]) > 1:
        percent, precisions = [round(100 * point["coverage"], 1) for point in found["points"]], [point["precision"] for point in found["points"]]
        title = "How many first results are right, by the share of queries that are answered"
        parts.append(Picture("line", title, percent, precisions, "% of queries answered", "precision", share=True))
    return [Section("When to answer nothing", parts)]


def _training(told: Account) -> Section:
    """Loss and metric by epoch."""
    facts, select = told.metrics["training"], told.metrics["evaluation"]["select"]
    rows = [
        ("epochs", f"{len(told.history)}, of which number {facts['best_epoch']} was best on the validation pairs and is kept"),
        ("steps", f"{facts['steps']:,}"),
        ("seconds", f"{facts['training_seconds']:,.1f}"),
        *([("temperature at the end", f"{facts['temperature']:.4f}")] if facts.get("temperature") is not None else []),
    ]
    parts: list[Part] = [Facts(rows)]
    epochs = [entry["epoch"] for entry in told.history]
    if len(epochs) > 1:
        curves = {select: f"{select} on validation pairs, by epoch", "loss": "loss, by epoch"}
        for name, title in curves.items():
            known = [(epoch, entry[name]) for epoch, entry in zip(epochs, told.history, strict=True) if entry.get(name) is not None]
            if len(known) > 1:
                parts.append(Picture("line", title, [epoch for epoch, _ in known], [value for _, value in known], "epoch", name))
    return Section("How it was trained", parts)


def _questions(told: Account) -> Section:
    select = told.metrics["evaluation"]["select"]
    parts: list[Part] = []
    for title, asked in (("The worst", told.worst), ("The best", told.best)):
        parts.append(Paragraph(f"{title}, by {select}:"))
        parts.append(_asked(asked, select))
    if any(each.found for each in told.worst):
        parts.append(
            Paragraph("Found: the first three now; what the key is known to match is among them here, and was left out when ranking.", faint=True)
        )
    return Section("Test questions", parts)


def _asked(asked: Sequence[Told], select: str) -> Table:
    searched = any(each.found for each in asked)
    rows = [[each.query, each.wanted, _number(each.value), *(["  |  ".join(each.found)] if searched else [])] for each in asked]
    return Table(["asked", "wanted", select, *(["found"] if searched else [])], rows, numbers=(2,))


def _lists(told: Account) -> list[Part]:
    """What lists hold, whether right or not, and what crowds out the rest."""
    found = told.metrics.get("lists")
    if not found:
        return []
    rows = [
        [NAMES.get(name, name), f"{row['coverage']:.1%}", f"{row['lift']:.2f}", f"{row['novelty']:.1f}", _number(row["likeness"])]
        for name, row in found["of"].items()
    ]
    caption = (
        f"The first {found['k']} items for {found['lists']:,} of the test questions. Coverage: the share of the catalogue that is in any of these "
        "lists. Lift: how often an item of theirs matched in training, over how often those asked for did; above 1 what is shown is more popular "
        "than what is chosen. Novelty: bits to name an item by its share of the matches. Likeness: the cosine of two items of a list, in the model's "
        "space."
    )
    parts: list[Part] = [Table(["", "coverage", "lift", "novelty", "likeness"], rows, caption, range(1, 5))]
    if told.commonest:
        names, counts = zip(*told.commonest, strict=True)
        parts.append(Picture("bars", f"Found most often by the model, and in how many of {found['lists']:,} lists", names, counts))
    return [Section("What people are shown", parts)]


def _map(told: Account) -> list[Part]:
    """How items lie in the space: a map of some of them, and what the nearest have in common."""
    laid = told.laid
    if laid is None:
        return []
    of, n = laid.groups, len(laid.points)
    parts: list[Part] = []
    if of is not None:
        parts.append(Paragraph(f"Of an item's ten nearest in the space {of.alike:.0%} are of its {of.by}; by lot it would be {of.chance:.0%}."))
    title = (
        f"{n:,} items{' drawn at random' if n < told.metrics['evaluation']['catalogue'] else ''}{f', by {of.by}' if of else ''}; point at one, "
        "or tap it, for its name. What is near in the space is near here, as far as a plane has room (t-SNE): of each item's ten nearest in the "
        f"space {laid.kept:.0%} are among its ten nearest here, where by lot it would be {laid.by_lot:.0%}. Distances between groups mean nothing, "
        "nor do their sizes."
    )
    groups, labels = (of.of.tolist(), of.names) if of else ([0] * n, ())
    parts.append(Map(title, laid.points, laid.names, groups, labels, of.by if of else ""))
    if of is not None:
        rows = [
            [name, f"{groups.count(group):,}", f"{alike:.0%}", f"{lot:.0%}"]
            for group, (name, (alike, lot)) in enumerate(zip(of.names, of.each, strict=True))
        ]
        caption = "Alike: of the ten nearest of the items here, the share of the same group."
        parts.append(Table([of.by, "items here", "alike", "by lot"], rows, caption, numbers=(1, 2, 3)))
    return [Section("How items lie in the space", parts)]


def _forecast(told: Account) -> list[Part]:
    """What more data would bring, where a forecast was made."""
    if told.forecast is None:
        return []
    document = forecasted(told.forecast, "")
    return [Section(document.title, [Paragraph(document.verdict), *document.parts])]


def _findings(told: Account) -> list[Part]:
    """What was found in the data before training."""
    if told.findings is None:
        return []
    said = counted([finding["severity"] for finding in told.findings]) or "Nothing that stands against training on them"
    parts: list[Part] = [
        Paragraph(f"{said}, at a first look, before training."),
        *(Statement(finding["severity"], finding["title"], finding["advice"]) for finding in told.findings),
        Paragraph("twotower check reads every row, and looks for some forty things more.", faint=True),
    ]
    return [Section("What was found in the data", parts)]


def _beside(beside: Beside | None, told: Account) -> list[Part]:
    """Other runs, ranking by ranking, and what their configs say otherwise."""
    if beside is None:
        return []
    select = told.metrics["evaluation"]["select"]
    together = ", all of these runs taken together (Holm)" if len(beside.compared) > 1 else ""
    parts: list[Part] = [
        Paragraph(
            "Compared ranking by ranking, on those that both answered. Difference: this run less the other, with its 95% interval. p: how often luck "
            f"would give as much{together}.",
            faint=True,
        )
    ]
    for compared, raised in zip(beside.compared, beside.p_values, strict=True):
        name = compared.names[1]
        rows = [
            [metric, *map(_number, compared.figures[metric]), _gain(compared.tests[metric]), f"{raised[metric]:.4f}"]
            for metric in sorted(compared.tests, key=lambda metric: metric != select)
        ]
        caption = " ".join([f"{compared.rankings:,} rankings that both answered.", *unlike(compared, ("this run", name))])
        parts.append(Section(name, [Table(["", "this run", "the other", "difference", "p"], rows, caption, range(1, 5))]))
    if not beside.options:
        return [Section("Beside other runs", [*parts, Paragraph("Their configs say the same.")])]
    others = [compared.names[1] for compared in beside.compared]
    brief = [Path(name).name for name in others]
    others = brief if len(set(brief)) == len(brief) else others
    options = [[name, *values] for name, values in beside.options.items()]
    return [Section("Beside other runs", [*parts, Section("Where their configs differ", [Table(["option", "this run", *others], options)])])]


def _gain(test: PairedTest) -> str:
    return f"{float(test.difference):+.3f} [{float(test.low):+.3f}, {float(test.high):+.3f}]"
