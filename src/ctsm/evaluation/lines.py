"""Reading and writing files of lines: tokenised text and JSONL, with errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ctsm.errors import CtsmError
from ctsm.files import atomic_file, require_file


def read_lines(path: Path, purpose: str) -> list[str]:
    r"""Return the lines of a UTF-8 file without their "\n".

    Only "\n" ends a line: other separators (form feed, U+2028) may stand inside one. A last "\n" ends the last
    line and starts no further one, so "a\n" is one line and "a\n\n" is two. A byte order mark is dropped.

    Raises:
        CtsmError: the file is missing, a folder, or not UTF-8.
    """
    data = require_file(path, purpose).read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CtsmError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8.") from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def read_jsonl(path: Path, purpose: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) for each line of a JSONL file; the place ("FILE, line 3") is for error messages.

    Raises:
        CtsmError: the file is unreadable, or a line is not one JSON object.
    """
    for number, line in enumerate(read_lines(path, purpose), start=1):
        place = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise CtsmError(f"{place}: not valid JSON; {purpose} has one JSON object on each line.") from None
        if not isinstance(value, dict):
            raise CtsmError(f"{place}: not a JSON object; {purpose} has one JSON object on each line.")
        yield place, value


def write_jsonl(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically, in readable UTF-8."""
    with atomic_file(path, "wb") as stream:
        for item in objects:
            line = json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n"
            # A lone surrogate has no UTF-8 form; its backslash form is the JSON escape for it.
            stream.write(line.encode("utf-8", errors="backslashreplace"))
