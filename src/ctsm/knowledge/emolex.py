"""NRC EmoLex: the words that carry an emotion (what EmpDG reads beside the context)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ctsm.errors import CtsmError
from ctsm.knowledge.function_words import FUNCTION_WORDS
from ctsm.knowledge.lines import place, text_lines

PURPOSE = "the emotion lexicon"
EMOLEX_EMOTIONS: Final = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "surprise", "trust")
SENTIMENTS: Final = ("negative", "positive")


def read_emolex(path: Path) -> frozenset[str]:
    """Return the words that EmoLex associates with at least one of its eight emotions, function words left out.

    Being positive or negative is no emotion: most such words that carry none ("job", "working") are plain nouns and
    verbs. A word may lack lines, as a few of the published file do.

    Args:
        path: word<TAB>emotion<TAB>0 or 1, as the word-level file 0.92 is; plain or .gz. Blank lines are skipped.

    Raises:
        CtsmError: naming the line, for a wrong number of fields, an empty word, an unknown emotion, a flag other than 0
            and 1, a word and emotion twice with different flags, bytes that are not UTF-8; or the file is missing or
            has no word with an emotion.
    """
    flags: dict[tuple[str, str], str] = {}
    for number, line in text_lines(path, PURPOSE):
        if not line.strip():
            continue
        where = place(path, number)
        word, emotion, flag = _entry(line, where)
        if flags.setdefault((word, emotion), flag) != flag:
            raise CtsmError(f"{where}: '{word}' comes a second time with {emotion} {flag}; remove one of the lines.")
    carriers = {word for (word, emotion), flag in flags.items() if flag == "1" and emotion in EMOLEX_EMOTIONS}
    if not carriers:
        raise CtsmError(f"{path}: no word of the emotion lexicon carries an emotion; download NRC EmoLex again.")
    return frozenset(carriers - FUNCTION_WORDS)


def _entry(line: str, where: str) -> tuple[str, str, str]:
    """Check one line and return its word, emotion and flag."""
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3:
        raise CtsmError(
            f"{where}: {len(fields)} tab-separated fields, expected word, emotion, 0 or 1; give the word-level file of "
            "NRC EmoLex 0.92."
        )
    word, emotion, flag = fields
    if not word:
        raise CtsmError(f"{where}: the word is empty; remove the line.")
    if emotion not in EMOLEX_EMOTIONS and emotion not in SENTIMENTS:
        known = ", ".join((*EMOLEX_EMOTIONS, *SENTIMENTS))
        raise CtsmError(f"{where}: '{emotion}' is none of {known}; mend the line or download NRC EmoLex again.")
    if flag not in ("0", "1"):
        raise CtsmError(f"{where}: '{flag}' is neither 0 nor 1; mend the line or download NRC EmoLex again.")
    return word, emotion, flag
