"""How often the trait and the state polarity of a word disagree (section 5.4), under every reading of that section.

A word's trait polarity is positive where its valence is above 0.5. Its state polarity is positive where its vector is
closer (by cosine) to the centroid of the trait-positive words than to that of the trait-negative ones; a centroid is
the unweighted mean of the vectors as they are in the file. The paper leaves two things open, which decide its figure:

- words outside the lexicon: with the paper's default valence, 0, they are all negative; or they are left out;
- words without a vector: they get small random vectors, as the published code of this family gives them, so their state
  polarity is a coin toss; or they are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.prepared import SPLITS, PreparedData
from ctsm.errors import CtsmError
from ctsm.knowledge.vectors import random_vectors
from ctsm.text.vocabulary import SPECIALS

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Outside = Literal["negative", "left out"]
Missing = Literal["random", "left out"]

NEUTRAL = 0.5
SEEDS = (1, 2, 3, 4, 5)
BANDS = (0, 1, 2, 5, 20, 100, 1000)
"""Smallest count of each frequency band. Words of situations alone, or of a last turn without a reply, have 0."""
PAPER_WORDS, PAPER_DISAGREEING = 23_712, 11_559
TOP_WORDS = 40
STAND_INS = {"anticipating": "anticipate"}
"""Emotion words that NRC-VAD lacks, with a form of theirs that it has."""


@dataclass(frozen=True)
class Words:
    """The vocabulary without special tokens, W words.

    Attributes:
        words: the words.
        valence: in [0, 1] [W]; not used where `in_lexicon` is False.
        vad: valence, arousal, dominance [W, 3].
        in_lexicon: [W].
        vectors: from the file; rows without a vector are not used [W, D].
        has_vector: [W].
        counts: running tokens of the turns that models read or write, in all splits, each turn counted once [W].
    """

    words: tuple[str, ...]
    vad: Floats
    in_lexicon: Mask
    vectors: Floats
    has_vector: Mask
    counts: NDArray[np.int64]

    @property
    def valence(self) -> Floats:
        """Valence of each word [W]."""
        return self.vad[:, 0]


class Polarities(NamedTuple):
    """Of each word: positive trait, cosine with the positive and the negative centroid, positive state; all [W]."""

    trait: Mask
    to_positive: Floats
    to_negative: Floats
    state: Mask


@dataclass(frozen=True)
class Band:
    """Words whose count is at least `least` (and below the next band's)."""

    least: int
    words: int
    disagreeing: int


@dataclass(frozen=True)
class Reading:
    """What one reading of section 5.4 gives.

    Attributes:
        outside: what happens to words outside the lexicon.
        missing: what happens to words without a vector.
        seed: of the random vectors; None where there are none.
        words: how many words count.
        disagreeing: how many of them have different trait and state polarities.
        outside_words: how many of the words that count are outside the lexicon.
        outside_disagreeing: how many of these disagree.
        tokens: running tokens of the words that count.
        tokens_disagreeing: running tokens of the words that disagree.
        bands: by frequency.
    """

    outside: Outside
    missing: Missing
    seed: int | None
    words: int
    disagreeing: int
    outside_words: int
    outside_disagreeing: int
    tokens: int
    tokens_disagreeing: int
    bands: tuple[Band, ...]

    @property
    def share(self) -> float:
        """Share of the words that disagree, in percent."""
        return 100 * self.disagreeing / self.words


@dataclass(frozen=True)
class DisagreeingWord:
    """A frequent word whose polarities differ."""

    word: str
    count: int
    trait: Literal["positive", "negative"]
    state: Literal["positive", "negative"]


@dataclass(frozen=True)
class EmotionWord:
    """One of the 32 emotion words in the space of valence, arousal and dominance (Figure 3).

    Attributes:
        word: the emotion.
        vad: its values in the lexicon, or those of `stand_in`.
        stand_in: the word whose values are used, because the lexicon lacks the emotion word itself.
        trait: its trait polarity.
        state: its state polarity.
    """

    word: str
    vad: tuple[float, float, float]
    stand_in: str | None
    trait: Literal["positive", "negative"]
    state: Literal["positive", "negative"]


@dataclass(frozen=True)
class PolarityStudy:
    """Every reading, the most frequent disagreeing words and the emotion words.

    Attributes:
        fingerprint: of the prepared data.
        vad_file: name of the lexicon's file.
        vectors_file: name of the vectors' file.
        vocabulary: number of words, special tokens left out.
        in_lexicon: how many of them the lexicon has.
        with_vector: how many of them have a vector.
        readings: in the order of `readings_of`.
        frequent: disagreeing words of the lexicon with a vector, the most frequent first.
        emotions: the emotion words that the lexicon has, themselves or by a stand-in, and that have a vector.
        left_out: the other emotion words.
    """

    fingerprint: str
    vad_file: str
    vectors_file: str
    vocabulary: int
    in_lexicon: int
    with_vector: int
    readings: tuple[Reading, ...]
    frequent: tuple[DisagreeingWord, ...]
    emotions: tuple[EmotionWord, ...]
    left_out: tuple[str, ...]


def study_polarity(directory: Path) -> PolarityStudy:
    """Study the words of a prepared dataset.

    Raises:
        CtsmError: it was prepared without a lexicon or without word vectors, or one of the polarities is empty.
    """
    data = PreparedData(directory)
    words = load_words(data)
    certain = polarities(words, words.in_lexicon & words.has_vector, words.vectors)
    emotions = _emotion_words(words, certain)
    shown = {emotion.word for emotion in emotions}
    return PolarityStudy(
        fingerprint=data.fingerprint,
        vad_file=_file_of(data, "vad"),
        vectors_file=_file_of(data, "vectors"),
        vocabulary=len(words.words),
        in_lexicon=int(words.in_lexicon.sum()),
        with_vector=int(words.has_vector.sum()),
        readings=tuple(readings_of(words)),
        frequent=tuple(_frequent(words, certain)),
        emotions=tuple(emotions),
        left_out=tuple(emotion for emotion in EMOTIONS if emotion not in shown),
    )


def load_words(data: PreparedData) -> Words:
    """Take from a prepared dataset what the study needs of each word.

    Raises:
        CtsmError: the dataset was prepared without a lexicon or without word vectors.
    """
    for role, option in (("vad", "--vad"), ("vectors", "--vectors")):
        if data.manifest.get(role) is None:
            raise CtsmError(f"{data.directory}: was prepared without {option}; run `ctsm prepare` again with it.")
    tables, first = data.words, len(SPECIALS)
    vectors: Floats = tables["vectors"]
    random = random_vectors(vectors.shape[0], vectors.shape[1], int(data.manifest["seed"]))
    has_vector = (vectors != random).any(axis=1)
    return Words(
        words=tuple(data.vocabulary.words[first:]),
        vad=tables["vad"][first:],
        in_lexicon=tables["in_lexicon"][first:].astype(bool),
        vectors=vectors[first:],
        has_vector=has_vector[first:],
        counts=_running_tokens(data)[first:],
    )


def readings_of(words: Words) -> list[Reading]:
    """Return each combination of what is open: the random vectors with every seed of `SEEDS`."""
    readings = []
    outsides: tuple[Outside, ...] = ("negative", "left out")
    for outside in outsides:
        counted = words.in_lexicon if outside == "left out" else np.ones_like(words.in_lexicon)
        kept = counted & words.has_vector
        readings.append(_reading(words, outside, None, kept, words.vectors))
        for seed in SEEDS:
            random = random_vectors(words.vectors.shape[0], words.vectors.shape[1], seed)
            vectors = np.where(words.has_vector[:, None], words.vectors, random)
            readings.append(_reading(words, outside, seed, counted, vectors))
    return readings


def polarities(words: Words, counted: Mask, vectors: Floats) -> Polarities:
    """Work out both polarities of every word [W], the centroids being those of the words that count.

    Args:
        words: the vocabulary; a word outside the lexicon has valence 0 here.
        counted: the words that make the centroids [W].
        vectors: of each word [W, D].

    Raises:
        CtsmError: no word that counts is positive, or none is negative.
    """
    trait = np.where(words.in_lexicon, words.valence, 0.0) > NEUTRAL
    positive, negative = counted & trait, counted & ~trait
    if not positive.any() or not negative.any():
        raise CtsmError("all words have the same trait polarity, so there are no two centroids; use more data.")
    centroids = np.stack([vectors[group].mean(axis=0, dtype=np.float64) for group in (positive, negative)])
    similarity = _cosine(vectors.astype(np.float64), centroids).astype(np.float32)
    return Polarities(trait, similarity[:, 0], similarity[:, 1], similarity[:, 0] > similarity[:, 1])


def _cosine(rows: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each row [W, D] with each centroid [C, D]; 0 for a row of zeros."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True) * np.linalg.norm(centroids, axis=1)
    return np.divide(rows @ centroids.T, norms, out=np.zeros_like(norms), where=norms > 0)


def _reading(words: Words, outside: Outside, seed: int | None, counted: Mask, vectors: Floats) -> Reading:
    found = polarities(words, counted, vectors)
    differs = counted & (found.trait != found.state)
    strange = counted & ~words.in_lexicon
    edges = [*BANDS, np.iinfo(np.int64).max]
    bands = []
    for least, limit in pairwise(edges):
        inside = (words.counts >= least) & (words.counts < limit)
        bands.append(Band(int(least), int((counted & inside).sum()), int((differs & inside).sum())))
    return Reading(
        outside=outside,
        missing="left out" if seed is None else "random",
        seed=seed,
        words=int(counted.sum()),
        disagreeing=int(differs.sum()),
        outside_words=int(strange.sum()),
        outside_disagreeing=int((differs & strange).sum()),
        tokens=int(words.counts[counted].sum()),
        tokens_disagreeing=int(words.counts[differs].sum()),
        bands=tuple(bands),
    )


def _running_tokens(data: PreparedData) -> NDArray[np.int64]:
    """Count each vocabulary word [V]: the last example of a conversation holds all its turns up to the last reply."""
    counts = np.zeros(len(data.vocabulary), dtype=np.int64)
    for split in SPLITS:
        examples = data.examples(split)
        conversation = examples.conversation
        last = np.append(conversation[1:] != conversation[:-1], True) if len(conversation) else np.zeros(0, bool)
        for rows in (examples.context, examples.target):
            ids = rows.values[np.repeat(last, rows.lengths)]
            counts += np.bincount(ids[ids < len(counts)], minlength=len(counts))
    return counts


def _frequent(words: Words, found: Polarities) -> list[DisagreeingWord]:
    differs = words.in_lexicon & words.has_vector & (found.trait != found.state)
    order = sorted(np.flatnonzero(differs).tolist(), key=lambda row: (-words.counts[row], words.words[row]))
    return [
        DisagreeingWord(words.words[row], int(words.counts[row]), _named(found.trait[row]), _named(found.state[row]))
        for row in order[:TOP_WORDS]
    ]


def _emotion_words(words: Words, found: Polarities) -> list[EmotionWord]:
    """Place the emotion words; one that the lexicon lacks gets the values of its stand-in, labelled as such."""
    rows = {word: row for row, word in enumerate(words.words)}
    placed = []
    for emotion in EMOTIONS:
        row, stand_in = rows[emotion], None
        valued = row
        if not words.in_lexicon[row]:
            stand_in = STAND_INS.get(emotion)
            valued = rows.get(stand_in or "", row)
        if words.in_lexicon[valued] and words.has_vector[row]:
            valence, arousal, dominance = words.vad[valued].tolist()
            trait = _named(valence > NEUTRAL)
            placed.append(
                EmotionWord(emotion, (valence, arousal, dominance), stand_in, trait, _named(found.state[row]))
            )
    return placed


def _named(positive: bool | np.bool_) -> Literal["positive", "negative"]:
    return "positive" if positive else "negative"


def _file_of(data: PreparedData, role: str) -> str:
    resources: Sequence[dict[str, str]] = data.manifest["resources"]
    return next((resource["file"] for resource in resources if resource["role"] == role), "none")
