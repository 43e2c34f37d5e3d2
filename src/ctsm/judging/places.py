"""Where a study is, and what must not be written there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ctsm.errors import CtsmError

LOGS = ("-wal", "-shm", "-journal")
"""What SQLite adds to a database's name for the files that it keeps beside it."""


def is_url(study: str) -> bool:
    """Tell whether STUDY is a database's URL and not a file's path."""
    return "://" in study


def require_other_place(path: Path, study: str) -> None:
    """Refuse to write where a study's database or one of its logs is, or could come to be.

    Raises:
        CtsmError: `path` is such a place.
    """
    if is_url(study):
        return
    database, place = os.path.realpath(study), os.path.realpath(path)
    if place == database:
        raise CtsmError(f"{path}: is the study itself; choose another place.")
    if place in [database + log for log in LOGS]:
        raise CtsmError(f"{path}: is where SQLite keeps a log of the study; choose another place.")


def require_nothing_at(paths: Iterable[Path]) -> None:
    """Refuse to replace anything.

    Raises:
        CtsmError: something stands at one of the places.
    """
    for path in paths:
        if os.path.lexists(path):
            raise CtsmError(f"{path}: exists already and stays as it is; choose another place.")
