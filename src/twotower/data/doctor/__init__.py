"""Looks at data before they are trained on: what is wrong with them, with counts and examples, and what to do about it.

`examine` reads the prepared folder and the raw log and gives a `Diagnosis`: findings, the settings that suit, facts.
"""

from twotower.data.doctor.evidence import Asked
from twotower.data.doctor.examination import examine
from twotower.data.doctor.findings import Diagnosis, Figure, Finding, Setting

__all__ = ["Asked", "Diagnosis", "Figure", "Finding", "Setting", "examine"]
