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


def require_a_files_place(study: str) -> None:
    """Refuse what cannot be the path of a study's file.

    Raises:
        CtsmError: it names a folder, or SQLite's database in memory.
    """
    if study.endswith("/") or Path(study).is_dir():
        raise CtsmError(f"{study}: names a folder; give the path of a new file in it.")
    if str(Path(study)) == ":memory:":
        raise CtsmError(":memory:: would be gone at once; give the path of a new file.")


def require_no_logs(study: str) -> None:
    """Refuse a place beside which there are logs: SQLite would replay them into whatever database comes there.

    Raises:
        CtsmError: there is a log.
    """
    for log in _logs(study):
        if os.path.lexists(log):
            raise CtsmError(
                f"{log}: is left of a study that was removed, and would be replayed into the new one; "
                "remove it or choose another place."
            )


def require_other_place(path: Path, study: str) -> None:
    """Refuse to write where a study's database or one of its logs is, or could come to be.

    Raises:
        CtsmError: `path` is such a place.
    """
    if is_url(study):
        return
    place = os.path.realpath(path)
    if place == os.path.realpath(study):
        raise CtsmError(f"{path}: is the study itself; choose another place.")
    if place in _logs(study):
        raise CtsmError(f"{path}: is where SQLite keeps a log of the study; choose another place.")


def require_nothing_at(paths: Iterable[Path]) -> None:
    """Refuse to replace anything.

    Raises:
        CtsmError: something stands at one of the places.
    """
    for path in paths:
        if os.path.lexists(path):
            raise CtsmError(f"{path}: exists already and stays as it is; choose another place.")


def _logs(study: str) -> list[str]:
    """Return where SQLite keeps the logs of a file: beside what a link names."""
    return [os.path.realpath(study) + log for log in LOGS]
