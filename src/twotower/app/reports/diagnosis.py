"""What an examination of data found, as a document."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from twotower.app.reports.documents import Code, Document, Facts, Paragraph, Part, Picture, Section, Statement, Table, Tone, plain_text
from twotower.config import toml
from twotower.data.doctor import Diagnosis, Finding, Setting

COUNTED: tuple[tuple[Tone, str, str], ...] = (
    ("stop", "thing that cannot work", "things that cannot work"),
    ("warning", "warning", "warnings"),
    ("note", "note", "notes"),
)


def diagnosis(found: Diagnosis, config: str) -> Document:
    """The document of a diagnosis. config: the file that was checked."""
    tone, verdict = _verdict(found)
    parts: list[Part] = []
    if found.findings:
        parts.append(Section("What was found", [_statement(finding) for finding in found.findings]))
    facts = [(name.replace("_", " "), _said(name, value)) for name, value in found.facts.items() if value is not None]
    parts.append(Section("The data", [Facts(facts)]))
    if found.settings:
        parts.append(Section("Settings that suit these data", _settings(found.settings)))
    return Document("What the data are like", verdict, tone, parts, shlex.join(["twotower", "check", config]))


def counted(severities: Sequence[str]) -> str:
    """How many findings of each kind, such as `1 warning and 2 notes`."""
    counts = {tone: severities.count(tone) for tone, _, _ in COUNTED}
    said = [f"{counts[tone]} {one if counts[tone] == 1 else many}" for tone, one, many in COUNTED if counts[tone]]
    return " and ".join([", ".join(said[:-1]), said[-1]]) if len(said) > 1 else "".join(said)


def _verdict(found: Diagnosis) -> tuple[Tone, str]:
    counts = [finding.severity for finding in found.findings]
    listed = counted(counts)
    if "stop" in counts:
        return "stop", f"Training on these data cannot work as it is: {listed}."
    if "warning" in counts:
        return "warning", f"These data can be trained on; read first: {listed}."
    if "note" in counts:
        return "note", f"These data can be trained on, with {listed}."
    return "good", "Nothing stands against training on these data."


def _statement(finding: Finding) -> Statement:
    counts = "; ".join(f"{name}: {count:,}" for name, count in finding.counts.items())
    picture = Picture(**finding.figure._asdict()) if finding.figure is not None else None
    details = f"{counts + '. ' if counts else ''}[{finding.code}]"
    return Statement(finding.severity, finding.title, finding.advice, details, _examples(finding.examples), picture)


def _examples(examples: Sequence[Mapping[str, Any]]) -> Table | None:
    if not examples:
        return None
    columns = list(dict.fromkeys(str(name) for example in examples for name in example))
    rows = [[_cell(example.get(name)) for name in columns] for example in examples]
    numbers = [n for n, name in enumerate(columns) if all(isinstance(example.get(name), (int, float)) for example in examples)]
    return Table(columns, rows, numbers=numbers)


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _said(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if name.startswith("share") else f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _settings(settings: Sequence[Setting]) -> list[Part]:
    blocks: dict[str, list[str]] = {}
    for setting in settings:
        block, _, name = setting.option.rpartition(".")
        change = f"; the config says {toml(setting.current)}" if setting.changes and not isinstance(setting.current, list) else ""
        blocks.setdefault(block, []).append(f"# {plain_text(setting.reason, 400)}{change}\n{name} = {toml(setting.value)}")
    text = "\n\n".join(f"[{block}]\n" + "\n".join(lines) for block, lines in blocks.items())
    changed = [setting for setting in settings if setting.changes and not isinstance(setting.value, list)]
    flags = " ".join(f"--set {setting.option}={setting.value if isinstance(setting.value, str) else toml(setting.value)}" for setting in changed)
    others = sum(setting.changes for setting in settings)
    told = f"The config says otherwise in {others} of them." if others else "They are what the config says."
    parts: list[Part] = [Paragraph(told), Code(text, "toml")]
    return [*parts, Paragraph("Or for one run:"), Code(f"twotower train CONFIG {flags}")] if flags else parts
