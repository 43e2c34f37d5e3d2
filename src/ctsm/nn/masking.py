"""Means and softmaxes that ignore padding, so that no result depends on how much of it there is."""

from __future__ import annotations

import torch
from torch import Tensor

# A finite stand-in for minus infinity: a row that is wholly masked gives finite values and gradients.
MASKED = -1e9


def attention_bias(real: Tensor) -> Tensor:
    """Return 0 where `real` [B, S] is True and a very negative number elsewhere, as float32."""
    return torch.zeros(real.shape, dtype=torch.float32, device=real.device).masked_fill_(~real, MASKED)


def masked_softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Softmax over the last axis of `scores` restricted to `real` (same shape); other positions get exactly 0."""
    return torch.softmax(scores.masked_fill(~real, MASKED), dim=-1) * real


def masked_mean(x: Tensor, real: Tensor) -> Tensor:
    """Mean of x [..., T, D] over the positions where `real` [..., T] is True; zeros where there is none."""
    weights = real.unsqueeze(-1).to(x.dtype)
    return (x * weights).sum(dim=-2) / weights.sum(dim=-2).clamp_min(1.0)
