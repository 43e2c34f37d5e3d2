"""Writing files so that a crash, a full disk or a second process never leaves half of one behind."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ctsm.errors import CtsmError

# From <fcntl.h>: "relative to the working directory" and "exchange both names".
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(directory: Path) -> None:
    """Make a rename inside `directory` durable (the name lives in the directory, not in the file)."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Force a finished file to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Write `path` through a temporary neighbour that replaces it only when the block ends without an error.

    Args:
        path: the file to create or replace; its folder is made when missing.
        mode: "w" for UTF-8 text with newlines as given, "wb" for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text_options: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, mode, **text_options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` only when the block ends without an error.

    Every file is synced first and gets the mode a new file would have. An existing folder is replaced as a whole: on
    Linux in one step, so there is never a moment without a folder at `path`. A link at `path` stays; the folder it
    names is replaced.

    Raises:
        NotADirectoryError: a file stands at `path`.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for item in sorted(temporary.rglob("*")):
            if item.is_file():
                item.chmod(0o666 & ~_umask())
                sync_file(item)
        for folder in [temporary, *(item for item in temporary.rglob("*") if item.is_dir())]:
            folder.chmod(0o777 & ~_umask())
            sync_directory(folder)
        _exchange(temporary, path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what was replaced, or after an error what was begun


def _exchange(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what stands there becomes `new` or is removed."""
    if not path.exists():
        new.replace(path)
        return
    if _swap(new, path):
        return
    aside = new.with_name(f"{new.name}.old")
    path.replace(aside)
    try:
        new.replace(path)
    except BaseException:
        aside.replace(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _swap(first: Path, second: Path) -> bool:
    """Exchange two names in one step (Linux's renameat2); False where system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return status == 0


def remove_directory(folder: Path) -> None:
    """Remove a folder whose name must never stand for half of it; what cannot be removed stays as a leftover."""
    doomed = folder.with_name(f".{folder.name}.obsolete")
    with suppress(OSError):
        folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove what killed writers of `folder/names` (a pattern) left there; nobody may be writing there now."""
    for item in [*folder.glob(f".{names}.????????"), *folder.glob(f".{names}.????????.old")]:
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep every other process that asks out of a folder for the block; the lock ends with the process.

    Raises:
        CtsmError: another process holds it.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CtsmError(
                f"{directory}: another process is working in it; wait for it or choose another folder."
            ) from None
        except OSError:
            pass  # some network file systems have no such locks
        yield
    finally:
        os.close(handle)


def _umask() -> int:
    """Return the process's umask (there is no call that reads it without setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    with atomic_file(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def read_json(path: Path, purpose: str) -> Any:
    """Read a JSON file; `purpose` names it in the error ("the manifest of a prepared directory").

    Raises:
        CtsmError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CtsmError(f"{path}: no such file ({purpose}); check the path.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CtsmError(f"{path}: cannot read {purpose}: {error}; make it again.") from error


def require_file(path: Path, purpose: str) -> Path:
    """Return `path` if it is a readable file, else raise a CtsmError that names its purpose."""
    if path.is_dir():
        raise CtsmError(f"{path}: is a folder, but {purpose} must be a file; give the file's path.")
    if not path.exists():
        raise CtsmError(f"{path}: no such file ({purpose}); check the path or download it with `ctsm fetch`.")
    return path


def describe_os_error(error: OSError) -> str:
    """Turn an operating-system error into one sentence with a remedy."""
    place = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or choose another place, then run the command again",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another place, then run the command again",
        errno.EACCES: "permission denied; check the owner and mode of that path",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.ENOENT: "no such file or folder; check the path",
        errno.EIO: "the device reported an input/output error; check the disk",
    }
    remedy = remedies.get(error.errno or 0, f"{error.strerror or error}; check that path and run the command again")
    return f"{place}{remedy}."
