"""MIME: MIMicking Emotions for Empathetic Response Generation (Majumder et al., EMNLP 2020).

docs/models/mime.md says where this differs from the published code.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), D hidden (300), E emotions (32),
N packed target tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.corpus.emotions import EMOTION_INDEX, EMOTIONS
from ctsm.models.base import (
    Context,
    DecoderStep,
    EmpatheticModel,
    Losses,
    Scores,
    WordTables,
    packed_targets,
    target_mean,
    target_sum,
    xavier_initialise,
)
from ctsm.nn.decoder import Decoder, DecoderCache
from ctsm.nn.encoder import BlockSizes, Encoder, Refiner
from ctsm.nn.generator import PlainGenerator, no_source
from ctsm.nn.masking import masked_mean
from ctsm.nn.precision import Linear
from ctsm.options import check_options
from ctsm.text.vocabulary import PAD, SOS

POSITIVE = (
    *("confident", "joyful", "grateful", "impressed", "proud", "excited", "trusting"),
    *("hopeful", "faithful", "prepared", "content", "surprised", "caring"),
)
NEGATIVE = tuple(emotion for emotion in EMOTIONS if emotion not in POSITIVE)


@dataclass(frozen=True)
class MIMEOptions:
    """Sizes, training loss and one fault of the published code.

    Attributes:
        size: width of embeddings, hidden states and sampled variables.
        layers: layers of every encoder and of the decoder.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        label_smoothing: share of the training target's probability that is spread over the other words.
        emotion_weight: weight of the emotion loss.
        gold_polarity: score replies (perplexity) with the polarity of the gold emotion, as the published code does.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    label_smoothing: float = 0.1
    emotion_weight: float = 1.0
    gold_polarity: bool = False

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


class Gaussian(NamedTuple):
    """A normal distribution with independent coordinates [B, D]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: bool) -> Tensor:
        """Draw one value [B, D]; without noise, the mean."""
        if not noise:
            return self.mean
        return self.mean + torch.exp(0.5 * self.log_variance) * torch.randn_like(self.mean)

    def divergence_from(self, other: Gaussian) -> Tensor:
        """Kullback-Leibler divergence of this distribution from another, for each example [B]."""
        difference = (self.log_variance.exp() + (self.mean - other.mean) ** 2) / other.log_variance.exp()
        return 0.5 * (other.log_variance - self.log_variance + difference - 1.0).sum(dim=-1)


class GaussianHead(nn.Module):
    """Mean and logarithm of the variance, each a linear map of a hidden vector [B, D]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean = Linear(size, size)
        self.log_variance = Linear(size, size)

    def forward(self, hidden_BD: Tensor) -> Gaussian:
        """Return the distribution."""
        return Gaussian(self.mean(hidden_BD), self.log_variance(hidden_BD))


class Streams(NamedTuple):
    """Something in two versions: for the positive and the negative emotions, or mimicking and not mimicking."""

    first: Tensor
    second: Tensor

    def swapped_unless(self, keep_B: Tensor) -> Streams:
        """Exchange both [B, ...] in the rows where `keep` is False; so polarity becomes mimicry, and back."""
        keep = keep_B.view(-1, *[1] * (self.first.dim() - 1))
        return Streams(torch.where(keep, self.first, self.second), torch.where(keep, self.second, self.first))


class EmotionPrior(nn.Module):
    """Stochastic response emotions: for either polarity a latent variable, and from it a mixture of its emotions."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = Linear(size, size)
        self.positive, self.negative = GaussianHead(size), GaussianHead(size)
        self.positive_mixture, self.negative_mixture = Linear(size, len(POSITIVE)), Linear(size, len(NEGATIVE))

    def forward(self, query_BD: Tensor) -> tuple[Gaussian, Gaussian]:
        """Return the latent distributions of the positive and the negative emotions, given the context alone."""
        hidden_BD = F.relu(self.hidden(query_BD))
        return self.positive(hidden_BD), self.negative(hidden_BD)

    def mix(self, latent: Streams, positive_ED: Tensor, negative_ED: Tensor) -> Streams:
        """Return the expected positive and negative emotion vectors [B, D] of latent values [B, D]."""
        return Streams(
            torch.softmax(self.positive_mixture(latent.first), dim=-1) @ positive_ED,
            torch.softmax(self.negative_mixture(latent.second), dim=-1) @ negative_ED,
        )


class EmotionPosterior(nn.Module):
    """The latent variables as training knows them: given also what either polarity has made of the context."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.positive_hidden, self.negative_hidden = Linear(2 * size, size), Linear(2 * size, size)
        self.positive, self.negative = GaussianHead(size), GaussianHead(size)

    def forward(self, query_BD: Tensor, refined: Streams) -> tuple[Gaussian, Gaussian]:
        """Return the distributions, given the contexts refined with positive and negative emotions as means [B, D]."""
        positive_BD = F.relu(self.positive_hidden(torch.cat([query_BD, refined.first], dim=-1)))
        negative_BD = F.relu(self.negative_hidden(torch.cat([query_BD, refined.second], dim=-1)))
        return self.positive(positive_BD), self.negative(negative_BD)


class MIME(EmpatheticModel):
    """The model; `install` gives it word vectors.

    Args:
        options: sizes and switches.
        vocabulary_size: V.
    """

    name = "mime"
    training_only = ("posterior",)
    generator: PlainGenerator
    positive: Tensor
    positive_ids: Tensor
    negative_ids: Tensor

    def __init__(self, options: MIMEOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        # context encoding and emotion classification
        self.context_encoder = Encoder(size, size, sizes)
        self.emotions = nn.Parameter(torch.empty(len(EMOTIONS), size))
        self.emotion_query = Linear(size, size, bias=False)
        # response emotions, the context refined with them, and the fusion of both streams
        self.prior = EmotionPrior(size)
        self.posterior = EmotionPosterior(size)
        self.mimicking_refiner = Refiner(size, sizes)
        self.other_refiner = Refiner(size, sizes)
        self.contribution = Linear(2 * size, 2 * size)
        self.fusion = Linear(2 * size, size)
        # response decoding
        self.decoder = Decoder(size, size, sizes)
        self.generator = PlainGenerator(size, vocabulary_size)
        for name, group in (("positive_ids", POSITIVE), ("negative_ids", NEGATIVE)):
            ids = torch.tensor([EMOTION_INDEX[emotion] for emotion in group])
            self.register_buffer(name, ids, persistent=False)
        polarity = torch.tensor([emotion in POSITIVE for emotion in EMOTIONS])
        self.register_buffer("positive", polarity, persistent=False)
        xavier_initialise(self)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding."""
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()

    def encode(self, batch: Batch, perceive: bool = False) -> Context:  # noqa: ARG002 - there are no maps to show
        """Encode the contexts; the predicted emotion decides which polarity mimics, and nothing is drawn at random."""
        return self._context(batch)

    def start_decoding(self, context: Context) -> DecoderCache:
        """Project the memory's keys and values once."""
        return self.decoder.start(context.memory, context.real)

    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Advance the decoder; see the base class."""
        (inputs_BTD,) = self._look_up(words)
        if cache.length == 0:
            inputs_BTD = torch.cat([context.start[:, None], inputs_BTD], dim=1)
        return DecoderStep(*self.decoder(inputs_BTD, cache))

    def score(self, batch: Batch) -> Scores:
        """Score the gold replies; the option `gold_polarity` reads the label."""
        context = self._context(batch, self.positive[batch.emotion] if self.options.gold_polarity else None)
        return self.score_in(context, batch)

    def loss(self, batch: Batch) -> Losses:
        """Label-smoothed loss and divergence, summed over the batch, plus the mean cross-entropy of the emotion.

        The gold emotion decides which polarity mimics, and the decoder sees emotions drawn from the posterior.
        """
        options: MIMEOptions = self.options
        start = batch.context.new_full((len(batch), 1), SOS)
        looked_up = self._look_up(batch.context, batch.speakers, start, batch.target)
        words_BSD, speakers_BSD, start_B1D, target_BTD = looked_up
        real = batch.context_real
        context_BSD, logits_BE = self._encode(words_BSD + speakers_BSD, real)
        positive_B = self.positive[batch.emotion]
        prior = self.prior(context_BSD[:, 0])
        by_prior = self._refine(context_BSD, prior, positive_B, real, noise=self.training)
        means = Streams(masked_mean(by_prior.first, real), masked_mean(by_prior.second, real))
        posterior = self.posterior(context_BSD[:, 0], means.swapped_unless(positive_B))
        memory_BSD = self._fuse(self._refine(context_BSD, posterior, positive_B, real, noise=self.training))
        cache = self.decoder.start(memory_BSD, real)
        hidden_BTD, _ = self.decoder(torch.cat([start_B1D, target_BTD[:, :-1]], dim=1), cache)
        _, target_N = packed_targets(batch)
        hidden_ND = hidden_BTD.flatten(0, 1)[batch.target_positions]
        smoothed = self.generator.smoothed(hidden_ND, target_N, options.label_smoothing)
        divergence_B = posterior[0].divergence_from(prior[0]) + posterior[1].divergence_from(prior[1])
        emotion = F.cross_entropy(logits_BE, batch.emotion)
        total = target_sum(smoothed.loss, target_N) + divergence_B.sum() + options.emotion_weight * emotion
        generation = target_mean(smoothed.nll, target_N)
        return Losses(total, {"generation": generation, "divergence": divergence_B.mean(), "emotion": emotion})

    def _context(self, batch: Batch, positive_B: Tensor | None = None) -> Context:
        """Encode contexts as for a reply; `positive` overrides the polarity of the predicted emotion."""
        start = batch.context.new_full((len(batch), 1), SOS)
        words_BSD, speakers_BSD, start_B1D = self._look_up(batch.context, batch.speakers, start)
        real = batch.context_real
        context_BSD, logits_BE = self._encode(words_BSD + speakers_BSD, real)
        if positive_B is None:
            positive_B = self.positive[logits_BE.argmax(dim=-1)]
        prior = self.prior(context_BSD[:, 0])
        return Context(
            memory=self._fuse(self._refine(context_BSD, prior, positive_B, real, noise=False)),
            real=real,
            source=no_source(batch.context),
            start=start_B1D[:, 0],
            emotion_logits=logits_BE,
        )

    def _encode(self, x_BSD: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded context and how well each emotion's vector fits its first position (CLS) [B, E]."""
        context_BSD = self.context_encoder(x_BSD, real_BS)
        return context_BSD, self.emotion_query(context_BSD[:, 0]) @ self.emotions.T

    def _refine(
        self,
        context_BSD: Tensor,
        latent: tuple[Gaussian, Gaussian],
        positive_B: Tensor,
        real_BS: Tensor,
        noise: bool,
    ) -> Streams:
        """Draw response emotions and refine the context with the mimicking one and the other one [B, S, D].

        Mimicking are emotions of the context's own polarity.
        """
        drawn = Streams(latent[0].sample(noise), latent[1].sample(noise))
        by_polarity = self.prior.mix(drawn, self.emotions[self.positive_ids], self.emotions[self.negative_ids])
        mimicking_BD, other_BD = by_polarity.swapped_unless(positive_B)
        return Streams(
            self.mimicking_refiner(context_BSD, mimicking_BD[:, None], real_BS)[:, 0],
            self.other_refiner(context_BSD, other_BD[:, None], real_BS)[:, 0],
        )

    def _fuse(self, refined: Streams) -> Tensor:
        """Fuse both streams, position by position: a learned gate weighs every number, a linear map joins them."""
        joined = torch.cat(refined, dim=-1)
        fused: Tensor = self.fusion(torch.sigmoid(self.contribution(joined)) * joined)
        return fused

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [B, T] becomes [B, T, D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]
