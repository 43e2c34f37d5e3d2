"""CTSM: Combining Trait and State Emotions for Empathetic Response Model (Wang et al., LREC-COLING 2024).

Equation numbers are those of the paper. docs/models/ctsm.md says what is done where it is silent or misprinted.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), D hidden (300), E emotions (32),
K relations (5: xIntent, xNeed, xWant, xEffect, xReact), N packed target tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.corpus.batches import Batch
from ctsm.models.base import (
    Context,
    DecoderStep,
    EmpatheticModel,
    Losses,
    Perception,
    WordTables,
    count_predictions,
    target_mean,
    xavier_initialise,
)
from ctsm.nn.decoder import Decoder, DecoderCache
from ctsm.nn.encoder import BlockSizes, Encoder, Refiner
from ctsm.nn.losses import FrequencyWeights, Negatives, contrastive_loss, soft_cross_entropy
from ctsm.nn.masking import masked_mean, masked_softmax
from ctsm.nn.pointer import CopySource, PointerGenerator
from ctsm.nn.positions import Positions
from ctsm.nn.precision import Linear
from ctsm.options import check_options
from ctsm.text.vocabulary import CLS, PAD, SOS, USR

EMOTIONS = 32
VAD_DEFAULTS = {"paper": (0.0, 0.5, 0.0), "kemp": (0.5, 0.0, 0.5)}
EmotionPool = Literal["attention", "sum_gate", "sum"]
Ablation = Literal["", "TEE", "SEE", "EGM", "CCL", "EGM & CCL"]


@dataclass(frozen=True)
class CTSMOptions:
    """Sizes, loss weights, the five open points of the paper and its ablations.

    Attributes:
        size: width of embeddings and hidden states, d.
        layers: layers of every encoder and of the decoder.
        heads: attention heads.
        depth: width of queries, keys and values over all heads.
        filter_size: inner width of the convolutional feed-forward networks.
        semantic_size: width of the condensed semantics, d_cs (eq. 3).
        fusion_size: hidden width of the MLP that fuses context and inferences.
        temperature: tau of the contrastive loss (eq. 23).
        emotion_weight: gamma_1 (eq. 25).
        generation_weight: gamma_2.
        contrastive_weight: gamma_3.
        diversity_weight: gamma_4.
        fusion_sharing: what teacher and student share of the fusion: nothing (separate), the MLP (mlp_only), or all.
        vad_default: V, A, D of words outside the lexicon: the paper's 0, .5, 0 or KEMP's .5, 0, .5.
        emotion_pool: reading of eqs. 11-13: attention over tokens, gated sum, or plain sum.
        decoder_memory: what the decoder attends to: the student's context (eq. 20 as printed), or also H_t and H_s.
        contrastive_negatives: negatives of eq. 23: both views (NT-Xent), the other view, or the paper's denominator.
        without: what an ablation of Table 3 removes: trait (TEE) or state emotion encoder (SEE), the teacher's
            guidance (EGM; one head with attention pooling, no intensities, learns the gold label), contrastive
            learning (CCL), or the last two.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 40
    filter_size: int = 50
    semantic_size: int = 10
    fusion_size: int = 900
    temperature: float = 0.07
    emotion_weight: float = 1.0
    generation_weight: float = 1.0
    contrastive_weight: float = 1.0
    diversity_weight: float = 1.5
    fusion_sharing: Literal["separate", "mlp_only", "all"] = "separate"
    vad_default: Literal["paper", "kemp"] = "paper"
    emotion_pool: EmotionPool = "attention"
    decoder_memory: Literal["stu", "stu+emo"] = "stu"
    contrastive_negatives: Negatives = "both_views"
    without: Ablation = ""

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        for name in ("size", "layers", "heads", "depth", "filter_size", "semantic_size", "fusion_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        if self.depth % self.heads:
            raise ValueError(f"options.depth ({self.depth}) must be a multiple of options.heads ({self.heads})")
        if self.temperature <= 0:
            raise ValueError(f"options.temperature is {self.temperature}; it must be greater than 0")
        for name in ("emotion_weight", "generation_weight", "contrastive_weight", "diversity_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must not be negative")

    @property
    def guided(self) -> bool:
        """Whether a teacher guides the student (section 3.5)."""
        return "EGM" not in self.without

    @property
    def contrasted(self) -> bool:
        """Whether contrastive learning aligns reply and context (eqs. 22-24)."""
        return "CCL" not in self.without


class Fusion(nn.Module):
    """Context and inferred knowledge become one sequence (section 3.3, after Sabour et al. 2022).

    Refine the context with each relation's vector, gate each value by its own sigmoid, map 5D -> 900 -> D.
    """

    def __init__(self, options: CTSMOptions, sizes: BlockSizes) -> None:
        super().__init__()
        self.cognitive = Refiner(options.size, sizes)
        self.affective = Refiner(options.size, sizes)
        self.mlp = nn.Sequential(
            Linear(5 * options.size, options.fusion_size, bias=False),
            nn.ReLU(),
            Linear(options.fusion_size, options.size, bias=False),
        )

    def forward(self, context_BSD: Tensor, knowledge_BKD: Tensor, real_BS: Tensor) -> Tensor:
        """Return the inference-enriched context [B, S, D]."""
        cognitive = self.cognitive(context_BSD, knowledge_BKD[:, :4], real_BS)
        affective = self.affective(context_BSD, knowledge_BKD[:, 4:], real_BS)
        refined_BSKD = torch.cat([cognitive, affective], dim=1).transpose(1, 2)
        fused: Tensor = self.mlp(F.silu(refined_BSKD.flatten(2)))  # silu(z) = sigmoid(z) z: the gate without parameters
        return fused


class EmotionHead(nn.Module):
    """Eqs. 11-14 (and 17): pool a sequence by emotion intensity and attention, then classify it."""

    def __init__(self, size: int, pool: EmotionPool) -> None:
        super().__init__()
        self.pool = pool
        if pool != "sum":
            self.inner = Linear(size, size)
            self.attention = Linear(size, 1 if pool == "attention" else size, bias=False)
        self.hidden = Linear(size, size)
        self.output = Linear(size, EMOTIONS)

    def forward(self, x_BSF: Tensor, intensity_BS: Tensor, real_BS: Tensor) -> Tensor:
        """Return emotion logits [B, E] of a sequence [B, S, F] with word intensities [B, S]."""
        weighted_BSF = self.weights(intensity_BS, real_BS).unsqueeze(-1) * x_BSF
        if self.pool == "attention":
            attention_BS = self.attend(weighted_BSF, real_BS)
            return self.classify((attention_BS.unsqueeze(-1) * weighted_BSF).sum(dim=1))
        summed_BF = (weighted_BSF * real_BS.unsqueeze(-1)).sum(dim=1)
        if self.pool == "sum_gate":
            gate_BF = torch.softmax(self.attention(torch.tanh(self.inner(summed_BF))), dim=-1)
            return self.classify(summed_BF * gate_BF)
        return self.classify(summed_BF)

    def weights(self, intensity_BS: Tensor, real_BS: Tensor) -> Tensor:
        """Eq. 11 before the sum: weigh tokens by the softmax of their intensities over the real positions.

        With attention pooling the weights have mean 1 instead of sum 1, else the tanh that follows sees values near 0.
        """
        weights_BS = masked_softmax(intensity_BS, real_BS)
        return weights_BS * real_BS.sum(dim=1, keepdim=True) if self.pool == "attention" else weights_BS

    def attend(self, weighted_BSF: Tensor, real_BS: Tensor) -> Tensor:
        """Eq. 12 with attention pooling: the share of each token [B, S] in what is classified."""
        return masked_softmax(self.attention(torch.tanh(self.inner(weighted_BSF))).squeeze(-1), real_BS)

    def classify(self, pooled: Tensor) -> Tensor:
        """Eqs. 13-14 after the sum: [..., F] to logits [..., E]."""
        logits: Tensor = self.output(torch.tanh(self.hidden(pooled)))
        return logits


class _Encoded(NamedTuple):
    """Intermediate sequences of one batch, all [B, S, .]."""

    semantic: Tensor  # H_C
    knowledge: Tensor  # [B, K, D]
    emotion: Tensor  # [V_t ; V_s]
    inclination: Tensor | None  # V_cos
    encoded_emotion: Tensor  # H_ts = [H_t ; H_s]
    student: Tensor  # H_C^stu
    intensity: Tensor  # I [B, S]
    real: Tensor  # [B, S]


class CTSM(EmpatheticModel):
    """The model; `install` gives it word vectors and lexicon values.

    Args:
        options: sizes and switches.
        vocabulary_size: V.
    """

    name = "ctsm"
    training_only = ("teacher_fusion", "teacher_head", "reply_encoder", "emotion_view", "diversity")
    word_features: Tensor
    in_lexicon: Tensor
    label_ids: Tensor

    def __init__(self, options: CTSMOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size = options.size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        trait_size = 3 + 1 + options.semantic_size
        state_size = EMOTIONS + 1 + options.semantic_size
        emotion_size = trait_size * (options.without != "TEE") + state_size * (options.without != "SEE")
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        self.positions = Positions(size)
        # 3.3 inference-enriched context
        self.context_encoder = Encoder(size, size, sizes, positions=False)
        self.cognitive_encoder = Encoder(size, size, sizes)
        self.affective_encoder = Encoder(size, size, sizes)
        self.student_fusion = Fusion(options, sizes)
        if options.guided:
            self.teacher_fusion = Fusion(options, sizes)
            if options.fusion_sharing in ("mlp_only", "all"):
                self.teacher_fusion.mlp = self.student_fusion.mlp
            if options.fusion_sharing == "all":
                self.teacher_fusion = self.student_fusion
        # 3.4 trait and state emotions
        self.condense = Linear(size, options.semantic_size, bias=False)
        if options.without != "SEE":
            self.label_map = Linear(size, size)
            self.word_map = Linear(size, size)
        if options.without != "TEE":
            self.trait_encoder = Encoder(trait_size, trait_size, sizes)
        if options.without != "SEE":
            self.state_encoder = Encoder(state_size, state_size, sizes)
        # 3.5 emotion guidance
        if options.guided:
            self.teacher_head = EmotionHead(size + emotion_size, options.emotion_pool)
        self.student_head = EmotionHead(size + emotion_size, options.emotion_pool if options.guided else "attention")
        # 3.6 decoder and cross-contrastive learning
        self.decoder = Decoder(size, size if options.decoder_memory == "stu" else size + emotion_size, sizes)
        self.generator = PointerGenerator(size, vocabulary_size)
        if options.contrasted:
            self.reply_encoder = Encoder(size, size, sizes)
            self.emotion_view = Linear(emotion_size, size)
        self.diversity = FrequencyWeights(vocabulary_size)
        self.register_buffer("word_features", torch.zeros(vocabulary_size, 5))
        self.register_buffer("in_lexicon", torch.zeros(vocabulary_size, dtype=torch.bool))
        self.register_buffer("label_ids", torch.zeros(EMOTIONS, dtype=torch.long))
        xavier_initialise(self)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding and the per-word features (V, A, D, IDF, intensity)."""
        if tables.labels.shape != self.label_ids.shape:
            raise ValueError(f"there are {tables.labels.numel()} emotion words, not {EMOTIONS}")
        default = torch.tensor(VAD_DEFAULTS[self.options.vad_default])
        vad = torch.where(tables.in_lexicon[:, None], tables.vad, default)
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()
            self.word_features.copy_(torch.cat([vad, tables.idf[:, None], tables.intensity[:, None]], dim=1))
            self.in_lexicon.copy_(tables.in_lexicon)
            self.label_ids.copy_(tables.labels)

    def encode(self, batch: Batch, perceive: bool = False) -> Context:
        """Sections 3.3-3.5 with the student only: the teacher is not needed to reply."""
        start = batch.context.new_full((len(batch), 1), SOS)
        *inputs, start_B1D, labels_1ED = self._look_up(
            batch.context, batch.speakers, batch.cognitive, batch.reaction, start, self.label_ids[None]
        )
        encoded = self._encode(batch, inputs, labels_1ED[0])
        student_BSF = torch.cat([encoded.student, encoded.encoded_emotion], dim=-1)  # eq. 16
        logits_BE = self.student_head(student_BSF, encoded.intensity, encoded.real)
        return Context(
            memory=self._memory(encoded),
            real=encoded.real,
            source=_copy_source(batch),
            start=start_B1D[:, 0],
            emotion_logits=logits_BE,
            perception=self._perceive(batch, encoded, student_BSF) if perceive else None,
        )

    def start_decoding(self, context: Context) -> DecoderCache:
        """Project the memory's keys and values once."""
        return self.decoder.start(context.memory, context.real)

    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Eq. 20 up to the pointer generator; see the base class."""
        (inputs_BTD,) = self._look_up(words)
        if cache.length == 0:
            inputs_BTD = torch.cat([context.start[:, None], inputs_BTD], dim=1)
        return DecoderStep(*self.decoder(inputs_BTD, cache))

    def loss(self, batch: Batch) -> Losses:
        """Eqs. 10-25. In training mode the predictions are counted for the diversity weights first."""
        options: CTSMOptions = self.options
        start = batch.context.new_full((len(batch), 1), SOS)
        *inputs, start_B1D, target_BTD, labels_1ED = self._look_up(
            batch.context, batch.speakers, batch.cognitive, batch.reaction, start, batch.target, self.label_ids[None]
        )
        encoded = self._encode(batch, inputs, labels_1ED[0])
        emotion = self._guidance(encoded, batch.emotion)
        cache = self.decoder.start(self._memory(encoded), encoded.real)
        hidden_BTD, copy_BTS = self.decoder(torch.cat([start_B1D, target_BTD[:, :-1]], dim=1), cache)
        generation, diversity = self._generation(batch, hidden_BTD, copy_BTS)
        terms = {**emotion, "generation": generation}
        total = (
            options.emotion_weight * torch.stack(list(emotion.values())).sum()
            + options.generation_weight * generation
            + options.diversity_weight * diversity
        )
        if options.contrasted:
            terms["contrastive"] = self._contrast(batch, encoded, target_BTD, hidden_BTD)
            total = total + options.contrastive_weight * terms["contrastive"]
        terms["diversity"] = diversity
        return Losses(total, terms)

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [...] becomes [..., D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) if ids.dim() > 1 else part for part, ids in zip(parts, words, strict=True)]

    def _encode(self, batch: Batch, inputs: list[Tensor], labels_ED: Tensor) -> _Encoded:
        """Eqs. 1-9 and the student's fusion."""
        words_BSD, speakers_BSD, cognitive_BKRD, reaction_BRD = inputs
        real = batch.context_real
        embedded_BSD = self.positions(words_BSD + speakers_BSD)  # E_C
        semantic_BSD = self.context_encoder(embedded_BSD, real)  # eq. 1
        cognitive_real = (batch.cognitive != PAD).flatten(0, 1)
        cognitive = self.cognitive_encoder.first(cognitive_BKRD.flatten(0, 1), cognitive_real)
        reaction_real = batch.reaction != PAD
        reaction_BD = masked_mean(self.affective_encoder(reaction_BRD, reaction_real), reaction_real)
        knowledge_BKD = torch.cat([cognitive.unflatten(0, (-1, 4)), reaction_BD[:, None]], dim=1)
        features_BSF = self.word_features[self.known(batch.context)]
        vad, idf, intensity = features_BSF[..., :3], features_BSF[..., 3:4], features_BSF[..., 4]
        condensed = self.condense(semantic_BSD)  # eq. 3
        emotion, encoded_emotion, inclination = [], [], None
        if self.options.without != "TEE":
            emotion.append(torch.cat([vad, idf, condensed], dim=-1))  # eq. 2
            encoded_emotion.append(self.trait_encoder(emotion[-1], real))  # eq. 4
        if self.options.without != "SEE":
            inclination = self._incline(embedded_BSD, labels_ED)
            emotion.append(torch.cat([inclination, idf, condensed], dim=-1))  # eq. 8
            encoded_emotion.append(self.state_encoder(emotion[-1], real))  # eq. 9
        return _Encoded(
            semantic=semantic_BSD,
            knowledge=knowledge_BKD,
            emotion=torch.cat(emotion, dim=-1),
            inclination=inclination,
            encoded_emotion=torch.cat(encoded_emotion, dim=-1),
            student=self.student_fusion(semantic_BSD, knowledge_BKD, real),
            intensity=intensity if self.options.guided else torch.zeros_like(intensity),
            real=real,
        )

    def _incline(self, embedded_BSD: Tensor, labels_ED: Tensor) -> Tensor:
        """Eqs. 5-7: the cosine of each word with each of the emotion words [B, S, E]."""
        label_anchors_ED = F.normalize(self.label_map(labels_ED), dim=-1, eps=1e-8)  # eq. 5
        return F.normalize(self.word_map(embedded_BSD), dim=-1, eps=1e-8) @ label_anchors_ED.T  # eqs. 6-7

    def inclination_of_words(self) -> Tensor:
        """Return V_cos of every vocabulary word as the speaker's first [V, E]; it differs little at other positions."""
        vocabulary = torch.arange(self.vocabulary_size, device=self.label_ids.device)[:, None]
        speaker = torch.full_like(vocabulary, USR)
        words_V1D, speakers_V1D, labels_1ED = self._look_up(vocabulary, speaker, self.label_ids[None])
        return self._incline(self.positions(words_V1D + speakers_V1D, first=1), labels_1ED[0])[:, 0]

    def _memory(self, encoded: _Encoded) -> Tensor:
        """What the decoder attends to (eq. 20; switch `decoder_memory`)."""
        if self.options.decoder_memory == "stu":
            return encoded.student
        return torch.cat([encoded.student, encoded.encoded_emotion], dim=-1)

    def _guidance(self, encoded: _Encoded, gold_B: Tensor) -> dict[str, Tensor]:
        """Eqs. 10-19: the teacher learns the gold label, the student the teacher's distribution.

        Without guidance the one head learns the gold label, every word's intensity counting the same.
        """
        student_BSF = torch.cat([encoded.student, encoded.encoded_emotion], dim=-1)  # eq. 16
        student_logits = self.student_head(student_BSF, encoded.intensity, encoded.real)
        if not self.options.guided:
            return {"emotion": F.cross_entropy(student_logits, gold_B)}
        teacher_context = self.teacher_fusion(encoded.semantic, encoded.knowledge, encoded.real)
        teacher_BSF = torch.cat([teacher_context, encoded.emotion], dim=-1)  # eq. 10
        teacher_logits = self.teacher_head(teacher_BSF, encoded.intensity, encoded.real)
        soft_labels = torch.softmax(teacher_logits.detach(), dim=-1)
        return {
            "teacher": F.cross_entropy(teacher_logits, gold_B),  # eq. 15
            "student": soft_cross_entropy(student_logits, soft_labels),  # eq. 18
        }

    def _generation(self, batch: Batch, hidden_BTD: Tensor, copy_BTS: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 21 and the diversity loss, both means over the real target tokens (EOS included)."""
        scored, target_N = self.score_targets(batch, _copy_source(batch), DecoderStep(hidden_BTD, copy_BTS))
        nll_N = -scored.log_probability
        if self.training:
            count_predictions(self.diversity, batch, scored.best)
        weights_N = self.diversity()[self.known(target_N)]
        return target_mean(nll_N, target_N), target_mean(weights_N * nll_N, target_N)

    def _contrast(self, batch: Batch, encoded: _Encoded, target_BTD: Tensor, hidden_BTD: Tensor) -> Tensor:
        """Eqs. 22-24: the mean contrastive loss of five pairs of four pooled views [B, D]."""
        target_real = batch.target_real
        reply = masked_mean(self.reply_encoder(target_BTD, target_real), target_real)  # H_Y
        emotion = self.emotion_view(masked_mean(encoded.encoded_emotion, encoded.real))
        context = masked_mean(encoded.student, encoded.real)  # H_C^stu
        generated = masked_mean(hidden_BTD, target_real)  # P_w
        pairs = [(reply, emotion), (context, generated), (context, reply), (emotion, generated), (reply, generated)]
        options: CTSMOptions = self.options
        terms = [contrastive_loss(a, b, options.temperature, options.contrastive_negatives) for a, b in pairs]
        return torch.stack(terms).mean()

    def _perceive(self, batch: Batch, encoded: _Encoded, student_BSF: Tensor) -> Perception | None:
        """The maps people see: trait from the lexicon, inclination (eq. 7), state (the student head token by token)."""
        if encoded.inclination is None:
            return None
        words = self.known(batch.context)
        head = self.student_head
        intensity_BS = head.weights(encoded.intensity, encoded.real)
        weighted_BSF = intensity_BS.unsqueeze(-1) * student_BSF
        return Perception(
            trait=self.word_features[words][..., :3],
            in_lexicon=self.in_lexicon[words],
            inclination=encoded.inclination,
            state=torch.softmax(head.classify(weighted_BSF), dim=-1),
            intensity=intensity_BS,
            attention=head.attend(weighted_BSF, encoded.real) if head.pool == "attention" else None,
        )


def _copy_source(batch: Batch) -> CopySource:
    """Every context word may be copied, padding and CLS never."""
    return CopySource.of(batch.context, batch.context_real & (batch.context != CLS))
