"""Sinusoidal positions as the Transformer family around EmpatheticDialogues uses them (sines first, then cosines)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, size: int) -> Tensor:
    """Return the position signal [length, size]: sines in the first half, cosines in the second, an odd last column 0.

    Wavelengths grow geometrically from 2 pi to 10,000 * 2 pi, as in Tensor2Tensor.
    """
    half = size // 2
    step = math.log(10_000.0) / max(half - 1, 1)
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -step)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates[None, :]
    signal = torch.cat([angles.sin(), angles.cos()], dim=1)
    return nn.functional.pad(signal, (0, size - 2 * half))


class Positions(nn.Module):
    """Adds sinusoidal positions to a sequence of width `size`."""

    signal: Tensor

    def __init__(self, size: int, length: int = 1024) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("signal", sinusoids(length, size), persistent=False)

    def forward(self, x_BTD: Tensor, first: int = 0) -> Tensor:
        """Add positions `first`, `first + 1`, ... to x [..., T, D]; longer inputs than ever seen grow the table."""
        end = first + x_BTD.shape[-2]
        if end > self.signal.shape[0]:
            self.signal = sinusoids(2 * end, self.size).to(self.signal)
        return x_BTD + self.signal[first:end]
