"""Inferences without a neural model: the nearest events of an ATOMIC file, found by TF-IDF cosine.

An utterance is compared sentence by sentence with every event ("PersonX loses PersonX's dog"). The phrases of the
nearest events are its inferences: those of the most similar event first, and before single ones those on which several
near events agree.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy import sparse

from ctsm.errors import CtsmError
from ctsm.files import atomic_file, read_json, require_file, sha256_of, write_json
from ctsm.knowledge.event_words import content_words, sentences
from ctsm.knowledge.events import Events, read_events
from ctsm.knowledge.inference import PHRASES, RELATIONS, SOURCE_FILE, Inferences

VERSION = 1
"""Of the word forms, the ranking and the saved index; an index of another version is refused."""
NEAREST = 64
"""Events looked at for one utterance."""
FLOOR = 0.5
"""Events less similar than this share of the best one's similarity are not used."""
POWER = 3
"""An event's vote for its phrases is its similarity to this power, so that near-exact events decide."""
BATCH = 256
"""Utterances compared at once; bounds the memory of the similarity matrix."""

_INDEX_FILE = "events.safetensors"
_WORDS_FILE = "events.json"
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class EventIndex:
    """N events as unit TF-IDF vectors over W word forms, and their phrases (P distinct ones).

    Attributes:
        words: word form -> its row in `weights`.
        idf: float32 [W], ln((1 + N) / (1 + number of events with the word)) + 1.
        weights: float32 [W, N], every column of length 1.
        phrase_rows: float32 [5 N, P]; row 5 e + r holds a 1 for each phrase of relation r of event e.
        phrases: the text of each column of `phrase_rows`.
    """

    words: dict[str, int]
    idf: NDArray[np.float32]
    weights: sparse.csr_array
    phrase_rows: sparse.csr_array
    phrases: list[str]


def build_index(events: Events) -> EventIndex:
    """Weigh the words of every event and number the phrases; "go home" counts as "to go home"."""
    counts = [Counter(content_words(head)) for head in events]
    frequency = Counter(itertools.chain.from_iterable(counts))
    words = {word: index for index, word in enumerate(sorted(frequency))}
    containing = np.array([frequency[word] for word in words], dtype=np.float64)
    idf = (np.log((1 + len(counts)) / (1 + containing)) + 1).astype(np.float32)

    lists = [phrases for relations in events.values() for phrases in relations]
    texts: dict[str, str] = {}
    for phrase in itertools.chain.from_iterable(lists):
        texts.setdefault(phrase.removeprefix("to "), phrase)
    numbers = {key: number for number, key in enumerate(texts)}
    columns = [numbers[phrase.removeprefix("to ")] for phrases in lists for phrase in phrases]
    starts = np.concatenate([[0], np.cumsum([len(phrases) for phrases in lists])])
    ones = np.ones(len(columns), dtype=np.float32)
    return EventIndex(
        words=words,
        idf=idf,
        weights=sparse.csr_array(unit_rows(counts, words, idf).T),
        phrase_rows=sparse.csr_array((ones, columns, starts), shape=(len(lists), len(texts))),
        phrases=list(texts.values()),
    )


def unit_rows(counts: Sequence[Counter[str]], words: dict[str, int], idf: NDArray[np.float32]) -> sparse.csr_array:
    """Return a row of tf x idf scaled to length 1 for each word count, float32 [len(counts), W].

    Words that are not in `words` are left out; a row without a known word is zero.
    """
    known = [[(words[word], number) for word, number in count.items() if word in words] for count in counts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in known])]).astype(np.int64)
    pairs = np.array(list(itertools.chain.from_iterable(known)), dtype=np.int64).reshape(-1, 2)
    weight = pairs[:, 1] * idf[pairs[:, 0]].astype(np.float64)
    owner = np.repeat(np.arange(len(counts)), np.diff(starts))
    length = np.sqrt(np.bincount(owner, weights=weight**2, minlength=len(counts)))
    unit = (weight / length[owner]).astype(np.float32)
    return sparse.csr_array((unit, pairs[:, 0], starts), shape=(len(counts), len(words)))


def nearest_events(
    index: EventIndex, utterances: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield for each utterance its NEAREST events and their similarities, best first, equal ones in file order.

    The similarity of an utterance and an event is the largest cosine between one of its sentences and the event.
    """
    pieces = [sentences(utterance) for utterance in utterances]
    counts = [Counter(content_words(piece)) for group in pieces for piece in group]
    rows = _best_keys(sparse.csr_array(unit_rows(counts, index.words, index.idf) @ index.weights), NEAREST)
    for group in pieces:
        keys = np.concatenate([np.empty(0, dtype=np.uint64), *itertools.islice(rows, len(group))])
        events, scores = _split_keys(np.sort(keys)[::-1])
        first = np.sort(np.unique(events, return_index=True)[1])[:NEAREST]
        yield events[first], scores[first]


def _best_keys(matrix: sparse.csr_array, count: int) -> Iterator[NDArray[np.uint64]]:
    """Yield the `count` largest entries of each row as keys, the largest first.

    A key holds the bits of the positive float32 value (which sort as the value does) above the column counted from
    the end: equal values come in column order and no two keys are equal, so the choice is always the same.
    """
    values = matrix.data.astype(np.float32).view(np.uint32).astype(np.uint64)
    keys = (values << _HALF) | (_LOW - matrix.indices.astype(np.uint64))
    for start, end in itertools.pairwise(matrix.indptr.tolist()):
        row = keys[start:end]
        if row.size > count:
            row = np.partition(row, row.size - count)[-count:]
        yield np.sort(row)[::-1]


def _split_keys(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the columns and the values that keys were made of."""
    return (_LOW - (keys & _LOW)).astype(np.int64), (keys >> _HALF).astype(np.uint32).view(np.float32)


class AtomicSource:
    """The backend `atomic`: phrases of the events of a file that resemble the utterance most."""

    name = "atomic"

    def __init__(self, index: EventIndex, description: dict[str, Any]) -> None:
        self._index = index
        self._description = description

    @classmethod
    def read(cls, path: Path) -> AtomicSource:
        """Build the index of an ATOMIC file (`read_events` tells formats and errors)."""
        events = read_events(path)
        description = {
            "backend": cls.name,
            "file": path.name,
            "sha256": sha256_of(path),
            "events": len(events),
            "version": VERSION,
        }
        return cls(build_index(events), description)

    def describe(self) -> dict[str, Any]:
        """Return the file's name, SHA-256 and number of events, and the version of the retrieval."""
        return self._description

    def infer(self, utterances: Sequence[str]) -> list[Inferences]:
        """Return the phrases of the nearest events; an utterance that shares no word with any event has none."""
        distinct = list(dict.fromkeys(utterances))
        answers: dict[str, Inferences] = {}
        for start in range(0, len(distinct), BATCH):
            batch = distinct[start : start + BATCH]
            answers.update(zip(batch, self._vote(list(nearest_events(self._index, batch))), strict=True))
        return [answers[utterance] for utterance in utterances]

    def _vote(self, nearest: list[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Iterator[Inferences]:
        """Let the near events of each utterance vote for phrases and yield the PHRASES best of each relation."""
        kept = [scores >= FLOOR * scores.max(initial=0.0) for _, scores in nearest]
        events = np.concatenate([events[near] for (events, _), near in zip(nearest, kept, strict=True)])
        votes = np.concatenate([scores[near] for (_, scores), near in zip(nearest, kept, strict=True)]) ** POWER
        starts = np.concatenate([[0], np.cumsum([near.sum() for near in kept])])
        # One row for each relation and utterance: a product of sparse matrices costs more than its arithmetic.
        relations = np.arange(len(RELATIONS))[:, None]
        ends = (starts[1:] + starts[-1] * relations).reshape(-1)
        voters = sparse.csr_array(
            (
                np.tile(votes, len(RELATIONS)),
                (len(RELATIONS) * events + relations).reshape(-1),
                np.concatenate([[0], ends]),
            ),
            shape=(len(ends), self._index.phrase_rows.shape[0]),
        )
        best = list(_best_keys(sparse.csr_array(voters @ self._index.phrase_rows), PHRASES))
        chosen = [tuple(self._index.phrases[column] for column in _split_keys(row)[0]) for row in best]
        for utterance in range(len(nearest)):
            yield tuple(chosen[utterance :: len(nearest)])

    def save(self, directory: Path) -> None:
        """Write the index as safetensors and JSON, and `source.json` last."""
        index = self._index
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {
            "idf": index.idf,
            "weights": index.weights.data,
            "word_events": index.weights.indices.astype(np.int32),
            "word_starts": index.weights.indptr.astype(np.int64),
            "event_phrases": index.phrase_rows.indices.astype(np.int32),
            "event_starts": index.phrase_rows.indptr.astype(np.int64),
        }
        with atomic_file(directory / _INDEX_FILE, "wb") as stream:
            stream.write(save(tensors))
        with atomic_file(directory / _WORDS_FILE) as stream:
            json.dump({"words": list(index.words), "phrases": index.phrases}, stream, ensure_ascii=False)
        write_json(directory / SOURCE_FILE, self._description)

    @classmethod
    def load(cls, directory: Path, description: dict[str, Any]) -> AtomicSource:
        """Load what `save` wrote; `description` is the content of its `source.json`.

        Raises:
            CtsmError: a file is missing, damaged, does not fit the others, or is of another version.
        """
        if description.get("version") != VERSION:
            raise CtsmError(
                f"{directory / SOURCE_FILE}: an index of events of version {description.get('version')}, but this "
                f"program reads version {VERSION}; prepare and train again with this program."
            )
        path = require_file(directory / _INDEX_FILE, "the index of events")
        texts = read_json(directory / _WORDS_FILE, "the words and phrases of events")
        try:
            index = _assemble(load(path.read_bytes()), texts["words"], texts["phrases"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CtsmError(f"{path}: damaged index of events ({error}); copy the model directory again.") from error
        return cls(index, description)


def _assemble(tensors: dict[str, NDArray[Any]], words: list[str], phrases: list[str]) -> EventIndex:
    """Put saved arrays together; a KeyError or ValueError means that they do not fit."""
    rows = len(tensors["event_starts"]) - 1
    if rows % len(RELATIONS) or len(tensors["idf"]) != len(words):
        raise ValueError("arrays of different lengths")
    weights = sparse.csr_array(
        (tensors["weights"], tensors["word_events"], tensors["word_starts"]),
        shape=(len(words), rows // len(RELATIONS)),
    )
    ones = np.ones(len(tensors["event_phrases"]), dtype=np.float32)
    phrase_rows = sparse.csr_array(
        (ones, tensors["event_phrases"], tensors["event_starts"]), shape=(rows, len(phrases))
    )
    weights.check_format(full_check=True)
    phrase_rows.check_format(full_check=True)
    return EventIndex({word: row for row, word in enumerate(words)}, tensors["idf"], weights, phrase_rows, phrases)
