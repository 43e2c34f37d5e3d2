"""Blocks of the plain path; parameters are named as in `ctsm.nn`, so that both load the same weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.encoder import BlockSizes
from ctsm.nn.positions import sinusoids

HIDDEN = -1e9
LONGEST = 1_000
"""Positions of the family's table of sinusoids."""


class PlainAttention(nn.Module):
    """Multi-head attention written out: scores, mask, softmax, weighted sum."""

    def __init__(self, query_size: int, memory_size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.scale = (sizes.depth // sizes.heads) ** -0.5
        self.query = nn.Linear(query_size, sizes.depth, bias=False)
        self.key = nn.Linear(memory_size, sizes.depth, bias=False)
        self.value = nn.Linear(memory_size, sizes.depth, bias=False)
        self.output = nn.Linear(sizes.depth, query_size, bias=False)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from x to the memory except where `hidden` [B, T or 1, S]; also returns the heads' mean scores."""
        queries = self._split(self.query(x_BTD)) * self.scale
        keys, values = self._split(self.key(memory_BSD)), self._split(self.value(memory_BSD))
        scores_BHTS = torch.matmul(queries, keys.permute(0, 1, 3, 2)).masked_fill(hidden.unsqueeze(1), HIDDEN)
        mixed = torch.matmul(torch.softmax(scores_BHTS, dim=-1), values)
        joined = mixed.permute(0, 2, 1, 3).contiguous().flatten(2)
        return self.output(joined), scores_BHTS.sum(dim=1) / self.heads

    def _split(self, x_BTF: Tensor) -> Tensor:
        return x_BTF.view(x_BTF.shape[0], x_BTF.shape[1], self.heads, -1).permute(0, 2, 1, 3)


class PlainFeedForward(nn.Module):
    """Two width-3 convolutions with a ReLU after each: centred in encoders, causal in decoders."""

    def __init__(self, size: int, filter_size: int, causal: bool) -> None:
        super().__init__()
        self.padding = (2, 0) if causal else (1, 1)
        self.widen = nn.Conv1d(size, filter_size, 3)
        self.narrow = nn.Conv1d(filter_size, size, 3)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None) -> Tensor:
        """Map [B, T, D] to [B, T, D]; positions where `real` is False count as zeros."""
        for convolution in (self.widen, self.narrow):
            if real_BT is not None:
                x_BTD = x_BTD * real_BT.unsqueeze(-1)
            x_BTD = F.relu(convolution(F.pad(x_BTD.permute(0, 2, 1), self.padding)).permute(0, 2, 1))
        return x_BTD


class PlainEncoderLayer(nn.Module):
    """Attention and convolutions, each after a norm and added to its input."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = PlainAttention(size, size, sizes)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = PlainFeedForward(size, sizes.filter_size, causal=False)

    def forward(self, x_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]."""
        normed = self.attention_norm(x_BSD)
        x_BSD = x_BSD + self.attention(normed, normed, ~real_BS.unsqueeze(1))[0]
        fed: Tensor = self.feed_forward(self.feed_forward_norm(x_BSD), real_BS)
        return x_BSD + fed


class PlainEncoder(nn.Module):
    """Projection, positions, layers, norm."""

    signal: Tensor

    def __init__(self, input_size: int, size: int, sizes: BlockSizes, positions: bool = True) -> None:
        super().__init__()
        self.projection = nn.Linear(input_size, size, bias=False)
        self.layers = nn.ModuleList(PlainEncoderLayer(size, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(size)
        self.positions = positions
        self.register_buffer("signal", sinusoids(LONGEST, size), persistent=False)

    def forward(self, x_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """Encode [B, S, input_size] to [B, S, size]."""
        x_BSD = self.projection(x_BSD)
        if self.positions:
            x_BSD = x_BSD + self.signal[: x_BSD.shape[1]]
        for layer in self.layers:
            x_BSD = layer(x_BSD, real_BS)
        output: Tensor = self.norm(x_BSD)
        return output


class PlainDecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and causal convolutions, each after a norm and added to its input."""

    def __init__(self, size: int, memory_size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(size)
        self.self_attention = PlainAttention(size, size, sizes)
        self.cross_norm = nn.LayerNorm(size)
        self.cross_attention = PlainAttention(size, memory_size, sizes)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = PlainFeedForward(size, sizes.filter_size, causal=True)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, later: Tensor, hidden_B1S: Tensor) -> tuple[Tensor, Tensor]:
        """Return [B, T, D] and the mean scores of the cross-attention [B, T, S]."""
        normed = self.self_norm(x_BTD)
        x_BTD = x_BTD + self.self_attention(normed, normed, later)[0]
        mixed, scores_BTS = self.cross_attention(self.cross_norm(x_BTD), memory_BSD, hidden_B1S)
        x_BTD = x_BTD + mixed
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD), None), scores_BTS


class PlainDecoder(nn.Module):
    """Projection, positions, layers, norm, over the whole prefix at once."""

    signal: Tensor

    def __init__(self, size: int, memory_size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.projection = nn.Linear(size, size, bias=False)
        self.layers = nn.ModuleList(PlainDecoderLayer(size, memory_size, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(size)
        self.register_buffer("signal", sinusoids(LONGEST, size), persistent=False)

    def forward(self, x_BTD: Tensor, memory_BSD: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, T, D] and the last layer's mean cross-attention scores [B, T, S]."""
        length = x_BTD.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=x_BTD.device).triu(1).unsqueeze(0)
        x_BTD = self.projection(x_BTD) + self.signal[:length]
        scores_BTS = x_BTD.new_zeros(())
        for layer in self.layers:
            x_BTD, scores_BTS = layer(x_BTD, memory_BSD, later, ~real_BS.unsqueeze(1))
        return self.norm(x_BTD), scores_BTS
