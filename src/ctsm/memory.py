"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
"""Parameters of `mallopt`, as in glibc's malloc.h."""

KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 64 << 20}
USUAL = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10}
"""What glibc's thresholds grow to by themselves in a process that frees buffers of 32 MB."""


def keep_freed_memory() -> bool:
    """Let glibc keep large buffers that were freed for the next ones, instead of giving them back to the system.

    A training step makes and frees some dozens of buffers of 20 MB and more. glibc gives each back at once, and the
    next one's pages are mapped and zeroed again: thousands of page faults a step, a tenth of its time and more. Kept
    memory stays with the process until it ends, so this is for processes that compute and then end.

    Returns:
        Whether it was done; False with another C library, where nothing happens.
    """
    return _set(KEEPING)


def return_freed_memory() -> bool:
    """Let glibc give freed buffers back as it usually does: what other programs are measured with.

    What is free now is given back at once, or it would be used again without new pages.

    Returns:
        Whether it was done; False with another C library, where nothing happens.
    """
    done = _set(USUAL)
    trim_memory()
    return done


def trim_memory() -> None:
    """Give back all memory that is free now, at the cost of new pages for the buffers that come next.

    Where buffers of many sizes are kept, gaps between them add up: what now and then needs much memory trims before
    and after.
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _set(parameters: dict[int, int]) -> bool:
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(name, value) for name, value in parameters.items()]
    return all(done)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
