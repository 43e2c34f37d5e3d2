"""What training and decoding of the plain path know about its models."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.text.vocabulary import PAD, UNK


class PlainContext(NamedTuple):
    """An encoded batch: memory [B, S, D], its mask [B, S], source words [B, S], emotion logits [B, E] or None."""

    memory: Tensor
    real: Tensor
    source: Tensor
    emotion_logits: Tensor | None


class PlainModel(nn.Module, ABC):
    """A model with a word embedding of its own.

    Args:
        size: width of the embedding and of the hidden states.
        vocabulary_size: V.
    """

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.size = size
        self.vocabulary_size = vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)

    @abstractmethod
    def encode(self, batch: Batch) -> PlainContext:
        """Encode the contexts."""

    @abstractmethod
    def predict(self, words: Tensor, context: PlainContext) -> Tensor:
        """Return the log-probabilities [B, T, V] of what follows each prefix of words [B, T]."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total and the unweighted terms."""

    def embed(self, words: Tensor) -> Tensor:
        """Look up one id tensor, scaled by sqrt(d); words the vocabulary lacks are UNK."""
        embedded: Tensor = self.embedding(self.known(words)) * math.sqrt(self.size)
        return embedded

    def known(self, words: Tensor) -> Tensor:
        """Map extended ids to vocabulary ids."""
        return words.masked_fill(words >= self.vocabulary_size, UNK)
