"""Output layer and word counts of the plain path.

Axes: B batch, S source positions, T target positions, D hidden, V vocabulary with a batch's unknown words.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

from ctsm.bench.reference.blocks import HIDDEN
from ctsm.text.vocabulary import CLS, EOS, PAD

TINY = 1e-30
"""Probability of words that a row of the batch cannot say; a zero would make the gradient of the logarithm NaN."""


class PlainGenerator(nn.Module):
    """Vocabulary projection of every position and the dense mixture with the copied words."""

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary = nn.Linear(size, vocabulary_size)
        self.gate = nn.Linear(size, 1)

    def forward(self, hidden_BTD: Tensor, scores_BTS: Tensor, source_BS: Tensor) -> Tensor:
        """Return log-probabilities [B, T, V]."""
        copyable_B1S = ((source_BS != PAD) & (source_BS != CLS)).unsqueeze(1)
        words_BTV = torch.softmax(self.vocabulary(hidden_BTD), dim=-1)
        extra = max(0, int(source_BS.max()) + 1 - words_BTV.shape[-1])
        gate_BT1 = torch.sigmoid(self.gate(hidden_BTD))
        gate_BT1 = torch.where(copyable_B1S.any(dim=-1, keepdim=True), gate_BT1, torch.ones_like(gate_BT1))
        mixture_BTV = gate_BT1 * words_BTV
        if extra:
            unknown = torch.full((*mixture_BTV.shape[:2], extra), TINY, dtype=mixture_BTV.dtype).to(mixture_BTV)
            mixture_BTV = torch.cat([mixture_BTV, unknown], dim=-1)
        copied_BTS = torch.softmax(scores_BTS.masked_fill(~copyable_B1S, HIDDEN), dim=-1) * copyable_B1S
        index_BTS = source_BS.unsqueeze(1).repeat(1, hidden_BTD.shape[1], 1)
        return torch.log(mixture_BTV.scatter_add(2, index_BTS, (1 - gate_BT1) * copied_BTS))


class PlainCounts(nn.Module):
    """How often each word was predicted (Sabour et al. 2022, section 3.5), counted word by word on the host."""

    counts: Tensor

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(vocabulary_size, dtype=torch.float64))

    def update(self, log_BTV: Tensor, target_BT: Tensor) -> None:
        """Count the most probable words."""
        self.add(log_BTV.argmax(dim=-1), target_BT)

    def add(self, words_BT: Tensor, target_BT: Tensor) -> None:
        """Count each row's words before the first EOS among them, padding left out."""
        counter: Counter[int] = Counter()
        for words, target in zip(words_BT.tolist(), target_BT.tolist(), strict=True):
            predicted = [word for word, gold in zip(words, target, strict=True) if gold != PAD]
            counter.update(predicted[: predicted.index(EOS)] if EOS in predicted else predicted)
        counts = self.counts.cpu().numpy()
        for word, count in counter.items():
            if word < len(counts):
                counts[word] += count
        self.counts.copy_(torch.from_numpy(counts))

    def weights(self) -> Tensor:
        """Return 1 - count / largest count, scaled to mean 1 [V]."""
        counts = self.counts.cpu().numpy()
        raw = 1 - counts / max(counts.max(), 1.0)
        return torch.from_numpy((raw / max(raw.mean(), 1e-12)).astype(np.float32)).to(self.counts.device)
