"""CASE: Aligning Coarse-to-Fine Cognition and Affection for Empathetic Response Generation (Zhou et al., ACL 2023).

docs/models/case.md says where this differs from the published code.

Axes: B batch, S source positions (CLS first), T target positions (EOS last), D hidden (300), E emotions (32), C
concepts, U utterances of an example (the last one whole, then its sentences), P phrases inferred from them, N vertices
of a graph (S + C or U + P), X rows of the whole batch (utterances or phrases), R words of a row, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

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
    count_predictions,
    target_mean,
    xavier_initialise,
)
from ctsm.nn import graph
from ctsm.nn.decoder import DecoderCache
from ctsm.nn.encoder import BlockSizes, Encoder
from ctsm.nn.generator import PlainGenerator, no_source
from ctsm.nn.losses import FrequencyWeights
from ctsm.nn.masking import MASKED, masked_mean, masked_softmax
from ctsm.nn.memories import MemoriesDecoder
from ctsm.nn.precision import Linear, linear
from ctsm.options import check_options
from ctsm.text.vocabulary import CLS, PAD, SOS, SYS

EMOTIONS = 32
LATER_TERMS = ("selection", "coarse", "fine", "generation", "diversity", "emotion")
"""Loss terms that pre-training leaves out."""


@dataclass(frozen=True)
class CASEOptions:
    """Sizes, loss weights, the pre-training phase and one fault of the published code.

    Attributes:
        size: width of embeddings and hidden states, d.
        layers: layers of every encoder and of the decoder; each graph has one layer.
        heads: attention heads, also those of the graphs.
        depth: width of queries, keys and values over all heads, outside the graphs.
        filter_size: inner width of the convolutional feed-forward networks.
        graph_filter_size: inner width of the graphs' feed-forward networks.
        dropout: dropout inside the graphs; there is none elsewhere.
        pretrain_steps: steps at the beginning that train with the bag-of-words loss alone.
        coarse_weight: weight of the coarse-grained alignment.
        fine_weight: weight of the fine-grained alignment.
        diversity_weight: weight of the diversity loss; all other losses weigh 1.
        double_sigmoid: squash the alignments' margins by a sigmoid before their loss, as the published code does.
    """

    size: int = 300
    layers: int = 1
    heads: int = 2
    depth: int = 100
    filter_size: int = 300
    graph_filter_size: int = 300
    dropout: float = 0.1
    pretrain_steps: int = 10_064
    coarse_weight: float = 1.0
    fine_weight: float = 0.2
    diversity_weight: float = 1.5
    double_sigmoid: bool = False

    def __post_init__(self) -> None:
        """Refuse values that cannot be built or make no sense."""
        check_options(self, "options")
        for name in ("size", "layers", "heads", "depth", "filter_size", "graph_filter_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("depth", "size"):
            if getattr(self, name) % self.heads:
                raise ValueError(
                    f"options.{name} ({getattr(self, name)}) must be a multiple of options.heads ({self.heads})"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"options.dropout is {self.dropout}; it must be at least 0 and below 1")
        for name in ("pretrain_steps", "coarse_weight", "fine_weight", "diversity_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"options.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class AlignedContext(Context):
    """A context with the two further memories of the decoder.

    Attributes:
        cognition: phrases in the cognition graph, zero at padding [B, P, D].
        phrases: which of them there are [B, P].
        affection: words and concepts in the concept graph [B, S + C, D].
        vertices: which of them there are [B, S + C].
    """

    cognition: Tensor
    phrases: Tensor
    affection: Tensor
    vertices: Tensor


class _Knowledge(NamedTuple):
    """The fields of `Batch` that CASE asks for."""

    concepts: Tensor
    concept_words: Tensor
    utterances: Tensor
    utterance_row: Tensor
    reactions: Tensor
    phrases: Tensor
    phrase_row: Tensor
    phrase_relation: Tensor
    phrase_owner: Tensor

    @classmethod
    def of(cls, batch: Batch) -> _Knowledge:
        return cls(*(getattr(batch, name) for name in cls._fields))


class _Graphs(NamedTuple):
    """The encoded context and both graphs after their layer; which vertices are real."""

    context: Tensor  # [B, S, D]
    cognition: Tensor  # [B, P, D]
    phrases: Tensor  # [B, P]
    affection: Tensor  # [B, S + C, D]
    vertices: Tensor  # [B, S + C]


class Selection(NamedTuple):
    """What attention took of a memory: the mixture [B, D] and the logarithms of its weights [B, N]."""

    vector: Tensor
    log_weights: Tensor


class _Selected(NamedTuple):
    cognition: Selection
    affection: Selection


class CASE(EmpatheticModel):
    """The model; `install` gives it word vectors and emotion intensities.

    Args:
        options: sizes and switches.
        vocabulary_size: V.
    """

    name = "case"
    needs: ClassVar[frozenset[str]] = frozenset({"cognition", "concepts"})
    training_only = ("bag", "diversity")
    intensity: Tensor

    def __init__(self, options: CASEOptions, vocabulary_size: int) -> None:
        super().__init__(options, vocabulary_size)
        size, heads, dropout = options.size, options.heads, options.dropout
        sizes = BlockSizes(options.layers, heads, options.depth, options.filter_size)
        self.embedding = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        self.context_encoder = Encoder(size, size, sizes)
        # cognition: the commonsense cognition graph
        self.cognition_encoder = Encoder(size, size, sizes)
        attention = graph.RelationAttention(size, heads, dropout, graph.COGNITION_KINDS)
        self.cognition_graph = graph.GraphLayer(attention, size, options.graph_filter_size, dropout)
        # affection: the emotional concept graph, and reactions
        self.concept_mark = nn.Parameter(torch.zeros(size))
        self.concept_graph = graph.GraphLayer(
            graph.GraphAttention(size, heads, dropout), size, options.graph_filter_size, dropout
        )
        self.intensity_norm = nn.LayerNorm(size)
        self.reaction_encoder = Encoder(size, size, sizes)
        self.reaction_refiner = Encoder(2 * size, size, sizes)
        self.reaction = Linear(size, size)
        # knowledge selection
        self.prior_query = Linear(size, size)
        self.bag = nn.Sequential(Linear(2 * size, size), nn.Tanh(), Linear(size, vocabulary_size))
        # emotion and fusion
        self.emotion_mix = Linear(2 * size, size)
        self.emotion_gate = Linear(size, 1)
        self.emotion = Linear(size, EMOTIONS)
        self.fusion = Linear(3 * size, size, bias=False)
        self.fused = Linear(size, size, bias=False)
        # response generation
        self.decoder = MemoriesDecoder(size, 3, sizes)
        self.generator = PlainGenerator(size, vocabulary_size)
        self.diversity = FrequencyWeights(vocabulary_size)
        self.register_buffer("intensity", torch.zeros(vocabulary_size))
        xavier_initialise(self)

    def install(self, tables: WordTables) -> None:
        """Fill the embedding and the words' emotion intensities."""
        with torch.no_grad():
            self.embedding.weight.copy_(tables.vectors)
            self.embedding.weight[PAD].zero_()
            self.intensity.copy_(tables.intensity)

    def schedule(self) -> str:
        """Tell whether the step is one of pre-training, which computes only a part of the loss."""
        return "pre-training" if 0 < self.step <= self.options.pretrain_steps else ""

    def encode(self, batch: Batch, perceive: bool = False) -> AlignedContext:  # noqa: ARG002 - there are no maps to show
        """Encode the contexts with both graphs; only the loss needs the posterior and the alignments."""
        knowledge = _Knowledge.of(batch)
        reactions_BR = knowledge.reactions[knowledge.utterance_row[:, 0]]
        start = batch.context.new_full((len(batch), 1), SOS)
        *inputs, reactions_BRD, start_B1D = self._look_up(*_graph_words(batch, knowledge), reactions_BR, start)
        graphs = self._encode_graphs(batch, knowledge, inputs)
        example_B = torch.arange(len(batch), device=start.device)
        reaction_BD = self._react(batch, graphs.context, reactions_BRD, reactions_BR != PAD, example_B)
        return self._context(batch, graphs, self._select_by_context(graphs), reaction_BD, start_B1D[:, 0])

    def start_decoding(self, context: Context) -> DecoderCache:
        """Project the keys and values of the three memories once."""
        assert isinstance(context, AlignedContext)
        cognition, affection = (context.cognition, context.phrases), (context.affection, context.vertices)
        return self.decoder.start([cognition, affection, (context.memory, context.real)])

    def decode(self, words: Tensor, context: Context, cache: DecoderCache) -> DecoderStep:
        """Advance the decoder; see the base class."""
        (inputs_BTD,) = self._look_up(words)
        if cache.length == 0:
            inputs_BTD = torch.cat([context.start[:, None], inputs_BTD], dim=1)
        return DecoderStep(*self.decoder(inputs_BTD, cache))

    def loss(self, batch: Batch) -> Losses:
        """Bag of words alone in the first `pretrain_steps` steps (the other terms are then 0), later all terms."""
        options: CASEOptions = self.options
        knowledge = _Knowledge.of(batch)
        marks = [batch.context.new_full((len(batch), 1), mark) for mark in (SOS, CLS, SYS)]
        *inputs, reactions_XRD, start, first, listener, target_BTD = self._look_up(
            *_graph_words(batch, knowledge), knowledge.reactions, *marks, batch.target
        )
        graphs, said_BTD = self._encode_graphs(batch, knowledge, inputs), target_BTD[:, :-1]
        by_reply = self._select_by_reply(batch, graphs, torch.cat([first + first, said_BTD + listener], dim=1))
        terms = {"bag_of_words": self._bag_of_words(batch, by_reply)}
        if self.phase == "pre-training":
            nothing = torch.zeros_like(terms["bag_of_words"])
            return Losses(terms["bag_of_words"], terms | dict.fromkeys(LATER_TERMS, nothing))
        by_context = self._select_by_context(graphs)
        terms["selection"] = _divergence(by_reply.cognition, by_context.cognition, graphs.phrases) + _divergence(
            by_reply.affection, by_context.affection, graphs.vertices
        )
        reaction_XD = self._react(
            batch, graphs.context, reactions_XRD, knowledge.reactions != PAD, _examples_of_utterances(knowledge)
        )
        terms |= self._align(knowledge, graphs, by_context, reaction_XD)
        context = self._context(batch, graphs, by_context, reaction_XD[knowledge.utterance_row[:, 0]], start[:, 0])
        assert context.emotion_logits is not None
        step = DecoderStep(*self.decoder(torch.cat([start, said_BTD], dim=1), self.start_decoding(context)))
        terms |= self._generate(batch, context, step)
        terms["emotion"] = F.cross_entropy(context.emotion_logits, batch.emotion)
        weights = {"coarse": options.coarse_weight, "fine": options.fine_weight, "diversity": options.diversity_weight}
        return Losses(torch.stack([weights.get(name, 1.0) * terms[name] for name in terms]).sum(), terms)

    def _look_up(self, *words: Tensor) -> list[Tensor]:
        """Embed several id tensors in one look-up, scaled by sqrt(d): each [...] becomes [..., D]."""
        flat = self.known(torch.cat([ids.flatten() for ids in words]))
        vectors = self.embedding(flat) * math.sqrt(self.options.size)
        parts = vectors.split([ids.numel() for ids in words])
        return [part.unflatten(0, ids.shape) for part, ids in zip(parts, words, strict=True)]

    def _encode_graphs(self, batch: Batch, knowledge: _Knowledge, inputs: list[Tensor]) -> _Graphs:
        """Encode the context and both graphs; the inputs are what `_graph_words` names, embedded."""
        words_BSD, speakers_BSD, concepts_BCD, utterances_XRD, phrases_XRD = inputs
        context_BSD = words_BSD + speakers_BSD
        utterances_XD = self.cognition_encoder.first(utterances_XRD, knowledge.utterances != PAD)
        phrases_XD = self.cognition_encoder.first(phrases_XRD, knowledge.phrases != PAD)
        utterance_BU, phrase_BP = knowledge.utterance_row, knowledge.phrase_row + len(utterances_XD)
        row_BN = torch.cat([utterance_BU, phrase_BP.masked_fill(knowledge.phrase_row < 0, 0)], dim=1).clamp_min(0)
        cognition_BND = torch.cat([utterances_XD, phrases_XD])[row_BN]
        kinds_BNN = graph.cognition_edges(utterance_BU >= 0, knowledge.phrase_relation, knowledge.phrase_owner)
        nodes_BN = torch.cat([batch.context, knowledge.concepts], dim=1)
        intensity_BN = masked_softmax(self.intensity[self.known(nodes_BN)], nodes_BN != PAD)
        edges_BNN = graph.concept_edges(batch.context, knowledge.concepts, knowledge.concept_words)
        nodes_BND = self.concept_graph(torch.cat([context_BSD, concepts_BCD + self.concept_mark], dim=1), edges_BNN)
        return _Graphs(
            context=self.context_encoder(context_BSD, batch.context_real),
            cognition=self.cognition_graph(cognition_BND, kinds_BNN)[:, utterance_BU.shape[1] :],
            phrases=knowledge.phrase_row >= 0,
            affection=self.intensity_norm(intensity_BN[:, :, None] * nodes_BND),
            vertices=nodes_BN != PAD,
        )

    def _select_by_context(self, graphs: _Graphs) -> _Selected:
        """The prior: what the context's CLS asks of both graphs."""
        query_BD = torch.tanh(self.prior_query(graphs.context[:, 0]))
        return _select_of_both(graphs, query_BD, query_BD)

    def _select_by_reply(self, batch: Batch, graphs: _Graphs, reply_BTD: Tensor) -> _Selected:
        """The posterior: what the gold reply asks, CLS first, as encoded for cognition and for the context."""
        real_BT = batch.target_real  # CLS takes one place and EOS leaves one
        cognition_BD = self.cognition_encoder.first(reply_BTD, real_BT)
        return _select_of_both(graphs, cognition_BD, self.context_encoder.first(reply_BTD, real_BT))

    def _bag_of_words(self, batch: Batch, by_reply: _Selected) -> Tensor:
        """Mean of -log p over the target tokens, p predicted by what the reply selected and alike at all positions."""
        selected_BD = torch.cat([by_reply.affection.vector, by_reply.cognition.vector], dim=-1)
        log_words_BV = F.log_softmax(self.bag(selected_BD), dim=-1)
        log_probability_BT = log_words_BV.gather(1, self.known(batch.target)) * batch.target_real
        return -log_probability_BT.sum() / batch.target_real.sum()

    def _react(
        self, batch: Batch, context_BSD: Tensor, words_XRD: Tensor, real_XR: Tensor, example_X: Tensor
    ) -> Tensor:
        """Encode xReact's words [X, R, D] in the context of the examples they belong to: [X, D].

        The first map of [context ; reaction] splits, so that the context's half is computed once for each example.
        """
        reaction_XD = masked_mean(self.reaction_encoder(words_XRD, real_XR), real_XR)
        size, weight = self.options.size, self.reaction_refiner.projection.weight
        from_context_XSD = linear(context_BSD, weight[:, :size])[example_X]
        projected_XSD = from_context_XSD + linear(reaction_XD, weight[:, size:])[:, None]
        refined_XD = self.reaction_refiner.first_projected(projected_XSD, batch.context_real[example_X])
        reacted_XD: Tensor = self.reaction(refined_XD)
        return reacted_XD

    def _align(
        self, knowledge: _Knowledge, graphs: _Graphs, by_context: _Selected, reaction_XD: Tensor
    ) -> dict[str, Tensor]:
        """Coarse: selected cognition with selected affection; fine: each phrase with its utterance's reaction."""
        twice = self.options.double_sigmoid
        first_BD, second_BD = by_context.cognition.vector, by_context.affection.vector
        coarse_B = alignment_losses((first_BD, second_BD), (first_BD.roll(1, 0), second_BD.roll(1, 0)), twice)
        reaction_BPD = reaction_XD[knowledge.utterance_row.gather(1, knowledge.phrase_owner.clamp_min(0))]
        other_BP, counted_BP = phrases_of_the_example_before(graphs.phrases)
        others = graphs.cognition.flatten(0, 1)[other_BP], reaction_BPD.flatten(0, 1)[other_BP]
        fine_BP = alignment_losses((graphs.cognition, reaction_BPD), others, twice)
        return {"coarse": coarse_B.mean(), "fine": (fine_BP * counted_BP).sum() / counted_BP.sum().clamp_min(1)}

    def _context(
        self, batch: Batch, graphs: _Graphs, by_context: _Selected, reaction_BD: Tensor, start_BD: Tensor
    ) -> AlignedContext:
        """Emotion from selected concepts and reaction; the context fused with selected cognition and emotion."""
        concepts_BD = by_context.affection.vector
        gate_B1 = torch.sigmoid(self.emotion_gate(self.emotion_mix(torch.cat([concepts_BD, reaction_BD], dim=-1))))
        emotion_BD = gate_B1 * concepts_BD + (1 - gate_B1) * reaction_BD
        size, weight = self.options.size, self.fusion.weight  # split: two thirds are the same at every position
        signals_BD = linear(torch.cat([by_context.cognition.vector, emotion_BD], dim=-1), weight[:, size:])
        return AlignedContext(
            memory=self.fused(F.relu(linear(graphs.context, weight[:, :size]) + signals_BD[:, None])),
            real=batch.context_real,
            source=no_source(batch.context),
            start=start_BD,
            emotion_logits=self.emotion(emotion_BD),
            cognition=graphs.cognition * graphs.phrases[:, :, None],
            phrases=graphs.phrases,
            affection=graphs.affection,
            vertices=graphs.vertices,
        )

    def _generate(self, batch: Batch, context: Context, step: DecoderStep) -> dict[str, Tensor]:
        """Likelihood and diversity, means over the target tokens; in training mode predictions are counted first."""
        scored, target_N = self.score_targets(batch, context.source, step)
        if self.training:
            count_predictions(self.diversity, batch, scored.best)
        nll_N, weights_N = -scored.log_probability, self.diversity()[self.known(target_N)]
        return {"generation": target_mean(nll_N, target_N), "diversity": target_mean(weights_N * nll_N, target_N)}


def select(query_BD: Tensor, memory_BND: Tensor, real_BN: Tensor) -> Selection:
    """Dot-product attention to the real rows of a memory; the mixture is zero where there is none."""
    scores_BN = (memory_BND @ query_BD[:, :, None]).squeeze(2).masked_fill(~real_BN, MASKED)
    log_weights_BN = torch.log_softmax(scores_BN, dim=-1)
    weights_BN = log_weights_BN.exp() * real_BN
    return Selection((weights_BN[:, None] @ memory_BND).squeeze(1), log_weights_BN)


def alignment_losses(pair: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], double_sigmoid: bool) -> Tensor:
    """Negated lower bound of the mutual information of pairs (a, b), by one other a' and one other b' each.

    With f(x, y) = sigmoid(x . y) it is -log sigmoid(f(a, b) - f(a', b)) - log sigmoid(f(a, b) - f(a, b')): InfoNCE with
    a single negative on either side.

    Args:
        pair: a and b [..., D].
        others: a' and b' [..., D].
        double_sigmoid: squash both differences by a sigmoid first.

    Returns:
        [...], constants left out.
    """
    (first, second), (other_first, other_second) = pair, others
    own = _fit(first, second)
    margins = own - _fit(other_first, second), own - _fit(first, other_second)
    if double_sigmoid:
        margins = torch.sigmoid(margins[0]), torch.sigmoid(margins[1])
    return -F.logsigmoid(margins[0]) - F.logsigmoid(margins[1])


def phrases_of_the_example_before(phrases_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Pair each phrase with a phrase of the example before it in the batch (the last one's for the first).

    An example's r-th phrase gets the other's r-th; once those are used up, its first again, and so on.

    Args:
        phrases_BP: which phrases there are; padding comes last.

    Returns:
        The partners' places in the flat [B * P], for each phrase [B, P], and for which phrases there is one [B, P].
    """
    examples, width = phrases_BP.shape
    count_B1 = phrases_BP.sum(dim=1, keepdim=True).roll(1, 0)
    start_B1 = width * torch.arange(examples, device=phrases_BP.device)[:, None].roll(1, 0)
    place_BP = start_B1 + torch.arange(width, device=phrases_BP.device) % count_B1.clamp_min(1)
    return place_BP, phrases_BP & (count_B1 > 0)


def _fit(first: Tensor, second: Tensor) -> Tensor:
    """How well two vectors [..., D] fit together: the sigmoid of their dot product [...]."""
    return torch.sigmoid((first * second).sum(dim=-1))


def _select_of_both(graphs: _Graphs, cognition_BD: Tensor, affection_BD: Tensor) -> _Selected:
    return _Selected(
        select(cognition_BD, torch.tanh(graphs.cognition), graphs.phrases),
        select(affection_BD, torch.tanh(graphs.affection), graphs.vertices),
    )


def _divergence(by_reply: Selection, by_context: Selection, real_BN: Tensor) -> Tensor:
    """KL(posterior || prior), the posterior as a constant, divided by the number of vertices; mean over examples."""
    posterior_BN = by_reply.log_weights.detach()
    each_BN = posterior_BN.exp() * (posterior_BN - by_context.log_weights) * real_BN
    return (each_BN.sum(dim=-1) / real_BN.sum(dim=-1).clamp_min(1)).mean()


def _graph_words(batch: Batch, knowledge: _Knowledge) -> tuple[Tensor, ...]:
    """Name the ids that `_encode_graphs` reads, in its order."""
    return batch.context, batch.speakers, knowledge.concepts, knowledge.utterances, knowledge.phrases


def _examples_of_utterances(knowledge: _Knowledge) -> Tensor:
    """Return the example in the batch that each utterance belongs to [X]."""
    row_BU, count = knowledge.utterance_row, len(knowledge.utterances)
    example_BU = torch.arange(len(row_BU), device=row_BU.device)[:, None].expand_as(row_BU)
    slot_BU = row_BU.masked_fill(row_BU < 0, count)  # padding goes to a slot that is cut off
    return row_BU.new_zeros(count + 1).scatter(0, slot_BU.flatten(), example_BU.flatten())[:count]
