"""Transformer: Attention Is All You Need (Vaswani et al., NeurIPS 2017).

The plain encoder-decoder that its relatives are compared with, and with an emotion head the multi-task variant
(Multi-TRS) after Rashkin et al. (ACL 2019). docs/models/transformer.md says what is taken from where.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), D hidden (300), E emotions (32),
N packed target tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from ctsm.nn.decoder import Decoder, DecoderCache
from ctsm.nn.encoder import BlockSizes, Encoder
from ctsm.nn.generator import PlainGenerator, no_source
from ctsm.nn.precision import Linear
from ctsm.options import check_options
from ctsm.text.vocabulary import PAD, SOS

EMOTIONS = 32


@dataclass(frozen=True)
class TransformerOptions:
    """Sizes, training loss and the emotion head.

    Attributes:
        size: width of embeddings and hidden states.
        layers: layers of the encoder and of the decoder.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        label_smoothing: share of the training target's probability that is spread over the other words.
        emotion_head: whether the model also learns to classify the emotion (Multi-TRS).
        emotion_weight: weight of the emotion loss.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    label_smoothing: float = 0.1
    emotion_head: bool = False
    emotion_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        for name in ("size", "layers", "heads", "depth", "filter_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        if self.depth % self.heads:
            raise ValueError(f"options.depth ({self.depth}) must be a multiple of options.heads ({self.heads})")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"options.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if self.emotion_weight < 0:
            raise ValueError(f"options.emotion_weight is {self.emotion_weight}; it must not be negative")


class Transformer(EmpatheticModel):
    """The model; `install` gives it word vectors.

    Args:
        options: sizes and the emotion head.
        vocabulary_size: V.
    """

    name = "transformer"
    generator: PlainGenerator

    def __init__(self, options: TransformerOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        self.encoder = Encoder(size, size, sizes)
        self.emotion = Linear(size, EMOTIONS, bias=False) if options.emotion_head else None
        self.decoder = Decoder(size, size, sizes)
        self.generator = PlainGenerator(size, vocabulary_size)
        xavier_initialise(self)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding."""
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()

    def encode(self, batch: Batch, perceive: bool = False) -> Context:  # noqa: ARG002 - there are no maps to show
        """Encode words and speakers; the emotion is read off the first position (CLS)."""
        start = batch.context.new_full((len(batch), 1), SOS)
        return self._encode(batch, *self._look_up(batch.context, batch.speakers, start))

    def start_decoding(self, context: Context) -> DecoderCache:
        """Project the memory's keys and values once."""
        return self.decoder.start(context.memory, context.real)

    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Advance the decoder; see the base class."""
        (inputs_BTD,) = self._look_up(words)
        if cache.length == 0:
            inputs_BTD = torch.cat([context.start[:, None], inputs_BTD], dim=1)
        return DecoderStep(*self.decoder(inputs_BTD, cache))

    def loss(self, batch: Batch) -> Losses:
        """Label-smoothed loss, summed over the batch's tokens, plus the mean cross-entropy of the emotion."""
        options: TransformerOptions = self.options
        start = batch.context.new_full((len(batch), 1), SOS)
        looked_up = self._look_up(batch.context, batch.speakers, start, batch.target)
        words_BSD, speakers_BSD, start_B1D, target_BTD = looked_up
        context = self._encode(batch, words_BSD, speakers_BSD, start_B1D)
        shifted_BTD = torch.cat([start_B1D, target_BTD[:, :-1]], dim=1)
        hidden_BTD, _ = self.decoder(shifted_BTD, self.start_decoding(context))
        _, target_N = packed_targets(batch)
        hidden_ND = hidden_BTD.flatten(0, 1)[batch.target_positions]
        smoothed = self.generator.smoothed(hidden_ND, target_N, options.label_smoothing)
        total, terms = target_sum(smoothed.loss, target_N), {"generation": target_mean(smoothed.nll, target_N)}
        if context.emotion_logits is not None:
            emotion = F.cross_entropy(context.emotion_logits, batch.emotion)
            total, terms = total + options.emotion_weight * emotion, terms | {"emotion": emotion}
        return Losses(total, terms)

    def _encode(self, batch: Batch, words_BSD: Tensor, speakers_BSD: Tensor, start_B1D: Tensor) -> Context:
        memory_BSD = self.encoder(words_BSD + speakers_BSD, batch.context_real)
        return Context(
            memory=memory_BSD,
            real=batch.context_real,
            source=no_source(batch.context),
            start=start_B1D[:, 0],
            emotion_logits=None if self.emotion is None else self.emotion(memory_BSD[:, 0]),
        )

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [B, T] becomes [B, T, D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]
