"""From words to ids: the same functions serve the prepared corpus and a live conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ctsm.knowledge.inference import Inferences
from ctsm.text.vocabulary import CLS, EOS, SYS, USR, Vocabulary

# Words without content in inferred phrases ("to buy a gift", "none").
DROPPED_WORDS = frozenset({"to", "none"})


@dataclass(frozen=True)
class EncodedContext:
    """A context as ids.

    Attributes:
        ids: CLS, then the extended ids of all turns.
        speakers: CLS, then USR for every word of an even turn and SYS for an odd one.
        oov: the context's words that the vocabulary lacks, in the order of their extended ids.
    """

    ids: list[int]
    speakers: list[int]
    oov: list[str]


def encode_context(vocabulary: Vocabulary, turns: Sequence[Sequence[str]]) -> EncodedContext:
    """Flatten tokenised turns, the speaker's first, into one sequence (CTSM section 3.3)."""
    ids, speakers, oov = [CLS], [CLS], list[str]()
    for number, tokens in enumerate(turns):
        ids.extend(vocabulary.extended_ids(tokens, oov))
        speakers.extend([SYS if number % 2 else USR] * len(tokens))
    return EncodedContext(ids, speakers, oov)


def encode_reply(vocabulary: Vocabulary, tokens: Sequence[str], oov: list[str]) -> list[int]:
    """Return a gold reply's ids with EOS: an unknown word that the context has is taught as a copy."""
    return [*vocabulary.target_ids(tokens, oov), EOS]


def encode_inferences(
    vocabulary: Vocabulary, inferences: Inferences, tokenise: Callable[[str], Sequence[str]]
) -> tuple[list[list[int]], list[int]]:
    """Return the words of the four cognitive relations, CLS first, and those of xReact without CLS.

    All phrases of a relation form one sequence; unknown words and `DROPPED_WORDS` are left out, repeated words stay.
    """
    rows = []
    for phrases in inferences:
        words = (word for phrase in phrases for word in tokenise(phrase))
        rows.append([vocabulary.id_of(word) for word in words if word in vocabulary and word not in DROPPED_WORDS])
    return [[CLS, *row] for row in rows[:4]], rows[4]
