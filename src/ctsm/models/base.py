"""What training, decoding, evaluation and serving know about a model.

Axes: B batch, S source positions, T target positions, D hidden, V vocabulary, E emotions, N packed target tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.nn.decoder import DecoderCache
from ctsm.nn.generator import Generator
from ctsm.nn.losses import FrequencyWeights, before_first_end
from ctsm.nn.pointer import CopySource, Scored
from ctsm.text.vocabulary import EOS, PAD, UNK


@dataclass(frozen=True)
class WordTables:
    """What a model knows of each vocabulary word before training.

    Attributes:
        vectors: word vectors [V, D], float32.
        vad: valence, arousal, dominance [V, 3]; rows of words outside the lexicon are not used.
        in_lexicon: whether the lexicon has the word [V], bool.
        idf: inverse document frequency in [0, 1] [V].
        intensity: emotion intensity, 0 outside the lexicon [V].
        labels: ids of the 32 emotion words [E].
        emotional: whether a word is an emotion word [V], bool; None in data prepared without them.
    """

    vectors: Tensor
    vad: Tensor
    in_lexicon: Tensor
    idf: Tensor
    intensity: Tensor
    labels: Tensor
    emotional: Tensor | None = None


class Perception(NamedTuple):
    """The emotion maps of a context, position by position.

    Attributes:
        trait: valence, arousal, dominance from the lexicon [B, S, 3]; meaningless where `in_lexicon` is False.
        in_lexicon: [B, S] bool.
        inclination: cosine with each emotion word, eq. 7 [B, S, E].
        state: the emotion head applied to each position alone [B, S, E].
        intensity: weight of each position by its emotional intensity, eq. 11 [B, S].
        attention: share of each position in what the emotion head reads, eq. 12 [B, S]; None for a head without it.
    """

    trait: Tensor
    in_lexicon: Tensor
    inclination: Tensor
    state: Tensor
    intensity: Tensor
    attention: Tensor | None


@dataclass(frozen=True)
class Context:
    """An encoded batch: everything decoding needs.

    Attributes:
        memory: what the decoder attends to [B, S, D'].
        real: mask of the memory's positions [B, S].
        source: what may be copied.
        start: embedding of the decoder's first input [B, D].
        emotion_logits: [B, E]; None for a model without an emotion head.
        perception: the emotion maps, where asked for and where the model has them.
    """

    memory: Tensor
    real: Tensor
    source: CopySource
    start: Tensor
    emotion_logits: Tensor | None
    perception: Perception | None = None


class DecoderStep(NamedTuple):
    """Decoder states [B, T, D] and the scores to copy by [B, T, S]."""

    hidden: Tensor
    copy_scores: Tensor


@dataclass(frozen=True)
class Losses:
    """The weighted total and its named terms (unweighted scalars)."""

    total: Tensor
    terms: dict[str, Tensor]


class Scores(NamedTuple):
    """Per example: summed negative log-likelihood of the gold reply [B], its tokens incl. EOS [B], logits [B, E].

    The logits are None for a model without an emotion head.
    """

    nll: Tensor
    tokens: Tensor
    emotion_logits: Tensor | None


class EmpatheticModel(nn.Module, ABC):
    """Base of all systems. A model implements `encode`, `decode`, `start_decoding` and `loss`.

    Attributes:
        name: in the registry and in configurations.
        needs: what its data must hold beside contexts, replies, labels and inferences (a subset of
            `corpus.extras.NEEDS`); training refuses data prepared without it.
        generator: the output layer.
        step: number of the training step, from 1, that the trainer sets before every call of `loss`; 0 outside
            training. Schedules of a model's own read it in `schedule`.
        phase: what `schedule` returned for the step.
        training_only: names of the model's own parts that `loss` alone uses; a model loaded to reply lacks them.
    """

    name: str
    needs: ClassVar[frozenset[str]] = frozenset()
    training_only: ClassVar[tuple[str, ...]] = ()
    generator: Generator

    def __init__(self, options: Any, vocabulary_size: int) -> None:
        super().__init__()
        self.options = options
        self.vocabulary_size = vocabulary_size
        self._step = 0
        self.phase: Hashable | None = ""

    @property
    def step(self) -> int:
        """Number of the training step."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self.phase = self.schedule()

    def schedule(self) -> Hashable | None:
        """Work out what depends on the step, after it was set, and return the phase.

        `loss` reads the outcome and never the step: it would be compiled anew at every step, and a recorded step would
        repeat the number it was recorded with. What changes from step to step is a tensor that is written in place, as
        MoEL's oracle; what changes now and then belongs into the phase.

        Returns:
            What of the schedule decides which operations `loss` has, beside the shapes of its batch; None where that
            depends on the data or waits for the device: such a step is not recorded on a GPU.
        """
        return ""

    @abstractmethod
    def install(self, tables: WordTables) -> None:
        """Fill the word embeddings and per-word tables of a new model."""

    @abstractmethod
    def encode(self, batch: Batch, perceive: bool = False) -> Context:
        """Encode the contexts; reads neither gold labels nor gold replies."""

    @abstractmethod
    def start_decoding(self, context: Context) -> DecoderCache:
        """Prepare the cache for `decode`."""

    @abstractmethod
    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Advance the decoder, updating the cache.

        Args:
            words: extended word ids [B, T] that follow what the cache holds. At the very start the model puts the
                context's start embedding before them, so [B, 0] gives the state that predicts the first word.
            context: from `encode`; all its rows take part in the first step, later ones may be any selection.
            cache: from `start_decoding`.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Losses:
        """Return the training losses of a batch."""

    def score(self, batch: Batch) -> Scores:
        """Score the gold replies by teacher forcing, under the distribution that decoding uses."""
        return self.score_in(self.encode(batch), batch)

    def score_in(self, context: Context, batch: Batch) -> Scores:
        """Score the gold replies to contexts that are encoded already."""
        step = self.decode(batch.target[:, :-1], context, self.start_decoding(context))
        scored, target_N = self.score_targets(batch, context.source, step)
        nll_N = -scored.log_probability.double().masked_fill(target_N == PAD, 0.0)
        nll = torch.zeros(len(batch), dtype=torch.float64, device=nll_N.device)
        nll.index_add_(0, packed_targets(batch)[0], nll_N)
        return Scores(nll, batch.target_real.sum(dim=1), context.emotion_logits)

    def score_targets(self, batch: Batch, source: CopySource, step: DecoderStep) -> tuple[Scored, Tensor]:
        """Score the packed target tokens of a batch; returns the scores and the tokens' ids [N]."""
        rows, target_N = packed_targets(batch)
        positions = batch.target_positions
        hidden_ND, copy_NS = step.hidden.flatten(0, 1)[positions], step.copy_scores.flatten(0, 1)[positions]
        return self.generator.score(hidden_ND, copy_NS, source.rows(rows), target_N), target_N

    def known(self, words: Tensor) -> Tensor:
        """Map extended ids to vocabulary ids (UNK for words the vocabulary lacks)."""
        return words.masked_fill(words >= self.vocabulary_size, UNK)


def packed_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the row of each packed target token [N] and its word id [N]; PAD where there is none."""
    return batch.target_positions // batch.target.shape[1], batch.target.flatten()[batch.target_positions]


def target_sum(values_N: Tensor, target_N: Tensor) -> Tensor:
    """Sum of what was computed for each packed target token, over those that are real."""
    return values_N.masked_fill(target_N == PAD, 0.0).sum()


def target_mean(values_N: Tensor, target_N: Tensor) -> Tensor:
    """Mean of what was computed for each packed target token, over those that are real."""
    return target_sum(values_N, target_N) / (target_N != PAD).sum()


def count_predictions(weights: FrequencyWeights, batch: Batch, best_N: Tensor) -> None:
    """Count the words predicted at the packed positions [N], in each reply up to its first EOS."""
    flat = batch.target.new_full((batch.target.numel(),), PAD)
    words_BT = flat.index_copy(0, batch.target_positions, best_N).view_as(batch.target)
    weights.update(words_BT.flatten(), before_first_end(words_BT, batch.target_real, EOS).flatten())


def xavier_initialise(model: nn.Module) -> None:
    """Xavier-uniform values for every matrix and kernel except embedding tables, as the family does."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parameter in model.parameters():
        if parameter.dim() > 1 and id(parameter) not in tables:
            nn.init.xavier_uniform_(parameter)
