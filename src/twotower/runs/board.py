"""The numbers of a training for TensorBoard, where they are asked for: loss by step, validation by epoch, the test figures at the end.

The event files are TensorBoard's own, appended to as it goes on: nothing of a run reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from twotower.errors import MissingExtra
from twotower.runs.progress import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from twotower.learning.mining import Mining
    from twotower.learning.training import Step, Validation

BOARD = "tensorboard"


class Board:
    """Tells TensorBoard what it hears, and whoever else listens.

    Steps are those of the run, so one that is resumed goes on where it was, and what was written past that point is hidden.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder, self.listening = folder, progress
        self.step = 0
        self.writer: SummaryWriter | None = None  # from the first number on: until then the run folder may not be ours

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()

    @property
    def progress(self) -> Progress:
        """Who is to be told what happens."""
        return self.listening._replace(training=self._hear)

    def figures(self, metrics: Mapping[str, Any]) -> None:
        """The figures of a finished run, at its last step."""
        for name, figure in metrics["model"].items():
            self._tell(f"{metrics['evaluation']['part']}/{name}", figure["value"])

    def _hear(self, event: Step | Validation | Mining) -> None:
        from twotower.learning import training

        if isinstance(event, training.Step):
            self.step = event.step
            self._tell("train/loss", event.loss)
        elif isinstance(event, training.Validation):
            for name, value in event.metrics.items():
                self._tell(f"validation/{name}", value)
        self.listening.training(event)

    def _tell(self, name: str, value: float) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=self.step)
        self.writer.add_scalar(name, value, self.step)


def need_board() -> None:
    """Raise MissingExtra where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "tensorboard")
