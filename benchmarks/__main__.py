"""`python -m benchmarks`; what it does stands in the package."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import benchmarks
from benchmarks import results, sets
from benchmarks.environments import MADE, THREADS, surroundings
from benchmarks.rows import HERE, MARK, ROOT, ROWS, Asked, measure_of


def show(_: argparse.Namespace) -> int:
    """Every row and its state."""
    for name, row in ROWS.items():
        lacking = sets.lacking(row)
        state = f"skipped: there is no {lacking}" if lacking else results.state(name, row)
        print(f"{name:14} {row.about}{' (' + row.wanted + ')' if row.wanted else ''}: {state}")
    return 0


def run(given: argparse.Namespace) -> int:
    """Measure rows, each in a process of its own: one that fails or is killed harms no other."""
    names = given.rows or [name for name, row in ROWS.items() if given.smoke or results.state(name, row) != "measured"]
    failed = []
    for name in names:
        lacking = sets.lacking(ROWS[name])
        if lacking:
            print(f"{name} is skipped: there is no {lacking}", flush=True)
            continue
        print(f"== {name}: {ROWS[name].about}", flush=True)
        words = ["--smoke"] * given.smoke + [f"--set={setting}" for setting in given.settings]
        done = subprocess.run([sys.executable, "-m", "benchmarks", "measure", name, *words], cwd=ROOT, env=surroundings())
        failed += [name] * (done.returncode != 0)
        results.render()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure(given: argparse.Namespace) -> int:
    """Measure one row in this process, show it, and keep it unless its settings were not its own; of one that is broken off, what there is."""
    (name,) = given.rows
    trial = given.smoke or bool(given.settings) or THREADS != 2
    folder = MADE / ("smoke" if trial else "runs") / name
    folder.mkdir(parents=True, exist_ok=True)
    begun, figures, finished = time.perf_counter(), [], False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        for figure in measure_of(name)(Asked(given.smoke, folder, tuple(given.settings))):
            print(f"{figure.what} | {figure.measured} | {figure.wanted}", flush=True)
            figures.append(figure)
        finished = True
    finally:
        if figures and not trial:
            results.keep(name, figures, time.perf_counter() - begun, f"python -m benchmarks run {name}", finished)
    if not trial:
        for mark in folder.glob(f"*{MARK}"):
            mark.unlink()  # what was trained is used up: to measure again is to train again
    return 0


def data(given: argparse.Namespace) -> int:
    """Make the files that recipes read."""
    for name in given.rows or sets.SETS:
        print(sets.made(name))
    return 0


def validate(given: argparse.Namespace) -> int:
    """Train a recipe and show its validation figures."""
    from benchmarks.quality import validated

    for name in given.rows:
        print(name, " ".join(given.settings), ", ".join(f"{metric} {value:.4f}" for metric, value in validated(name, given.settings).items()))
    return 0


COMMANDS = {"list": show, "run": run, "measure": measure, "render": lambda _: results.render() or 0, "data": data, "validate": validate}


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=benchmarks.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("rows", nargs="*", help="which rows, sets or recipes")
    parser.add_argument("--smoke", action="store_true", help="tiny settings; nothing is kept")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="NAME=VALUE", help="override a recipe; nothing is kept")
    given = parser.parse_intermixed_args(words)
    known = {"data": list(sets.SETS), "validate": [path.stem for path in (HERE / "recipes").glob("*.toml")]}.get(given.command, list(ROWS))
    strange = [name for name in given.rows if name not in known]
    if strange:
        parser.error(f"there is no {', '.join(strange)}; there are {', '.join(known)}")
    return COMMANDS[given.command](given)


if __name__ == "__main__":
    sys.exit(main())
