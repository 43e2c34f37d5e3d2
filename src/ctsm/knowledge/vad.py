"""NRC-VAD: valence, arousal and dominance of words, and the emotional intensity made from them (KEMP eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctsm.errors import CtsmError
from ctsm.knowledge.lines import place, text_lines

PURPOSE = "the VAD lexicon"


@dataclass(frozen=True)
class VadTable:
    """One row per vocabulary word (V words).

    Attributes:
        values: float32 [V, 3], valence, arousal and dominance in [0, 1]. Rows of words outside the lexicon are 0: a
            placeholder that the model overwrites with its `vad_default` wherever `known` is false.
        known: bool [V], whether the lexicon holds the word.
        intensity: float32 [V] in [0, 1], exactly 0.0 for words outside the lexicon.
    """

    values: NDArray[np.float32]
    known: NDArray[np.bool_]
    intensity: NDArray[np.float32]


@dataclass(frozen=True)
class VadLexicon:
    """A loaded lexicon: word -> (valence, arousal, dominance), each in [0, 1]."""

    values: dict[str, tuple[float, float, float]]

    @cached_property
    def intensity_range(self) -> tuple[float, float]:
        """Smallest and largest distance || (v, a/2) - (0.5, 0) ||_2 over the lexicon, the scale of `intensity`."""
        distances = _distance(np.array(list(self.values.values()), dtype=np.float64))
        return float(distances.min()), float(distances.max())

    def table(self, words: Sequence[str]) -> VadTable:
        """Look every word up; shapes and the treatment of unknown words are those of `VadTable`.

        The intensity is KEMP's equation 1 with the constants of this lexicon:
        I(w) = (|| (v, a/2) - (0.5, 0) ||_2 - min) / (max - min). A lexicon whose words are all equally far has no
        scale: every intensity is then 0.
        """
        known = np.fromiter((word in self.values for word in words), dtype=np.bool_, count=len(words))
        exact = np.array([self.values.get(word, (0.0, 0.0, 0.0)) for word in words], dtype=np.float64).reshape(-1, 3)
        low, high = self.intensity_range
        scale = 1.0 / (high - low) if high > low else 0.0
        intensity = np.where(known, (_distance(exact) - low) * scale, 0.0)
        return VadTable(exact.astype(np.float32), known, intensity.astype(np.float32))


def _distance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return || (v, a/2) - (0.5, 0) ||_2 of rows (v, a, d): [N, 3] -> [N]."""
    return np.hypot(values[:, 0] - 0.5, values[:, 1] / 2)


def read_vad(path: Path) -> VadLexicon:
    """Read NRC-VAD v1: word<TAB>valence<TAB>arousal<TAB>dominance, a header line allowed, plain or .gz.

    Multi-word entries are kept; no single token finds them.

    Raises:
        CtsmError: naming the line, for a wrong number of fields, a field that is no number, a value outside [0, 1]
            (negative ones are NRC-VAD v2, which is refused), a word twice with different values, bytes that are not
            UTF-8; or the file is missing or holds no word.
    """
    values: dict[str, tuple[float, float, float]] = {}
    for number, line in text_lines(path, PURPOSE):
        fields = line.split("\t")
        if not line.strip() or (number == 1 and _is_header(fields)):
            continue
        word, triple = _entry(fields, place(path, number))
        if values.setdefault(word, triple) != triple:
            raise CtsmError(f"{place(path, number)}: '{word}' comes a second time with other values; remove one line.")
    if not values:
        raise CtsmError(f"{path}: the VAD lexicon holds no word; download NRC-VAD v1 again.")
    return VadLexicon(values)


def _is_header(fields: list[str]) -> bool:
    """Tell a line of column names from an entry: four fields, none of the last three a number."""
    return len(fields) == 4 and all(_number(field) is None for field in fields[1:])


def _number(field: str) -> float | None:
    """Return the number a field holds, or None."""
    try:
        return float(field)
    except ValueError:
        return None


def _entry(fields: list[str], where: str) -> tuple[str, tuple[float, float, float]]:
    """Check one line and return its word and values."""
    if len(fields) != 4:
        raise CtsmError(
            f"{where}: {len(fields)} tab-separated fields, expected word, valence, arousal, dominance; "
            "give the NRC-VAD v1 lexicon file."
        )
    word = fields[0].strip()
    if not word:
        raise CtsmError(f"{where}: the word is empty; remove the line.")
    numbers: list[float] = []
    for field in fields[1:]:
        value = _number(field)
        if value is None:
            raise CtsmError(f"{where}: '{field}' is not a number; mend the line or download NRC-VAD v1 again.")
        if -1 <= value < 0:
            raise CtsmError(
                f"{where}: {field} lies in [-1, 1], the scale of NRC-VAD v2; give NRC-VAD v1, whose values lie in "
                "[0, 1]."
            )
        if not 0 <= value <= 1:
            raise CtsmError(f"{where}: {field} lies outside [0, 1]; give NRC-VAD v1, whose values lie in [0, 1].")
        numbers.append(value)
    return word, (numbers[0], numbers[1], numbers[2])
