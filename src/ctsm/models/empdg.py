"""EmpDG: Multi-resolution Interactive Empathetic Dialogue Generation (Li et al., COLING 2020).

docs/models/empdg.md says where this differs from the published code, whose discriminators cannot reach the generator.

Axes: B batch, S context positions (CLS first), M emotion words (CLS first), T target positions (EOS last), D hidden
(300), E emotions (32), F examples of the batch with feedback, W words of any sequence, N packed tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

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
from ctsm.nn.masking import masked_softmax
from ctsm.nn.pointer import CopySource, PointerGenerator
from ctsm.nn.precision import Linear, linear
from ctsm.options import check_options
from ctsm.text.vocabulary import CLS, EOS, PAD, SOS, SYS, UNK, USR

EMOTIONS = 32
NEVER_SAID = (UNK, PAD, SOS, USR, SYS, CLS)


@dataclass(frozen=True)
class EmpDGOptions:
    """Sizes, loss weights and the course of the adversarial training.

    Attributes:
        size: width of embeddings and hidden states.
        layers: layers of both encoders and of the decoder.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        label_smoothing: share of the training target's probability that is spread over the other words.
        emotion_weight: weight of the emotion loss.
        adversarial_weight: weight of the generator's loss by the discriminators.
        penalty_weight: weight of the discriminators' gradient penalty.
        generator_steps: training steps in which the generator learns alone.
        discriminator_steps: further steps in which the discriminators learn, but do not act on the generator yet.
        adversarial_every: from then on, the discriminators take part in every so many steps.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    label_smoothing: float = 0.1
    emotion_weight: float = 1.0
    adversarial_weight: float = 1.0
    penalty_weight: float = 0.1
    generator_steps: int = 10_000
    discriminator_steps: int = 2_000
    adversarial_every: int = 5

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        least = {"size": 2, "layers": 1, "heads": 1, "depth": 1, "filter_size": 1, "adversarial_every": 1}
        for name, bound in (least | {"generator_steps": 0, "discriminator_steps": 0}).items():
            if getattr(self, name) < bound:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least {bound}")
        if self.depth % self.heads:
            raise ValueError(f"options.depth ({self.depth}) must be a multiple of options.heads ({self.heads})")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"options.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        for name in ("emotion_weight", "adversarial_weight", "penalty_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must not be negative")


class Words(NamedTuple):
    """Word vectors [F, W, D] and where they are not padding [F, W]."""

    vectors: Tensor
    real: Tensor

    def padded(self, width: int) -> Words:
        """Pad on the right up to a width."""
        extra = width - self.real.shape[1]
        return Words(F.pad(self.vectors, (0, 0, 0, extra)), F.pad(self.real, (0, extra)))


class Discriminator(nn.Module):
    """Scores how well a reply fits what was said before it and what the speaker says next (a Wasserstein critic).

    An LSTM reads the words; each pair of neighbouring states gives features, of which the strongest over all positions
    meet the context and the feedback. The maps are nn.Linear: products in bf16 cannot be differentiated twice, which
    the gradient penalty needs. Layer norms, because the penalty is one of each example alone.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.pairs = nn.Linear(2 * size, size)
        self.pairs_norm = nn.LayerNorm(size)
        self.bias = nn.Parameter(torch.zeros(size))
        self.hidden = nn.Linear(size, size // 2)
        # what adds the same number to every score cancels in the difference of two: no biases here
        self.hidden_norm = nn.LayerNorm(size // 2, bias=False)
        self.output = nn.Linear(size // 2, 1, bias=False)

    def forward(self, reply: Words, known_FD: Tensor) -> Tensor:
        """Score replies [F], given context and feedback [F, D]."""
        return self.judge(self.read(reply), reply.real, known_FD)

    def read(self, words: Words) -> Tensor:
        """Return the LSTM's states [F, W, D], zeros at padding."""
        states_FWD: Tensor = self.lstm(words.vectors)[0]
        return states_FWD * words.real.unsqueeze(-1)

    def last(self, words: Words) -> Tensor:
        """Return the state at the last word [F, D]."""
        states_FWD = self.read(words)
        return states_FWD[torch.arange(len(states_FWD), device=states_FWD.device), words.real.sum(dim=1) - 1]

    def judge(self, states_FWD: Tensor, real_FW: Tensor, known_FD: Tensor) -> Tensor:
        """Score replies [F] by their states."""
        pairs = torch.cat([F.pad(states_FWD[:, :-1], (0, 0, 1, 0)), states_FWD], dim=-1)
        features_FWD = F.relu(self.pairs_norm(self.pairs(pairs)))
        strongest_FD = (features_FWD * real_FW.unsqueeze(-1)).amax(dim=1)
        fused_FD = F.relu(strongest_FD + known_FD + self.bias)
        score_F1: Tensor = self.output(self.hidden_norm(F.relu(self.hidden(fused_FD))))
        return score_F1.squeeze(-1)


class Duel(NamedTuple):
    """A discriminator's loss, a scalar, and the generator's loss by it for each example [F]."""

    discriminator: Tensor
    adversarial: Tensor


def duel(
    discriminator: Discriminator,
    generated: Words,
    gold: Words,
    feedback: Words,
    context_FD: Tensor,
    blend_F: Tensor,
    penalty_weight: float,
) -> Duel:
    """Both sides' losses of Wasserstein training with a gradient penalty (Gulrajani et al. 2017), in one backward pass.

    The discriminator's loss has no gradient on the generator's words and context; the generator's goes through the
    discriminator's functions but reaches none of its parameters.

    Args:
        discriminator: the judge.
        generated: the generator's words, whose vectors carry its gradient.
        gold: the gold reply's words.
        feedback: the speaker's next words.
        context_FD: the context's vector.
        blend_F: share of the generated reply in the mixture at which the penalty is taken, in [0, 1].
        penalty_weight: weight of (norm of the gradient - 1) squared.
    """
    width = max(generated.real.shape[1], gold.real.shape[1])
    generated, gold = generated.padded(width), gold.padded(width)
    known_FD = context_FD.detach() + discriminator.last(feedback)
    fake_FWD = discriminator.read(Words(generated.vectors.detach(), generated.real))
    true_FWD = discriminator.read(gold)
    fake_F = discriminator.judge(fake_FWD, generated.real, known_FD)
    true_F = discriminator.judge(true_FWD, gold.real, known_FD)
    mixture_FWD = torch.lerp(true_FWD.detach(), fake_FWD.detach(), blend_F[:, None, None]).requires_grad_()
    score_F = discriminator.judge(mixture_FWD, generated.real | gold.real, known_FD)
    (slope_FWD,) = torch.autograd.grad(score_F.sum(), mixture_FWD, create_graph=True)
    penalty_F = (slope_FWD.flatten(1).norm(dim=1) - 1.0).square()
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    fooled_F = functional_call(discriminator, fixed, (generated, known_FD.detach()))
    return Duel((fake_F - true_F + penalty_weight * penalty_F).mean(), -fooled_F)


class EmpDG(EmpatheticModel):
    """The model; `install` gives it word vectors and the emotion words.

    Args:
        options: sizes and the course of the adversarial training.
        vocabulary_size: V.
    """

    name = "empdg"
    needs: ClassVar[frozenset[str]] = frozenset({"emotion_words", "feedback"})
    training_only = ("semantic_discriminator", "emotion_discriminator", "emotional")
    generator: PointerGenerator
    emotional: Tensor

    def __init__(self, options: EmpDGOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        # empathetic generator
        self.semantic_encoder = Encoder(size, size, sizes)
        self.emotion_encoder = Encoder(size, size, sizes)
        self.emotion = Linear(2 * size, EMOTIONS, bias=False)
        self.emotion_start = Linear(EMOTIONS, size)
        self.decoder = Decoder(size, size, sizes)
        self.generator = PointerGenerator(size, vocabulary_size)
        # interactive discriminators
        self.semantic_discriminator = Discriminator(size)
        self.emotion_discriminator = Discriminator(size)
        self.register_buffer("emotional", torch.zeros(vocabulary_size, dtype=torch.bool))
        self.schedule()
        xavier_initialise(self)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding and the table of emotion words."""
        if tables.emotional is None:
            raise ValueError("the word tables do not say which words are emotion words")
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()
            self.emotional.copy_(tables.emotional)

    def encode(self, batch: Batch, perceive: bool = False) -> Context:  # noqa: ARG002 - there are no maps to show
        """Encode the context and its emotion words, and perceive the emotion."""
        assert batch.emotion_words is not None
        return self._encode(batch, *self._look_up(batch.context, batch.speakers, batch.emotion_words))

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
        """Label-smoothed loss and cross-entropy of the emotion, summed over the batch, and the discriminators' part.

        `step` says whether the discriminators take part; where they do not, "discriminators" and "adversarial" are 0.
        """
        options: EmpDGOptions = self.options
        assert batch.emotion_words is not None
        *inputs, target_BTD = self._look_up(batch.context, batch.speakers, batch.emotion_words, batch.target)
        context = self._encode(batch, *inputs)
        shifted_BTD = torch.cat([context.start[:, None], target_BTD[:, :-1]], dim=1)
        hidden_BTD, copy_BTS = self.decoder(shifted_BTD, self.start_decoding(context))
        rows, target_N = packed_targets(batch)
        positions = batch.target_positions
        smoothed = self.generator.smoothed(
            hidden_BTD.flatten(0, 1)[positions],
            copy_BTS.flatten(0, 1)[positions],
            context.source.rows(rows),
            target_N,
            options.label_smoothing,
        )
        assert context.emotion_logits is not None
        emotion = F.cross_entropy(context.emotion_logits, batch.emotion)
        total = target_sum(smoothed.loss, target_N) + options.emotion_weight * len(batch) * emotion
        terms = {"generation": target_mean(smoothed.nll, target_N), "emotion": emotion}
        terms |= {name: total.new_zeros(()) for name in ("discriminators", "adversarial")}
        duels = self._duels(batch, context) if self.learning else []
        for each in duels:
            total = total + each.discriminator
            if self.acting:
                total = total + options.adversarial_weight * each.adversarial.sum()
            terms["discriminators"] = terms["discriminators"] + each.discriminator
            terms["adversarial"] = terms["adversarial"] + each.adversarial.mean()
        return Losses(total, terms)

    def schedule(self) -> str | None:
        """Tell whether the discriminators learn in this step, and whether they act on the generator.

        A step in which they learn chooses examples and replies word by word, so it cannot be recorded.
        """
        options: EmpDGOptions = self.options
        self.acting = self.step > options.generator_steps + options.discriminator_steps
        self.learning = self.step > options.generator_steps
        if self.acting:
            self.learning = self.step % options.adversarial_every == 0
        return None if self.learning else ""

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [B, W] becomes [B, W, D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]

    def _encode(self, batch: Batch, words_BSD: Tensor, speakers_BSD: Tensor, emotion_words_BMD: Tensor) -> Context:
        assert batch.emotion_words is not None
        ids = torch.cat([batch.context, batch.emotion_words], dim=1)
        real = ids != PAD
        split = [batch.context.shape[1], batch.emotion_words.shape[1]]
        context_real, emotion_real = real.split(split, dim=1)
        semantic_BSD = self.semantic_encoder(words_BSD + speakers_BSD, context_real)
        emotional_BMD = self.emotion_encoder(emotion_words_BMD, emotion_real)
        logits_BE = self.emotion(torch.cat([emotional_BMD[:, 0], semantic_BSD[:, 0]], dim=-1))
        return Context(
            memory=torch.cat([semantic_BSD, emotional_BMD], dim=1),
            real=real,
            source=CopySource.of(ids, real & (ids != CLS)),
            start=self.emotion_start(logits_BE),
            emotion_logits=logits_BE,
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _duels(self, batch: Batch, context: Context) -> list[Duel]:
        """The semantic and the emotional discriminator on the examples that have feedback; none if none has.

        Never compiled: which examples and words there are depends on the data, and the penalty is differentiated twice.
        """
        assert batch.feedback is not None
        assert batch.feedback_emotion_words is not None
        assert batch.reply_emotion_words is not None
        rows = ((batch.feedback != PAD).sum(dim=1) > 1).nonzero().squeeze(1)
        if not len(rows):
            return []
        known = context.memory[rows, 0], context.memory[rows, batch.context.shape[1]]
        chosen = Context(context.memory[rows], context.real[rows], context.source.rows(rows), context.start[rows], None)
        reply, emotion_words = self._speak(chosen, int(batch.target_real.sum(dim=1).max()))
        sides = (
            (self.semantic_discriminator, reply, batch.target, batch.feedback, known[0]),
            (
                self.emotion_discriminator,
                emotion_words,
                batch.reply_emotion_words,
                batch.feedback_emotion_words,
                known[1],
            ),
        )
        duels = []
        for discriminator, generated, gold, feedback, context_FD in sides:
            blend_F = torch.rand_like(context_FD[:, 0]) if self.training else torch.full_like(context_FD[:, 0], 0.5)
            gold_words, next_words = self._read(gold[rows]), self._read(feedback[rows])
            duels.append(
                duel(discriminator, generated, gold_words, next_words, context_FD, blend_F, self.options.penalty_weight)
            )
        return duels

    def _speak(self, context: Context, steps: int) -> tuple[Words, Words]:
        """Reply greedily and return the reply and its emotion words (CLS first), with the generator's gradient.

        The vectors are those of the words said; their gradient is that of the distribution's mean vector (the
        straight-through estimator, Bengio et al. 2013).
        """
        words_FT, real_FT = self._reply(context, steps)
        step = self.decode(words_FT[:, :-1], context, self.start_decoding(context))
        positions = real_FT.flatten().nonzero().squeeze(1)
        source = context.source.rows(positions // words_FT.shape[1])
        mean_ND = self._mean_vectors(
            step.hidden.flatten(0, 1)[positions], step.copy_scores.flatten(0, 1)[positions], source
        )
        said_ND = self._read(words_FT.flatten()[positions]).vectors + mean_ND - mean_ND.detach()
        vectors_FTD = said_ND.new_zeros(real_FT.numel(), said_ND.shape[1]).index_copy(0, positions, said_ND)
        reply = Words(vectors_FTD.view(*real_FT.shape, -1), real_FT)
        emotional_FT = self.emotional[self.known(words_FT)] & real_FT
        count_F = emotional_FT.sum(dim=1)
        order_FW = emotional_FT.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(count_F.max())]
        chosen_FWD = reply.vectors.gather(1, order_FW.unsqueeze(-1).expand(-1, -1, said_ND.shape[1]))
        first = self._read(words_FT.new_full((len(words_FT), 1), CLS))
        real_FW = torch.arange(order_FW.shape[1], device=count_F.device) < count_F[:, None]
        emotion_words = Words(torch.cat([first.vectors, chosen_FWD], dim=1), torch.cat([first.real, real_FW], dim=1))
        return reply, emotion_words

    @torch.no_grad()
    def _reply(self, context: Context, steps: int) -> tuple[Tensor, Tensor]:
        """Return the most probable words, at most `steps`, and which are a reply: up to its first EOS [F, T]."""
        banned = torch.tensor(NEVER_SAID, device=context.memory.device)
        cache = self.start_decoding(context)
        said = [context.source.ids[:, :0]]
        ended_F = torch.zeros(len(context.memory), dtype=torch.bool, device=context.memory.device)
        while len(said) <= steps and not ended_F.all():
            step = self.decode(said[-1], context, cache)
            best, _ = self.generator.best_word(step.hidden[:, -1], step.copy_scores[:, -1], context.source, banned)
            said.append(best[:, None])
            ended_F |= best == EOS
        words_FT = torch.cat(said, dim=1)
        ends_FT = words_FT == EOS
        real_FT = ends_FT.cumsum(dim=1) - ends_FT.long() == 0
        return words_FT.masked_fill(~real_FT, PAD), real_FT

    def _mean_vectors(self, hidden_ND: Tensor, copy_scores_NS: Tensor, source: CopySource) -> Tensor:
        """Mean word vector of the pointer mixture [N, D]."""
        vectors_VD = self.embedding.weight.detach()
        words_NV = torch.softmax(self.generator.vocabulary(hidden_ND), dim=-1)
        copy_NS = masked_softmax(copy_scores_NS, source.copyable)
        generate_N1 = torch.sigmoid(self.generator.gate(hidden_ND)).where(source.copyable.any(dim=1, keepdim=True), 1.0)
        copied_ND = (copy_NS.unsqueeze(-1) * vectors_VD[self.known(source.ids)]).sum(dim=1)
        return generate_N1 * linear(words_NV, vectors_VD.T) + (1.0 - generate_N1) * copied_ND

    def _read(self, words: Tensor) -> Words:
        """Word vectors as the discriminators see them: without scale, and not theirs to change."""
        return Words(self.embedding.weight.detach()[self.known(words)], words != PAD)
