"""Reading dialogues: the official EmpatheticDialogues archive, a folder with its CSV files, or JSONL of our own.

The official files are comma-separated without quoting: `"` is an ordinary character and a comma inside a text is
written `_comma_`. Rows have eight fields; the publisher's dev and test files add a ninth with retrieval candidates.
Roles follow from the order of turns (even: speaker, odd: listener), never from `speaker_idx`, which holds worker ids.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from ctsm.corpus.emotions import EMOTION_INDEX, EMOTIONS
from ctsm.errors import CtsmError
from ctsm.files import require_file
from ctsm.text.normalise import is_blank

SPLITS: Final[tuple[str, ...]] = ("train", "dev", "test")

CSV_FILES: Final[dict[str, str]] = {"train.csv": "train", "valid.csv": "dev", "test.csv": "test"}
HEADER: Final = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
FIELDS: Final = (8, 9)

# The official archive unpacks to well under 200 MB; what goes far beyond is a mistake or an attack.
MAX_UNPACKED_BYTES: Final = 1 << 30
MAX_LINE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation; turn 0, 2, ... is the speaker's, turn 1, 3, ... the listener's.

    Attributes:
        id: unique in its split.
        emotion: index into EMOTIONS of the emotion the speaker was asked to talk about.
        situation: the speaker's own description of the situation.
        turns: the utterances in order, none of them empty.
    """

    id: str
    emotion: int
    situation: str
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListenerTurn:
    """One example: the reply that the listener gave at an odd `turn`, and all that was said before."""

    conversation: Conversation
    turn: int

    @property
    def context(self) -> tuple[str, ...]:
        """The utterances before the reply; their number is odd."""
        return self.conversation.turns[: self.turn]

    @property
    def reply(self) -> str:
        """The listener's utterance."""
        return self.conversation.turns[self.turn]


def listener_turns(conversations: Sequence[Conversation]) -> Iterator[ListenerTurn]:
    """Yield one example for each listener turn, in order."""
    for conversation in conversations:
        for turn in range(1, len(conversation.turns), 2):
            yield ListenerTurn(conversation, turn)


def read_dialogues(path: Path) -> dict[str, list[Conversation]]:
    """Read all conversations of the splits "train", "dev" and "test", in file order; nothing is merged or dropped.

    Args:
        path: the official archive (.tar.gz); a folder with train.csv, valid.csv and test.csv, or with one folder that
            holds them; a .jsonl file with one object a line, {"id", "emotion", "situation", "split", "turns"}; or a
            folder with such files. A split that JSONL does not mention is empty.

    Raises:
        CtsmError: something is missing or malformed; the message names the file and the line.
    """
    if path.is_dir():
        return _read_folder(path)
    require_file(path, "the dialogues")
    if path.suffix == ".jsonl":
        return _read_jsonl([path])
    if path.suffix == ".csv":
        raise CtsmError(f"{path}: one CSV file is one split; give the folder that holds {', '.join(CSV_FILES)}.")
    return _read_archive(path)


def _read_folder(folder: Path) -> dict[str, list[Conversation]]:
    """Read a folder with the official CSV files (or one level below), else one with JSONL files."""
    for place in (folder, *sorted(item for item in folder.iterdir() if item.is_dir())):
        if not any((place / name).is_file() for name in CSV_FILES):
            continue
        dialogues = {}
        for name, split in CSV_FILES.items():
            file = require_file(place / name, f"the {split} split of the dialogues")
            with file.open("rb") as stream:
                dialogues[split] = list(_read_csv(stream, str(file)))
        return dialogues
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise CtsmError(
            f"{folder}: holds neither {', '.join(CSV_FILES)} nor *.jsonl; give the folder of the dialogues."
        )
    return _read_jsonl(files)


class _BoundedReader:
    """A binary stream that refuses to deliver more than MAX_UNPACKED_BYTES (a decompression bomb)."""

    def __init__(self, stream: io.BufferedIOBase, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        block = self._stream.read(min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise CtsmError(
                f"{self._path}: unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB, which the official archive never "
                "does; download it again with `ctsm fetch`."
            )
        return block


def _read_archive(path: Path) -> dict[str, list[Conversation]]:
    """Read the CSV members of a tar archive, gzip or plain, in one pass and without extracting anything."""
    found: dict[str, list[Conversation]] = {}
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if zipped else raw
            bounded: Any = _BoundedReader(stream, path)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    split = CSV_FILES.get(name)
                    content = archive.extractfile(member) if split and member.isfile() else None
                    if split is None or content is None:
                        continue
                    if split in found:
                        raise CtsmError(f"{path}: holds {name} twice; download it again with `ctsm fetch`.")
                    found[split] = list(_read_csv(content, f"{path}:{name}"))
            while bounded.read(1 << 16):
                pass  # to the end, where gzip keeps the checksum of all before
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CtsmError(
            f"{path}: is not a complete tar archive ({error}); download it again with `ctsm fetch`."
        ) from error
    for name, split in CSV_FILES.items():
        if split not in found:
            raise CtsmError(f"{path}: holds no {name}; give the official EmpatheticDialogues archive.")
    return {split: found[split] for split in SPLITS}


def _numbered_lines(stream: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Yield ("file, line 7", the line's text) for each line, whatever kind of line end it has."""
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        place = f"{name}, line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise CtsmError(f"{place}: longer than {MAX_LINE_BYTES} bytes; check that this is a file of dialogues.")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise CtsmError(f"{place}: not valid UTF-8; save the file in that encoding.") from None
        yield place, text.rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of an official CSV file."""

    place: str
    conversation: str
    index: int
    emotion: int
    situation: str
    utterance: str


def _read_csv(stream: IO[bytes], name: str) -> Iterator[Conversation]:
    """Yield the conversations of one official CSV file."""
    lines = _numbered_lines(stream, name)
    place, header = next(lines, (name, ""))
    if header != HEADER:
        raise CtsmError(f"{place}: the header is not {HEADER}; give the official EmpatheticDialogues files.")
    seen: set[str] = set()
    rows: list[_Row] = []
    for place, line in lines:
        if not line:
            continue
        row = _csv_row(place, line)
        if rows and row.conversation != rows[0].conversation:
            yield _join_rows(rows)
            rows = []
        if not rows:
            _add_id(place, row.conversation, seen)
        rows.append(row)
    if not rows:
        raise CtsmError(f"{name}: holds no conversation; give the official EmpatheticDialogues files.")
    yield _join_rows(rows)


def _csv_row(place: str, line: str) -> _Row:
    """Return the parts of one CSV line that are used."""
    fields = line.split(",")
    if len(fields) not in FIELDS:
        raise CtsmError(
            f"{place}: has {len(fields)} fields instead of 8; write commas inside a text as _comma_ and remove others."
        )
    index = fields[1]
    if not (index.isascii() and index.isdigit() and len(index) < 10):
        raise CtsmError(f"{place}: utterance_idx is {_quote(index)}, not a whole number; mend the row.")
    utterance = fields[5].replace("_comma_", ",")
    if is_blank(utterance):
        raise CtsmError(f"{place}: the utterance is empty; remove the conversation or write what was said.")
    situation = fields[3].replace("_comma_", ",")
    return _Row(place, fields[0], int(index), _emotion(place, fields[2]), situation, utterance)


def _join_rows(rows: list[_Row]) -> Conversation:
    """Return the conversation of consecutive rows with the same conv_id."""
    rows = sorted(rows, key=lambda row: row.index)
    for expected, row in enumerate(rows, start=1):
        if row.index != expected:
            raise CtsmError(
                f"{row.place}: utterance_idx is {row.index} where {expected} should follow in conversation "
                f"{_quote(row.conversation)}; mend the rows so that they count 1, 2, 3 and so on."
            )
        if row.emotion != rows[0].emotion:
            raise CtsmError(
                f"{row.place}: the emotion of conversation {_quote(row.conversation)} changes from "
                f"{EMOTIONS[rows[0].emotion]} to {EMOTIONS[row.emotion]}; give all its rows one label."
            )
    return Conversation(rows[0].conversation, rows[0].emotion, rows[0].situation, tuple(row.utterance for row in rows))


def _add_id(place: str, identity: str, seen: set[str]) -> None:
    """Note a conversation's id; refuse an empty one and one met before."""
    if not identity:
        raise CtsmError(f"{place}: the conversation has no id; give it one.")
    if identity in seen:
        raise CtsmError(
            f"{place}: conversation {_quote(identity)} was already read; keep its rows together and its id unique."
        )
    seen.add(identity)


def _quote(text: str) -> str:
    """Return `text` quoted for a message, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _emotion(place: str, label: str) -> int:
    """Return the index of an emotion label."""
    index = EMOTION_INDEX.get(label)
    if index is None:
        close = difflib.get_close_matches(label[:40].lower(), EMOTIONS, n=3)
        advice = f"did you mean {' or '.join(close)}" if close else f"use one of {', '.join(EMOTIONS)}"
        raise CtsmError(f"{place}: unknown emotion label {_quote(label)}; {advice}.")
    return index


def _read_jsonl(files: Sequence[Path]) -> dict[str, list[Conversation]]:
    """Read JSONL files of our own layout; ids are unique over all of them."""
    dialogues: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for file in files:
        with file.open("rb") as stream:
            for place, line in _numbered_lines(stream, str(file)):
                if line.strip():
                    split, conversation = _jsonl_row(place, line)
                    _add_id(place, conversation.id, seen)
                    dialogues[split].append(conversation)
    if not seen:
        raise CtsmError(f"{files[0]}: holds no conversation; write one JSON object a line.")
    return dialogues


def _jsonl_row(place: str, line: str) -> tuple[str, Conversation]:
    """Return the split and the conversation of one JSONL line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise CtsmError(f"{place}: not valid JSON ({error.msg} at column {error.colno}); mend the line.") from None
    except (ValueError, RecursionError):
        raise CtsmError(f"{place}: too long a number or too deeply nested; write one plain object a line.") from None
    if not isinstance(record, dict):
        raise CtsmError(f"{place}: not a JSON object; write one object a line.")
    for key in ("id", "emotion", "situation", "split"):
        _require_text(place, key, record.get(key))
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns:
        raise CtsmError(f"{place}: 'turns' is not a list with at least one utterance; write them as a list of strings.")
    for number, turn in enumerate(turns, start=1):
        _require_text(place, f"turn {number}", turn)
        if is_blank(turn):
            raise CtsmError(f"{place}: turn {number} is empty; remove the conversation or write what was said.")
    if record["split"] not in SPLITS:
        raise CtsmError(f"{place}: unknown split {_quote(record['split'])}; use train, dev or test.")
    emotion = _emotion(place, record["emotion"])
    return record["split"], Conversation(record["id"], emotion, record["situation"], tuple(turns))


def _require_text(place: str, key: str, value: object) -> None:
    """Refuse a value that is not text that UTF-8 can hold (JSON can spell halves of surrogate pairs)."""
    if not isinstance(value, str):
        raise CtsmError(f"{place}: {key!r} is missing or not a string; write it as a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise CtsmError(f"{place}: {key!r} holds half of a surrogate pair; write the whole character.") from None
