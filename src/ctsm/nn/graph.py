"""Graph Transformer layers, which attend along edges, and the edges of the two graphs of Zhou et al. (2023).

Axes: B batch, N vertices, D hidden, H heads, K kinds of edges.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.nn.masking import MASKED
from ctsm.nn.precision import Linear
from ctsm.text.vocabulary import PAD


class GraphAttention(nn.Module):
    """Multi-head attention in which a vertex sees only the vertices it has an edge to.

    Args:
        size: width of the vertices, a multiple of `heads`; also that of queries, keys and values over all heads.
        heads: number of heads.
        dropout: dropout of the attention weights.
        bias: whether the four linear maps have one.
    """

    def __init__(self, size: int, heads: int, dropout: float, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (Linear(size, size, bias=bias) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, edges_BNN: Tensor) -> Tensor:
        """Attend from each vertex i [B, N, D] to all j with `edges` [B, N, N] not 0 at i, j; there must be one.

        Returns [B, N, D].
        """
        queries, keys, values = (
            part(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores_BHNN = self.scores(queries * queries.shape[-1] ** -0.5, keys, edges_BNN)
        weights_BHNN = torch.softmax(scores_BHNN.masked_fill((edges_BNN == 0)[:, None], MASKED), dim=-1)
        joined: Tensor = self.output((self.dropout(weights_BHNN) @ values).transpose(1, 2).flatten(2))
        return joined

    def scores(self, queries: Tensor, keys: Tensor, edges_BNN: Tensor) -> Tensor:  # noqa: ARG002 - for the subclass
        """Return the scores [B, H, N, N] of scaled queries and keys [B, H, N, D / H]."""
        return queries @ keys.transpose(-1, -2)


class RelationAttention(GraphAttention):
    """Graph attention with queries and keys that depend on the edge: (q_i / sqrt(D / H) + a_k) . (k_j + c_k).

    k is the kind of the edge from i to j, a_k and c_k are linear in its vector. There are only K different a and c, so
    the product is multiplied out: nothing larger than [B, H, N, N] is made, where [B, N, N, 2D] would be the plain way.
    All four maps have a bias.

    Args:
        size: as in `GraphAttention`.
        heads: as in `GraphAttention`.
        dropout: as in `GraphAttention`.
        kinds: number of kinds; `edges` holds 1 ... kinds, or 0 where there is none.
    """

    def __init__(self, size: int, heads: int, dropout: float, kinds: int) -> None:
        super().__init__(size, heads, dropout, bias=True)
        self.kinds = nn.Parameter(torch.empty(kinds, size))
        self.kind_map = Linear(size, 2 * size, bias=False)
        nn.init.xavier_uniform_(self.kinds)

    def scores(self, queries: Tensor, keys: Tensor, edges_BNN: Tensor) -> Tensor:
        """Return the scores [B, H, N, N] of scaled queries and keys [B, H, N, D / H]."""
        scaled_KD = self.kinds * math.sqrt(self.kinds.shape[1])  # as the family scales every embedding
        for_queries, for_keys = self.kind_map(scaled_KD).unflatten(-1, (2, self.heads, -1)).unbind(1)  # [K, H, D / H]
        of_query_BHNK = torch.einsum("bhif,khf->bhik", queries, for_keys)
        of_key_BHNK = torch.einsum("bhjf,khf->bhjk", keys, for_queries) + (for_queries * for_keys).sum(-1).T[:, None]
        kind_BHNN = (edges_BNN - 1).clamp_min(0)[:, None].expand(-1, self.heads, -1, -1)
        by_query = of_query_BHNK.gather(3, kind_BHNN)
        by_key = of_key_BHNK.gather(3, kind_BHNN.transpose(2, 3)).transpose(2, 3)
        return super().scores(queries, keys, edges_BNN) + by_query + by_key


class GraphLayer(nn.Module):
    """One layer of a graph Transformer: attention, then a feed-forward network, a layer norm after each.

    Args:
        attention: along the edges.
        size: width of the vertices.
        filter_size: inner width of the feed-forward network.
        dropout: dropout of what each part adds.
    """

    def __init__(self, attention: GraphAttention, size: int, filter_size: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(size)
        self.widen = Linear(size, filter_size)
        self.narrow = Linear(filter_size, size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x_BND: Tensor, edges_BNN: Tensor) -> Tensor:
        """Map the vertices [B, N, D] to [B, N, D]; `edges` [B, N, N] as in the attention."""
        x_BND = self.attention_norm(x_BND + self.dropout(self.attention(x_BND, edges_BNN)))
        fed = self.narrow(F.gelu(self.widen(x_BND)))
        output: Tensor = self.feed_forward_norm(x_BND + self.dropout(fed))
        return output


def concept_edges(context_BS: Tensor, concepts_BC: Tensor, concept_words_BC: Tensor) -> Tensor:
    """Return which vertices of an emotional concept graph are joined, the context's words before the concepts.

    CLS is joined to every word and concept, each word to the ones beside it and to its concepts, each vertex, padding
    too, to itself (Zhou et al. 2023, after Li et al. 2022).

    Args:
        context_BS: word ids, CLS first, PAD last.
        concepts_BC: concept ids, PAD last.
        concept_words_BC: the context word that each concept belongs to.

    Returns:
        [B, S + C, S + C] bool, symmetric.
    """
    place_S = torch.arange(context_BS.shape[1], device=context_BS.device)
    first_S, word_BS = place_S == 0, context_BS != PAD
    beside_SS = ((place_S[:, None] - place_S).abs() == 1) | first_S[:, None] | first_S
    words_BSS = beside_SS & word_BS[:, :, None] & word_BS[:, None]
    owns_BSC = (context_BS[:, :, None] == concept_words_BC[:, None]) | first_S[:, None]
    edges_BNN = _bipartite(words_BSS, owns_BSC & (concepts_BC != PAD)[:, None])
    return edges_BNN | torch.eye(edges_BNN.shape[1], dtype=torch.bool, device=edges_BNN.device)


SELF, CONTAINS, TEMPORAL, INFERRED = range(1, 5)
"""Kinds of edges of a cognition graph; an edge to a phrase is INFERRED + its relation."""
COGNITION_KINDS = INFERRED + 3


def cognition_edges(utterances_BU: Tensor, relation_BP: Tensor, owner_BP: Tensor) -> Tensor:
    """Return the kinds of the edges of a commonsense cognition graph, utterances before phrases; 0 for none.

    The whole utterance (the first) contains its sub-utterances, these are joined to one another, each phrase to the
    utterance it was inferred from, each vertex, padding too, to itself (Zhou et al. 2023).

    Args:
        utterances_BU: which utterances there are, bool.
        relation_BP: 0 to 3 for a phrase of xIntent, xNeed, xWant, xEffect; -1 at padding.
        owner_BP: place in U of the utterance that each phrase was inferred from; -1 at padding.

    Returns:
        [B, U + P, U + P], symmetric.
    """
    place_U = torch.arange(utterances_BU.shape[1], device=utterances_BU.device)
    part_U = place_U > 0
    kinds_UU = TEMPORAL * (part_U[:, None] & part_U) + CONTAINS * (part_U[:, None] ^ part_U)
    kinds_BUU = kinds_UU * (utterances_BU[:, :, None] & utterances_BU[:, None])
    owns_BUP = (owner_BP[:, None] == place_U[:, None]) & (relation_BP >= 0)[:, None]
    edges_BNN = _bipartite(kinds_BUU, owns_BUP * (INFERRED + relation_BP)[:, None])
    loops_NN = torch.eye(edges_BNN.shape[1], dtype=torch.bool, device=edges_BNN.device)
    return edges_BNN.masked_fill(loops_NN, SELF)


def _bipartite(among_BNN: Tensor, between_BNM: Tensor) -> Tensor:
    """Return [B, N + M, N + M]: edges among the first N vertices and, both ways, to M that have none among them."""
    upper = torch.cat([among_BNN, between_BNM], dim=2)
    return torch.cat([upper, F.pad(between_BNM.transpose(1, 2), (0, between_BNM.shape[2]))], dim=1)
