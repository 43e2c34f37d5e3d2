from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from ctsm.memory import keep_freed_memory
assert {keep} is False or keep_freed_memory()
def use():
    for megabytes in (20, 36, 24, 20):
        np.ones(megabytes << 17)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool) -> int:
    """Page faults of ten rounds of large buffers after the first round, in a process of its own."""
    run = [sys.executable, "-c", COUNT_FAULTS.format(keep=keep)]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_buffers_are_used_again_without_new_pages() -> None:
    assert page_faults(keep=True) < page_faults(keep=False) / 20
