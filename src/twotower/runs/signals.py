"""Being asked to stop: by Ctrl-C, or by SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts(once: bool = False) -> Iterator[threading.Event]:
    """While this lasts, the first Ctrl-C or SIGTERM only sets the event; a second one breaks off at once.

    once: the second does no more than the first. torchrun passes on what the terminal sent to all of its processes anyway, and kills what
    is still there half a minute later.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        asked.set()
        if not once:
            restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        restore()
