"""KEMP: Knowledge Bridging for Empathetic Dialogue Generation (Li et al., AAAI 2022).

docs/models/kemp.md says where this differs from the published code, whose graph mask hides nothing.

Axes: B batch, S context positions (CLS first), C concepts, N = S + C vertices of the graph, T target positions (EOS
last), H heads, D hidden (300), E emotions (32), P packed target tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.models.base import (
    Context,
    DecoderStep,
    EmpatheticModel,
    Losses,
    WordTables,
    packed_targets,
    target_mean,
    target_sum,
    xavier_initialise,
)
from ctsm.nn.decoder import Decoder, DecoderCache, DecoderLayer, LayerCache
from ctsm.nn.encoder import BlockSizes, Encoder
from ctsm.nn.masking import MASKED, attention_bias, masked_mean, masked_softmax
from ctsm.nn.pointer import CopySource, PointerGenerator
from ctsm.nn.precision import Linear, linear
from ctsm.options import check_options
from ctsm.text.vocabulary import CLS, PAD

EMOTIONS = 32


@dataclass(frozen=True)
class KEMPOptions:
    """Sizes, loss weights and the fault of the published code that can be switched on.

    Attributes:
        size: width of embeddings and hidden states.
        layers: layers of the encoder and of the decoder.
        heads: attention heads of the encoder and of the decoder.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        graph_dropout: share of attention weights and outputs of the graph that is dropped in training.
        label_smoothing: share of the training target's probability that is spread over the other words.
        emotion_weight: weight of the emotion loss.
        attention_weight: weight of the emotional attention loss.
        open_graph: attend in the graph to every vertex, and copy by the softmax of a softmax, as the published code.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    graph_dropout: float = 0.2
    label_smoothing: float = 0.1
    emotion_weight: float = 1.0
    attention_weight: float = 0.1
    open_graph: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        for name in ("size", "layers", "heads", "depth", "filter_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        if self.depth % self.heads:
            raise ValueError(f"options.depth ({self.depth}) must be a multiple of options.heads ({self.heads})")
        for name in ("graph_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("emotion_weight", "attention_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class EmotionalContext(Context):
    """An encoded graph.

    Attributes:
        signal: the emotional signal c_e, the vertices' mean by emotional intensity [B, D].
        intensity: softmax of the vertices' emotional intensities [B, N]; 0 at padding.
    """

    signal: Tensor
    intensity: Tensor


class ContextGraph(nn.Module):
    """Words of the context attend to their neighbours in the graph; concepts stay as they are."""

    def __init__(self, size: int, dropout: float, open_graph: bool) -> None:
        super().__init__()
        self.query = Linear(size, size)
        self.key = Linear(size, size)
        self.value = Linear(size, size)
        self.output = Linear(size, size)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(size)
        self.open_graph = open_graph

    def forward(self, vertices_BND: Tensor, edges_BSN: Tensor, real_BN: Tensor) -> Tensor:
        """Return the context's words after reading their neighbours [B, S, D]."""
        words_BSD = vertices_BND[:, : edges_BSN.shape[1]]
        scores_BSN = self.query(words_BSD) @ self.key(vertices_BND).transpose(1, 2) * vertices_BND.shape[-1] ** -0.5
        if self.open_graph:
            # the published mask puts 1e-24 where it should put minus infinity
            weights_BSN = masked_softmax(scores_BSN.masked_fill(~edges_BSN, 0.0), real_BN[:, None].expand_as(edges_BSN))
        else:
            weights_BSN = torch.softmax(scores_BSN.masked_fill(~edges_BSN, MASKED), dim=-1)
        read_BSD = self.output(self.dropout(weights_BSN) @ self.value(vertices_BND))
        normed: Tensor = self.norm(words_BSD + self.dropout(read_BSD))
        return normed


def graph_edges(context_BS: Tensor, concepts_BC: Tensor, concept_words_BC: Tensor) -> Tensor:
    """Return which vertices each position of the context reads [B, S, S + C].

    CLS reads every word and concept; a word reads CLS, the word before it and its own concepts. A padding position
    reads CLS, so that its attention is defined.
    """
    length = context_BS.shape[1]
    real_BS, real_BC = context_BS != PAD, concepts_BC != PAD
    places = torch.arange(length, device=context_BS.device)
    before_SS = places[:, None] == places[None, :] + 1
    words_BSS = before_SS & real_BS[:, :, None]
    words_BSS[:, :, 0] = True
    words_BSS[:, 0] = real_BS
    concepts_BSC = (context_BS[:, :, None] == concept_words_BC[:, None]) & real_BC[:, None]
    concepts_BSC[:, 0] = real_BC
    return torch.cat([words_BSS, concepts_BSC], dim=-1)


@dataclass
class EmotionalCache(LayerCache):
    """What one decoder layer keeps between steps; `signal` is the mapped emotional signal [B, 1, D]."""

    signal: Tensor | None = None

    def select(self, rows: Tensor) -> EmotionalCache:
        """Keep only some replies of the batch."""
        kept = super().select(rows)
        assert self.signal is not None
        return EmotionalCache(kept.memory, kept.self_attention, kept.convolutions, self.signal[rows])


class EmotionalDecoderLayer(DecoderLayer):
    """A decoder layer whose cross-attention is joined with the emotional signal (emotional cross-attention)."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__(size, size, sizes)
        self.join = Linear(2 * size, size, bias=False)

    def start(self, memory_BND: Tensor, signal_BD: Tensor) -> EmotionalCache:
        """Project what stays the same at every step: keys and values, and the signal's half of the join."""
        own = self.join.weight[:, signal_BD.shape[-1] :]
        return EmotionalCache(self.cross_attention.keys_values(memory_BND), signal=linear(signal_BD, own)[:, None])

    def forward(
        self, x_BTD: Tensor, cache: LayerCache, causal_bias: Tensor | None, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance by T positions; see the base class."""
        assert isinstance(cache, EmotionalCache) and cache.signal is not None
        queries, keys, values = self.self_attention.queries_keys_values(self.self_norm(x_BTD))
        if cache.self_attention is not None:
            keys = torch.cat([cache.self_attention[0], keys], dim=2)
            values = torch.cat([cache.self_attention[1], values], dim=2)
        cache.self_attention = (keys, values)
        x_BTD = x_BTD + self.self_attention.attend(queries, keys, values, causal_bias)
        mixed, scores = self.cross_attention.with_scores(self.cross_norm(x_BTD), *cache.memory, memory_bias)
        x_BTD = x_BTD + linear(mixed, self.join.weight[:, : mixed.shape[-1]]) + cache.signal
        fed, cache.convolutions = self.feed_forward.causal(self.feed_forward_norm(x_BTD), cache.convolutions)
        return x_BTD + fed, scores


class EmotionalDecoder(Decoder):
    """The family's decoder with emotional cross-attention in every layer."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__(size, size, sizes)
        self.layers = nn.ModuleList(EmotionalDecoderLayer(size, sizes) for _ in range(sizes.layers))

    def start_with(self, memory_BND: Tensor, real_BN: Tensor, signal_BD: Tensor) -> DecoderCache:
        """Prepare a cache: project memory and signal once, no position decoded yet."""
        layers = (layer for layer in self.layers if isinstance(layer, EmotionalDecoderLayer))
        bias = attention_bias(real_BN)[:, None, None, :].to(memory_BND.dtype)
        return DecoderCache(bias, [layer.start(memory_BND, signal_BD) for layer in layers])


class KEMP(EmpatheticModel):
    """The model; `install` gives it word vectors and emotional intensities.

    Args:
        options: sizes and switches.
        vocabulary_size: V.
    """

    name = "kemp"
    needs: ClassVar[frozenset[str]] = frozenset({"concepts"})
    generator: PointerGenerator
    intensity: Tensor

    def __init__(self, options: KEMPOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        # emotional context graph and encoder
        self.concept_state = nn.Parameter(torch.zeros(size))
        self.graph = ContextGraph(size, options.graph_dropout, options.open_graph)
        self.encoder = Encoder(size, size, sizes)
        # emotional signal
        self.emotion = Linear(size, EMOTIONS, bias=False)
        self.emotion_start = Linear(EMOTIONS, size)
        # emotion-dependency decoder
        self.decoder = EmotionalDecoder(size, sizes)
        self.generator = PointerGenerator(size, vocabulary_size)
        self.register_buffer("intensity", torch.zeros(vocabulary_size))
        xavier_initialise(self)
        nn.init.normal_(self.concept_state, std=0.01)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding and the table of emotional intensities."""
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()
            self.intensity.copy_(tables.intensity)

    def encode(self, batch: Batch, perceive: bool = False) -> EmotionalContext:  # noqa: ARG002 - there are no maps
        """Encode the emotional context graph and perceive the emotion."""
        assert batch.concepts is not None
        return self._encode(batch, *self._look_up(batch.context, batch.speakers, batch.concepts))

    def start_decoding(self, context: Context) -> DecoderCache:
        """Project the memory's keys and values and the emotional signal once."""
        assert isinstance(context, EmotionalContext)
        return self.decoder.start_with(context.memory, context.real, context.signal)

    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Advance the decoder; see the base class."""
        (inputs_BTD,) = self._look_up(words)
        if cache.length == 0:
            inputs_BTD = torch.cat([context.start[:, None], inputs_BTD], dim=1)
        hidden_BTD, scores_BTN = self.decoder(inputs_BTD, cache)
        if self.options.open_graph:
            scores_BTN = torch.softmax(scores_BTN, dim=-1)
        return DecoderStep(hidden_BTD, scores_BTN)

    def loss(self, batch: Batch) -> Losses:
        """Label-smoothed loss and cross-entropy of the emotion, summed over the batch, and the attention loss."""
        options: KEMPOptions = self.options
        assert batch.concepts is not None
        *inputs, target_BTD = self._look_up(batch.context, batch.speakers, batch.concepts, batch.target)
        context = self._encode(batch, *inputs)
        shifted_BTD = torch.cat([context.start[:, None], target_BTD[:, :-1]], dim=1)
        hidden_BTD, scores_BTN = self.decoder(shifted_BTD, self.start_decoding(context))
        attention_BTN = torch.softmax(scores_BTN, dim=-1)
        rows, target_P = packed_targets(batch)
        positions = batch.target_positions
        smoothed = self.generator.smoothed(
            hidden_BTD.flatten(0, 1)[positions],
            (attention_BTN if options.open_graph else scores_BTN).flatten(0, 1)[positions],
            context.source.rows(rows),
            target_P,
            options.label_smoothing,
        )
        assert context.emotion_logits is not None
        emotion = F.cross_entropy(context.emotion_logits, batch.emotion)
        attention = self._attention_loss(attention_BTN, context, batch)
        summed = target_sum(smoothed.loss, target_P)
        total = summed + options.emotion_weight * len(batch) * emotion + options.attention_weight * attention
        generation = target_mean(smoothed.nll, target_P)
        return Losses(total, {"generation": generation, "emotion": emotion, "attention": attention})

    @staticmethod
    def _attention_loss(attention_BTN: Tensor, context: EmotionalContext, batch: Batch) -> Tensor:
        """Mean squared difference, over real vertices, of a reply's mean attention and the emotional intensities."""
        attended_BN = masked_mean(attention_BTN, batch.target_real)
        squares_BN = (attended_BN - context.intensity).square() * context.real
        return squares_BN.sum() / context.real.sum()

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [B, W] becomes [B, W, D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]

    def _encode(self, batch: Batch, words_BSD: Tensor, speakers_BSD: Tensor, concepts_BCD: Tensor) -> EmotionalContext:
        assert batch.concepts is not None and batch.concept_words is not None
        ids = torch.cat([batch.context, batch.concepts], dim=1)
        states_BCD = concepts_BCD + self.concept_state * math.sqrt(self.options.size)
        edges_BSN = graph_edges(batch.context, batch.concepts, batch.concept_words)
        vertices_BND = torch.cat([words_BSD + speakers_BSD, states_BCD], dim=1)
        read_BSD = self.graph(vertices_BND, edges_BSN, ids != PAD)
        # padding moves behind the concepts: positions and convolutions must not depend on how much of it there is
        order_BN = (ids == PAD).to(torch.uint8).argsort(dim=1, stable=True)
        ids, read_BND = ids.gather(1, order_BN), torch.cat([read_BSD, states_BCD], dim=1)
        real = ids != PAD
        memory = self.encoder(read_BND.gather(1, order_BN.unsqueeze(-1).expand_as(read_BND)), real)
        intensity_BN = masked_softmax(self.intensity[self.known(ids)], real)
        signal_BD = (intensity_BN.unsqueeze(-1) * memory).sum(dim=1)
        logits_BE = self.emotion(signal_BD)
        return EmotionalContext(
            memory=memory,
            real=real,
            source=CopySource.of(ids, real & (ids != CLS)),
            start=self.emotion_start(logits_BE),
            emotion_logits=logits_BE,
            signal=signal_BD,
            intensity=intensity_BN,
        )
