"""CEM: Commonsense-aware Empathetic Response Generation (Sabour et al., AAAI 2022).

docs/models/cem.md says where this differs from the published code.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), D hidden (300), E emotions (32),
K relations (5: xIntent, xNeed, xWant, xEffect, xReact), R positions of a relation's words, N packed target tokens,
V vocabulary.
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
    Scores,
    WordTables,
    count_predictions,
    target_mean,
    xavier_initialise,
)
from ctsm.nn.decoder import Decoder, DecoderCache
from ctsm.nn.encoder import BlockSizes, Encoder, Refiner
from ctsm.nn.generator import PlainGenerator, no_source
from ctsm.nn.losses import FrequencyWeights
from ctsm.nn.masking import masked_mean
from ctsm.nn.precision import Linear
from ctsm.options import check_options
from ctsm.text.vocabulary import PAD, SOS

EMOTIONS = 32
COGNITIVE = 4


@dataclass(frozen=True)
class CEMOptions:
    """Sizes, loss weights and one fault of the published code.

    Attributes:
        size: width of embeddings and hidden states, d.
        layers: layers of every encoder and of the decoder.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        selection_size: hidden width of the MLP that selects knowledge.
        generation_weight: gamma_1, weight of the likelihood.
        emotion_weight: gamma_2.
        diversity_weight: gamma_3.
        count_evaluation: count predictions for the diversity weights in evaluation too, as the published code does.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    selection_size: int = 900
    generation_weight: float = 1.0
    emotion_weight: float = 1.0
    diversity_weight: float = 1.5
    count_evaluation: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        for name in ("size", "layers", "heads", "depth", "filter_size", "selection_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        if self.depth % self.heads:
            raise ValueError(f"options.depth ({self.depth}) must be a multiple of options.heads ({self.heads})")
        for name in ("generation_weight", "emotion_weight", "diversity_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must not be negative")


class CEM(EmpatheticModel):
    """The model; `install` gives it word vectors.

    Args:
        options: sizes and switches.
        vocabulary_size: V.
    """

    name = "cem"
    training_only = ("diversity",)

    def __init__(self, options: CEMOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        # context encoding and knowledge acquisition
        self.context_encoder = Encoder(size, size, sizes)
        self.cognitive_encoder = Encoder(size, size, sizes)
        self.affective_encoder = Encoder(size, size, sizes)
        # context refinement
        self.cognitive_refiner = Refiner(size, sizes)
        self.affective_refiner = Refiner(size, sizes)
        self.emotion = Linear(size, EMOTIONS, bias=False)
        # knowledge selection
        self.selection = nn.Sequential(
            Linear((COGNITIVE + 1) * size, options.selection_size, bias=False),
            nn.ReLU(),
            Linear(options.selection_size, size, bias=False),
        )
        # response generation
        self.decoder = Decoder(size, size, sizes)
        self.generator = PlainGenerator(size, vocabulary_size)
        self.diversity = FrequencyWeights(vocabulary_size)
        xavier_initialise(self)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding."""
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()

    def encode(self, batch: Batch, perceive: bool = False) -> Context:  # noqa: ARG002 - there are no maps to show
        """Encode the contexts with what was inferred about their last turn."""
        start = batch.context.new_full((len(batch), 1), SOS)
        *inputs, start_B1D = self._look_up(batch.context, batch.speakers, batch.cognitive, batch.reaction, start)
        return self._encode(batch, inputs, start_B1D[:, 0])

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
        """gamma_1 L_nll + gamma_2 L_emo + gamma_3 L_div; in training mode the predictions are counted first."""
        options: CEMOptions = self.options
        start = batch.context.new_full((len(batch), 1), SOS)
        *inputs, start_B1D, target_BTD = self._look_up(
            batch.context, batch.speakers, batch.cognitive, batch.reaction, start, batch.target
        )
        context = self._encode(batch, inputs, start_B1D[:, 0])
        shifted_BTD = torch.cat([start_B1D, target_BTD[:, :-1]], dim=1)
        step = DecoderStep(*self.decoder(shifted_BTD, self.start_decoding(context)))
        scored, target_N = self.score_targets(batch, context.source, step)
        if self.training:
            count_predictions(self.diversity, batch, scored.best)
        nll_N = -scored.log_probability
        generation = target_mean(nll_N, target_N)
        diversity = target_mean(self.diversity()[self.known(target_N)] * nll_N, target_N)
        assert context.emotion_logits is not None
        emotion = F.cross_entropy(context.emotion_logits, batch.emotion)
        total = (
            options.generation_weight * generation
            + options.emotion_weight * emotion
            + options.diversity_weight * diversity
        )
        return Losses(total, {"generation": generation, "emotion": emotion, "diversity": diversity})

    def score(self, batch: Batch) -> Scores:
        """As in the base class; with `count_evaluation` the predictions then count for the diversity weights."""
        scores = super().score(batch)
        if self.options.count_evaluation and hasattr(self, "diversity"):  # a model loaded to reply has no counts
            context = self.encode(batch)
            step = self.decode(batch.target[:, :-1], context, self.start_decoding(context))
            count_predictions(self.diversity, batch, self.score_targets(batch, context.source, step)[0].best)
        return scores

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [B, ...] becomes [B, ..., D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]

    def _encode(self, batch: Batch, inputs: list[Tensor], start_BD: Tensor) -> Context:
        words_BSD, speakers_BSD, cognitive_BKRD, reaction_BRD = inputs
        real = batch.context_real
        context_BSD = self.context_encoder(words_BSD + speakers_BSD, real)
        cognitive_real = (batch.cognitive != PAD).flatten(0, 1)
        cognitive = self.cognitive_encoder.first(cognitive_BKRD.flatten(0, 1), cognitive_real)
        reaction_real = batch.reaction != PAD
        reaction_BD = masked_mean(self.affective_encoder(reaction_BRD, reaction_real), reaction_real)
        cognitive_BKSD = self.cognitive_refiner(context_BSD, cognitive.unflatten(0, (-1, COGNITIVE)), real)
        affective_BKSD = self.affective_refiner(context_BSD, reaction_BD[:, None], real)
        refined_BSKD = torch.cat([cognitive_BKSD, affective_BKSD], dim=1).transpose(1, 2)
        return Context(
            memory=self.selection(F.silu(refined_BSKD.flatten(2))),  # silu(z) = sigmoid(z) z, the paper's weighing
            real=real,
            source=no_source(batch.context),
            start=start_BD,
            emotion_logits=self.emotion(affective_BKSD[:, 0, 0]),
        )
