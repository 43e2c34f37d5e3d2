"""Lower case, contractions written out, control characters removed: what happens before tokenising.

Source: the shared preprocessing of the lineage (MoEL, EmpDG, KEMP, CEM, CASE), so that vocabularies are comparable.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Replaced in this order and as substrings, also inside a longer word ("bandit's" becomes "bandit is"): the papers'
# data were made so, and it touches six words of the whole corpus.
CONTRACTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("it's", "it is"),
    ("don't", "do not"),
    ("doesn't", "does not"),
    ("didn't", "did not"),
    ("you'd", "you would"),
    ("you're", "you are"),
    ("you'll", "you will"),
    ("i'm", "i am"),
    ("they're", "they are"),
    ("that's", "that is"),
    ("what's", "what is"),
    ("couldn't", "could not"),
    ("i've", "i have"),
    ("we've", "we have"),
    ("can't", "cannot"),
    ("i'd", "i would"),
    ("aren't", "are not"),
    ("isn't", "is not"),
    ("wasn't", "was not"),
    ("weren't", "were not"),
    ("won't", "will not"),
    ("there's", "there is"),
    ("there're", "there are"),
)

# Phones type U+2019 where the corpus has "'". Between two letters it can only be an apostrophe, elsewhere it may close
# a quotation and stays. The lineage lacks this step; it concerns a few dozen words of the corpus.
_TYPOGRAPHIC_APOSTROPHE: Final = re.compile(r"(?<=\w)[\u2019\u02bc](?=\w)")


def normalise(text: str) -> str:
    """Return `text` in lower case, with the lineage's contractions written out and without control characters.

    Format characters (zero-width, soft hyphen, byte order mark) vanish; control characters such as NUL and halves of
    surrogate pairs become spaces. Everything else, white space included, stays as it is. Never fails.
    """
    if not text.isprintable():
        text = "".join(map(_printable, text))
    text = text.lower()
    if not text.isascii():
        text = _TYPOGRAPHIC_APOSTROPHE.sub("'", text)
    if "'" in text:
        for contraction, words in CONTRACTIONS:
            text = text.replace(contraction, words)
    return text


def is_blank(text: str) -> bool:
    """Return whether nothing visible is left of `text`: only white space, control and format characters."""
    return not normalise(text).strip()


def _printable(character: str) -> str:
    """Return what stands for one character in the normalised text."""
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    return " " if category in ("Cc", "Cs") else character
