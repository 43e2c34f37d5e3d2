"""A decoder that attends to several memories, one after the other (Zhou et al. 2023: cognition, affection, context)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctsm.nn.attention import MultiHeadAttention
from ctsm.nn.convolution import ConvolutionalFeedForward
from ctsm.nn.decoder import DecoderCache, LayerCache
from ctsm.nn.encoder import BlockSizes
from ctsm.nn.masking import MASKED, attention_bias
from ctsm.nn.positions import Positions
from ctsm.nn.precision import Linear


class MemoriesDecoderLayer(nn.Module):
    """Causal self-attention, attention to each memory, causal convolutions; each after a norm, added to its input."""

    def __init__(self, size: int, memories: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(size)
        self.self_attention = MultiHeadAttention(size, size, sizes.depth, sizes.heads)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(memories))
        self.attentions = nn.ModuleList(
            MultiHeadAttention(size, size, sizes.depth, sizes.heads) for _ in range(memories)
        )
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = ConvolutionalFeedForward(size, sizes.filter_size)

    def forward(
        self, x_BTD: Tensor, caches: list[LayerCache], causal_bias: Tensor | None, biases: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Advance by T positions; returns [B, T, D] and the last memory's mean scores [B, T, S].

        Args:
            x_BTD: input.
            caches: one for each memory; the last also keeps what was decoded, and is updated in place.
            causal_bias: hides later positions; None for a single step.
            biases: hide the padding of each memory.
        """
        cache = caches[-1]
        normed = self.self_norm(x_BTD)
        queries, keys, values = self.self_attention.queries_keys_values(normed)
        if cache.self_attention is not None:
            keys = torch.cat([cache.self_attention[0], keys], dim=2)
            values = torch.cat([cache.self_attention[1], values], dim=2)
        cache.self_attention = (keys, values)
        x_BTD = x_BTD + self.self_attention.attend(queries, keys, values, causal_bias)
        scores = x_BTD
        for norm, attention, memory, bias in zip(self.norms, self.attentions, caches, biases, strict=True):
            assert isinstance(attention, MultiHeadAttention)
            mixed, scores = attention.with_scores(norm(x_BTD), *memory.memory, bias)
            x_BTD = x_BTD + mixed
        fed, cache.convolutions = self.feed_forward.causal(self.feed_forward_norm(x_BTD), cache.convolutions)
        return x_BTD + fed, scores


class MemoriesDecoder(nn.Module):
    """Projection, positions, layers, final norm, as `Decoder`, with several memories of the same width.

    Args:
        size: width of inputs, memories, layers and output.
        memories: how many there are.
        sizes: layers, heads, depth and filter.
    """

    def __init__(self, size: int, memories: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.projection = Linear(size, size, bias=False)
        self.positions = Positions(size)
        self.layers = nn.ModuleList(MemoriesDecoderLayer(size, memories, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(size)
        self.memories = memories

    def start(self, memories: Sequence[tuple[Tensor, Tensor]]) -> DecoderCache:
        """Project the keys and values of all memories once: for each layer a cache for each memory.

        Args:
            memories: [B, S_m, D] and its mask [B, S_m], in the order they are attended to. A memory of which an example
                has nothing must hold zeros there: attention then adds nothing to it.
        """
        bias_BS = torch.cat([attention_bias(real_BS) for _, real_BS in memories], dim=1)
        cache = DecoderCache(bias_BS[:, None, None].to(memories[0][0].dtype))
        for layer in self.layers:
            assert isinstance(layer, MemoriesDecoderLayer)
            for attention, (memory_BSD, _) in zip(layer.attentions, memories, strict=True):
                assert isinstance(attention, MultiHeadAttention)
                cache.layers.append(LayerCache(attention.keys_values(memory_BSD)))
        return cache

    def forward(self, x_BTD: Tensor, cache: DecoderCache) -> tuple[Tensor, Tensor]:
        """Decode T further positions, updating the cache; see `Decoder`.

        Returns:
            Hidden states [B, T, D] and the last layer's head-averaged scores of the last memory [B, T, S].
        """
        steps, done, count = x_BTD.shape[1], cache.length, self.memories
        x_BTD = self.positions(self.projection(x_BTD), first=done)
        causal_bias = x_BTD.new_full((steps, done + steps), MASKED).triu(done + 1) if steps > 1 else None
        lengths = [layer_cache.memory[0].shape[2] for layer_cache in cache.layers[:count]]
        biases = cache.memory_bias.split(lengths, dim=-1)
        scores = x_BTD.new_zeros(())
        for number, layer in enumerate(self.layers):
            x_BTD, scores = layer(x_BTD, cache.layers[number * count : (number + 1) * count], causal_bias, biases)
        cache.length = done + steps
        return self.norm(x_BTD), scores
