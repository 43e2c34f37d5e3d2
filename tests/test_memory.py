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
memory.prepare_for_computing()
held = bytearray(b"1") * (64 << 20)
flags, heap = [], False
for line in Path("/proc/self/smaps").read_text().splitlines():
    heap = line.endswith("[heap]") if "-" in line.split()[0] else heap
    if heap and line.startswith(("Size", "VmFlags")):
        print(line)
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


def huge_pages() -> bool:
    """Whether this Linux knows huge pages; with `never` it takes the request all the same."""
    return platform.libc_ver()[0] == "glibc" and Path("/sys/kernel/mm/transparent_hugepage").exists()


@pytest.mark.skipif(not huge_pages(), reason="this system has no huge pages")
def test_huge_pages_are_asked_for_in_the_heap() -> None:
    run = subprocess.run([sys.executable, "-c", HUGE], check=True, capture_output=True, text=True)
    lines = [line.split()[1:] for line in run.stdout.splitlines()]
    asked = sum(int(size[0]) for size, flags in zip(lines[::2], lines[1::2], strict=True) if "hg" in flags)
    assert asked << 10 >= memory.RESERVED


def test_where_the_system_does_not_tell_of_the_heap_everything_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: dict[int, int] = {}
    monkeypatch.setattr(memory, "_set", lambda parameters: set_to.update(parameters) or True)
    monkeypatch.setattr(memory, "Path", lambda _path: Path("/no/such/file"))
    assert not memory.use_huge_pages()
    assert set_to == {memory.MMAP_MAX: memory.KEEPING[memory.MMAP_MAX]}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_larger_buffers_that_what_is_kept_has_no_room_for_are_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", GIVEN_BACK], check=True, capture_output=True, text=True)
    pages = (256 << 20) // resource.getpagesize()
    during, after = map(int, run.stdout.split())
    assert during > 0.95 * pages
    assert after < pages / 20


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.use_huge_pages()
    assert not memory.keep_freed_memory()
    assert not memory.return_freed_memory()
