"""The numbers of the main job: quality of the demo, its time and memory, cold start, latency, hashing, the size of an install.

    python benchmarks/first_light.py            all rows
    python benchmarks/first_light.py cold help  some of them
    python benchmarks/first_light.py --write    and put them into benchmarks/RESULTS.md

Times hold for the machine that they were measured on, alone; ratios travel better.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
QUESTION = "show disk usage of each folder"
Rows = list[tuple[str, str, str]]  # what, measured, at least


def command(*words: str) -> list[str]:
    """The command line of the package under this very Python."""
    return [sys.executable, "-m", "twotower.app.cli", *words]


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


def demo(folder: Path) -> Rows:
    """The demo from start to its last line, in a process of its own."""
    begun = time.perf_counter()
    done = subprocess.run(command("demo", "--no-prompt", "--json", "-o", str(folder / "demo")), check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    shown = json.loads(done.stdout)
    metrics = shown["metrics"]
    rows: Rows = []
    for name, figures in {**metrics["modes"], **metrics["baselines"]}.items():
        text = ", ".join(f"{metric} {f['value']:.4f} [{f['low']:.4f}, {f['high']:.4f}]" for metric, f in figures.items())
        rows.append((f"tldr test pairs, {name}", text, "hit@10 0.70, mrr 0.50" if name == metrics["search"]["mode"] else ""))
    for name, found in shown["strangers"].items():
        rows.append((f"strangers' questions, {name}", f"{found['found']} of {found['asked']} in the first 5", ""))
    rows.append(("demo, start to end", f"{seconds:.0f} s, {peak:.0f} MB", "120 s, 2,000 MB"))
    return rows


def cold(folder: Path) -> Rows:
    """One search by a process that begins with nothing."""
    return [("`twotower search`, cold, whole process", f"{timed(command('search', str(bundle(folder)), QUESTION), 7):.2f} s", "1.5 s")]


def start(folder: Path) -> Rows:
    """Import and help."""
    imported = timed([sys.executable, "-c", "import twotower"], 9)
    helped = timed(command("--help"), 9)
    return [("`import twotower`, whole process", f"{imported:.2f} s", "0.3 s"), ("`twotower --help`", f"{helped:.2f} s", "0.5 s")]


def latency(folder: Path) -> Rows:
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
    return [("`retriever.search`, one query, median (99th percentile)", f"{median:.2f} ms ({slow:.2f} ms)", "2 ms")]


def hashing(folder: Path) -> Rows:
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
    return [
        ("short texts hashed, one core, median of 5", f"{statistics.median(rates):,.0f} a second", "80,000"),
        ("one short text hashed, median", f"{statistics.median(singles) * 1e6:.0f} us", "200 us"),
    ]


def install(folder: Path) -> Rows:
    """A new environment with the base install, and a search in it."""
    made = folder / "base"
    venv.create(made, with_pip=True)
    python = made / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, stderr=subprocess.DEVNULL)
    size = int(subprocess.run(["du", "-sm", str(made)], check=True, capture_output=True, text=True).stdout.split()[0])
    there = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "torch " not in there and "duckdb " not in there
    words = [str(python), "-m", "twotower.app.cli", "search", str(bundle(folder)), QUESTION, "--json"]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return [("base install without torch and DuckDB, whole environment", f"{size} MB; the towers run there: {found[0]['id']}", "420 MB")]


ROWS: dict[str, Callable[[Path], Rows]] = {"demo": demo, "cold": cold, "start": start, "latency": latency, "install": install, "hashing": hashing}


def main() -> None:
    """Run the rows asked for, print them, and keep them where told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="which rows; all by default")
    parser.add_argument("--write", action="store_true", help="put the result on top of benchmarks/RESULTS.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in chosen.rows or ROWS for row in ROWS[name](Path(folder))]
    table = ["| what | measured | wanted |", "|---|---|---|", *(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows)]
    keep(" ".join(["python benchmarks/first_light.py", *chosen.rows]), table, chosen.write)


def keep(words: str, table: list[str], write: bool) -> None:
    """Print a result with its date, commit and command, and put it on top of the others where told to."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    head = f"## {datetime.date.today()}, commit {commit}\n\n`{words.strip()}` on {os.cpu_count()} cores, Python {platform.python_version()}.\n"
    text = head + "\n" + "\n".join(table) + "\n"
    print(text)
    if write:
        title, _, rest = RESULTS.read_text(encoding="utf-8").partition("\n## ")
        RESULTS.write_text(title.rstrip() + "\n\n" + text + ("\n## " + rest if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    main()
