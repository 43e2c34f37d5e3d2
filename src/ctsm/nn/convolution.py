"""The family's position-wise network: two width-3 convolutions with a ReLU after each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.precision import linear

WIDTH = 3


class Convolution(nn.Module):
    """A width-3 convolution over positions, computed as one matrix product (inputs and outputs [B, T, channels]).

    The narrower side is the one that is shifted, so a 300 -> 50 convolution multiplies once and adds three
    50-wide slices, and a 50 -> 300 convolution multiplies windows of 150.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, WIDTH))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x_BTC: Tensor, real_BT1: Tensor | None = None) -> Tensor:
        """Centred convolution with one zero on either side; positions where `real` [B, T, 1] is 0 count as zeros."""
        return self._convolve(x_BTC, left=1, right=1, real_BT1=real_BT1)

    def causal(self, x_BTC: Tensor, previous: Tensor | None) -> Tensor:
        """Convolution that looks at the two positions before: zeros, or `previous` [B, 2, C] when decoding in steps."""
        if previous is None:
            return self._convolve(x_BTC, left=WIDTH - 1, right=0, real_BT1=None)
        return self._convolve(torch.cat([previous, x_BTC], dim=1), left=0, right=0, real_BT1=None)

    def _convolve(self, x_BTC: Tensor, left: int, right: int, real_BT1: Tensor | None) -> Tensor:
        outputs, inputs, _ = self.weight.shape
        length = x_BTC.shape[1] + left + right - (WIDTH - 1)
        if inputs >= outputs:
            taps = linear(x_BTC, self.weight.permute(2, 0, 1).reshape(WIDTH * outputs, inputs))
            if real_BT1 is not None:
                taps = taps * real_BT1
            taps = F.pad(taps, (0, 0, left, right))
            shifted = [taps[:, k : k + length, k * outputs : (k + 1) * outputs] for k in range(WIDTH)]
            return shifted[0] + shifted[1] + shifted[2] + self.bias
        if real_BT1 is not None:
            x_BTC = x_BTC * real_BT1
        padded = F.pad(x_BTC, (0, 0, left, right))
        windows = torch.cat([padded[:, k : k + length] for k in range(WIDTH)], dim=-1)
        return linear(windows, self.weight.transpose(1, 2).reshape(outputs, WIDTH * inputs), self.bias)


class ConvolutionalFeedForward(nn.Module):
    """ReLU(conv(ReLU(conv(x)))), size -> filter -> size; the output is not negative."""

    def __init__(self, size: int, filter_size: int) -> None:
        super().__init__()
        self.widen = Convolution(size, filter_size)
        self.narrow = Convolution(filter_size, size)

    def forward(self, x_BTD: Tensor, real_BT1: Tensor) -> Tensor:
        """Centred version for encoders; padding counts as zeros in both convolutions."""
        hidden = F.relu(self.widen(x_BTD, real_BT1))
        return F.relu(self.narrow(hidden, real_BT1))

    def causal(self, x_BTD: Tensor, previous: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causal version for decoders.

        Args:
            x_BTD: the new positions [B, T, D].
            previous: the last two inputs of each convolution from the step before, or None at the start.

        Returns:
            The output [B, T, D] and what the next step needs as `previous`.
        """
        hidden = F.relu(self.widen.causal(x_BTD, previous[0] if previous else None))
        output = F.relu(self.narrow.causal(hidden, previous[1] if previous else None))
        return output, (
            _last_two(previous[0] if previous else None, x_BTD),
            _last_two(previous[1] if previous else None, hidden),
        )


def _last_two(previous: Tensor | None, x_BTC: Tensor) -> Tensor:
    """Return the last two positions seen so far, zeros standing for positions before the start."""
    if previous is None:
        previous = x_BTC.new_zeros(x_BTC.shape[0], WIDTH - 1, x_BTC.shape[2])
    return torch.cat([previous, x_BTC], dim=1)[:, -(WIDTH - 1) :]
