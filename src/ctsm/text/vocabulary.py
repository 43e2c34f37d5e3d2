"""The vocabulary: words and their ids, and the per-example extension that the pointer generator copies from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from ctsm.errors import CtsmError
from ctsm.files import read_json, write_json

UNK: Final = 0
PAD: Final = 1
EOS: Final = 2
SOS: Final = 3
USR: Final = 4
SYS: Final = 5
CLS: Final = 6

SPECIALS: Final[tuple[str, ...]] = ("UNK", "PAD", "EOS", "SOS", "USR", "SYS", "CLS")
"""The special words by id. Tokens are lower case, so none can be mistaken for one of them."""


class Vocabulary:
    """An immutable list of distinct words that starts with SPECIALS; a word's id is its place in the list."""

    __slots__ = ("_index", "_words")

    def __init__(self, words: Iterable[str]) -> None:
        self._words = tuple(words)
        self._index = {word: index for index, word in enumerate(self._words)}
        if problem := self._problem():
            raise CtsmError(f"Vocabulary: {problem}; build it again from the dialogues.")

    @classmethod
    def build(cls, token_lists: Iterable[Iterable[str]], always: Iterable[str] = ()) -> Self:
        """Return the vocabulary of all tokens in order of first appearance, after SPECIALS.

        Args:
            token_lists: the tokens of each text.
            always: words that must be in it, appended in this order where the texts lack them.
        """
        words = dict.fromkeys(SPECIALS)
        for tokens in token_lists:
            words.update(dict.fromkeys(tokens))
        words.update(dict.fromkeys(always))
        return cls(words)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a vocabulary that `save` wrote.

        Raises:
            CtsmError: the file is missing, not a JSON list of words, lacks SPECIALS or holds a word twice.
        """
        words = read_json(path, "the vocabulary")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise CtsmError(f"{path}: the vocabulary is not a JSON list of words; run `ctsm prepare` again.")
        try:
            return cls(words)
        except CtsmError as error:
            raise CtsmError(f"{path}: {error}") from None

    def save(self, path: Path) -> None:
        """Write the words as a JSON list, one a line, atomically."""
        write_json(path, list(self._words))

    @property
    def words(self) -> tuple[str, ...]:
        """All words by id, SPECIALS first."""
        return self._words

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self._words == other._words

    def __hash__(self) -> int:
        return hash(self._words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def fingerprint(self) -> str:
        """Return the hexadecimal SHA-256 of the words in order."""
        return hashlib.sha256("\n".join(self._words).encode("utf-8")).hexdigest()

    def id_of(self, word: str) -> int:
        """Return the id of `word`, UNK when it is unknown."""
        return self._index.get(word, UNK)

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Return the id of each token, UNK for unknown ones."""
        index = self._index
        return [index.get(token, UNK) for token in tokens]

    def extended_ids(self, tokens: Iterable[str], oov: list[str]) -> list[int]:
        """Return ids in which every unknown token has one of its own: len(self) + its place in `oov`.

        Args:
            tokens: tokens of an example's context.
            oov: the example's unknown words so far; new ones are appended (pass the same list for all its texts).
        """
        places = {word: place for place, word in enumerate(oov, start=len(self))}
        ids = []
        for token in tokens:
            known = self._index.get(token)
            if known is None:
                known = places.get(token)
            if known is None:
                known = places[token] = len(self) + len(oov)
                oov.append(token)
            ids.append(known)
        return ids

    def target_ids(self, tokens: Iterable[str], oov: list[str]) -> list[int]:
        """Return ids in which an unknown token has its extended id if it is in `oov`, else UNK.

        A reply can be taught to copy only what its context (the maker of `oov`, see extended_ids) holds.
        """
        places = {word: place for place, word in enumerate(oov, start=len(self))}
        index = self._index
        return [index.get(token, places.get(token, UNK)) for token in tokens]

    def words_of(self, ids: Iterable[int], oov: list[str]) -> list[str]:
        """Return the word of each id; ids from len(self) on are looked up in `oov`.

        Raises:
            IndexError: an id is negative or beyond the extended vocabulary.
        """
        words = []
        for index in ids:
            if not 0 <= index < len(self) + len(oov):
                raise IndexError(f"no word has id {index}: there are {len(self)} words and {len(oov)} unknown ones")
            words.append(self._words[index] if index < len(self) else oov[index - len(self)])
        return words

    def _problem(self) -> str | None:
        """Return what is wrong with the words, None when nothing is."""
        if self._words[: len(SPECIALS)] != SPECIALS:
            return f"the first words must be {' '.join(SPECIALS)}"
        if len(self._index) != len(self._words):
            twice = next(word for place, word in enumerate(self._words) if self._index[word] != place)
            return f"the word {twice!r} is in it twice"
        for place, word in enumerate(self._words):
            if not word or "\n" in word or not _is_encodable(word):
                return f"word {place} is {word!r}, which is empty, has a line break or is not valid Unicode"
        return None


def _is_encodable(word: str) -> bool:
    """Return whether `word` can be written as UTF-8 (halves of surrogate pairs cannot)."""
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
