"""What some systems need beyond CTSM's data: emotion words, concepts, feedback and CASE's cognition graph.

A model names its needs; `ctsm prepare` makes them where asked to and keeps them apart from everything else, in
extras/{need}.safetensors (what is known of each word) and extras/{need}.{split}.safetensors (examples). The same code
serves the prepared corpus and a live conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ctsm.corpus.batches import Groups, Ragged
from ctsm.corpus.encoding import SENTENCES, encode_cognition, encode_concepts, encode_emotion_words
from ctsm.errors import CtsmError
from ctsm.files import require_file
from ctsm.knowledge.inference import Inferences
from ctsm.text.tokenise import sentences, tokenise
from ctsm.text.vocabulary import CLS, Vocabulary

EXTRAS = "extras"


class Need(NamedTuple):
    """What a need is called, which options of `ctsm prepare` make it, and the fields of `Batch` it brings."""

    title: str
    option: str
    fields: tuple[str, ...]


NEEDS: Final[dict[str, Need]] = {
    "emotion_words": Need("emotion words", "--emotion-words FILE", ("emotion_words",)),
    "concepts": Need("concepts", "--concepts FILE", ("concepts", "concept_words")),
    "feedback": Need(
        "the speaker's next turns", "--feedback", ("feedback", "feedback_emotion_words", "reply_emotion_words")
    ),
    "cognition": Need(
        "inferences for each sentence",
        "--cognition",
        ("utterances", "reactions", "phrases", "phrase_relation", "phrase_owner"),
    ),
}
GROUPED: Final = frozenset({"utterances", "reactions", "phrases"})
TRAIN_ONLY: Final = frozenset({"feedback"})
"""Needs that look at what comes after the reply: no other split has them, so no score can."""


def needs_of(split: str, needs: Collection[str]) -> list[str]:
    """Return the needs that a split can meet, in a fixed order."""
    return [need for need in NEEDS if need in needs and (split == "train" or need not in TRAIN_ONLY)]


@dataclass(frozen=True)
class WordKnowledge:
    """What is known of each of V words, where it was prepared.

    Attributes:
        emotional: whether it is an emotion word [V].
        concepts: its concepts, V rows.
        intensity: emotion intensity of each value of `concepts`.
    """

    emotional: NDArray[np.bool_] | None = None
    concepts: Ragged | None = None
    intensity: NDArray[np.float32] | None = None

    def save(self, folder: Path) -> None:
        """Write a file for each part there is."""
        if self.emotional is not None:
            (folder / table_file("emotion_words")).write_bytes(save({"emotional": self.emotional}))
        if self.concepts is not None and self.intensity is not None:
            arrays = {"concepts": self.concepts.values.astype(np.int32), "intensity": self.intensity}
            arrays["concepts_offsets"] = self.concepts.offsets.astype(np.int64)
            (folder / table_file("concepts")).write_bytes(save(arrays))

    @classmethod
    def load(cls, folder: Path, needs: Collection[str], vocabulary_size: int) -> WordKnowledge:
        """Load the parts that belong to `needs`.

        Raises:
            CtsmError: a file is missing, damaged or of another vocabulary.
        """
        emotional = concepts = intensity = None
        if "emotion_words" in needs:
            path = folder / table_file("emotion_words")
            emotional = load_arrays(path, "emotional")["emotional"]
            _check_size(path, len(emotional), vocabulary_size)
        if "concepts" in needs:
            path = folder / table_file("concepts")
            arrays = load_arrays(path, "concepts", "concepts_offsets", "intensity")
            concepts, intensity = Ragged(arrays["concepts"], arrays["concepts_offsets"]), arrays["intensity"]
            _check_size(path, len(concepts), vocabulary_size)
        return cls(emotional, concepts, intensity)


def _check_size(path: Path, words: int, expected: int) -> None:
    if words != expected:
        raise CtsmError(f"{path}: is about {words} words, not {expected}; make or copy the directory again.")


def table_file(need: str) -> str:
    """Name the file of what is known of each word."""
    return f"{need}.safetensors"


def split_file(need: str, split: str) -> str:
    """Name the file of a split's examples."""
    return f"{need}.{split}.safetensors"


class Later(NamedTuple):
    """What comes after a context, as vocabulary ids: the gold reply and the speaker's next turn."""

    reply: Sequence[int]
    feedback: Sequence[int]


class ExtrasBuilder:
    """Collects the extras of examples one by one.

    Args:
        needs: what to collect.
        vocabulary: the words.
        words: what is known of them.
    """

    def __init__(self, needs: Collection[str], vocabulary: Vocabulary, words: WordKnowledge) -> None:
        self._needs = needs
        self._vocabulary = vocabulary
        self._words = words
        self._tokenise = cache(tokenise)
        self._columns: dict[str, list[Any]] = {name: [] for need in needs for name in NEEDS[need].fields}

    def add(
        self,
        context: Sequence[int],
        utterance: str,
        inferences: Callable[[str], Inferences],
        later: Later | None = None,
    ) -> None:
        """Add one example.

        Args:
            context: its extended ids.
            utterance: the last turn of the context.
            inferences: of the utterance and of each of its `sub_utterances`; asked for "cognition" only.
            later: for "feedback".
        """
        columns, words = self._columns, self._words
        if "emotion_words" in self._needs:
            assert words.emotional is not None
            columns["emotion_words"].append(encode_emotion_words(words.emotional, context))
        if "concepts" in self._needs:
            assert words.concepts is not None and words.intensity is not None
            concepts, owners = encode_concepts(words.concepts, words.intensity, context)
            columns["concepts"].append(concepts)
            columns["concept_words"].append(owners)
        if "feedback" in self._needs:
            assert words.emotional is not None and later is not None
            columns["feedback"].append([CLS, *later.feedback])
            columns["feedback_emotion_words"].append(encode_emotion_words(words.emotional, later.feedback))
            columns["reply_emotion_words"].append(encode_emotion_words(words.emotional, later.reply))
        if "cognition" in self._needs:
            texts = [utterance, *sub_utterances(utterance)]
            utterances = [(tokenise(text), inferences(text)) for text in texts]
            encoded = encode_cognition(self._vocabulary, utterances, self._tokenise)
            for name, value in zip(NEEDS["cognition"].fields, encoded, strict=True):
                columns[name].append(value)

    def build(self) -> dict[str, Ragged | Groups]:
        """Return the fields of all examples added."""
        return {
            name: Groups.from_groups(column) if name in GROUPED else Ragged.from_rows(column)
            for name, column in self._columns.items()
        }


def sub_utterances(utterance: str) -> list[str]:
    """Return the sentences of an utterance that has several, at most SENTENCES of them; else none."""
    parts = sentences(utterance)
    return parts[:SENTENCES] if len(parts) > 1 else []


def save_extras(folder: Path, need: str, split: str, extras: dict[str, Ragged | Groups]) -> None:
    """Write the fields of one need and split."""
    arrays: dict[str, Any] = {}
    for name in NEEDS[need].fields:
        extra = extras[name]
        rows = extra.rows if isinstance(extra, Groups) else extra
        arrays[name] = rows.values.astype(np.int32)
        arrays[f"{name}_offsets"] = rows.offsets.astype(np.int64)
        if isinstance(extra, Groups):
            arrays[f"{name}_starts"] = extra.starts.astype(np.int64)
    (folder / split_file(need, split)).write_bytes(save(arrays))


def load_extras(folder: Path, need: str, split: str) -> dict[str, Ragged | Groups]:
    """Load what `save_extras` wrote."""
    extras: dict[str, Ragged | Groups] = {}
    arrays = load_arrays(folder / split_file(need, split))
    for name in NEEDS[need].fields:
        rows = Ragged(arrays[name], arrays[f"{name}_offsets"])
        extras[name] = Groups(rows, arrays[f"{name}_starts"]) if name in GROUPED else rows
    return extras


def load_arrays(path: Path, *names: str) -> dict[str, Any]:
    """Load a file of arrays and check that it has the named ones.

    Raises:
        CtsmError: it is missing, damaged or lacks one.
    """
    require_file(path, "extras of the data")
    try:
        arrays: dict[str, Any] = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CtsmError(f"{path}: cannot read the arrays ({error}); make or copy the directory again.") from error
    for name in names:
        if name not in arrays:
            raise CtsmError(f"{path}: holds no {name}; make or copy the directory again.")
    return arrays
