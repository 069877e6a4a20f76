"""What a process of its own holds at most."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import surroundings
from benchmarks.rows import ROOT


def told_by(module: str, *words: str) -> Any:
    """What `python -m module words` prints on its last line, as JSON."""
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, env=surroundings(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak() -> int:
    """The most bytes that this process has held. Not ru_maxrss, which begins at what its parent held."""
    return _status("VmHWM")


def held() -> int:
    """The bytes that this process holds now."""
    return _status("VmRSS")


def forget() -> None:
    """Let the peak begin at what is held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
