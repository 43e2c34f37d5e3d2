"""Making a study from replies files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.files import require_file
from ctsm.judging.design import DesignOptions, design_study
from ctsm.judging.pairs import read_pairs
from ctsm.judging.store import Store


def read_guidelines(path: Path | None) -> str:
    """Return what annotators read first: the text of a file, or the built-in one.

    Raises:
        CtsmError: the file is missing or not UTF-8.
    """
    file = Path(__file__).parent / "guidelines.txt" if path is None else path
    try:
        return require_file(file, "the guidelines").read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise CtsmError(f"{file}: not UTF-8 text; save the file as UTF-8.") from None


def create_study(place: str, pairs: Sequence[str], options: DesignOptions) -> tuple[Store, list[str]]:
    """Design a study and store it where nothing is yet.

    Args:
        place: path of the new SQLite file, or the URL of an empty PostgreSQL database.
        pairs: each NAME=A.jsonl,B.jsonl.
        options: of the design.

    Returns:
        The open store, and lines that say what was made.

    Raises:
        CtsmError: files or options are wrong, or something is at `place` already; nothing is written.
    """
    read = read_pairs(pairs)
    study = design_study(read, options, datetime.now(UTC).isoformat(timespec="seconds"))
    store = Store.create(place, study)
    own = store.sequence(study.annotators[0])
    catch = sum(trial.catch for trial in own)
    notes = [
        f"{_counted(len(study.annotators), 'annotator')}{', each' if len(study.annotators) > 1 else ''} with "
        f"{_counted(len(own), 'comparison')}: {_counted(len(study.items), 'item')}, {_counted(len(read), 'pair')}, "
        f"{_counted(catch, 'catch trial')}"
    ]
    notes += [
        f"{pair.pair.name}: {pair.pair.a} against {pair.pair.b}; "
        f"both give the same reply to {pair.same_replies(study.items)} of "
        f"{_counted(len(study.items), 'item')}"
        for pair in read
    ]
    if not catch:
        notes.append("No catch trials: they need references, and replies from other conversations.")
    return store, notes


def _counted(number: int, thing: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
