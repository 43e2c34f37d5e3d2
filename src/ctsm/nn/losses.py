"""Loss terms that more than one model uses."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Negatives = Literal["both_views", "cross_view", "paper"]


def soft_cross_entropy(logits_BE: Tensor, target_BE: Tensor) -> Tensor:
    """Batch mean of -sum_k target_k log softmax(logits)_k (CTSM eq. 18: the teacher's soft labels)."""
    return -(target_BE * F.log_softmax(logits_BE, dim=-1)).sum(dim=-1).mean()


def contrastive_loss(first_BD: Tensor, second_BD: Tensor, temperature: float, negatives: Negatives) -> Tensor:
    """InfoNCE between two views of the same B examples (CTSM eq. 23), on cosine similarities.

    Args:
        first_BD: one view, a vector for each example [B, D].
        second_BD: the other view [B, D]; row i of both views is the positive pair.
        temperature: tau.
        negatives: "both_views" (NT-Xent, SimCLR: 2B anchors, negatives from both views, the positive in the
            denominator), "cross_view" (both directions, negatives from the other view only, the positive in the
            denominator), "paper" (eq. 23 as printed: the first view's anchors, the denominator over negatives only).

    Returns:
        A scalar; 0 for a batch of one, which has no negatives.
    """
    batch = first_BD.shape[0]
    if batch < 2:
        return first_BD.sum() * 0.0 + second_BD.sum() * 0.0
    first_BD, second_BD = F.normalize(first_BD, dim=-1), F.normalize(second_BD, dim=-1)
    rows = torch.arange(batch, device=first_BD.device)
    if negatives == "both_views":
        views = torch.cat([first_BD, second_BD])
        similarity = (views @ views.T / temperature).fill_diagonal_(float("-inf"))
        return F.cross_entropy(similarity, torch.cat([rows + batch, rows]))
    similarity = first_BD @ second_BD.T / temperature
    if negatives == "cross_view":
        return (F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.T, rows)) / 2
    others = similarity.masked_fill(torch.eye(batch, dtype=torch.bool, device=similarity.device), float("-inf"))
    return (torch.logsumexp(others, dim=-1) - similarity.diagonal()).mean()


class FrequencyWeights(nn.Module):
    """The frequency-aware diversity weights of Sabour et al. (2022), section 3.5.

    Counts how often each word was the model's own arg-max in training; a word's weight is 1 - count / largest count,
    rescaled to mean 1 over the vocabulary, so the most frequent prediction weighs exactly 0. The counts are a buffer,
    saved with the model's training state. Only `update` changes them, which models call for training batches; CEM's
    option `count_evaluation` calls it in evaluation too.
    """

    counts: Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(vocabulary_size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, words_N: Tensor, counted_N: Tensor) -> None:
        """Add predictions [N] where `counted` [N] is True; copied words outside the vocabulary are skipped."""
        size = self.counts.shape[0]
        weights = (counted_N & (words_N < size)).to(self.counts.dtype)
        self.counts.index_add_(0, words_N.clamp_max(size - 1), weights)

    def forward(self) -> Tensor:
        """Return the weights [V] as float32; all 1 while nothing has been counted."""
        largest = self.counts.max()
        raw = 1.0 - self.counts / largest.clamp_min(1.0)
        return (raw / raw.mean().clamp_min(1e-12)).to(torch.float32)


def before_first_end(words_BT: Tensor, real_BT: Tensor, end: int) -> Tensor:
    """Mask [B, T] of the real positions before a row's first `end` token (all real positions of a row without one)."""
    ended = ((words_BT == end) & real_BT).cumsum(dim=1) > 0
    return real_BT & ~ended
