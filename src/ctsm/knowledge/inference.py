"""Commonsense inferences about an utterance: five relations of up to five short phrases, from several backends.

A backend is an `InferenceSource`. `open_source` makes one from what the user writes (`comet[:DIR]`, `atomic:FILE`,
`file:FILE`, `none`), `save` puts it into a model directory and `load_source` takes it out again.
`infer_with_cache` keeps the answers for a whole corpus on disk.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from ctsm.errors import CtsmError
from ctsm.files import read_json
from ctsm.knowledge.lines import place

RELATIONS = ("xIntent", "xNeed", "xWant", "xEffect", "xReact")
PHRASES = 5
Inferences = tuple[tuple[str, ...], ...]
"""For each of RELATIONS at most PHRASES phrases, the best first, without empty ones and "none"."""
EMPTY: Inferences = tuple(() for _ in RELATIONS)

BACKENDS = "comet[:DIR], atomic:FILE, file:FILE and none"
SOURCE_FILE = "source.json"
CHUNK = 512
"""Utterances worked out between two writes: what an interruption can cost."""


class InferenceSource(Protocol):
    """What prepares, chats and serves with inferred knowledge knows about a backend."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Return the backend's name and options as JSON values: for the manifest, and the key of a cache."""
        ...

    def infer(self, utterances: Sequence[str]) -> list[Inferences]:
        """Return the inferences of each raw utterance text; repeated utterances are worked out once."""
        ...

    def save(self, directory: Path) -> None:
        """Write into `directory` all that `load_source` needs to answer for new utterances, `source.json` last."""
        ...


def clean_phrases(phrases: Iterable[str]) -> tuple[str, ...]:
    """Strip phrases, drop empty ones, "none" and repetitions, and keep the first PHRASES."""
    kept: dict[str, None] = {}
    for phrase in phrases:
        text = " ".join(phrase.split())
        if text and text.rstrip(".").strip().lower() not in ("", "none"):
            kept[text] = None
            if len(kept) == PHRASES:
                break
    return tuple(kept)


def to_record(utterance: str, inferences: Inferences) -> dict[str, Any]:
    """Return the JSON object of one line of a file of inferences."""
    record: dict[str, Any] = {"utterance": utterance}
    record.update({relation: list(phrases) for relation, phrases in zip(RELATIONS, inferences, strict=True)})
    return record


def from_record(record: object, where: str) -> tuple[str, Inferences]:
    """Check one line's JSON object and return its utterance and inferences (a missing relation is empty).

    Raises:
        CtsmError: starting with `where`, for anything but a string `utterance` and lists of strings named as RELATIONS.
    """
    if not isinstance(record, dict) or not isinstance(record.get("utterance"), str):
        raise CtsmError(f"{where}: expected a JSON object with a string 'utterance'; mend or remove the line.")
    unknown = sorted(set(record) - {"utterance", *RELATIONS})
    if unknown:
        raise CtsmError(f"{where}: unknown key '{unknown[0]}'; the relations are {', '.join(RELATIONS)}.")
    for relation in RELATIONS:
        phrases = record.get(relation, [])
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise CtsmError(f"{where}: '{relation}' is not a list of strings; mend or remove the line.")
    return record["utterance"], tuple(clean_phrases(record.get(relation, [])) for relation in RELATIONS)


def header_record(description: dict[str, Any]) -> dict[str, Any]:
    """Return the first line of a file of inferences, which says what made it."""
    return {"source": description}


def parse_line(text: str, where: str) -> object:
    """Parse one JSON line; an error starts with `where`."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise CtsmError(f"{where}: not JSON ({error.msg}); mend or remove the line.") from None
    return value


def open_source(spec: str) -> InferenceSource:
    """Open the backend named by `comet[:DIR]`, `atomic:FILE`, `file:FILE` or `none`.

    Raises:
        CtsmError: an unknown backend, a missing file name, or what the backend finds wrong with its file.
        MissingExtraError: `comet` without its optional dependency.
    """
    backend, _, rest = spec.partition(":")
    if backend == "none" and not rest:
        from ctsm.knowledge.stored import NoSource

        return NoSource()
    if backend == "comet":
        from ctsm.knowledge.comet import DEFAULT_DIRECTORY, CometSource

        return CometSource(Path(rest) if rest else DEFAULT_DIRECTORY)
    if backend in ("atomic", "file"):
        if not rest:
            raise CtsmError(f"The inferences '{spec}' name no file; write {backend}:FILE.")
        if backend == "file":
            from ctsm.knowledge.stored import FileSource

            return FileSource(Path(rest))
        from ctsm.knowledge.atomic import AtomicSource

        return AtomicSource.read(Path(rest))
    raise CtsmError(f"Unknown inferences '{spec}'; choose one of {BACKENDS}.")


def load_source(directory: Path) -> InferenceSource:
    """Load what `save` wrote; a COMET model that is not where it was is only missed at the first `infer`.

    Raises:
        CtsmError: `source.json` or a file beside it is missing, broken or of an unknown backend.
    """
    path = directory / SOURCE_FILE
    description = read_json(path, "the inference source of a model")
    backend = description.get("backend") if isinstance(description, dict) else None
    if backend == "none":
        from ctsm.knowledge.stored import NoSource

        return NoSource()
    if backend == "file":
        from ctsm.knowledge.stored import FileSource

        return FileSource(directory / FileSource.saved_name, description)
    if backend == "atomic":
        from ctsm.knowledge.atomic import AtomicSource

        return AtomicSource.load(directory, description)
    if backend == "comet":
        from ctsm.knowledge.comet import CometSource

        return CometSource.load(description, path)
    raise CtsmError(f"{path}: names no known backend ({BACKENDS}); copy the model directory again.")


def infer_with_cache(
    source: InferenceSource,
    utterances: Sequence[str],
    cache_file: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Inferences]:
    """Return the inferences of each utterance, looking first into `cache_file` and adding to it what was missing.

    The cache is JSON lines: first `{"source": source.describe()}`, then one object per distinct utterance. It grows
    chunk by chunk, so an interrupted run goes on where it stopped; an unfinished last line is cut off. A cache made by
    another source or with other options is refused, never mixed or overwritten: it may have cost hours.
    The finished file can be read by the backend `file`.

    Args:
        source: the backend.
        utterances: raw utterance texts.
        cache_file: where to keep the answers; None keeps nothing.
        progress: called with (distinct utterances done, distinct utterances asked for).

    Raises:
        CtsmError: the cache is of another source, broken, or being written by another process.
    """
    wanted = list(dict.fromkeys(utterances))
    if cache_file is None:
        known: dict[str, Inferences] = {}
        _complete(source, wanted, known, None, progress)
    else:
        if cache_file.is_dir():
            raise CtsmError(f"{cache_file}: is a folder, but the cache of inferences must be a file; choose another.")
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        with cache_file.open("a+b") as stream:
            _lock(stream, cache_file)
            known = _read(stream, cache_file, source)
            _complete(source, wanted, known, stream, progress)
    return [known[utterance] for utterance in utterances]


def _complete(
    source: InferenceSource,
    wanted: list[str],
    known: dict[str, Inferences],
    stream: IO[bytes] | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Work out the utterances not yet in `known`, a chunk at a time, and append them to the cache."""
    missing = [utterance for utterance in wanted if utterance not in known]
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        answers = dict(zip(chunk, source.infer(chunk), strict=True))
        if stream is not None:
            _append(stream, [to_record(utterance, inferences) for utterance, inferences in answers.items()])
        known.update(answers)
        if progress is not None:
            progress(len(wanted) - len(missing) + start + len(chunk), len(wanted))


def _lock(stream: IO[bytes], path: Path) -> None:
    """Keep a second process from writing the same cache; the lock ends with the file or the process."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CtsmError(f"{path}: another process is writing this cache; wait for it or choose another file.") from None


def _append(stream: IO[bytes], records: list[dict[str, object]]) -> None:
    """Append JSON lines in one write and force them to the disk."""
    stream.write("".join(json.dumps(record) + "\n" for record in records).encode())
    stream.flush()
    os.fsync(stream.fileno())


def _read(stream: IO[bytes], path: Path, source: InferenceSource) -> dict[str, Inferences]:
    """Read the cache, cut off an unfinished last line, and write the header of a new one."""
    stream.seek(0)
    content = stream.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        stream.truncate(whole)
    lines = content[:whole].splitlines()
    description = json.loads(json.dumps(source.describe()))
    if not lines:
        _append(stream, [header_record(description)])
        return {}
    try:
        texts = [line.decode() for line in lines]
    except UnicodeDecodeError:
        raise CtsmError(f"{path}: the cache of inferences is not UTF-8; delete it to work them out again.") from None
    header = parse_line(texts[0], place(path, 1))
    if not isinstance(header, dict) or header.get("source") != description:
        raise CtsmError(
            f"{path}, line 1: this cache of inferences was made by another source or with other options; choose "
            "another file, or delete it to work them out again."
        )
    records = (
        from_record(parse_line(text, place(path, row)), place(path, row)) for row, text in enumerate(texts[1:], 2)
    )
    return dict(records)
