"""The Transformer decoder of the family: one code path for teacher forcing and for cached steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.attention import MultiHeadAttention
from ctsm.nn.convolution import ConvolutionalFeedForward
from ctsm.nn.encoder import BlockSizes
from ctsm.nn.masking import MASKED, attention_bias
from ctsm.nn.positions import Positions
from ctsm.nn.precision import Linear


class StepWeights(NamedTuple):
    """A layer's weights as a step of one position reads them, arranged once for all steps.

    Attributes:
        queries_keys_values: of the self-attention, one below the other [3 H F, D].
        widen: the first convolution over a window of three positions [filter, 3 D].
        narrow: the second one [D, 3 filter].
    """

    queries_keys_values: Tensor
    widen: Tensor
    narrow: Tensor


@dataclass
class LayerCache:
    """What one decoder layer keeps between steps, for a batch of B unfinished replies.

    Attributes:
        memory: cross-attention keys and values [B, H, S, F], computed once.
        self_attention: keys and values of the positions decoded so far [B, H, T, F].
        convolutions: the last two inputs of each convolution [B, 2, .].
        step_weights: what steps of one position read, from the first of them on.
    """

    memory: tuple[Tensor, Tensor]
    self_attention: tuple[Tensor, Tensor] | None = None
    convolutions: tuple[Tensor, Tensor] | None = None
    step_weights: StepWeights | None = field(default=None, kw_only=True)

    def select(self, rows: Tensor) -> LayerCache:
        """Keep only some replies of the batch (indices [B'], repeats allowed, as beam search needs)."""
        return LayerCache(
            (self.memory[0][rows], self.memory[1][rows]),
            None if self.self_attention is None else (self.self_attention[0][rows], self.self_attention[1][rows]),
            None if self.convolutions is None else (self.convolutions[0][rows], self.convolutions[1][rows]),
            step_weights=self.step_weights,
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
        if x_BTD.shape[1] == 1 and cache.self_attention and cache.convolutions and not torch.is_grad_enabled():
            x_BD, copy_scores = self._step(x_BTD[:, 0], cache, cache.self_attention, cache.convolutions, memory_bias)
            return x_BD[:, None], copy_scores
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

    def _step(
        self,
        x_BD: Tensor,
        cache: LayerCache,
        attended: tuple[Tensor, Tensor],
        convolved: tuple[Tensor, Tensor],
        memory_bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The same for one position after others: half the operations, which is what a step of few replies costs."""
        weights = cache.step_weights = cache.step_weights or self._step_weights()
        shape = (len(x_BD), -1, self.self_attention.heads, 1, attended[0].shape[-1])
        scale = attended[0].shape[-1] ** -0.5
        query, key, value = F.linear(self.self_norm(x_BD), weights.queries_keys_values).view(shape).unbind(1)
        keys, values = torch.cat([attended[0], key], dim=2), torch.cat([attended[1], value], dim=2)
        mixed = torch.softmax(query * scale @ keys.transpose(2, 3), dim=-1) @ values
        x_BD = torch.addmm(x_BD, mixed.flatten(1), self.self_attention.output.weight.T)
        query = self.cross_attention.query(self.cross_norm(x_BD)).view(shape)[:, 0]
        scores = query * scale @ cache.memory[0].transpose(2, 3) + memory_bias
        mixed = torch.softmax(scores, dim=-1) @ cache.memory[1]
        x_BD = torch.addmm(x_BD, mixed.flatten(1), self.cross_attention.output.weight.T)
        seen_B3D = torch.cat([convolved[0], self.feed_forward_norm(x_BD)[:, None]], dim=1)
        hidden = F.relu(F.linear(seen_B3D.flatten(1), weights.widen, self.feed_forward.widen.bias))
        hidden_B3F = torch.cat([convolved[1], hidden[:, None]], dim=1)
        fed_BD = F.relu(F.linear(hidden_B3F.flatten(1), weights.narrow, self.feed_forward.narrow.bias))
        cache.self_attention, cache.convolutions = (keys, values), (seen_B3D[:, 1:], hidden_B3F[:, 1:])
        return x_BD + fed_BD, scores.mean(dim=1)

    def _step_weights(self) -> StepWeights:
        attention, feed_forward = self.self_attention, self.feed_forward
        return StepWeights(
            queries_keys_values=torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]),
            widen=feed_forward.widen.weight.transpose(1, 2).flatten(1),
            narrow=feed_forward.narrow.weight.transpose(1, 2).flatten(1),
        )


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
