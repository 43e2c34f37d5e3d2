"""From ragged integer arrays to padded batches: no Python work per example.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), R positions of a relation's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsm.text.vocabulary import PAD

IntArray = NDArray[np.integer]
ROW_FIELDS = {"utterances": "utterance_row", "phrases": "phrase_row"}
"""Fields of `Batch` that say where an example's rows are in another field."""


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array.

    Attributes:
        values: all rows, one after the other.
        offsets: [rows + 1] where each row starts; the last is the total length.
    """

    values: IntArray
    offsets: IntArray

    @classmethod
    def from_rows(cls, rows: list[list[int]]) -> Ragged:
        """Build from Python lists."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        flat = np.fromiter((value for row in rows for value in row), dtype=np.int32, count=int(offsets[-1]))
        return cls(flat, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> list[int]:
        """Return one row as a list."""
        return [int(value) for value in self.values[self.offsets[index] : self.offsets[index + 1]]]

    @property
    def lengths(self) -> IntArray:
        """Length of each row."""
        return np.diff(self.offsets)

    def padded(self, rows: IntArray, fill: int, multiple: int = 1) -> NDArray[np.int64]:
        """Return the given rows as one matrix [len(rows), longest], padded on the right with `fill`.

        The width is at least 1 and rounded up to a multiple of `multiple`.
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        width = max(1, int(lengths.max(initial=0)))
        width = -(-width // multiple) * multiple
        columns = np.arange(width)
        inside = columns[None, :] < lengths[:, None]
        matrix = np.full((len(rows), width), fill, dtype=np.int64)
        matrix[inside] = self.values[(starts[:, None] + columns[None, :])[inside]]
        return matrix


@dataclass(frozen=True)
class Groups:
    """For each example a group of rows of different lengths.

    Attributes:
        rows: the rows of all groups, one after the other.
        starts: [examples + 1] where each group starts in `rows`; the last is their total number.
    """

    rows: Ragged
    starts: IntArray

    @classmethod
    def from_groups(cls, groups: list[list[list[int]]]) -> Groups:
        """Build from Python lists."""
        counts = np.fromiter((len(group) for group in groups), dtype=np.int64, count=len(groups))
        return cls(Ragged.from_rows([row for group in groups for row in group]), np.concatenate([[0], counts.cumsum()]))

    def group(self, index: int) -> list[list[int]]:
        """Return one group as lists."""
        return [self.rows.row(row) for row in range(int(self.starts[index]), int(self.starts[index + 1]))]

    def places(self, examples: IntArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which rows the given groups have, group by group, and where each group's rows are among them.

        Groups differ much in size: padding them to the largest would double or treble the rows to encode.

        Returns:
            [rows] and [len(examples), largest group], -1 beyond a group's end.
        """
        starts, counts = self.starts[examples], self.starts[examples + 1] - self.starts[examples]
        columns = np.arange(max(1, int(counts.max(initial=0))))
        inside = columns[None, :] < counts[:, None]
        places = np.where(inside, inside.cumsum().reshape(inside.shape) - 1, -1)
        return (starts[:, None] + columns[None, :])[inside], places

    def packed(self, examples: IntArray, fill: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the given groups [rows, longest row], filled up on the right, and their `places`."""
        rows, places = self.places(examples)
        return self.rows.padded(rows, fill), places


@dataclass(frozen=True)
class Batch:
    """Padded tensors of B examples; ids from V upwards name a context's words that the vocabulary lacks.

    The fields that are None by default are there for the systems that ask for them (`corpus.extras`). Their words are
    vocabulary ids. Utterances (N in all, at most U of one example) and phrases (F in all, at most P) have no row of
    padding: they are those of all examples together, and a `..._row` says which are whose.

    Attributes:
        index: position of each example in its split [B].
        context: extended word ids, CLS first [B, S].
        speakers: CLS, USR or SYS for each context position [B, S].
        emotion: gold label [B]; only losses and scores read it.
        cognitive: words inferred for xIntent, xNeed, xWant, xEffect, CLS first [B, 4, R].
        reaction: words inferred for xReact, perhaps none [B, R].
        target: extended word ids of the gold reply, EOS last [B, T]; only losses and scores read it.
        target_positions: flat positions of the N real target tokens in [B * T], row by row [N].
        emotion_words: CLS, then the context's emotion words in their order [B, .].
        concepts: related words of the context's words, most intense first, perhaps none [B, C].
        concept_words: the context word that each concept belongs to [B, C].
        utterances: CLS first; each context's last utterance, then its sentences if it has several [N, .].
        utterance_row: row in `utterances` of an example's first, second, ... one; -1 at padding [B, U].
        reactions: distinct words of the xReact phrases inferred from each utterance, perhaps none [N, .].
        phrases: CLS first; the phrases inferred for xIntent, xNeed, xWant and xEffect, each different one once [F, .].
        phrase_row: row in `phrases` of an example's first, second, ... one; -1 at padding [B, P].
        phrase_relation: 0 to 3, the relation of each phrase; -1 at padding [B, P].
        phrase_owner: the place in U of the utterance each phrase was inferred from; -1 at padding [B, P].
        feedback: CLS, then the speaker's turn after the gold reply; train only, only losses read it [B, .].
        feedback_emotion_words: CLS, then the emotion words of `feedback`; train only [B, .].
        reply_emotion_words: CLS, then the emotion words of the gold reply; train only [B, .].
    """

    index: Tensor
    context: Tensor
    speakers: Tensor
    emotion: Tensor
    cognitive: Tensor
    reaction: Tensor
    target: Tensor
    target_positions: Tensor
    emotion_words: Tensor | None = None
    concepts: Tensor | None = None
    concept_words: Tensor | None = None
    utterances: Tensor | None = None
    utterance_row: Tensor | None = None
    reactions: Tensor | None = None
    phrases: Tensor | None = None
    phrase_row: Tensor | None = None
    phrase_relation: Tensor | None = None
    phrase_owner: Tensor | None = None
    feedback: Tensor | None = None
    feedback_emotion_words: Tensor | None = None
    reply_emotion_words: Tensor | None = None

    @property
    def context_real(self) -> Tensor:
        """Mask [B, S], True where the context is not padding."""
        return self.context != PAD

    @property
    def target_real(self) -> Tensor:
        """Mask [B, T], True where the target is not padding."""
        return self.target != PAD

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor."""
        values: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in values.items()}
        return Batch(**moved)

    def __len__(self) -> int:
        return int(self.index.shape[0])


@dataclass(frozen=True)
class Examples:
    """One split: one example for each listener turn, in the corpus's order.

    Attributes:
        conversation: number of the conversation each example belongs to [examples].
        emotion: label [examples].
        context, speakers, target: ragged rows, one an example (see `Batch`).
        cognitive: ragged rows, four an example, each with CLS first.
        reaction: ragged rows, one an example.
        extras: further fields of `Batch` by name, where asked for.
    """

    conversation: IntArray
    emotion: IntArray
    context: Ragged
    speakers: Ragged
    target: Ragged
    cognitive: Ragged
    reaction: Ragged
    extras: Mapping[str, Ragged | Groups] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.emotion)

    def batch(self, rows: IntArray) -> Batch:
        """Collate the given examples."""
        relations = (rows[:, None] * 4 + np.arange(4)).reshape(-1)
        target = self.target.padded(rows, PAD)
        return Batch(
            index=torch.from_numpy(np.asarray(rows, dtype=np.int64)),
            context=torch.from_numpy(self.context.padded(rows, PAD)),
            speakers=torch.from_numpy(self.speakers.padded(rows, PAD)),
            emotion=torch.from_numpy(np.asarray(self.emotion[rows], dtype=np.int64)),
            cognitive=torch.from_numpy(self.cognitive.padded(relations, PAD)).unflatten(0, (len(rows), 4)),
            reaction=torch.from_numpy(self.reaction.padded(rows, PAD)),
            target=torch.from_numpy(target),
            target_positions=torch.from_numpy(np.flatnonzero(target != PAD)),
            **collated_extras(self.extras, rows),
        )


def collated_extras(extras: Mapping[str, Ragged | Groups], rows: IntArray) -> dict[str, Tensor]:
    """Collate the extras of the given examples: field of `Batch` -> tensor."""
    arrays: dict[str, IntArray] = {}
    for name, extra in extras.items():
        if isinstance(extra, Groups):
            arrays[name], places = extra.packed(rows, PAD)
            if name == "phrases":
                first, places = once_each(arrays[name], places)
                arrays[name] = arrays[name][first]
            if name in ROW_FIELDS:
                arrays[ROW_FIELDS[name]] = places
        else:
            arrays[name] = extra.padded(rows, fill_of(name))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def fill_of(name: str) -> int:
    """Return what fills a field of `Batch` up: PAD words, or -1 where it names relations and owners of phrases."""
    return -1 if name.startswith("phrase_") else PAD


def once_each(rows: IntArray, places: NDArray[np.int64]) -> tuple[IntArray, NDArray[np.int64]]:
    """Return where the different rows come first, in the rows' order, and `places` (-1 for none) among them."""
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, np.append(inverse.reshape(-1), -1)[places]


def shuffled_batches(lengths: IntArray, batch_size: int, seed: int, epoch: int, pool: int = 100) -> list[IntArray]:
    """Cut one epoch into batches of similar context length.

    The epoch's random order is cut into pools of `pool` batches; each pool is sorted by length, cut into batches, and
    the order of all batches is shuffled. Large pools keep the batches diverse. The result depends only on the
    arguments, so a resumed run continues with the very same batches.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[IntArray] = []
    for start in range(0, len(order), batch_size * pool):
        members = order[start : start + batch_size * pool]
        members = members[np.argsort(lengths[members], kind="stable")]
        batches.extend(members[i : i + batch_size] for i in range(0, len(members), batch_size))
    return [batches[i] for i in random.permutation(len(batches))]


def sorted_batches(lengths: IntArray, batch_size: int) -> Iterator[IntArray]:
    """Cut all examples into batches, longest contexts first; every example appears once."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
