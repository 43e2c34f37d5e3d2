"""Personal links: shown once, or written to a file that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.judging.places import require_other_place
from ctsm.judging.store import ADMIN

Tokens = Mapping[str, str]


def link(name: str, token: str, url: str) -> str:
    """Return the link of an annotator or of `ADMIN` on the server at `url`."""
    return f"{url.rstrip('/')}/{'admin' if name == ADMIN else 'judge'}/{token}"


@contextmanager
def handing_out(study: str, file: Path | None, url: str) -> Iterator[Callable[[Tokens], None]]:
    """Yield what prints the links, or writes them to a new file; a file that was begun goes if the block fails.

    The file is made first, so that no token is given out that nobody can be told.

    Raises:
        CtsmError: something stands at `file` already, or it is a file of the study.
    """
    if file is None:
        yield lambda tokens: print(
            "\n".join([*_lines(tokens, url), "Shown only now; `ctsm judge links` makes new ones."])
        )
        return
    require_other_place(file, study)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CtsmError(f"{file}: is there already and stays as it is; choose another file for the links.") from None

    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:

            def write(tokens: Tokens) -> None:
                stream.write("\n".join([*_lines(tokens, url), ""]))
                stream.flush()
                os.fsync(stream.fileno())
                print(f"{file}: the links of {', '.join(tokens)}")

            yield write
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _lines(tokens: Tokens, url: str) -> list[str]:
    """Return one line for each person: who, tab, link."""
    who = {name: "admin" if name == ADMIN else f"annotator {name}" for name in tokens}
    return [f"{who[name]}\t{link(name, token, url)}" for name, token in tokens.items()]
