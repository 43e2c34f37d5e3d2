"""Taking the wanted files out of a zip archive that somebody else made.

Members are found by base name and written under names of our own, so a path inside the archive never becomes a path on
the disk; an archive that tries (or that is larger unpacked than it may be) is refused as a whole.
"""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from ctsm.errors import CtsmError
from ctsm.files import atomic_file
from ctsm.resources.catalogue import size_in_words

BLOCK = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError)


def join_members(archive: Path, members: Sequence[str], target: Path, limit: int) -> None:
    """Write the text members of a zip archive, one after the other, into the file `target`.

    Args:
        archive: the zip file.
        members: base names; each must be there.
        target: the file to create or replace, atomically. Each member ends with a newline in it.
        limit: bytes the members may have together.

    Raises:
        CtsmError: the archive is damaged, hostile, or holds no such member.
    """
    with _opened(archive) as source:
        entries = _find(source, archive, members, limit)
        with atomic_file(target, "wb") as stream:
            for entry in entries:
                if _copy(source, entry, stream) not in {b"", b"\n"}:
                    stream.write(b"\n")


def extract_members(archive: Path, members: Sequence[str], optional: Sequence[str], folder: Path, limit: int) -> None:
    """Write members of a zip archive as files into an existing folder, under their base names.

    Args:
        archive: the zip file.
        members: base names that must be there.
        optional: base names that may be there.
        folder: the caller's temporary folder; it may hold some files when this raises.
        limit: bytes the members may have together.

    Raises:
        CtsmError: the archive is damaged, hostile, or lacks a member.
    """
    with _opened(archive) as source:
        present = {PurePosixPath(entry.filename).name for entry in source.infolist()}
        entries = _find(source, archive, [*members, *(name for name in optional if name in present)], limit)
        _require_space(folder, sum(entry.file_size for entry in entries))
        for entry in entries:
            with (folder / PurePosixPath(entry.filename).name).open("wb") as stream:
                _copy(source, entry, stream)


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file; damage met anywhere in the block becomes one sentence."""
    try:
        with zipfile.ZipFile(archive) as source:
            yield source
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        # A seek to an impossible place, and bz2's "invalid data stream", which has no number.
        if error.errno not in {None, errno.EINVAL}:
            raise
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> CtsmError:
    return CtsmError(f"{archive}: is not a complete zip archive ({error}); delete it and run `ctsm fetch` again.")


def _find(source: zipfile.ZipFile, archive: Path, members: Sequence[str], limit: int) -> list[zipfile.ZipInfo]:
    """Return one entry for each base name, the least deeply nested, after checking that the archive is harmless."""
    for entry in source.infolist():
        if _leaves_its_folder(entry.filename):
            raise CtsmError(f"{archive}: holds the unsafe path {entry.filename!r}; do not use this file.")
    entries = [_find_one(source, archive, name) for name in members]
    total = sum(entry.file_size for entry in entries)
    if total > limit:
        raise CtsmError(
            f"{archive}: would unpack to {size_in_words(total)}, more than the {size_in_words(limit)} that this "
            "resource may have; do not use this file."
        )
    return entries


def _find_one(source: zipfile.ZipFile, archive: Path, name: str) -> zipfile.ZipInfo:
    """Return the least deeply nested regular entry with this base name."""
    found = [entry for entry in source.infolist() if PurePosixPath(entry.filename).name == name and not entry.is_dir()]
    if not found:
        raise CtsmError(
            f"{archive}: holds no {name}, so it is another version than the one this program knows; get the version "
            "that has this file from the publisher."
        )
    entry = min(found, key=lambda candidate: candidate.filename.count("/"))
    mode = entry.external_attr >> 16
    if entry.flag_bits & 1 or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
        raise CtsmError(f"{archive}: {entry.filename} is encrypted or not a regular file; do not use this file.")
    return entry


def _leaves_its_folder(name: str) -> bool:
    """Tell whether a member's path is absolute, names a drive or climbs out with `..`, on any system."""
    path = PureWindowsPath(name)  # takes both slashes and backslashes as separators
    return bool(path.drive or path.root) or ".." in path.parts


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CtsmError(
            f"{folder}: {size_in_words(needed)} are needed to unpack and {size_in_words(free)} are free; free some "
            "space and run the same command again."
        )


def _copy(source: zipfile.ZipFile, entry: zipfile.ZipInfo, stream: IO[bytes]) -> bytes:
    """Copy one member and return its last byte; zipfile gives at most the declared size and checks the CRC."""
    last = b""
    with source.open(entry) as member:
        while block := member.read(BLOCK):
            stream.write(block)
            last = block[-1:]
    return last
