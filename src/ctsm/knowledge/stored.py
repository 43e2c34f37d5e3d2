"""Backends that work nothing out: inferences written down earlier, and none at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctsm.errors import CtsmError
from ctsm.files import atomic_file, sha256_of, write_json
from ctsm.knowledge.inference import (
    EMPTY,
    SOURCE_FILE,
    Inferences,
    from_record,
    header_record,
    parse_line,
    to_record,
)
from ctsm.knowledge.lines import place, text_lines

PURPOSE = "the file of inferences"


def read_inferences(path: Path) -> tuple[dict[str, Any] | None, dict[str, Inferences]]:
    """Read a file of inferences (JSONL, plain or .gz) and return what made it, if it says so, and its content.

    Raises:
        CtsmError: naming the line, for a broken one or an utterance that comes twice with different inferences.
    """
    made_by: dict[str, Any] | None = None
    known: dict[str, Inferences] = {}
    for number, text in text_lines(path, PURPOSE):
        if not text.strip():
            continue
        record = parse_line(text, place(path, number))
        if number == 1 and isinstance(record, dict) and "utterance" not in record and "source" in record:
            made_by = record["source"]
            continue
        utterance, inferences = from_record(record, place(path, number))
        if known.setdefault(utterance, inferences) != inferences:
            raise CtsmError(f"{place(path, number)}: this utterance had other inferences before; remove one line.")
    return made_by, known


class NoSource:
    """The backend `none`: nothing is ever inferred."""

    name = "none"

    def describe(self) -> dict[str, Any]:
        """Return the backend's name."""
        return {"backend": self.name}

    def infer(self, utterances: Sequence[str]) -> list[Inferences]:
        """Return empty inferences for every utterance."""
        return [EMPTY for _ in utterances]

    def save(self, directory: Path) -> None:
        """Write `source.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / SOURCE_FILE, self.describe())


class FileSource:
    """The backend `file`: inferences made earlier and written down; unknown utterances have none."""

    name = "file"
    saved_name = "inferences.jsonl"

    def __init__(self, path: Path, description: dict[str, Any] | None = None) -> None:
        self._made_by, self._known = read_inferences(path)
        self._description = description or {"backend": self.name, "file": path.name, "sha256": sha256_of(path)}
        if self._made_by is not None:
            self._description.setdefault("made_by", self._made_by)

    def describe(self) -> dict[str, Any]:
        """Return the file's name and SHA-256, and under `made_by` the source that made it."""
        return self._description

    def infer(self, utterances: Sequence[str]) -> list[Inferences]:
        """Look the utterances up, character by character the same."""
        return [self._known.get(utterance, EMPTY) for utterance in utterances]

    def save(self, directory: Path) -> None:
        """Write all the inferences and `source.json`.

        The file holds every utterance it answers for, so the terms of those utterances hold for the folder too.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_file(directory / self.saved_name) as stream:
            if self._made_by is not None:
                stream.write(json.dumps(header_record(self._made_by)) + "\n")
            for utterance, inferences in self._known.items():
                stream.write(json.dumps(to_record(utterance, inferences)) + "\n")
        write_json(directory / SOURCE_FILE, self.describe())
