"""What an examination says: findings, each with its counts, examples and advice, and the settings that follow from them.

All of it is plain data. To add a finding: a function from the evidence to findings in the module of its subject, and its entry
in `CHECKS` of `examination.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Severity = Literal["stop", "warning", "note", "good"]
SEVERITIES: tuple[Severity, ...] = ("stop", "warning", "note", "good")
MOST_EXAMPLES = 5
NONE: Mapping[str, Any] = MappingProxyType({})


class Figure(NamedTuple):
    """The numbers of a picture. kind: `bars` (a label and a value each), or `line` (x rising, y beside it)."""

    kind: Literal["bars", "line"]
    title: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    x_label: str = ""
    y_label: str = ""
    share: bool = False  # whether y is a share, to be shown as a percentage
    diagonal: bool = False  # whether a line from corner to corner says what would be even


class Finding(NamedTuple):
    """One thing that is true of the data, and what to do about it."""

    code: str  # stable, such as contradictory_pairs
    severity: Severity
    title: str
    advice: str
    counts: Mapping[str, int] = NONE
    share: float | None = None  # of what the title speaks of
    examples: tuple[Mapping[str, Any], ...] = ()  # at most 5, each with where it stands
    figure: Figure | None = None


class Setting(NamedTuple):
    """One option and the value that suits the data. current: what the config says."""

    option: str  # such as train.batch_size
    value: Any
    current: Any
    reason: str

    @property
    def changes(self) -> bool:
        """Whether the config says otherwise."""
        return bool(self.value != self.current)


class Diagnosis(NamedTuple):
    """All that was found, the gravest first."""

    findings: tuple[Finding, ...]
    settings: tuple[Setting, ...]
    facts: Mapping[str, Any]

    @property
    def stops(self) -> tuple[Finding, ...]:
        """What cannot work."""
        return tuple(finding for finding in self.findings if finding.severity == "stop")

    def message(self) -> str:
        """What cannot work, as the text of an error."""
        return "\n".join(f"{finding.title} {finding.advice}" for finding in self.stops)


def number(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 item`, `2,000 items`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share for a sentence; what is not all never reads as all, and what is not nothing never as nothing."""
    if 0 < share < 0.001:
        return "below 0.1%"
    if 0.999 < share < 1:
        return "above 99.9%"
    return f"{share:.1%}" if share < 0.1 or (share > 0.99 and share < 1) else f"{share:.0%}"
