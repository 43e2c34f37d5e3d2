"""Why a row is far from the paper's: docs/results/notes.yaml, one entry for each explanation that was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import from_json
from ctsm.evaluation.groups import Group
from ctsm.evaluation.paper import PaperRow

NAME = "notes.yaml"
REMEDY = "see the comment at the top of docs/results/notes.yaml"
FAR = 1.0  # points of Acc or PPL from which a difference needs an explanation
UNKNOWN = "not known"


@dataclass(frozen=True, kw_only=True)
class Note:
    """An explanation of one row.

    `row` is the paper's label and `iterations` the limit of the run it holds for (None: any). `link` leads to the
    experiment: an address, a file relative to the notes, or "#heading" of the generated tables.
    """

    row: str
    iterations: int | None
    experiment: str
    link: str


def read_notes(folder: Path) -> list[Note]:
    """Read the notes beside a folder's records; none without the file.

    Raises:
        CtsmError: the file is not YAML, no list, or an entry lacks a field or has an unknown one.
    """
    import yaml

    path = folder / NAME
    if not path.is_file():
        return []
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CtsmError(f"{path}: not readable as YAML ({' '.join(str(error).split())}); mend it.") from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise CtsmError(f"{path}: must be a list of notes; {REMEDY}.")
    entries = ({"iterations": None, **entry} if isinstance(entry, dict) else entry for entry in value)
    return [from_json(Note, entry, f"{path}, note {number}", REMEDY) for number, entry in enumerate(entries, start=1)]


def explanation(row: PaperRow, group: Group, notes: Sequence[Note]) -> Note | str:
    """Return the note on a row that is off by more than 1.0 in Acc or PPL, "not known" without one, "" when it is not.

    Args:
        row: the paper's row.
        group: ours, on test.
        notes: in the order of the file; the first that fits counts.
    """
    pairs = ((group.mean("acc"), row.acc), (group.mean("ppl_example"), row.ppl))
    if not any(ours is not None and paper is not None and abs(ours - paper) > FAR for ours, paper in pairs):
        return ""
    fitting = (n for n in notes if n.row == row.label and n.iterations in (None, group.first.iterations))
    return next(fitting, UNKNOWN)


def markdown_link(note: Note | str, document: Path, tables: Path, folder: Path) -> str:
    """Return an explanation as Markdown.

    Args:
        note: from `explanation`.
        document: the file that shows it.
        tables: the file with the generated tables, where "#heading" links lead.
        folder: of the notes, where relative links start.
    """
    if isinstance(note, str):
        return note
    link = note.link
    if link.startswith("#"):
        link = link if document == tables else f"{_relative(tables, document)}{link}"
    elif "://" not in link:
        link = _relative(folder / link, document)
    return f"[{note.experiment}]({link})"


def _relative(target: Path, document: Path) -> str:
    return Path(os.path.relpath(target, document.parent)).as_posix()
