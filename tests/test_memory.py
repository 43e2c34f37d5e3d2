from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ctsm import memory

COUNT_FAULTS = """
import resource, sys
import numpy as np
from ctsm import memory
keep, back = {keep}, {back}
assert not keep or memory.keep_freed_memory()
def use():
    held = [np.ones(megabytes << 17) for megabytes in (20, 30, 24, 20)]
    del held
use()
assert not back or memory.return_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep: bool = False, back: bool = False) -> int:
    """Page faults of ten rounds of large buffers after the first round, in a process of its own."""
    run = [sys.executable, "-c", COUNT_FAULTS.format(keep=keep, back=back)]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_buffers_are_used_again_without_new_pages_until_they_are_to_be_returned() -> None:
    usual = page_faults()
    assert page_faults(keep=True) < usual / 20
    returned = page_faults(keep=True, back=True)
    assert usual / 2 < returned < 2 * usual


HUGE = """
from pathlib import Path
from ctsm import memory
def huge_pages():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))
held = []
def mapped_huge(megabytes):
    before = huge_pages()
    held.append(bytearray(b"1") * (megabytes << 20))
    return huge_pages() - before
memory.keep_freed_memory()
print(mapped_huge(30))
print(memory.use_huge_pages(), mapped_huge(30), mapped_huge(64))
"""

GIVEN_BACK = """
from pathlib import Path
from ctsm import memory
memory.RESERVED = 16 << 20
memory.prepare_for_computing()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
before = resident()
large = bytearray(b"1") * (256 << 20)
during = resident()
del large
print(during - before, resident() - before)
"""


def huge_pages_on_request() -> bool:
    """Whether Linux maps huge pages where they are asked for, and only there."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return platform.libc_ver()[0] == "glibc" and setting.exists() and "[madvise]" in setting.read_text()


@pytest.mark.skipif(not huge_pages_on_request(), reason="this system has no huge pages on request")
def test_the_heap_grows_in_huge_pages_once_they_are_asked_for() -> None:
    run = subprocess.run([sys.executable, "-c", HUGE], check=True, capture_output=True, text=True)
    (before,), (asked, first, second) = (line.split() for line in run.stdout.splitlines())
    assert (int(before), asked) == (0, "True")
    assert int(first) + int(second) > 0.9 * (94 << 10)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_larger_buffers_that_what_is_kept_has_no_room_for_are_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", GIVEN_BACK], check=True, capture_output=True, text=True)
    pages = (256 << 20) // resource.getpagesize()
    during, after = map(int, run.stdout.split())
    assert during >= pages
    assert after < pages / 20


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.use_huge_pages()
    assert not memory.keep_freed_memory()
    assert not memory.return_freed_memory()
