"""The Transformer encoder block of the family (pre-norm, width-3 convolutions), and its knowledge-refining variant."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctsm.nn.attention import MultiHeadAttention
from ctsm.nn.convolution import ConvolutionalFeedForward
from ctsm.nn.masking import attention_bias
from ctsm.nn.positions import Positions
from ctsm.nn.precision import Linear, linear


@dataclass(frozen=True)
class BlockSizes:
    """Sizes every encoder and decoder layer of a model shares.

    Attributes:
        layers: number of layers.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward network.
    """

    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = MultiHeadAttention(size, size, sizes.depth, sizes.heads)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = ConvolutionalFeedForward(size, sizes.filter_size)

    def forward(self, x_BSD: Tensor, bias: Tensor, real_BS1: Tensor) -> Tensor:
        """Map [B, S, D] to [B, S, D]; `bias` [B, 1, 1, S] hides padding from attention, `real` from convolutions."""
        queries, keys, values = self.attention.queries_keys_values(self.attention_norm(x_BSD))
        return self._finish(x_BSD, queries, keys, values, bias, real_BS1)

    def first(self, x_BSD: Tensor, bias: Tensor, real_BS1: Tensor) -> Tensor:
        """Map [B, S, D] to position 0 of what `forward` returns [B, D]; its two convolutions see three positions."""
        seen = slice(0, 3)
        normed = self.attention_norm(x_BSD)
        keys, values = self.attention.keys_values(normed)
        queries = self.attention.queries(normed[:, seen])
        return self._finish(x_BSD[:, seen], queries, keys, values, bias, real_BS1[:, seen])[:, 0]

    def _finish(
        self, x_BTD: Tensor, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, real_BT1: Tensor
    ) -> Tensor:
        x_BTD = x_BTD + self.attention.attend(queries, keys, values, bias)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD), real_BT1)


class Encoder(nn.Module):
    """Projection, positions, layers, final norm (Encoder_C, Encoder_t, Encoder_s, Encoder_Y of the paper).

    Args:
        input_size: width of the input sequence.
        size: width of the layers and of the output.
        sizes: layers, heads, depth and filter.
        positions: whether to add positions after the projection; False where the input already carries them.
    """

    def __init__(self, input_size: int, size: int, sizes: BlockSizes, positions: bool = True) -> None:
        super().__init__()
        self.projection = Linear(input_size, size, bias=False)
        self.positions = Positions(size) if positions else None
        self.layers = nn.ModuleList(EncoderLayer(size, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(size)

    def forward(self, x_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """Encode [B, S, input_size] to [B, S, size]; values at padding positions are meaningless."""
        return self.encode_projected(self.projection(x_BSD), real_BS)

    def first(self, x_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """Encode [B, S, input_size] to position 0 alone [B, size], without computing the others' last layer."""
        return self.first_projected(self.projection(x_BSD), real_BS)

    def first_projected(self, x_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """The part of `first` after the projection."""
        x_BSD, bias, real_BS1 = self._prepare(x_BSD, real_BS)
        for layer in self.layers[:-1]:
            x_BSD = layer(x_BSD, bias, real_BS1)
        last = self.layers[-1]
        assert isinstance(last, EncoderLayer)
        output: Tensor = self.norm(last.first(x_BSD, bias, real_BS1))
        return output

    def encode_projected(self, x_BSD: Tensor, real_BS: Tensor) -> Tensor:
        """The part after the projection, for callers that compute the projection their own way."""
        x_BSD, bias, real_BS1 = self._prepare(x_BSD, real_BS)
        for layer in self.layers:
            x_BSD = layer(x_BSD, bias, real_BS1)
        output: Tensor = self.norm(x_BSD)
        return output

    def _prepare(self, x_BSD: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add positions; return the sequence and its mask for attention [B, 1, 1, S] and convolutions [B, S, 1]."""
        if self.positions is not None:
            x_BSD = self.positions(x_BSD)
        return x_BSD, attention_bias(real_BS)[:, None, None, :].to(x_BSD.dtype), real_BS.unsqueeze(-1).to(x_BSD.dtype)


class Refiner(nn.Module):
    """Encoder over [context ; one knowledge vector repeated at every position] (Sabour et al. 2022, section 3.3).

    The first linear map splits: its context half is computed once for all relations, its knowledge half once per
    relation, and all relations go through the layers as one batch.
    """

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.encoder = Encoder(2 * size, size, sizes)

    def forward(self, context_BSD: Tensor, knowledge_BKD: Tensor, real_BS: Tensor) -> Tensor:
        """Refine the context [B, S, D] once for each of K knowledge vectors [B, K, D]: [B, K, S, D]."""
        size = context_BSD.shape[-1]
        weight = self.encoder.projection.weight
        from_context = linear(context_BSD, weight[:, :size])
        from_knowledge = linear(knowledge_BKD, weight[:, size:])
        projected = from_context[:, None] + from_knowledge[:, :, None]
        relations = knowledge_BKD.shape[1]
        refined = self.encoder.encode_projected(
            projected.flatten(0, 1), torch.repeat_interleave(real_BS, relations, dim=0)
        )
        return refined.unflatten(0, (-1, relations))
