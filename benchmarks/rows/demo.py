"""The numbers of the main job: quality of the demo, its time and memory, cold start, latency, hashing, the size of an install."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

from benchmarks import quality
from benchmarks.rows import ROOT, Asked, Figure

QUESTION = "show disk usage of each folder"
# Where the package is installed as its users do, without the extra that the peers need: with it the demo has one more baseline to encode.
PLAIN = ROOT / ".venv" / "bin" / "python"


def python() -> str:
    """The Python that runs the package."""
    return str(PLAIN) if PLAIN.exists() else sys.executable


def command(*words: str) -> list[str]:
    """The command line of the package of that Python."""
    return [python(), "-m", "twotower.app.cli", *words]


def timed(words: list[str], runs: int) -> float:
    """The median wall time of a whole process, in seconds, after one run that warms the file cache."""
    seconds = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def bundle(folder: Path) -> Path:
    """A finished demo run, made if it is not there yet."""
    run = folder / "demo"
    if not (run / "metrics.json").exists():
        subprocess.run(command("demo", "--no-prompt", "-o", str(run)), check=True, stdout=subprocess.DEVNULL)
    return run


def demo(folder: Path) -> Iterator[Figure]:
    """The demo from start to its last line, in a process of its own."""
    shutil.rmtree(folder / "demo", ignore_errors=True)
    words = command("demo", "--no-prompt", "--json", "-o", str(folder / "demo"))
    begun = time.perf_counter()
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    shown = json.loads(done.stdout)
    metrics = shown["metrics"]
    for name, figures in {**metrics["modes"], **metrics["baselines"]}.items():
        wanted = "hit@10 0.70, mrr 0.50" if name == metrics["search"]["mode"] else ""
        yield Figure(f"tldr test pairs, {name}", quality.told(figures), wanted, figures)
    for name, found in shown["strangers"].items():
        yield Figure(f"strangers' questions, {name}", f"{found['found']} of {found['asked']} in the first 5", "", found)
    yield Figure("demo, start to end", f"{seconds:.0f} s, {peak:.0f} MB", "120 s, 2,000 MB", {"seconds": seconds, "megabytes": peak})


def cold(folder: Path) -> Iterator[Figure]:
    """One search by a process that begins with nothing."""
    seconds = timed(command("search", str(bundle(folder)), QUESTION), 7)
    yield Figure("`twotower search`, cold, whole process", f"{seconds:.2f} s", "1.5 s", {"seconds": seconds})


def start(folder: Path) -> Iterator[Figure]:
    """Import and help."""
    imported = timed([python(), "-c", "import twotower"], 9)
    helped = timed(command("--help"), 9)
    yield Figure("`import twotower`, whole process", f"{imported:.2f} s", "0.3 s", {"seconds": imported})
    yield Figure("`twotower --help`", f"{helped:.2f} s", "0.5 s", {"seconds": helped})


def latency(folder: Path) -> Iterator[Figure]:
    """One query at a time, in process, by the mode that validation chose."""
    from twotower import load
    from twotower.data.samples import load_sample

    retriever = load(bundle(folder))
    questions = [stranger.query for stranger in load_sample("tldr").strangers] * 5
    for question in questions[:50]:
        retriever.search(question)
    seconds = []
    for question in questions:
        begun = time.perf_counter()
        retriever.search(question)
        seconds.append(time.perf_counter() - begun)
    median, slow = statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3
    yield Figure("`retriever.search`, one query, median (99th percentile)", f"{median:.2f} ms ({slow:.2f} ms)", "2 ms", {"milliseconds": median})


def hashing(folder: Path) -> Iterator[Figure]:
    """Texts hashed a second on one core, and one alone."""
    import pyarrow as pa

    from twotower.data.features import Text

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with gzip.open(ROOT / "src/twotower/data/samples/tldr/pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = pa.array([json.loads(line)["query"] for line in lines])
    feature = Text(column="query")
    feature.encode(texts, {})
    rates, singles = [], []
    for _ in range(5):
        begun = time.perf_counter()
        feature.encode(texts, {})
        rates.append(len(texts) / (time.perf_counter() - begun))
    one = texts.slice(100, 1)
    for _ in range(1000):
        begun = time.perf_counter()
        feature.encode(one, {})
        singles.append(time.perf_counter() - begun)
    rate, single = statistics.median(rates), statistics.median(singles) * 1e6
    yield Figure("short texts hashed, one core, median of 5", f"{rate:,.0f} a second", "80,000", {"rate": rate})
    yield Figure("one short text hashed, median", f"{single:.0f} us", "200 us", {"microseconds": single})


def install(folder: Path) -> Iterator[Figure]:
    """A new environment with the base install, and a search in it."""
    made = folder / "base"
    venv.create(made, with_pip=True, clear=True)
    python = made / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, stderr=subprocess.DEVNULL)
    size = int(subprocess.run(["du", "-sm", str(made)], check=True, capture_output=True, text=True).stdout.split()[0])
    there = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "torch " not in there and "duckdb " not in there
    words = [str(python), "-m", "twotower.app.cli", "search", str(bundle(folder)), QUESTION, "--json"]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    told = f"{size} MB; the towers run there: {found[0]['id']}"
    yield Figure("base install without torch and DuckDB, whole environment", told, "420 MB", {"megabytes": size})


def measure(asked: Asked) -> Iterator[Figure]:
    """All of it; the hashing last, which keeps this process on one core."""
    for part in (start, cold, latency, hashing) if asked.smoke else (demo, start, cold, latency, install, hashing):
        yield from part(asked.folder)
