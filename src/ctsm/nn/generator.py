"""Output layers: what decoding and scoring ask of one, and the plain softmax over the vocabulary."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.output import OutputLayer
from ctsm.nn.pointer import CopySource, Scored, Smoothed
from ctsm.nn.top_k import top_k
from ctsm.text.vocabulary import PAD, UNK


class Generator(Protocol):
    """An output layer: from decoder states to words. `nn.pointer.PointerGenerator` gives shapes and meanings."""

    def score(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, target_N: Tensor) -> Scored:
        """Score target words and find the most probable words."""

    def best_word(
        self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, banned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable word [N] and its log-probability [N]."""

    def top_words(
        self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, banned: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Return the k most probable words [N, k] and their log-probabilities [N, k], best first."""

    def distribution(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, extended_size: int) -> Tensor:
        """Return the whole log-distribution [N, extended_size]."""


class PlainGenerator(nn.Module):
    """Softmax over the vocabulary, without copying: copy scores and sources are ignored.

    A target that the vocabulary lacks counts as UNK, which is all such a model can say of it.

    Args:
        size: width of the decoder states.
        vocabulary_size: V.
    """

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary = OutputLayer(size, vocabulary_size)

    def score(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, target_N: Tensor) -> Scored:  # noqa: ARG002
        """Score target words [N] and find the most probable ones, in one pass over the vocabulary scores."""
        log_words_NV = self._log_words(hidden_ND)
        nll_N = F.nll_loss(log_words_NV, self._known(target_N), reduction="none")
        return Scored(-nll_N, top_k(log_words_NV.detach(), 1)[1].squeeze(1))

    def smoothed(self, hidden_ND: Tensor, target_N: Tensor, smoothing: float) -> Smoothed:
        """Return the cross-entropy with the label-smoothed target, and without smoothing.

        The smoothed target has 1 - smoothing on the word and the rest evenly on all others but PAD, as the family does;
        the loss is its divergence from the distribution plus a constant, its own entropy.
        """
        log_words_NV = self._log_words(hidden_ND)
        known_N = self._known(target_N)
        word_N, pad_N = log_words_NV.gather(1, torch.stack([known_N, torch.full_like(known_N, PAD)], dim=1)).unbind(1)
        others_N = log_words_NV.sum(dim=-1) - word_N - pad_N
        share = smoothing / (log_words_NV.shape[-1] - 2)
        return Smoothed(-(1.0 - smoothing) * word_N - share * others_N, -word_N)

    @torch.no_grad()
    def best_word(
        self,
        hidden_ND: Tensor,
        copy_scores_NS: Tensor,  # noqa: ARG002
        source: CopySource,  # noqa: ARG002
        banned: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable word [N] that is not banned and its log-probability [N] (not renormalised)."""
        log_words_NV = self.vocabulary.log_probabilities(hidden_ND).index_fill_(1, banned, float("-inf"))
        value_N1, word_N1 = top_k(log_words_NV, 1)
        return word_N1.squeeze(1), value_N1.squeeze(1)

    @torch.no_grad()
    def top_words(
        self,
        hidden_ND: Tensor,
        copy_scores_NS: Tensor,  # noqa: ARG002
        source: CopySource,  # noqa: ARG002
        banned: Tensor,
        k: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the k most probable words [N, k] (at most V) and their log-probabilities [N, k], best first.

        Of equally probable words those with the lowest id come first. If fewer words are possible, the entries left
        over have log-probability -inf and name no word.
        """
        log_words_NV = self.vocabulary.log_probabilities(hidden_ND).index_fill_(1, banned, float("-inf"))
        value_NK, word_NK = top_k(log_words_NV, min(k, log_words_NV.shape[-1]))
        return word_NK, value_NK

    def distribution(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource, extended_size: int) -> Tensor:  # noqa: ARG002
        """Return the whole log-distribution [N, extended_size]; words that the vocabulary lacks have -inf."""
        log_words_NV = self.vocabulary.log_probabilities(hidden_ND)
        return F.pad(log_words_NV, (0, extended_size - log_words_NV.shape[-1]), value=float("-inf"))

    def _log_words(self, hidden_ND: Tensor) -> Tensor:
        return F.log_softmax(self.vocabulary(hidden_ND), dim=-1)

    def _known(self, target_N: Tensor) -> Tensor:
        return target_N.masked_fill(target_N >= self.vocabulary.out_features, UNK)


def no_source(context_BS: Tensor) -> CopySource:
    """Return the source of a model that copies nothing: one padding position for each of the B contexts."""
    nothing_B1 = torch.zeros_like(context_BS[:, :1])
    return CopySource(ids=nothing_B1 + PAD, copyable=nothing_B1.bool(), first=nothing_B1)
