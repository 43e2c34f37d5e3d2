"""From ragged integer arrays to padded batches: no Python work per example.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), R positions of a relation's words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctsm.text.vocabulary import PAD

IntArray = NDArray[np.integer]


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
class Batch:
    """Padded tensors of B examples; ids from V upwards name a context's words that the vocabulary lacks.

    Attributes:
        index: position of each example in its split [B].
        context: extended word ids, CLS first [B, S].
        speakers: CLS, USR or SYS for each context position [B, S].
        emotion: gold label [B]; only losses and scores read it.
        cognitive: words inferred for xIntent, xNeed, xWant, xEffect, CLS first [B, 4, R].
        reaction: words inferred for xReact, perhaps none [B, R].
        target: extended word ids of the gold reply, EOS last [B, T]; only losses and scores read it.
        target_positions: flat positions of the N real target tokens in [B * T], row by row [N].
    """

    index: Tensor
    context: Tensor
    speakers: Tensor
    emotion: Tensor
    cognitive: Tensor
    reaction: Tensor
    target: Tensor
    target_positions: Tensor

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
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

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
    """

    conversation: IntArray
    emotion: IntArray
    context: Ragged
    speakers: Ragged
    target: Ragged
    cognitive: Ragged
    reaction: Ragged

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
        )


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
