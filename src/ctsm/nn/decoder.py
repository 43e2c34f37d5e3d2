"""The Transformer decoder of the family: one code path for teacher forcing and for cached steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ctsm.nn.attention import MultiHeadAttention
from ctsm.nn.convolution import ConvolutionalFeedForward
from ctsm.nn.encoder import BlockSizes
from ctsm.nn.masking import MASKED, attention_bias
from ctsm.nn.positions import Positions
from ctsm.nn.precision import Linear


@dataclass
class LayerCache:
    """What one decoder layer keeps between steps, for a batch of B unfinished replies.

    Attributes:
        memory: cross-attention keys and values [B, H, S, F], computed once.
        self_attention: keys and values of the positions decoded so far [B, H, T, F].
        convolutions: the last two inputs of each convolution [B, 2, .].
    """

    memory: tuple[Tensor, Tensor]
    self_attention: tuple[Tensor, Tensor] | None = None
    convolutions: tuple[Tensor, Tensor] | None = None

    def select(self, rows: Tensor) -> LayerCache:
        """Keep only some replies of the batch (indices [B'], repeats allowed, as beam search needs)."""
        return LayerCache(
            (self.memory[0][rows], self.memory[1][rows]),
            None if self.self_attention is None else (self.self_attention[0][rows], self.self_attention[1][rows]),
            None if self.convolutions is None else (self.convolutions[0][rows], self.convolutions[1][rows]),
        )


@dataclass
class DecoderCache:
    """The state of a partly decoded batch; `length` positions are done."""

    memory_bias: Tensor
    layers: list[LayerCache] = field(default_factory=list)
    length: int = 0

    def select(self, rows: Tensor) -> DecoderCache:
        """Keep only some replies of the batch."""
        return DecoderCache(self.memory_bias[rows], [layer.select(rows) for layer in self.layers], self.length)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention and causal convolutions, each after a norm and added to its input."""

    def __init__(self, size: int, memory_size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(size)
        self.self_attention = MultiHeadAttention(size, size, sizes.depth, sizes.heads)
        self.cross_norm = nn.LayerNorm(size)
        self.cross_attention = MultiHeadAttention(size, memory_size, sizes.depth, sizes.heads)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = ConvolutionalFeedForward(size, sizes.filter_size)

    def forward(
        self, x_BTD: Tensor, cache: LayerCache, causal_bias: Tensor | None, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance by T positions, updating `cache` in place; returns [B, T, D] and the mean cross scores [B, T, S]."""
        normed = self.self_norm(x_BTD)
        queries, keys, values = self.self_attention.queries_keys_values(normed)
        if cache.self_attention is not None:
            keys = torch.cat([cache.self_attention[0], keys], dim=2)
            values = torch.cat([cache.self_attention[1], values], dim=2)
        cache.self_attention = (keys, values)
        x_BTD = x_BTD + self.self_attention.attend(queries, keys, values, causal_bias)
        mixed, copy_scores = self.cross_attention.with_scores(self.cross_norm(x_BTD), *cache.memory, memory_bias)
        x_BTD = x_BTD + mixed
        fed, cache.convolutions = self.feed_forward.causal(self.feed_forward_norm(x_BTD), cache.convolutions)
        return x_BTD + fed, copy_scores


class Decoder(nn.Module):
    """Projection, positions, layers, final norm.

    Args:
        size: width of inputs, layers and output.
        memory_size: width of the encoded source.
        sizes: layers, heads, depth and filter.
    """

    def __init__(self, size: int, memory_size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.projection = Linear(size, size, bias=False)
        self.positions = Positions(size)
        self.layers = nn.ModuleList(DecoderLayer(size, memory_size, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(size)

    def start(self, memory_BSD: Tensor, real_BS: Tensor) -> DecoderCache:
        """Prepare a cache: project the memory's keys and values once, no position decoded yet."""
        cache = DecoderCache(attention_bias(real_BS)[:, None, None, :].to(memory_BSD.dtype))
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            cache.layers.append(LayerCache(layer.cross_attention.keys_values(memory_BSD)))
        return cache

    def forward(self, x_BTD: Tensor, cache: DecoderCache) -> tuple[Tensor, Tensor]:
        """Decode T further positions.

        Args:
            x_BTD: embedded inputs [B, T, D]; the whole shifted target, or one step's token.
            cache: from `start`, or as the previous call left it; updated in place.

        Returns:
            Hidden states [B, T, D] and the last layer's head-averaged cross-attention scores [B, T, S].
        """
        steps, done = x_BTD.shape[1], cache.length
        x_BTD = self.positions(self.projection(x_BTD), first=done)
        causal_bias = None
        if steps > 1:
            causal_bias = torch.full((steps, done + steps), MASKED, dtype=x_BTD.dtype, device=x_BTD.device).triu(
                done + 1
            )
        copy_scores = x_BTD.new_zeros(())
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_BTD, copy_scores = layer(x_BTD, layer_cache, causal_bias, cache.memory_bias)
        cache.length = done + steps
        return self.norm(x_BTD), copy_scores
