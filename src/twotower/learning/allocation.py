"""Memory that a step lets go is kept for the next step.

The C library of Linux gives large pieces back to the system at once, and each step gets them anew as pages of zeros: up to a third of the
time of a step, and more than half of it in large element-wise operations. Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3), and what they are by default.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER, DEFAULTS = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}, {TRIM_THRESHOLD: 1 << 17, MMAP_MAX: 1 << 16}


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is let go while this lasts, and give it back at its end. Whoever sets the allocator by MALLOC_... variables knows better."""
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        yield
        return
    library = ctypes.CDLL(None)
    for parameter, value in NEVER.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
