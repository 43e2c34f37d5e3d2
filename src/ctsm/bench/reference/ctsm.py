"""CTSM on the plain path. Equation numbers are those of the paper; see `ctsm.models.ctsm` for the fast path.

Axes: B batch, S source positions, T target positions, D hidden, V vocabulary with a batch's unknown words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.bench.reference.base import PlainContext, PlainModel
from ctsm.bench.reference.blocks import HIDDEN, PlainDecoder, PlainEncoder
from ctsm.bench.reference.output import PlainCounts, PlainGenerator
from ctsm.corpus.batches import Batch
from ctsm.models.ctsm import EMOTIONS, CTSMOptions
from ctsm.nn.encoder import BlockSizes
from ctsm.text.vocabulary import PAD, SOS, UNK

TRAINING_ONLY = ("teacher_", "reply_encoder.", "emotion_view.", "diversity.")
"""Beginnings of the names of what replying does not need; a model loaded for replying may lack it."""
UNUSED = "in_lexicon"
"""The fast model's one tensor that neither losses nor replies read."""


class _Encoded(NamedTuple):
    """Sequences of one batch [B, S, .], named as in the fast path."""

    knowledge: list[Tensor]
    semantic: Tensor
    trait: Tensor
    state: Tensor
    encoded_trait: Tensor
    encoded_state: Tensor
    student: Tensor
    intensity: Tensor
    real: Tensor


class PlainRefiner(nn.Module):
    """Encoder over the context with one knowledge vector appended at every position."""

    def __init__(self, size: int, sizes: BlockSizes) -> None:
        super().__init__()
        self.encoder = PlainEncoder(2 * size, size, sizes)

    def forward(self, context_BSD: Tensor, knowledge_BD: Tensor, real_BS: Tensor) -> Tensor:
        """Refine [B, S, D]."""
        repeated_BSD = knowledge_BD.unsqueeze(1).repeat(1, context_BSD.shape[1], 1)
        refined: Tensor = self.encoder(torch.cat([context_BSD, repeated_BSD], dim=-1), real_BS)
        return refined


class PlainFusion(nn.Module):
    """Section 3.3: five refiner passes one after the other, self-gated and mapped 5D -> 900 -> D."""

    def __init__(self, options: CTSMOptions, sizes: BlockSizes) -> None:
        super().__init__()
        self.cognitive = PlainRefiner(options.size, sizes)
        self.affective = PlainRefiner(options.size, sizes)
        self.mlp = nn.Sequential(
            nn.Linear(5 * options.size, options.fusion_size, bias=False),
            nn.ReLU(),
            nn.Linear(options.fusion_size, options.size, bias=False),
        )

    def forward(self, context_BSD: Tensor, knowledge: list[Tensor], real_BS: Tensor) -> Tensor:
        """Return the inference-enriched context [B, S, D]; the fifth vector of `knowledge` is the reaction."""
        refined = [self.cognitive(context_BSD, vector, real_BS) for vector in knowledge[:4]]
        refined.append(self.affective(context_BSD, knowledge[4], real_BS))
        together = torch.cat(refined, dim=-1)
        fused: Tensor = self.mlp(torch.sigmoid(together) * together)
        return fused


class PlainEmotionHead(nn.Module):
    """Eqs. 11-14 and 17 with attention over tokens."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, size)
        self.attention = nn.Linear(size, 1, bias=False)
        self.hidden = nn.Linear(size, size)
        self.output = nn.Linear(size, EMOTIONS)

    def forward(self, x_BSF: Tensor, intensity_BS: Tensor, real_BS: Tensor) -> Tensor:
        """Return emotion logits [B, E]."""
        shares_BS = torch.softmax(intensity_BS.masked_fill(~real_BS, HIDDEN), dim=-1)
        x_BSF = x_BSF * (shares_BS * real_BS * real_BS.sum(dim=1, keepdim=True)).unsqueeze(-1)
        scores_BS = self.attention(torch.tanh(self.inner(x_BSF))).squeeze(-1)
        attention_BS = torch.softmax(scores_BS.masked_fill(~real_BS, HIDDEN), dim=-1)
        pooled_BF = (attention_BS.unsqueeze(-1) * x_BSF).sum(dim=1)
        logits: Tensor = self.output(torch.tanh(self.hidden(pooled_BF)))
        return logits


class PlainCTSM(PlainModel):
    """CTSM with the default switches; `load_from` gives it the parameters of the fast model."""

    word_features: Tensor
    label_ids: Tensor

    def __init__(self, options: CTSMOptions, vocabulary_size: int) -> None:
        super().__init__(options.size, vocabulary_size)
        self.options = options
        size, condensed = options.size, options.semantic_size
        sizes = BlockSizes(options.layers, options.heads, options.depth, options.filter_size)
        trait_size, state_size = 4 + condensed, EMOTIONS + 1 + condensed
        self.context_encoder = PlainEncoder(size, size, sizes, positions=False)
        self.cognitive_encoder = PlainEncoder(size, size, sizes)
        self.affective_encoder = PlainEncoder(size, size, sizes)
        self.student_fusion = PlainFusion(options, sizes)
        self.teacher_fusion = PlainFusion(options, sizes)
        self.condense = nn.Linear(size, condensed, bias=False)
        self.label_map = nn.Linear(size, size)
        self.word_map = nn.Linear(size, size)
        self.trait_encoder = PlainEncoder(trait_size, trait_size, sizes)
        self.state_encoder = PlainEncoder(state_size, state_size, sizes)
        self.teacher_head = PlainEmotionHead(size + trait_size + state_size)
        self.student_head = PlainEmotionHead(size + trait_size + state_size)
        self.decoder = PlainDecoder(size, size, sizes)
        self.generator = PlainGenerator(size, vocabulary_size)
        self.reply_encoder = PlainEncoder(size, size, sizes)
        self.emotion_view = nn.Linear(trait_size + state_size, size)
        self.diversity = PlainCounts(vocabulary_size)
        self.register_buffer("word_features", torch.zeros(vocabulary_size, 5))
        self.register_buffer("label_ids", torch.zeros(EMOTIONS, dtype=torch.long))

    def load_from(self, model: nn.Module) -> None:
        """Take the parameters, tables and counts of a CTSM; one without its training-only parts can only reply.

        Raises:
            ValueError: its tensors are not those of this class.
        """
        missing, unexpected = self.load_state_dict(model.state_dict(), strict=False)
        missing = [name for name in missing if not name.startswith(TRAINING_ONLY)]
        unexpected = [name for name in unexpected if name != UNUSED]
        if missing or unexpected:
            raise ValueError(f"the plain path and the model differ in {', '.join([*missing, *unexpected][:3])}")

    def encode(self, batch: Batch) -> PlainContext:
        """Sections 3.3-3.5 with the student."""
        encoded = self._encode(batch)
        logits_BE = self._student_logits(encoded)
        return PlainContext(encoded.student, encoded.real, batch.context, logits_BE)

    def predict(self, words: Tensor, context: PlainContext) -> Tensor:
        """Return the log-probabilities [B, T, V] of what follows each prefix of words [B, T]."""
        hidden_BTD, scores_BTS = self.decoder(self.embed(words), context.memory, context.real)
        log_BTV: Tensor = self.generator(hidden_BTD, scores_BTS, context.source)
        return log_BTV

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Eqs. 10-25: the weighted total and the unweighted terms."""
        encoded = self._encode(batch)
        context_BSD = self.teacher_fusion(encoded.semantic, encoded.knowledge, encoded.real)
        teacher_BSF = torch.cat([context_BSD, encoded.trait, encoded.state], dim=-1)  # eq. 10
        teacher_BE = self.teacher_head(teacher_BSF, encoded.intensity, encoded.real)
        soft_BE = torch.softmax(teacher_BE.detach(), dim=-1)
        student_BE = torch.log_softmax(self._student_logits(encoded), dim=-1)
        start_B1 = batch.target.new_full((len(batch), 1), SOS)
        inputs_BTD = self.embed(torch.cat([start_B1, batch.target[:, :-1]], dim=1))
        hidden_BTD, scores_BTS = self.decoder(inputs_BTD, encoded.student, encoded.real)
        log_BTV = self.generator(hidden_BTD, scores_BTS, batch.context)
        generation, diversity = self._likelihoods(log_BTV, batch.target)
        terms = {
            "teacher": F.cross_entropy(teacher_BE, batch.emotion),  # eq. 15
            "student": -(soft_BE * student_BE).sum(dim=-1).mean(),  # eq. 18
            "generation": generation,
            "contrastive": self._contrast(batch, encoded, hidden_BTD),
            "diversity": diversity,
        }
        options = self.options
        total = (
            options.emotion_weight * (terms["teacher"] + terms["student"])
            + options.generation_weight * generation
            + options.contrastive_weight * terms["contrastive"]
            + options.diversity_weight * diversity
        )
        return total, terms

    def _encode(self, batch: Batch) -> _Encoded:
        """Eqs. 1-9 and the student's fusion; each relation is looked up and encoded on its own."""
        real_BS = batch.context != PAD
        embedded_BSD = self.embed(batch.context) + self.embed(batch.speakers)
        embedded_BSD = embedded_BSD + self.context_encoder.signal[: embedded_BSD.shape[1]]
        semantic_BSD = self.context_encoder(embedded_BSD, real_BS)  # eq. 1
        knowledge = []
        for relation in range(4):
            words = _trimmed(batch.cognitive[:, relation])
            knowledge.append(self.cognitive_encoder(self.embed(words), words != PAD)[:, 0])
        words = _trimmed(batch.reaction)
        knowledge.append(_mean(self.affective_encoder(self.embed(words), words != PAD), words != PAD))
        features_BSF = self.word_features[self.known(batch.context)]
        condensed = self.condense(semantic_BSD)  # eq. 3
        trait = torch.cat([features_BSF[..., :4], condensed], dim=-1)  # eq. 2
        labels_ED = F.normalize(self.label_map(self.embed(self.label_ids)), dim=-1, eps=1e-8)  # eq. 5
        inclination = F.normalize(self.word_map(embedded_BSD), dim=-1, eps=1e-8) @ labels_ED.T  # eqs. 6-7
        state = torch.cat([inclination, features_BSF[..., 3:4], condensed], dim=-1)  # eq. 8
        return _Encoded(
            knowledge=knowledge,
            semantic=semantic_BSD,
            trait=trait,
            state=state,
            encoded_trait=self.trait_encoder(trait, real_BS),  # eq. 4
            encoded_state=self.state_encoder(state, real_BS),  # eq. 9
            student=self.student_fusion(semantic_BSD, knowledge, real_BS),
            intensity=features_BSF[..., 4],
            real=real_BS,
        )

    def _student_logits(self, encoded: _Encoded) -> Tensor:
        """Eqs. 16-17."""
        student_BSF = torch.cat([encoded.student, encoded.encoded_trait, encoded.encoded_state], dim=-1)
        logits: Tensor = self.student_head(student_BSF, encoded.intensity, encoded.real)
        return logits

    def _likelihoods(self, log_BTV: Tensor, target_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 21 and the diversity loss, in two passes over all positions and words."""
        if self.training:
            self.diversity.update(log_BTV, target_BT)
        weights_V = self.diversity.weights().to(log_BTV.dtype)
        unknown = weights_V[UNK].repeat(log_BTV.shape[-1] - len(weights_V))
        flat, target = log_BTV.flatten(0, 1), target_BT.flatten()
        generation = F.nll_loss(flat, target, ignore_index=PAD)
        summed = F.nll_loss(flat, target, torch.cat([weights_V, unknown]), ignore_index=PAD, reduction="sum")
        return generation, summed / (target != PAD).sum().item()

    def _contrast(self, batch: Batch, encoded: _Encoded, hidden_BTD: Tensor) -> Tensor:
        """Eqs. 22-24: the mean over five pairs of views, one pair after the other."""
        target_real = batch.target != PAD
        emotions_BSF = torch.cat([encoded.encoded_trait, encoded.encoded_state], dim=-1)
        reply = _mean(self.reply_encoder(self.embed(batch.target), target_real), target_real)
        emotion = self.emotion_view(_mean(emotions_BSF, encoded.real))
        context, generated = _mean(encoded.student, encoded.real), _mean(hidden_BTD, target_real)
        pairs = [(reply, emotion), (context, generated), (context, reply), (emotion, generated), (reply, generated)]
        return torch.stack([_information_loss(a, b, self.options.temperature) for a, b in pairs]).mean()


def _trimmed(words_BR: Tensor) -> Tensor:
    """Cut the padding that no row needs; one column stays."""
    return words_BR[:, : max(1, int((words_BR != PAD).sum(dim=1).max()))]


def _mean(x_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """Mean over real positions [B, D]; zeros for a row without any."""
    weights = real_BT.unsqueeze(-1).to(x_BTD.dtype)
    return (x_BTD * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)


def _information_loss(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Eq. 23 as NT-Xent: cosines of all 2B vectors, each one's positive against all others."""
    count = len(first_BD)
    if count < 2:
        return first_BD.sum() * 0.0
    views = F.normalize(torch.cat([first_BD, second_BD]), dim=-1)
    itself = torch.eye(2 * count, dtype=torch.bool, device=views.device)
    similarity = (torch.matmul(views, views.T) / temperature).masked_fill(itself, float("-inf"))
    positives = torch.arange(2 * count, device=views.device).roll(count)
    return F.cross_entropy(similarity, positives)
