"""From words to ids: the same functions serve the prepared corpus and a live conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctsm.corpus.batches import Ragged
from ctsm.knowledge.inference import Inferences
from ctsm.text.vocabulary import CLS, EOS, SYS, USR, Vocabulary

# Words without content in inferred phrases ("to buy a gift", "none").
DROPPED_WORDS = frozenset({"to", "none"})
CONCEPTS = 10
"""Concepts of one context at most (KEMP)."""
SENTENCES = 8
"""Sentences of an utterance that count as sub-utterances; EmpatheticDialogues has a single utterance of nine."""
UTTERANCE_WORDS = 150
"""Words of an utterance that CASE's cognition graph reads: more than any of EmpatheticDialogues has."""


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
        rows.append([word for phrase in phrases for word in _known_words(vocabulary, tokenise(phrase))])
    return [[CLS, *row] for row in rows[:4]], rows[4]


def encode_emotion_words(emotional_V: NDArray[np.bool_], ids: Sequence[int]) -> list[int]:
    """Return CLS and those of the ids that are emotion words, in their order; unknown words never are."""
    return [CLS, *(word for word in ids if word < len(emotional_V) and emotional_V[word])]


def encode_concepts(
    concepts: Ragged, intensity: NDArray[np.float32], ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the concepts of a context's words and the words they belong to, the most intense first.

    Every word counts once. At most CONCEPTS are kept; equally intense ones keep the order of the words.

    Args:
        concepts: for each vocabulary word the ids of its concepts.
        intensity: of each value of `concepts`.
        ids: extended ids of the context.
    """
    found: list[tuple[float, int, int]] = []
    for word in dict.fromkeys(ids):
        if word < len(concepts):
            places = range(int(concepts.offsets[word]), int(concepts.offsets[word + 1]))
            found.extend((float(intensity[place]), int(concepts.values[place]), word) for place in places)
    best = sorted(found, key=lambda item: -item[0])[:CONCEPTS]
    return [concept for _, concept, _ in best], [word for _, _, word in best]


class EncodedCognition(NamedTuple):
    """Utterances and phrases of one example (see `Batch`): ids, relation and owner of each phrase."""

    utterances: list[list[int]]
    reactions: list[list[int]]
    phrases: list[list[int]]
    relation: list[int]
    owner: list[int]


def encode_cognition(
    vocabulary: Vocabulary,
    utterances: Sequence[tuple[Sequence[str], Inferences]],
    tokenise: Callable[[str], Sequence[str]],
) -> EncodedCognition:
    """Encode the vertices of CASE's cognition graph and the reactions; phrases without a known word are left out.

    Args:
        vocabulary: the words.
        utterances: tokens and inferences of the last utterance and then of its sentences.
        tokenise: of a phrase.
    """
    encoded = EncodedCognition([], [], [], [], [])
    for owner, (tokens, inferences) in enumerate(utterances):
        encoded.utterances.append([CLS, *vocabulary.ids(tokens[:UTTERANCE_WORDS])])
        *others, reactions = ([_known_words(vocabulary, tokenise(text)) for text in phrases] for phrases in inferences)
        encoded.reactions.append(list(dict.fromkeys(word for phrase in reactions for word in phrase)))
        for relation, phrases in enumerate(others):
            known = [[CLS, *phrase] for phrase in phrases if phrase]
            encoded.phrases.extend(known)
            encoded.relation.extend([relation] * len(known))
            encoded.owner.extend([owner] * len(known))
    return encoded


def _known_words(vocabulary: Vocabulary, tokens: Sequence[str]) -> list[int]:
    """Return the ids of a phrase's words without DROPPED_WORDS and those that the vocabulary lacks."""
    return vocabulary.ids(word for word in tokens if word in vocabulary and word not in DROPPED_WORDS)
