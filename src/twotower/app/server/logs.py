"""Log lines that are written together: a write for each would let go of the interpreter each time, and a request would wait to have it back."""

from __future__ import annotations

import logging
import threading
from typing import TextIO

SECONDS = 0.25  # between writes
MOST = 4096  # lines that wait


class Lines(logging.Handler):
    """Writes what is logged a few times a second, and warnings at once. Ends with the process or when it is closed."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._lines, self._ended = stream, list[str](), threading.Event()
        threading.Thread(target=self._run, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line until the next write."""
        self._lines.append(self.format(record) + "\n")
        if record.levelno >= logging.WARNING or len(self._lines) > MOST:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self.acquire()
        lines, self._lines = self._lines, []
        self.release()
        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()

    def close(self) -> None:
        """Write what waits, and no more."""
        self._ended.set()
        self.flush()
        super().close()

    def _run(self) -> None:
        while not self._ended.wait(SECONDS):
            self.flush()
