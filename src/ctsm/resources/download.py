"""One file over HTTP: resumed, retried, checked, and under its final name only when complete.

While a transfer runs, `NAME.part` holds the bytes and `NAME.part.json` where they come from and the server's mark of
that version (a strong ETag, or the date of the last change). A later request asks for the rest with `Range` and
`If-Range` (RFC 9110, sections 13.1.5 and 14), so that bytes of two versions are never mixed.
"""

from __future__ import annotations

import http.client
import re
import shutil
import time
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO

from ctsm.errors import CtsmError
from ctsm.files import read_json, sha256_of, sync_directory, sync_file, write_json
from ctsm.resources.catalogue import size_in_words
from ctsm.resources.connection import Dropped, RangeRefused, network_error, open_address
from ctsm.resources.progress import Reporter
from ctsm.version import __version__

BLOCK = 1 << 18


@dataclass(frozen=True)
class Patience:
    """How long to try: `attempts` in all, `pause` seconds before the second (doubled each time), `timeout` seconds of
    silence before a connection counts as dropped."""

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 30.0


@dataclass(frozen=True)
class _Version:
    """What is known about the file that a `.part` belongs to."""

    address: str
    validator: str | None
    total: int | None


class _Part:
    """The unfinished file and its note."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self, address: str) -> _Version | None:
        """Return what the note says, or None when there is nothing at `address` to go on from."""
        try:
            found = _Version(**read_json(self.note, "the note of an unfinished download"))
        except (CtsmError, TypeError):
            return None
        known = isinstance(found.validator, str | None) and isinstance(found.total, int | None)
        return found if known and found.address == address and self.path.exists() else None

    def start(self, version: _Version) -> None:
        self.discard()
        write_json(self.note, vars(version))

    def kept(self, address: str) -> str:
        """Return what to tell a user about bytes that a later run can go on from, or nothing."""
        version = self.version(address)
        if version is None or version.validator is None or not self.size():
            return ""
        return f" (the {self.size()} bytes in {self.path} stay and need not come again)"

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(
    address: str,
    target: Path,
    reporter: Reporter,
    *,
    sha256: str | None = None,
    signature: bytes = b"",
    patience: Patience | None = None,
) -> str:
    """Fetch `address` into the file `target` and return the SHA-256 of its content.

    Args:
        address: an http or https address.
        target: the final name; it appears by a rename once everything has arrived and passed the checks.
        reporter: told about every byte and every retry.
        sha256: the hash the content must have, when it is known.
        signature: the bytes the content must begin with (a web page in place of an archive is refused).
        patience: attempts and time limits.

    Raises:
        CtsmError: the server refuses, cannot be reached or keeps dropping the connection; the content is not the
            expected one; the disk is full. A `.part` stays where a later call can go on from it.
    """
    patience = patience or Patience()
    part = _Part(target)
    try:
        _try_until_complete(address, part, reporter, patience, hash_known=sha256 is not None)
    finally:
        reporter.close()
    found = sha256_of(part.path)
    if sha256 is not None and found != sha256:
        part.discard()
        raise CtsmError(
            f"{address}: the download has SHA-256 {found}, but {sha256} is expected, so it was removed; try again, and "
            "if it stays so, the file at that address is another one."
        )
    with part.path.open("rb") as stream:
        start = stream.read(len(signature))
    if start != signature:
        part.discard()
        raise CtsmError(
            f"{address}: gave something that is not a {target.suffix} file (a web page, perhaps), so it was removed; "
            "look for the file on the publisher's page."
        )
    sync_file(part.path)
    part.path.replace(target)
    part.note.unlink(missing_ok=True)
    sync_directory(target.parent)
    return found


def _try_until_complete(address: str, part: _Part, reporter: Reporter, patience: Patience, *, hash_known: bool) -> None:
    """Make attempts until one ends well or `patience` is used up."""
    reason = ""
    for attempt in range(patience.attempts):
        if attempt:
            reporter.note(f"{address}: {reason}; attempt {attempt + 1} of {patience.attempts}")
            time.sleep(patience.pause * 2 ** (attempt - 1))
        try:
            _attempt(address, part, reporter, patience.timeout, hash_known=hash_known)
            return
        except Dropped as dropped:
            reason = str(dropped)
            if isinstance(dropped, RangeRefused):
                part.discard()
    raise CtsmError(
        f"{address}: {reason} at the last of {patience.attempts} attempts; check the network and run the same command "
        f"again{part.kept(address)}."
    )


def _attempt(address: str, part: _Part, reporter: Reporter, timeout: float, *, hash_known: bool) -> None:
    """Ask once for what is missing and append it to the part."""
    version = part.version(address)
    done = part.size() if version else 0
    if version and done and done == version.total:
        return
    headers = {"User-Agent": f"ctsm/{__version__}", "Accept-Encoding": "identity"}
    if version and version.validator and done:
        headers |= {"Range": f"bytes={done}-", "If-Range": version.validator}
    else:
        version = None
    with open_address(urllib.request.Request(address, headers=headers), timeout) as response:
        length = response.length
        if response.status == 206 and version:
            total = _total_of_continuation(response, version, done, part)
        elif response.status == 200:
            done, total = 0, length
            part.start(_Version(address, _validator(response.headers), total))
        else:
            raise CtsmError(f"{address}: the server answered {response.status}, which is not a file; try again later.")
        if length is None and not response.chunked and not hash_known:
            raise CtsmError(
                f"{address}: the server does not say how long the file is, so a dropped connection could not be "
                "noticed; use another server with --mirror."
            )
        _require_space(part.path.parent, length)
        reporter.begin(part.path.stem, done, total)
        _append(address, response, part, length, reporter)
    if total is not None and part.size() < total:
        raise Dropped(f"the connection was dropped {total - part.size()} bytes before the end")


def _validator(headers: Message) -> str | None:
    """Return what `If-Range` may name: a strong ETag, else the date of the last change, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _total_of_continuation(response: http.client.HTTPResponse, version: _Version, done: int, part: _Part) -> int | None:
    """Return the whole file's length, after dropping the part if this partial answer is not the rest of its file."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    marks = {response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")} - {""}
    if span is not None and int(span[1]) == done and (not marks or version.validator in marks):
        total = version.total if span[2] == "*" else int(span[2])
        if version.total in {None, total}:
            return total
    part.discard()
    raise Dropped("the file on the server has changed, starting again from its beginning")


def _require_space(folder: Path, needed: int | None) -> None:
    """Refuse to start what cannot fit."""
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise CtsmError(
            f"{folder}: {size_in_words(needed)} are needed and {size_in_words(free)} are free; free some space or "
            "choose another folder with --to."
        )


def _append(
    address: str, response: http.client.HTTPResponse, part: _Part, length: int | None, reporter: Reporter
) -> None:
    """Write the body behind what is there; `length` is None for a body that marks its own end."""
    received = 0
    with part.path.open("ab", buffering=0) as stream:
        while length is None or received < length:
            try:
                block = response.read1(BLOCK if length is None else min(BLOCK, length - received))
            except (OSError, http.client.HTTPException) as error:
                raise network_error(address, error) from error
            if not block:
                break
            try:
                _write_all(stream, block)
            except OSError as error:
                raise CtsmError(
                    f"{part.path}: cannot be written ({error.strerror}); free some space and run the same command "
                    f"again{part.kept(address)}."
                ) from error
            received += len(block)
            reporter.advance(len(block))


def _write_all(stream: IO[bytes], block: bytes) -> None:
    """Write a whole block to an unbuffered stream, which may take less at a time."""
    rest = memoryview(block)
    while rest:
        rest = rest[stream.write(rest) :]
