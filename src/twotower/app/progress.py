"""Progress on stderr: bars at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from twotower.runs.run import Progress as Told

if TYPE_CHECKING:
    from twotower.learning.training import Step, Validation

LINE_EVERY = 10.0  # seconds, where there is no terminal


@contextmanager
def watching() -> Iterator[Told]:
    """Tell of a run's stages and of its training while this lasts."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Told(lambda stage: print(stage, file=sys.stderr, flush=True), _lines())
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield Told(*_bars(bars))


def _bars(bars: Progress) -> tuple[Callable[[str], None], Callable[[Step | Validation], None]]:
    task: list[TaskID] = []
    seen = {"pairs": 0, "seconds": 0.0}
    best = [""]

    def stage(text: str) -> None:
        if task:
            bars.remove_task(task.pop())
        task.append(bars.add_task(text, total=None, said=""))

    def training(told: Step | Validation) -> None:
        from twotower.learning.training import Step

        if isinstance(told, Step):
            seen["pairs"] += told.pairs
            seen["seconds"] += told.seconds
            speed = seen["pairs"] / max(1e-9, seen["seconds"])
            said = f"loss {told.loss:.3f}  {best[0]}  {speed:,.0f} pairs/s"
            done = told.epoch * told.batches + told.batch
            bars.update(task[0], description=f"epoch {told.epoch + 1}/{told.epochs}", completed=done, total=told.epochs * told.batches, said=said)
        else:
            best[0] = f"validation {told.select} {told.metrics[told.select]:.3f}" + (" (best)" if told.best else "")

    return stage, training


def _lines() -> Callable[[Step | Validation], None]:
    last = [time.monotonic()]
    seen = {"pairs": 0, "seconds": 0.0, "loss": 0.0}

    def training(told: Step | Validation) -> None:
        from twotower.learning.training import Step

        if isinstance(told, Step):
            seen["pairs"] += told.pairs
            seen["seconds"] += told.seconds
            seen["loss"] = told.loss
            if time.monotonic() - last[0] < LINE_EVERY:
                return
            text = f"epoch {told.epoch + 1}/{told.epochs} batch {told.batch}/{told.batches} loss {told.loss:.3f}"
        else:
            text = f"epoch {told.epoch} loss {seen['loss']:.3f} validation {told.select} {told.metrics[told.select]:.3f}" + (
                " (best)" if told.best else ""
            )
        last[0] = time.monotonic()
        print(f"{text}  {seen['pairs'] / max(1e-9, seen['seconds']):,.0f} pairs/s", file=sys.stderr, flush=True)

    return training


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Tell of rows as they are done; the total is not known, since files are streamed."""
    console = Console(stderr=True, highlight=False)
    rows, last = [0], [time.monotonic()]
    columns = (SpinnerColumn(), TextColumn(what), TextColumn("{task.completed:,.0f} rows"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)

        def report(done: int) -> None:
            rows[0] += done
            bars.update(task, completed=rows[0])
            if not console.is_terminal and time.monotonic() - last[0] >= LINE_EVERY:
                print(f"{what}: {rows[0]:,} rows", file=sys.stderr, flush=True)
                last[0] = time.monotonic()

        yield report
