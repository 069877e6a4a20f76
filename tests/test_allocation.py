"""Memory let go is kept while a training lasts, and given back behind it."""

import json
import platform
import subprocess
import sys

import pytest

FAULTS = """
import json, resource
import numpy as np
from twotower.learning.allocation import kept

def faults(numbers=20_000_000):  # 160 MB, more than the C library keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) * 1024

faults()
plain = faults()
with kept():
    faults()
    inside, held = faults(), resident()
left, behind, _ = resident(), faults(), faults(500_000)
print(json.dumps({"plain": plain, "inside": inside, "held": held, "left": left, "behind": behind, "small": faults(500_000)}))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of another C library is left alone")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}])
def test_memory_is_kept_between_steps_and_given_back(chosen):
    done = subprocess.run([sys.executable, "-c", FAULTS], env={"PATH": "", **chosen}, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if chosen:  # by whoever started the process
        assert found["inside"] > found["plain"] / 2
        return
    assert found["inside"] < found["plain"] / 20
    assert found["left"] < found["held"] - 100_000_000
    assert found["behind"] > found["plain"] / 2
    assert found["small"] < 50  # 4 MB at a time, which the C library keeps as ever
