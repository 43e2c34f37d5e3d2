"""Multi-head attention whose total key width is free (the family uses 40 = 2 heads of 20 in a width of 300)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.precision import Linear, linear


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2) without biases.

    Args:
        query_size: width of the attending sequence; also the output width.
        memory_size: width of the attended sequence.
        depth: total width of queries, keys and values over all heads.
        heads: number of heads; divides `depth`.
    """

    def __init__(self, query_size: int, memory_size: int, depth: int, heads: int) -> None:
        super().__init__()
        if depth % heads:
            raise ValueError(f"attention depth {depth} is not a multiple of the number of heads {heads}")
        self.heads = heads
        self.query = Linear(query_size, depth, bias=False)
        self.key = Linear(memory_size, depth, bias=False)
        self.value = Linear(memory_size, depth, bias=False)
        self.output = Linear(depth, query_size, bias=False)

    def keys_values(self, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Project a memory once: keys and values [B, H, S, depth / H]."""
        keys, values = linear(memory_BSD, torch.cat([self.key.weight, self.value.weight])).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def queries(self, x_BTD: Tensor) -> Tensor:
        """Project the attending sequence: queries [B, H, T, depth / H]."""
        return self._split(self.query(x_BTD))

    def queries_keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project a sequence that attends to itself, with one matrix product: three times [B, H, T, depth / H]."""
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        queries, keys, values = linear(x_BTD, weight).chunk(3, dim=-1)
        return self._split(queries), self._split(keys), self._split(values)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Attend with projected queries to projected keys and values [B, H, ., depth / H]; returns [B, T, D].

        `bias` is added to the scores and broadcasts.
        """
        return self._join(F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias))

    def with_scores(self, x_BTD: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and also the scores before the softmax, averaged over heads [B, T, S].

        The average is what the pointer generator copies by; masked positions hold the bias's large negative value.
        """
        queries = self.queries(x_BTD) * (self.query.out_features // self.heads) ** -0.5
        scores_BHTS = queries @ keys.transpose(-1, -2) + bias
        return self._join(torch.softmax(scores_BHTS, dim=-1) @ values), scores_BHTS.mean(dim=1)

    def _split(self, x_BTF: Tensor) -> Tensor:
        return x_BTF.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _join(self, x_BHTF: Tensor) -> Tensor:
        joined: Tensor = self.output(x_BHTF.transpose(1, 2).flatten(2))
        return joined
