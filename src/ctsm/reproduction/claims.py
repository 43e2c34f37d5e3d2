"""Locks by which processes share the work; a lock ends with its process, however that dies."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctsm.errors import CtsmError


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Lock a file for the block and yield whether it worked: False when another process holds it.

    The file is made when missing and never removed, for a lock on a removed file would exclude nobody. It is opened
    for writing, so that Linux turns the lock into one that machines on one network file system see.

    Args:
        path: the lock file.
        wait: whether to wait for the other process.

    Raises:
        CtsmError: the file system knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _lock(handle, path, wait)
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):  # EACCES: the same over a network
            return False
        raise CtsmError(
            f"{path}: this file system has no locks ({error.strerror}), so processes cannot share the work; choose "
            "another --out."
        ) from None
    return True
