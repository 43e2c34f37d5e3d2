"""What may be said next: the words of one decoding step with the model's log-probabilities and the rules' scores.

Axes: N unfinished replies, S source positions, T words said, K candidates, X extended vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ctsm.decoding.options import DecodingOptions
from ctsm.decoding.repetition import affected_words, candidate_scores, distribution_scores
from ctsm.models.base import DecoderStep, EmpatheticModel
from ctsm.nn.generator import Generator
from ctsm.nn.pointer import CopySource
from ctsm.nn.top_k import top_k
from ctsm.text.vocabulary import CLS, PAD, SOS, SYS, UNK, USR

NEVER_SAID = (UNK, PAD, SOS, USR, SYS, CLS)
"""Special tokens that are no words; a reply consists of words and ends with EOS."""


class Candidates(NamedTuple):
    """Words that may come next, for each unfinished reply; those with score -inf may not.

    Attributes:
        ids: extended word ids [N, K].
        log_probability: by the model, over all words, special ones included [N, K].
        score: the same after the rules against repetition [N, K].
    """

    ids: Tensor
    log_probability: Tensor
    score: Tensor

    def by_id(self) -> Candidates:
        """Return the same words in the order of their ids."""
        order_NK = self.ids.argsort(dim=1)
        return Candidates(*(field.gather(1, order_NK) for field in self))


@dataclass(frozen=True)
class NextWords:
    """Finds the words that may come next.

    Attributes:
        generator: the model's output layer.
        options: the rules against repetition.
        banned: NEVER_SAID on the model's device.
    """

    generator: Generator
    options: DecodingOptions
    banned: Tensor

    @classmethod
    def of(cls, model: EmpatheticModel, options: DecodingOptions, device: torch.device) -> NextWords:
        """Take a model's output layer."""
        return cls(model.generator, options, torch.tensor(NEVER_SAID, device=device))

    def best(self, state: DecoderStep, source: CopySource, said_NT: Tensor, k: int) -> Candidates:
        """Return the k words with the highest scores, best first (fewer if there are not as many)."""
        hidden, copy_scores = state.hidden[:, -1], state.copy_scores[:, -1]
        # Rules only lower scores, so the best k are among the k + m most probable words if m have been lowered.
        affected = affected_words(said_NT.shape[1], self.options)
        ids, log_probability = self.generator.top_words(hidden, copy_scores, source, self.banned, k + affected)
        if affected == 0:
            return Candidates(ids, log_probability, log_probability)
        scores = candidate_scores(log_probability, ids, said_NT, self.options)
        scores, order = top_k(scores, min(k, scores.shape[1]))
        return Candidates(ids.gather(1, order), log_probability.gather(1, order), scores)

    def all(self, state: DecoderStep, source: CopySource, said_NT: Tensor, extended_size: int) -> Candidates:
        """Return every word of the extended vocabulary, in the order of the ids."""
        hidden, copy_scores = state.hidden[:, -1], state.copy_scores[:, -1]
        log_probability = self.generator.distribution(hidden, copy_scores, source, extended_size)
        ids = torch.arange(extended_size, device=hidden.device).expand(len(hidden), -1)
        scores = log_probability.index_fill(1, self.banned, float("-inf"))
        if affected_words(said_NT.shape[1], self.options):
            scores = distribution_scores(scores, said_NT, self.options)
        return Candidates(ids, log_probability, scores)
