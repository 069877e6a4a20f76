"""Finished rows: one JSON file each under `results/`, and the upper part of RESULTS.md that is made of them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.fingerprints import changed, fingerprint
from benchmarks.rows import HERE, ROOT, ROWS, Figure, Row

KEPT = HERE / "results"
PAGE = HERE / "RESULTS.md"
EARLIER = "# Earlier results"
TOLD = ("torch", "numpy", "sentence-transformers", "implicit", "lightfm-next")


def keep(name: str, figures: Iterable[Figure], seconds: float, command: str, finished: bool = True) -> None:
    """Store a row; whoever is killed meanwhile leaves the one before. One that was broken off takes no finished one's place, unless that is stale."""
    if not finished and state(name, ROWS[name]) == "measured":
        return
    told = {
        "row": name,
        "date": str(datetime.date.today()),
        "commit": commit(),
        "command": command,
        "machine": machine(),
        "seconds": round(seconds, 1),
        "figures": [figure._asdict() for figure in figures],
        "fingerprint": fingerprint(name, ROWS[name]),
    } | ({} if finished else {"unfinished": True})
    KEPT.mkdir(exist_ok=True)
    write(KEPT / f"{name}.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def write(path: Path, text: str) -> None:
    """Replace a file at once, or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def kept(name: str) -> dict[str, Any] | None:
    """What is stored of a row."""
    path = KEPT / f"{name}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def state(name: str, row: Row) -> str:
    """Whether a row is measured: `new`, `measured`, or what has changed since."""
    stored = kept(name)
    if stored is None:
        return "new"
    files = changed(stored["fingerprint"], fingerprint(name, row))
    if not files:
        return "unfinished" if stored.get("unfinished") else "measured"
    settings = [path for path in files if not path.startswith("src/")]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"changed since: {(settings or files)[0]}{more}"


def commit() -> str:
    """The commit that is measured, marked where the tree differs from it in more than results."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    others = git("status", "--porcelain", "--", ".", ":!benchmarks/RESULTS.md", ":!benchmarks/results")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (", changed" if others else "")


def machine() -> str:
    """The machine in words."""
    name = next((line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {name}; Python {platform.python_version()}; {', '.join(_versions())}"


def _versions() -> Iterable[str]:
    for name in TOLD:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def render() -> None:
    """Write RESULTS.md anew: the rows on top, what was written before it below."""
    _, _, earlier = PAGE.read_text(encoding="utf-8").partition(EARLIER)
    parts = [section(name, row, stored) for name, row in ROWS.items() if (stored := kept(name)) is not None]
    missing = [name for name in ROWS if kept(name) is None]
    note = f"Not measured yet: {', '.join(missing)}." if missing else ""
    head = (
        "# Results\n\n"
        "What `make bench` measured, row by row; `benchmarks/__init__.py` says how. Settings were chosen on validation pairs cut from\n"
        "training; test pairs are ranked by the finished recipe only. Brackets hold 95% intervals. Times hold for the machine that is named;\n"
        "ratios travel better.\n"
    )
    text = "\n".join(filter(None, [head, note and note + "\n", *parts]))
    write(PAGE, f"{text}\n{EARLIER}{earlier}")


def section(name: str, row: Row, stored: Mapping[str, Any]) -> str:
    """A row as Markdown."""
    files = changed(stored["fingerprint"], fingerprint(name, row))
    stale = f" **Measured at commit {stored['commit']}; {len(files)} files that it depends on have changed since.**" if files else ""
    stale += " **Broken off after these lines.**" if stored.get("unfinished") else ""
    lines = [f"| {f['what']} | {f['measured']} | {f['wanted']} |" for f in stored["figures"]]
    return "\n".join(
        [
            f"## {name}: {row.about}",
            "",
            f"{stored['date']}, commit {stored['commit']}, `{stored['command']}`, {stored['seconds']:.0f} s. {stored['machine']}.{stale}",
            "",
            f"| what | measured | wanted{': ' + row.wanted if row.wanted else ''} |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )
