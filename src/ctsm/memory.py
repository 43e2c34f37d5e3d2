"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Parameters of `mallopt`, as in glibc's malloc.h."""

LARGEST = (1 << 31) - 1
GROWTH = 64 << 20


def keep_freed_memory() -> bool:
    """Let glibc keep large buffers that were freed for the next ones, instead of giving them back to the system.

    A training step makes and frees some dozens of buffers of 20 MB and more. glibc gives each back at once, and the
    next one's pages are mapped and zeroed again: thousands of page faults a step, a tenth of its time and more. Kept
    memory stays with the process until it ends, so this is for processes that compute and then end.

    Returns:
        Whether it was done; False with another C library, where nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, LARGEST), (TOP_PAD, GROWTH)))
