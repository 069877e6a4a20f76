"""What a search for settings came to, as a document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import twotower.runs.spaces as spaces
from twotower.app.reports.documents import Code, Document, Facts, Paragraph, Part, Picture, Section, Statement, Table, Tone
from twotower.config import toml

SHOWN = 12  # trials


def tuned(result: Mapping[str, Any], folder: str) -> Document:
    """The document of `tuning.json`. folder: where the study is."""
    tone, verdict = _verdict(result)
    parts: list[Part] = [*_decision(result), _settings(result, folder), *_importances(result), _trials(result)]
    return Document("What tuning came to", verdict, tone, parts, folder)


def _verdict(result: Mapping[str, Any]) -> tuple[Tone, str]:
    metric, test = result["metric"], result["test"]
    if result["winner"] is None:
        others = sum(trial["state"] in ("finished", "behind") and not trial["own"] for trial in result["trials"])
        if not others:
            failed = any(trial["state"] == "failed" for trial in result["trials"])
            why = "read below why other settings failed" if failed else "give it several times as much, or a larger [tune] space"
            return "warning", f"In a budget of {result['budget']} nothing but your config was tried to the end: {why}."
        named = f"None of {others} other settings" if others > 1 else "The only other setting that was tried"
        return "note", f"{named} is {'' if others > 1 else 'not '}surely better than your config on validation queries; keep it."
    found = test[metric]
    difference = f"{metric} {found['yours']:.3f} -> {found['best']:.3f} on the test pairs, {_difference(found)}"
    if found["low"] > 0:
        return "good", f"Better settings were found: {difference}."
    if found["high"] < 0:
        return (
            "warning",
            f"What was better on validation queries is worse on the test pairs: {difference}. Keep your config.",
        )
    return "note", f"Better on validation queries, and not surely on the test pairs: {difference}."


def _difference(found: Mapping[str, float]) -> str:
    return f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _decision(result: Mapping[str, Any]) -> list[Part]:
    """Finalists beside the config, and the test."""
    metric = result["metric"]
    parts: list[Part] = []
    if result["finals"]:
        rows = [["your config", f"{result['finals'][0]['yours']:.4f}", "", ""]]
        for row in result["finals"]:
            rows.append([f"trial {row['trial'] + 1}", f"{row['value']:.4f}", _difference(row), "surely better" if row["better"] else "not surely"])
        seeds = f"{result['seeds']} seed{'s' * (result['seeds'] != 1)} that no trial had"
        caption = (
            f"Validation {metric} as it would be searched, mean of {seeds}. In brackets: 95% interval of the difference, query by query; surely: "
            "corrected for all of them (Holm)."
        )
        parts.append(Table(["", metric, "to your config", ""], rows, caption, (1, 2)))
    elif len(result["trials"]) > 1:
        parts.append(Paragraph("No finalists were trained: no trial was ahead of your config, or the budget left no time for them."))
    if result["test"]:
        rows = [[name, f"{found['yours']:.4f}", f"{found['best']:.4f}", _difference(found)] for name, found in result["test"].items()]
        parts.append(Table(["test pairs", "your config", "tuned", "difference"], rows, "Opened once, after the choice.", (1, 2, 3)))
    return [Section("What was decided", parts)] if parts else []


def _settings(result: Mapping[str, Any], folder: str) -> Section:
    """The config to go on with."""
    parts: list[Part] = []
    if result["changed"]:
        set_here = {name: value for name, value in result["changed"].items() if ".features." not in name}
        words = [word for name, value in set_here.items() for word in ("--set", f"{name}={toml(_short(value))}")]
        flags = "" if None in set_here.values() else shlex.join(words)  # what is left out can only be left out of a file
        rows = [[name, _told(result["yours"].get(name)), _told(value)] for name, value in result["changed"].items()]
        caption = "Left out is what nothing reads any more." if None in result["changed"].values() else ""
        parts.append(Table(["setting", "your config", "tuned"], rows, caption))
        if flags:
            parts += [Paragraph("About the same for one run, but for options of features:", faint=True), Code(f"twotower train CONFIG {flags}")]
    parts += _further(result, folder)
    again = shlex.join(["twotower", "train", f"{folder}/best.toml", "-o", "runs/again"])
    parts += [Paragraph("Its config and its run are here; the same again is:"), Code(again)]
    return Section("What to go on with", parts)


def _further(result: Mapping[str, Any], folder: str) -> list[Part]:
    """What came out at an end of what was searched."""
    picked = {**result["yours"], **result["changed"]}
    space = spaces.further(spaces.restored(result["space"]), picked) if result["winner"] is not None else {}
    if not space:
        return []
    told = " and ".join(f"{name} = {_told(picked[name])}" for name in space)
    title = f"At an end of what was searched: {told}"
    words = {name: toml(_short_all(spaces.declaration(within))) for name, within in space.items()}
    asked = "tune.space={ " + ", ".join(f"{toml(name)} = {within}" for name, within in words.items()) + " }"
    command = shlex.join(["twotower", "tune", f"{folder}/best.toml", "--set", asked, "-o", f"{folder}-further"])
    return [Statement("note", title, "There may be better beyond it. To search around what was found:"), Code(command)]


def _short_all(values: Any) -> Any:
    return {name: _short(value) for name, value in values.items()} if isinstance(values, Mapping) else [_short(value) for value in values]


def _importances(result: Mapping[str, Any]) -> list[Part]:
    found = result["importances"]
    if not found:
        return []
    names = [name for name, share in found.items() if share >= 0.005]
    picture = Picture("bars", "How much each setting explains of what trials came to", names, [found[name] for name in names], share=True)
    return [Section("What mattered", [picture, Paragraph("By PED-ANOVA over all finished trials; with few of them, a rough guess.", faint=True)])]


def _trials(result: Mapping[str, Any]) -> Section:
    """The best of them, and how the best rose."""
    trials, metric = result["trials"], result["metric"]
    states = {state: sum(trial["state"] == state for trial in trials) for state in ("finished", "behind", "broken off", "failed", "repeated")}
    counted = [(f"trials {name}", f"{count:,}") for name, count in states.items() if count]
    best, rise = 0.0, []
    for trial in trials:
        best = max(best, trial["value"] or 0.0) if trial["state"] == "finished" else best
        rise.append(best)
    parts: list[Part] = [Facts([("budget", result["budget"]), *counted])]
    if len(rise) > 2:
        parts.append(Picture("line", f"The best validation {metric} so far, by trial", [n + 1 for n in range(len(rise))], rise, "trial", metric))
    ranked = sorted((t for t in trials if t["state"] == "finished"), key=lambda trial: -trial["value"])[:SHOWN]
    if not any(trial["own"] for trial in ranked):
        ranked += [trial for trial in trials if trial["own"] and trial["state"] == "finished"][:1]
    rows = [[str(t["trial"] + 1), f"{t['value']:.4f}", str(t["epoch"]), f"{t['seconds']:.0f}", _differing(t, result["yours"])] for t in ranked]
    caption = f"The best {len(ranked)} that were finished, by vectors, one seed: the best of many looks better than it is."
    parts.append(Table(["trial", metric, "epoch", "seconds", "what differs from your config"], rows, caption, (0, 1, 2, 3)))
    failed = {trial["said"] for trial in trials if trial["state"] == "failed" and trial["said"]}
    if failed:
        parts.append(Paragraph(f"Failed: {'; '.join(sorted(failed)[:3])}"))
    return Section("What was tried", parts)


def _differing(trial: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    told = [f"{name} = {_told(value)}" for name, value in trial["settings"].items() if value != own.get(name)]
    return "; ".join(told) or "nothing: your config"


def _told(value: Any) -> str:
    return "-" if value is None else toml(_short(value))


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value
