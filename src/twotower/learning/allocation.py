"""Memory that a step lets go is kept for the next step.

The C library of Linux gives large pieces back to the system at once, and each step gets them anew as pages of zeros. What that costs
depends on the step and on the machine: nothing, or most of the time of a step (docs/learning.md). Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEP = {TRIM_THRESHOLD: -1, MMAP_MAX: 0}
# By default the thresholds grow with what is let go, up to these, but no longer once one was set: then they begin where they would end.
USUAL = {TRIM_THRESHOLD: 1 << 26, MMAP_THRESHOLD: 1 << 25, MMAP_MAX: 1 << 16}


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is let go while this lasts, and give it back at its end. Whoever sets the allocator by variables of its own knows better."""
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    for parameter, value in KEEP.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
