"""The techniques of training, each against what it replaces: forward and backward, on batches as training has them.

Axes: B batch, S source positions, T target positions, K relations, R words of a relation, D hidden, V vocabulary,
N packed target tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctsm.bench.inputs import bucketed_batches
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.bench.reference.output import PlainCounts
from ctsm.bench.reference.training import random_batches
from ctsm.bench.techniques.pair import Pair, pointer_generator, with_gradients
from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch, Examples, IntArray
from ctsm.memory import keep_freed_memory, return_freed_memory
from ctsm.models.base import packed_targets
from ctsm.models.ctsm import CTSM
from ctsm.nn.encoder import EncoderLayer
from ctsm.nn.losses import FrequencyWeights, before_first_end
from ctsm.nn.masking import masked_mean
from ctsm.nn.pointer import CopySource
from ctsm.nn.precision import bf16_products
from ctsm.nn.top_k import top_k
from ctsm.text.vocabulary import EOS, PAD, SOS
from ctsm.training.step import ADAM


class Inputs(NamedTuple):
    """What blocks of the model get in a step on one batch; those with gradients are leaves."""

    batch: Batch
    words: Tensor  # embedded context [B, S, D]
    relations: Tensor  # embedded words of the four relations [B, K, R, D]
    memory: Tensor  # encoded context [B, S, D]
    knowledge: Tensor  # a vector for each of the five relations [B, K, D]
    hidden: Tensor  # decoder states [N, D]
    hidden_padded: Tensor  # the same with padded positions [B, T, D]
    copy_scores: Tensor  # of the padded positions [B, T, S]
    source: CopySource  # of the contexts [B, S]


@dataclass(frozen=True)
class Sample:
    """A new model, the plain path with the same parameters, and batches.

    Attributes:
        model: in training mode.
        plain: the plain path.
        examples: the split.
        rows: of each batch.
        inputs: of each batch.
    """

    model: CTSM
    plain: PlainCTSM
    examples: Examples
    rows: Sequence[IntArray]
    inputs: Sequence[Inputs]

    @classmethod
    def of(cls, model: CTSM, config: RunConfig, examples: Examples, count: int) -> Sample:
        """Take `count` batches that stand for an epoch, on the model's device."""
        device, dtype = model.embedding.weight.device, model.embedding.weight.dtype
        plain = PlainCTSM(config.options, model.vocabulary_size).to(device, dtype)
        plain.load_from(model)
        rows = bucketed_batches(examples, config.training, count)
        inputs = [_inputs(model, examples.batch(one).to(device)) for one in rows]
        return cls(model.train(), plain.train(), examples, rows, inputs)

    def pair(
        self,
        technique: str,
        replaces: str,
        fast: Callable[[Inputs], list[Tensor]],
        slow: Callable[[Inputs], list[Tensor]],
    ) -> Pair:
        """Build the pair of two functions of one batch's inputs."""
        inputs = self.inputs
        return Pair("training", technique, replaces, lambda n: fast(inputs[n]), lambda n: slow(inputs[n]), len(inputs))


def training_pairs(sample: Sample) -> list[Pair]:
    """Return all pairs, in the order of the table."""
    return [
        _pointer_loss(sample),
        _packed_targets(sample),
        _one_pass(sample),
        _one_look_up(sample),
        _relations_together(sample),
        _batched_refiners(sample),
        _first_position(sample),
        _one_product(sample),
        _counts(sample),
        _chunked_arg_max(sample),
        _fused_adam(sample),
        _bucketed_batches(sample),
        _kept_buffers(sample),
        _bf16(sample),
    ]


def _inputs(model: CTSM, batch: Batch) -> Inputs:
    with torch.no_grad():
        embedded = {name: _embed(model, getattr(batch, name)) for name in ("context", "cognitive", "reaction")}
        cognitive = masked_mean(embedded["cognitive"], batch.cognitive != PAD)
        reaction = masked_mean(embedded["reaction"], batch.reaction != PAD)
        context = model.encode(batch)
        state = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
    return Inputs(
        batch=batch,
        words=embedded["context"].requires_grad_(),
        relations=embedded["cognitive"].requires_grad_(),
        memory=context.memory.requires_grad_(),
        knowledge=torch.cat([cognitive, reaction[:, None]], dim=1).requires_grad_(),
        hidden=state.hidden.flatten(0, 1)[batch.target_positions].requires_grad_(),
        hidden_padded=state.hidden.clone().requires_grad_(),
        copy_scores=state.copy_scores.requires_grad_(),
        source=context.source,
    )


def _embed(model: CTSM, words: Tensor) -> Tensor:
    vectors: Tensor = model.embedding(model.known(words)) * math.sqrt(model.options.size)
    return vectors


def _packed(inputs: Inputs) -> tuple[Tensor, CopySource, Tensor]:
    """Copy scores [N, S], sources [N, S] and target words [N] of the real positions."""
    rows, target_N = packed_targets(inputs.batch)
    copy_scores_NS = inputs.copy_scores.flatten(0, 1)[inputs.batch.target_positions]
    return copy_scores_NS, inputs.source.rows(rows), target_N


def _pointer_loss(sample: Sample) -> Pair:
    generator, plain = pointer_generator(sample.model), sample.plain.generator

    def fast(inputs: Inputs) -> list[Tensor]:
        scored = generator.score(inputs.hidden, *_packed(inputs))
        leaves = [inputs.hidden, inputs.copy_scores, *generator.parameters()]
        return [scored.best, *with_gradients([scored.log_probability], leaves)]

    def slow(inputs: Inputs) -> list[Tensor]:
        copy_scores_NS, source, target_N = _packed(inputs)
        log_NV = plain(inputs.hidden[:, None], copy_scores_NS[:, None], source.ids).squeeze(1)
        best_N = top_k(log_NV.detach(), 1)[1].squeeze(1)
        leaves = [inputs.hidden, inputs.copy_scores, *plain.parameters()]
        return [best_N, *with_gradients([-F.nll_loss(log_NV, target_N, reduction="none")], leaves)]

    return sample.pair("exact sparse pointer loss", "a dense `[N, V]` mixture and its logarithm", fast, slow)


def _packed_targets(sample: Sample) -> Pair:
    generator = pointer_generator(sample.model)

    def fast(inputs: Inputs) -> list[Tensor]:
        hidden_ND = inputs.hidden_padded.flatten(0, 1)[inputs.batch.target_positions]
        scored = generator.score(hidden_ND, *_packed(inputs))
        return [scored.best, *with_gradients([scored.log_probability], [inputs.hidden_padded, *generator.parameters()])]

    def slow(inputs: Inputs) -> list[Tensor]:
        target_BT, positions = inputs.batch.target, inputs.batch.target_positions
        rows = torch.arange(len(target_BT), device=target_BT.device).repeat_interleave(target_BT.shape[1])
        every = (inputs.hidden_padded.flatten(0, 1), inputs.copy_scores.flatten(0, 1), inputs.source.rows(rows))
        scored = generator.score(*every, target_BT.flatten())
        leaves = [inputs.hidden_padded, *generator.parameters()]
        return [scored.best[positions], *with_gradients([scored.log_probability[positions]], leaves)]

    return sample.pair("packed targets", "scoring padded positions too", fast, slow)


def _one_pass(sample: Sample) -> Pair:
    """Nothing may be copied here, so that the mixture is the softmax alone."""
    generator, known = pointer_generator(sample.model), sample.model.known
    vocabulary = generator.vocabulary
    weights_V = _some_weights(sample)

    def fast(inputs: Inputs) -> list[Tensor]:
        copy_scores_NS, source, target_N = _packed(inputs)
        source = source._replace(copyable=torch.zeros_like(source.copyable))
        scored = generator.score(inputs.hidden, copy_scores_NS, source, known(target_N))
        nll_N = -scored.log_probability
        losses = [nll_N.mean(), (weights_V[known(target_N)] * nll_N).mean()]
        return [scored.best, *with_gradients(losses, [inputs.hidden, vocabulary.weight, vocabulary.bias])]

    def slow(inputs: Inputs) -> list[Tensor]:
        target_N = known(packed_targets(inputs.batch)[1])
        log_NV = F.log_softmax(F.linear(inputs.hidden, vocabulary.weight, vocabulary.bias), dim=-1)
        best_N = top_k(log_NV.detach(), 1)[1].squeeze(1)
        weighted = F.nll_loss(log_NV, target_N, weights_V, reduction="sum") / len(target_N)
        losses = [F.nll_loss(log_NV, target_N), weighted]
        return [best_N, *with_gradients(losses, [inputs.hidden, vocabulary.weight, vocabulary.bias])]

    name = "one pass over the vocabulary for likelihood, diversity loss and prediction counts"
    return sample.pair(name, "log-probabilities `[N, V]`, read and differentiated for each", fast, slow)


def _some_weights(sample: Sample) -> Tensor:
    """Diversity weights [V] as if the gold words had been predicted."""
    counts = FrequencyWeights(sample.model.vocabulary_size).to(sample.model.embedding.weight.device)
    for inputs in sample.inputs:
        target = sample.model.known(packed_targets(inputs.batch)[1])
        counts.update(target, torch.ones_like(target, dtype=torch.bool))
    weights_V: Tensor = counts().to(sample.model.embedding.weight.dtype)
    return weights_V


def _one_look_up(sample: Sample) -> Pair:
    model, plain = sample.model, sample.plain

    def sequences(batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Return the ids of all inputs but the reply, and the decoder's first word."""
        relations = [*batch.cognitive.unbind(1), batch.reaction]
        return [batch.context, batch.speakers, *relations, model.label_ids], batch.target.new_full((len(batch), 1), SOS)

    def fast(inputs: Inputs) -> list[Tensor]:
        words, start_B1 = sequences(inputs.batch)
        words += [inputs.batch.target, start_B1]
        flat = _embed(model, torch.cat([ids.flatten() for ids in words])).split([ids.numel() for ids in words])
        *vectors, target_BTD, start_B1D = (part.view(*ids.shape, -1) for part, ids in zip(flat, words, strict=True))
        shifted_BTD = torch.cat([start_B1D, target_BTD[:, :-1]], dim=1)
        return with_gradients([*vectors, target_BTD, shifted_BTD], [model.embedding.weight])

    def slow(inputs: Inputs) -> list[Tensor]:
        words, start_B1 = sequences(inputs.batch)
        target_BT = inputs.batch.target
        words += [target_BT, torch.cat([start_B1, target_BT[:, :-1]], dim=1)]
        return with_gradients([plain.embed(ids) for ids in words], [plain.embedding.weight])

    return sample.pair(
        "one embedding look-up a step", "a look-up and a dense gradient for each of ten sequences", fast, slow
    )


def _relations_together(sample: Sample) -> Pair:
    encoder = sample.model.cognitive_encoder

    def fast(inputs: Inputs) -> list[Tensor]:
        real = inputs.batch.cognitive != PAD
        encoded = encoder.first(inputs.relations.flatten(0, 1), real.flatten(0, 1)).unflatten(0, real.shape[:2])
        return with_gradients([encoded], [inputs.relations, *encoder.parameters()])

    def slow(inputs: Inputs) -> list[Tensor]:
        encoded = []
        for words_BRD, real_BR in zip(
            inputs.relations.unbind(1), (inputs.batch.cognitive != PAD).unbind(1), strict=True
        ):
            longest = max(1, int(real_BR.sum(dim=1).max()))
            encoded.append(encoder.first(words_BRD[:, :longest], real_BR[:, :longest]))
        return with_gradients([torch.stack(encoded, dim=1)], [inputs.relations, *encoder.parameters()])

    return sample.pair("all relations in one encoder pass", "a pass for each", fast, slow)


def _batched_refiners(sample: Sample) -> Pair:
    fusion = sample.model.student_fusion
    parameters = [*fusion.cognitive.parameters(), *fusion.affective.parameters()]

    def fast(inputs: Inputs) -> list[Tensor]:
        real = inputs.batch.context_real
        cognitive = fusion.cognitive(inputs.memory, inputs.knowledge[:, :4], real)
        affective = fusion.affective(inputs.memory, inputs.knowledge[:, 4:], real)
        return with_gradients([cognitive, affective], [inputs.memory, inputs.knowledge, *parameters])

    def slow(inputs: Inputs) -> list[Tensor]:
        refined = []
        for number, vector_BD in enumerate(inputs.knowledge.unbind(1)):
            encoder = (fusion.cognitive if number < 4 else fusion.affective).encoder
            repeated_BSD = vector_BD[:, None].expand_as(inputs.memory)
            together = torch.cat([inputs.memory, repeated_BSD], dim=-1)
            refined.append(encoder(together, inputs.batch.context_real))
        results = [torch.stack(refined[:4], dim=1), torch.stack(refined[4:], dim=1)]
        return with_gradients(results, [inputs.memory, inputs.knowledge, *parameters])

    name = "refiners batched, first layer split"
    return sample.pair(name, f"five passes over a {2 * sample.model.options.size}-wide input", fast, slow)


def _first_position(sample: Sample) -> Pair:
    encoder = sample.model.cognitive_encoder

    def fast(inputs: Inputs) -> list[Tensor]:
        encoded = encoder.first(inputs.relations.flatten(0, 1), (inputs.batch.cognitive != PAD).flatten(0, 1))
        return with_gradients([encoded], [inputs.relations, *encoder.parameters()])

    def slow(inputs: Inputs) -> list[Tensor]:
        encoded = encoder(inputs.relations.flatten(0, 1), (inputs.batch.cognitive != PAD).flatten(0, 1))[:, 0]
        return with_gradients([encoded], [inputs.relations, *encoder.parameters()])

    return sample.pair(
        "of relation words only the first position, which is all that is read", "every position", fast, slow
    )


def _one_product(sample: Sample) -> Pair:
    layer = sample.model.context_encoder.layers[0]
    assert isinstance(layer, EncoderLayer)
    attention = layer.attention
    weights = [attention.query.weight, attention.key.weight, attention.value.weight]

    def fast(inputs: Inputs) -> list[Tensor]:
        return with_gradients(attention.queries_keys_values(inputs.words), [inputs.words, *weights])

    def slow(inputs: Inputs) -> list[Tensor]:
        products = [product(inputs.words) for product in (attention.query, attention.key, attention.value)]
        heads = [product.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for product in products]
        return with_gradients(heads, [inputs.words, *weights])

    return sample.pair("one product for queries, keys and values", "three", fast, slow)


def _counts(sample: Sample) -> Pair:
    size, device = sample.model.vocabulary_size, sample.model.embedding.weight.device
    counts, plain = FrequencyWeights(size).to(device), PlainCounts(size).to(device)

    def predicted(batch: Batch) -> Tensor:
        """Return words as a model may predict them: the gold ones, shifted."""
        return batch.target.roll(1, dims=1)

    def fast(inputs: Inputs) -> list[Tensor]:
        words_BT = predicted(inputs.batch)
        counts.update(words_BT.flatten(), before_first_end(words_BT, inputs.batch.target_real, EOS).flatten())
        return [counts(), counts.counts]

    def slow(inputs: Inputs) -> list[Tensor]:
        plain.add(predicted(inputs.batch), inputs.batch.target)
        return [plain.weights(), plain.counts]

    return sample.pair(
        "prediction counts on the device, no host synchronisation", "Python and NumPy at each step", fast, slow
    )


def _chunked_arg_max(sample: Sample) -> Pair:
    vocabulary = pointer_generator(sample.model).vocabulary
    with torch.no_grad():
        scores = [F.linear(inputs.hidden, vocabulary.weight, vocabulary.bias) for inputs in sample.inputs]

    def fast(number: int) -> list[Tensor]:
        return [part.squeeze(1) for part in top_k(scores[number], 1)]

    def slow(number: int) -> list[Tensor]:
        return list(scores[number].max(dim=1))

    replaces = "`max`, which PyTorch does not vectorise on the CPU"
    return Pair("training", "arg-max of the vocabulary in chunks", replaces, fast, slow, len(scores))


def _fused_adam(sample: Sample) -> Pair:
    """The gradients of one batch, again and again."""
    parameters = list(sample.model.parameters())
    total = sample.model.eval().loss(sample.inputs[0].batch).total
    gradients = [one.contiguous() for one in torch.autograd.grad(total, parameters, materialize_grads=True)]
    sample.model.train()

    def side(fused: bool) -> Callable[[Inputs], list[Tensor]]:
        own = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient
        optimizer = torch.optim.Adam(own, lr=1e-4, fused=fused, foreach=False, **ADAM)  # type: ignore[arg-type]

        def step(_inputs: Inputs) -> list[Tensor]:
            optimizer.step()
            return [parameter.detach() for parameter in own]

        return step

    return sample.pair("fused Adam", "several operations for each tensor", side(True), side(False))


def _bucketed_batches(sample: Sample) -> Pair:
    """Whole steps on the same examples. Of the losses those agree that do not depend on who is in a batch with whom."""
    model, pool = sample.model, np.concatenate(sample.rows)
    orders = random_batches(len(pool), len(sample.rows[0]), seed=0)

    def side(batches: list[Batch]) -> Callable[[int], list[Tensor]]:
        def steps(_number: int) -> list[Tensor]:
            sums = torch.zeros(3, dtype=torch.float64, device=batches[0].target.device)
            for batch in batches:
                losses = model.loss(batch)
                torch.autograd.grad(losses.total, list(model.parameters()), materialize_grads=True)
                terms = torch.stack([losses.terms[name].detach() for name in ("generation", "teacher", "student")])
                sums += terms * terms.new_tensor([len(batch.target_positions), len(batch), len(batch)])
            return [sums]

        return steps

    device = model.embedding.weight.device
    ordered = side([inputs.batch for inputs in sample.inputs])
    random = side([sample.examples.batch(pool[order]).to(device) for order in orders])
    name = "length-bucketed batches (a whole step)"
    return Pair("training", name, "random batches", ordered, random, units=1, times=len(sample.rows))


def _kept_buffers(sample: Sample) -> Pair:
    """Whole forward and backward passes over all batches; each side has its own counts of predictions."""

    def side(setting: Callable[[], bool]) -> Callable[[int], list[Tensor]]:
        model = deepcopy(sample.model)

        def steps(_number: int) -> list[Tensor]:
            setting()
            parameters = list(model.parameters())
            found = [with_gradients([model.loss(inputs.batch).total], parameters) for inputs in sample.inputs][-1]
            keep_freed_memory()
            return found

        return steps

    name, replaces = "freed buffers kept for the next ones (a whole step)", "given back to the system"
    kept, returned = side(keep_freed_memory), side(return_freed_memory)
    return Pair("training", name, replaces, kept, returned, units=1, times=len(sample.inputs))


def _bf16(sample: Sample) -> Pair:
    """Whole forward and backward passes; each side has its own counts of predictions."""

    def side(enabled: bool) -> Callable[[Inputs], list[Tensor]]:
        model = deepcopy(sample.model)

        def step(inputs: Inputs) -> list[Tensor]:
            with bf16_products(enabled):
                total = model.loss(inputs.batch).total
            return with_gradients([total], list(model.parameters()))

        return step

    return sample.pair("bf16 products with rounded row counts (a whole step)", "fp32", side(True), side(False))
