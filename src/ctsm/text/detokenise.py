"""Tokens to the text that people see: spacing, clitics, quotation marks, I, and capital letters at sentence starts.

People see this text; metrics use the tokens. `Detokeniser` does it token by token for streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# No space before these: they close something or lean on the word before.
_CLOSING: Final = frozenset([".", ",", "!", "?", ";", ":", ")", "]", "}", "%", "\u2026", "\u201d", "\u2019", "\u00bb"])
_CLITICS: Final = frozenset(["n't", "'s", "'m", "'d", "'ll", "'re", "'ve"])
# No space after these.
_OPENING: Final = frozenset(["(", "[", "{", "$", "\u00a3", "\u20ac", "#", "\u201c", "\u2018", "\u00ab"])
# What the Treebank rules take apart and English writes together.
_PAIRS: Final = frozenset(
    [
        ("gon", "na"),
        ("wan", "na"),
        ("got", "ta"),
        ("gim", "me"),
        ("lem", "me"),
        ("d", "'ye"),
        ("more", "'n"),
        ("<", "3"),
    ]
)
_SENTENCE_ENDS: Final = frozenset([".", "!", "?"])
# A lone apostrophe after any other word in -s is a plural's possessive ("the boys' dog").
_NO_PLURALS: Final = frozenset(["'s", "as", "does", "has", "his", "is", "its", "this", "us", "was", "yes"])


def detokenise(tokens: Sequence[str]) -> str:
    """Return readable English for lower-case Treebank tokens; empty tokens are skipped. Never fails."""
    detokeniser = Detokeniser()
    return "".join([*map(detokeniser.push, tokens), detokeniser.finish()])


class Detokeniser:
    """Detokenises a stream: the pieces that `push` and finally `finish` return join to exactly `detokenise(tokens)`."""

    def __init__(self) -> None:
        self._previous = ""
        self._glue = True  # the next token follows without a space
        self._capital = True  # the next word starts a sentence
        self._double_open = False
        self._single_open = False
        self._held = ""  # ":" or ";" waiting to see whether it is half of an emoticon

    def push(self, token: str) -> str:
        """Take the next token and return the text to append now (it can be empty)."""
        token = token.strip()
        if not token:
            return ""
        held, self._held = self._held, ""
        if held and token in ("(", ")"):
            return self._join(held + token, before=self._glue, after=False)
        piece = self._place(held) if held else ""
        if token in (":", ";"):
            self._held = token
            return piece
        return piece + self._place(token)

    def finish(self) -> str:
        """Return what was still held back; the detokeniser is not to be used afterwards."""
        held, self._held = self._held, ""
        return self._place(held) if held else ""

    def _place(self, token: str) -> str:
        """Return the piece of text for one token and note what it means for the next one."""
        if token in ("``", "''", '"'):
            return self._double_quote(token)
        if token == "'":
            return self._single_quote()
        glued = token in _CLOSING or token in _CLITICS or (self._previous, token) in _PAIRS
        before = self._glue or glued or set(token) == {"."}
        piece = self._join(token, before=before, after=token in _OPENING)
        if token in _SENTENCE_ENDS or (token[-1] == "." and token[:-1].isdigit()):
            self._capital = True
        return piece

    def _double_quote(self, token: str) -> str:
        """Return the piece for a double quotation mark: '' closes, the others do whichever is due."""
        opens = token != "''" and not self._double_open
        self._double_open = opens
        return self._join('"', before=self._glue or not opens, after=opens)

    def _single_quote(self) -> str:
        """Return the piece for a lone apostrophe: a plural's possessive, or a quotation's start or end."""
        plural = self._previous.endswith("s") and self._previous not in _NO_PLURALS
        opens = not self._single_open and not plural
        self._single_open = opens
        return self._join("'", before=self._glue or not opens, after=opens)

    def _join(self, token: str, *, before: bool, after: bool) -> str:
        """Return `token` in its written form, with a space in front unless `before` glues it to the text so far."""
        self._previous = token
        self._glue = after
        return ("" if before else " ") + self._written(token)

    def _written(self, token: str) -> str:
        """Return `token` with the capital letter that is due; marks without letters or digits leave it due."""
        if token in ("i", "i.") or token.startswith("i'"):
            self._capital = False
            return "I" + token[1:]
        place = next((place for place, character in enumerate(token) if character.isalnum()), None)
        if place is None or not self._capital:
            return token
        self._capital = False
        return token[:place] + token[place].upper() + token[place + 1 :]
