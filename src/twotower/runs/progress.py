"""Progress on stderr: bars at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from twotower.learning.distributed import is_first

if TYPE_CHECKING:
    from twotower.learning.mining import Mining
    from twotower.learning.training import Step, Validation

LINE_EVERY = 10.0  # seconds, where there is no terminal


class Progress(NamedTuple):
    """Who is told what happens, as it happens."""

    stage: Callable[[str], None] = lambda _: None
    training: Callable[[Step | Validation | Mining], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None  # a line that stays


@contextmanager
def watching() -> Iterator[Progress]:
    """Tell of a run's stages and of its training while this lasts; of several processes the first alone does."""
    if not is_first():
        yield Progress()
        return
    console = Console(stderr=True, highlight=False, markup=False)  # [train] is a block of the config, and no style
    if not console.is_terminal:
        yield _with_end(_say, _lines(), _say)
        return
    described, said = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[said]}"))
    columns = (SpinnerColumn(), described, BarColumn(bar_width=16), said, TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        progress = _with_end(*_bars(bars), bars.console.print)
        progress.stage("loading")  # libraries come in as they are needed, before there is anything to tell
        yield progress


@contextmanager
def telling(progress: Progress | None) -> Iterator[Progress]:
    """Who was asked to be told, or else stderr."""
    if progress is not None:
        yield progress
        return
    with watching() as told:
        yield told


def _say(text: str) -> None:
    with suppress(OSError):  # a pipe that nobody reads any more is no reason to stop training
        print(text, file=sys.stderr, flush=True)


def _with_end(stage: Callable[[str], None], training: Callable[[Step | Validation | Mining], None], say: Callable[[str], None]) -> Progress:
    """The same two, and where training ended before its last epoch that is said, at the first stage behind it."""
    ending = _Ending()

    def noted(told: Step | Validation | Mining) -> None:
        ending.note(told)
        training(told)

    def next_stage(text: str) -> None:
        early = ending.early()
        if early:
            say(early)
        stage(text)

    return Progress(next_stage, noted, say)


class _Ending:
    """Whether training ended early, going by what it told last."""

    def __init__(self) -> None:
        self.epoch, self.epochs, self.since_best = 0, 0, 0  # since_best: validations; of a resumed run those that were seen here

    def note(self, told: Step | Validation | Mining) -> None:
        from twotower.learning.training import Step, Validation

        if isinstance(told, Step):
            self.epoch, self.epochs = 0, told.epochs
        elif isinstance(told, Validation):
            self.epoch, self.since_best = told.epoch, 0 if told.best else self.since_best + 1

    def early(self) -> str:
        """The sentence that says so, once; empty where training went on to its end."""
        epoch, self.epoch = self.epoch, 0
        if not 0 < epoch < self.epochs:
            return ""
        validations = f"{self.since_best} validation{'s' * (self.since_best != 1)}"
        return f"stopped after epoch {epoch} of {self.epochs}: no better for {validations}"


class _Seen:
    """What the steps have come to so far."""

    def __init__(self) -> None:
        self.pairs, self.seconds, self.loss = 0, 0.0, 0.0

    def add(self, step: Step) -> None:
        self.pairs += step.pairs
        self.seconds += step.seconds
        # A step's loss jumps about; a running mean over some twenty shows where it goes.
        self.loss = step.loss if self.loss == 0 else 0.95 * self.loss + 0.05 * step.loss

    @property
    def speed(self) -> str:
        return f"{self.pairs / max(1e-9, self.seconds):,.0f} pairs/s"


def _validated(told: Validation, seen: _Seen) -> str:
    figure = f"validation {told.select} {told.metrics[told.select]:.3f}" + (" (best)" if told.best else "")
    line = f"epoch {told.epoch}  loss {seen.loss:.3f}  {figure}  {seen.speed}" if told.epoch else f"before the first step  {figure}"
    return f"{line}\n  {told.fault}" if told.fault else line


def _mined(told: Mining) -> str:
    views = f"{told.views:,} views" if told.views == told.of_views else f"{told.views:,} of {told.of_views:,} views"
    return f"mined {told.found:,} hard negatives for {views} in {told.seconds:,.1f} s"


def _bars(bars: Bars) -> tuple[Callable[[str], None], Callable[[Step | Validation | Mining], None]]:
    task: list[TaskID] = []
    seen = _Seen()
    figure = [""]

    def stage(text: str) -> None:
        if task:
            bars.remove_task(task.pop())
        task.append(bars.add_task(text, total=None, said=""))

    def training(told: Step | Validation | Mining) -> None:
        from twotower.learning.training import Step, Validation

        if isinstance(told, Step):
            seen.add(told)
            said = f"loss {seen.loss:.3f}  {figure[0]}{seen.speed}"
            done = told.epoch * told.batches + told.batch
            bars.update(task[0], description=f"epoch {told.epoch + 1}/{told.epochs}", completed=done, total=told.epochs * told.batches, said=said)
        elif isinstance(told, Validation):
            figure[0] = f"{told.select} {told.metrics[told.select]:.3f}  "
            bars.console.print(_validated(told, seen))
        else:
            bars.console.print(_mined(told))

    return stage, training


def _lines() -> Callable[[Step | Validation | Mining], None]:
    last = [time.monotonic()]
    seen = _Seen()

    def training(told: Step | Validation | Mining) -> None:
        from twotower.learning.training import Step, Validation

        if isinstance(told, Step):
            seen.add(told)
            if time.monotonic() - last[0] < LINE_EVERY:
                return
            _say(f"epoch {told.epoch + 1}/{told.epochs}  batch {told.batch}/{told.batches}  loss {seen.loss:.3f}  {seen.speed}")
        else:
            _say(_validated(told, seen) if isinstance(told, Validation) else _mined(told))
        last[0] = time.monotonic()

    return training


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """Tell of rows as they are done; the total is not known, since files are streamed."""
    console = Console(stderr=True, highlight=False)
    rows, begun = 0, time.monotonic()
    last = begun
    columns = (SpinnerColumn(), TextColumn(what), TextColumn("{task.completed:,.0f} rows"), TextColumn("{task.fields[speed]}"))
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None, speed="")

        def report(done: int) -> None:
            nonlocal rows, last
            rows += done
            speed = f"{rows / max(1e-9, time.monotonic() - begun):,.0f} rows/s"
            bars.update(task, completed=rows, speed=speed)
            if not console.is_terminal and time.monotonic() - last >= LINE_EVERY:
                _say(f"{what}: {rows:,} rows, {speed}")
                last = time.monotonic()

        yield report
