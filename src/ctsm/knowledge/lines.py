"""Reading resource files line by line, plain, gzipped or inside a zip archive, with errors that say where."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from ctsm.errors import CtsmError
from ctsm.files import require_file


def place(path: Path, number: int, member: str | None = None) -> str:
    """Return "file, line N" as every error about one line starts."""
    inside = f" ({member})" if member else ""
    return f"{path}{inside}, line {number}"


def zip_members(path: Path, purpose: str) -> list[str]:
    """Return the names of the files inside a zip archive, sorted.

    Raises:
        CtsmError: the archive is missing or damaged.
    """
    require_file(path, purpose)
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(entry.filename for entry in archive.infolist() if not entry.is_dir())
    except zipfile.BadZipFile as error:
        raise CtsmError(f"{path}: not a readable zip archive ({error}); download {purpose} again.") from error


def byte_lines(path: Path, purpose: str, member: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line without its end) of a file, streamed.

    Args:
        path: a plain file, one ending in .gz, or one ending in .zip (then `member` names the file inside).
        purpose: what the file is, for the errors ("the VAD lexicon").
        member: the name inside a zip archive.

    Raises:
        CtsmError: no such file, a folder, or damaged compressed data.
    """
    require_file(path, purpose)
    number = 0
    stream: IO[bytes]
    with ExitStack() as stack:
        try:
            if member is not None:
                stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
            elif path.suffix == ".gz":
                stream = cast(IO[bytes], stack.enter_context(gzip.open(path, "rb")))
            else:
                stream = stack.enter_context(path.open("rb"))
            for number, line in enumerate(stream, start=1):
                yield number, line.rstrip(b"\r\n")
        except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            where = place(path, number + 1, member)
            raise CtsmError(f"{where}: damaged compressed data ({error}); download {purpose} again.") from error


def text_lines(path: Path, purpose: str, member: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of a UTF-8 file; a byte order mark at the start is skipped.

    Raises:
        CtsmError: as `byte_lines`, and for bytes that are not UTF-8.
    """
    for number, line in byte_lines(path, purpose, member):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            where = place(path, number, member)
            raise CtsmError(f"{where}: not UTF-8 ({error.reason}); save {purpose} as UTF-8.") from None
