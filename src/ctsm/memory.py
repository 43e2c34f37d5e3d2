"""How this process gets memory from the system."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
"""Parameters of `mallopt`, as in glibc's malloc.h."""

KEEPING = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: (1 << 31) - 1, TOP_PAD: 64 << 20}
USUAL = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20, TOP_PAD: 128 << 10}
"""What glibc's thresholds grow to by themselves in a process that frees buffers of 32 MB."""

MADV_HUGEPAGE = 14
RESERVED = 3 << 29
"""Bytes by which the heap grows for huge pages: most of what a run keeps. They are mapped when they are touched."""


def keep_freed_memory() -> bool:
    """Let glibc keep buffers of up to 32 MB that were freed for the next ones, instead of giving them back.

    A training step makes and frees some dozens of buffers of 20 MB and more. glibc gives each back at once, and the
    next one's pages are mapped and zeroed again: thousands of page faults a step, a tenth of its time and more. Larger
    buffers for which the heap has no room are still given back: they are rare, and would stay for good. Kept memory
    stays with the process until it ends, so this is for processes that compute and then end.

    Returns:
        Whether it was done; False with another C library, where nothing happens.
    """
    return _set(KEEPING)


def use_huge_pages() -> bool:
    """Let the heap grow by 1.5 GiB of addresses and ask Linux to map them in pages of 2 MB, where it permits that.

    A training step passes over some hundred MB. In pages of 4 KB the processor finds few of their addresses in its
    cache of them, which is dearest on virtual machines. This is for processes that keep freed memory, because only
    what stays in the heap is used again; what is not touched is not mapped either way. Buffers beside the heap are
    PyTorch's to ask for (THP_MEM_ALLOC_ENABLE).

    Returns:
        Whether it was done; False with another C library or kernel, or where addresses are short: nothing happens.
    """
    if platform.system() != "Linux" or not _set({MMAP_MAX: 0}):  # nothing may be mapped beside the heap meanwhile
        return False
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    reserved: int | None = library.malloc(ctypes.c_size_t(RESERVED))
    try:
        return any(
            first <= (reserved or 0) < end and library.madvise(first, end - first, MADV_HUGEPAGE) == 0
            for first, end in _heap()
        )
    finally:
        library.free(ctypes.c_void_p(reserved))
        _set({MMAP_MAX: KEEPING[MMAP_MAX]})


def prepare_for_computing() -> None:
    """Keep freed memory, in huge pages: the settings of every verb that computes and then ends."""
    if keep_freed_memory():
        use_huge_pages()


def return_freed_memory() -> bool:
    """Let glibc give freed buffers back as it usually does: what other programs are measured with.

    What is free now is given back at once, or it would be used again without new pages.

    Returns:
        Whether it was done; False with another C library, where nothing happens.
    """
    done = _set(USUAL)
    if done:
        ctypes.CDLL(None).malloc_trim(0)
    return done


def _heap() -> list[tuple[int, int]]:
    """Return where the parts of this process's heap begin and end; none where the system does not tell."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    ranges = [line.split()[0].split("-") for line in maps if line.endswith("[heap]")]
    return [(int(first, 16), int(end, 16)) for first, end in ranges]


def _set(parameters: dict[int, int]) -> bool:
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(name, value) for name, value in parameters.items()]
    return all(done)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
