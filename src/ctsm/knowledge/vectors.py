"""Pre-trained word vectors in GloVe's text format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctsm.errors import CtsmError
from ctsm.knowledge.lines import byte_lines, place, zip_members

PURPOSE = "the word vector file"
RANDOM_STD = 0.01
"""Standard deviation of rows without a vector; the lineage's N(0, 0.01) is 0.01 times a standard normal."""


@dataclass(frozen=True)
class WordVectors:
    """Vectors of V words.

    Attributes:
        values: float32 [V, size].
        found: bool [V], whether the file holds the word (otherwise its row is random).
    """

    values: NDArray[np.float32]
    found: NDArray[np.bool_]


def random_vectors(count: int, size: int, seed: int) -> NDArray[np.float32]:
    """Return float32 [count, size] drawn from N(0, 0.01), the lineage's start for words without a vector."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, size), dtype=np.float32) * np.float32(RANDOM_STD)


def read_vectors(path: Path, words: Sequence[str], size: int | None, seed: int) -> WordVectors:
    """Read the vectors of `words` from a GloVe text file; the others get `random_vectors` rows.

    The file is streamed and only wanted lines are parsed, so memory does not grow with it. A word2vec header line
    ("count size") is accepted, and words that contain spaces, as GloVe 840B has. Of a word that comes twice the first
    line counts. Only lower-case words are looked up: a cased file's "PAD" or "SOS" is no special token.

    Args:
        path: plain text, .gz, or a .zip such as glove.6B.zip, of which the member of the wanted size is read.
        words: the vocabulary, V words.
        size: numbers per word; None takes the width of the file.
        seed: of the generator for words without a vector.

    Raises:
        CtsmError: naming the line, for a wrong width, a field that is no number, an infinite or undefined value; or
            the file is missing, damaged, empty or holds none of the words.
    """
    member = _member(path, size) if path.suffix == ".zip" else None
    wanted = {word.encode(): index for index, word in enumerate(words) if word == word.lower()}
    rows: dict[int, NDArray[np.float32]] = {}
    width = size
    empty = True
    for number, line in byte_lines(path, PURPOSE, member):
        line = line.strip(b" \t")
        if number == 1 and re.fullmatch(rb"\d+ \d+", line):
            width = _checked_width(int(line.split()[1]), size, place(path, number, member))
            continue
        if not line:
            continue
        empty = False
        spaces = line.count(b" ")
        if width is None:
            width = _checked_width(spaces, size, place(path, number, member))
        if spaces != width:
            _check_spaced_word(line, width, place(path, number, member))
        # Cheap test first: most lines of a large file are not wanted.
        if line[: line.find(b" ")] not in wanted:
            continue
        word, *fields = line.rsplit(b" ", width)
        index = wanted.get(word)
        if index is not None and index not in rows:
            rows[index] = _numbers(fields, place(path, number, member))
    if width is None or empty:
        raise CtsmError(f"{path}: the word vector file is empty; download it again.")
    if not rows:
        raise CtsmError(
            f"{path}: holds a vector for none of the {len(words)} words of the vocabulary; give English vectors of "
            "lower-case words in GloVe's text format."
        )
    return _fill(rows, len(words), width, seed)


def _fill(rows: dict[int, NDArray[np.float32]], count: int, width: int, seed: int) -> WordVectors:
    """Put the rows found over random ones (all are drawn, so a row does not depend on which others were found)."""
    values = random_vectors(count, width, seed)
    indices = np.fromiter(rows, dtype=np.int64, count=len(rows))
    values[indices] = np.stack(list(rows.values()))
    found = np.zeros(count, dtype=np.bool_)
    found[indices] = True
    return WordVectors(values, found)


def _member(path: Path, size: int | None) -> str:
    """Choose the text file of the wanted size inside a zip archive by its name, as in glove.6B.300d.txt."""
    texts = [name for name in zip_members(path, PURPOSE) if name.endswith(".txt") and not name.startswith("__MACOSX")]
    fitting = texts if size is None else [name for name in texts if f".{size}d." in name]
    if not fitting and len(texts) == 1:
        fitting = texts
    if len(fitting) != 1:
        held = ", ".join(texts) or "no .txt file"
        wish = "no size was asked for" if size is None else f"size {size} was asked for"
        raise CtsmError(f"{path}: holds {held} and {wish}; give a size it has, or the unpacked file.")
    return fitting[0]


def _checked_width(width: int, size: int | None, where: str) -> int:
    """Return the file's width if it is usable and the one asked for."""
    if width < 1:
        raise CtsmError(f"{where}: not a word followed by numbers; give word vectors in GloVe's text format.")
    if size is not None and width != size:
        raise CtsmError(
            f"{where}: vectors of size {width}, but size {size} was asked for; give the other file or size."
        )
    return width


def _check_spaced_word(line: bytes, width: int, where: str) -> None:
    """Accept a line with more fields than numbers only if its word really contains spaces."""
    head, *rest = line.split(b" ")
    extra = rest[: len(rest) - width]
    if not extra or all(_is_number(field) for field in extra):
        raise CtsmError(
            f"{where}: {len(rest)} numbers after '{head.decode(errors='replace')}', expected {width}; give the size "
            "of the file's vectors or download it again."
        )


def _is_number(field: bytes) -> bool:
    """Tell whether a field reads as a number."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(fields: list[bytes], where: str) -> NDArray[np.float32]:
    """Parse the numbers of one wanted line: [size]."""
    try:
        with np.errstate(over="ignore"):
            row = np.array([float(field) for field in fields], dtype=np.float64).astype(np.float32)
    except ValueError as error:
        raise CtsmError(f"{where}: {error}; mend the line or download the vectors again.") from None
    if not np.isfinite(row).all():
        raise CtsmError(f"{where}: an infinite or undefined value; mend the line or download the vectors again.")
    return row
