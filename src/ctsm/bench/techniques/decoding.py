"""The techniques of decoding, each against what it replaces, on contexts in batches as evaluation has them.

Axes: B batch, S source positions, T words of the replies, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ctsm.bench.inputs import chosen_batches
from ctsm.bench.techniques.pair import Pair
from ctsm.corpus.batches import Batch, Examples, sorted_batches
from ctsm.decoding.greedy import MAX_TOKENS, NEVER_SAID, greedy
from ctsm.models.base import Context, DecoderStep
from ctsm.models.ctsm import CTSM
from ctsm.nn.decoder import DecoderCache, LayerCache
from ctsm.nn.pointer import CopySource
from ctsm.nn.top_k import top_k
from ctsm.text.vocabulary import EOS

STEPS = 8
"""Steps of each batch on which output layers are measured."""
FEW = 16
"""Contexts of each batch where the other way takes long: one at a time with all steps, every position projected."""
BEST = 5

Choose = Callable[[Tensor, Tensor, CopySource], list[Tensor]]
"""An output layer: states [B, D], copy scores [B, S] and what may be copied to words and their log-probabilities."""


class Inputs(NamedTuple):
    """A batch and what the model makes of it when it says the gold replies."""

    batch: Batch
    context: Context
    words: Tensor  # of the gold replies [B, T]
    hidden: Tensor  # decoder states [B, T, D]
    copy_scores: Tensor  # of the same positions [B, T, S]
    singles: list[Batch]  # the examples one by one


@dataclass(frozen=True)
class Sample:
    """A model that replies, and batches.

    Attributes:
        model: in evaluation mode.
        inputs: of each batch.
        banned: words that are never said.
    """

    model: CTSM
    inputs: Sequence[Inputs]
    banned: Tensor

    @classmethod
    def of(cls, model: CTSM, examples: Examples, batch_size: int, count: int) -> Sample:
        """Take `count` batches that stand for a split, on the model's device."""
        device = model.embedding.weight.device
        batches = list(sorted_batches(examples.context.lengths, batch_size))
        inputs = []
        for rows in chosen_batches(examples, batches, count, seed=0):
            singles = [examples.batch(np.array([row])).to(device) for row in rows.tolist()]
            inputs.append(_inputs(model.eval(), examples.batch(rows).to(device), singles))
        return cls(model, inputs, torch.tensor(NEVER_SAID, device=device))

    def pair(
        self,
        technique: str,
        replaces: str,
        fast: Callable[[Inputs], list[Tensor]],
        slow: Callable[[Inputs], list[Tensor]],
        each: str = "a batch",
        times: int = 1,
    ) -> Pair:
        """Build the pair of two functions of one batch's inputs, which compute no gradients."""

        def without_gradients(side: Callable[[Inputs], list[Tensor]]) -> Callable[[int], list[Tensor]]:
            return torch.inference_mode()(lambda number: side(self.inputs[number]))

        sides = (without_gradients(fast), without_gradients(slow))
        return Pair("decoding", technique, replaces, *sides, len(self.inputs), each, times)


def decoding_pairs(sample: Sample) -> list[Pair]:
    """Return all pairs, in the order of the table."""
    return [
        _caches(sample),
        _memory_once(sample),
        _last_position(sample),
        _batches(sample),
        _leaving(sample),
        _stopping(sample),
        _best_word(sample),
        _top_words(sample),
    ]


@torch.inference_mode()
def _inputs(model: CTSM, batch: Batch, singles: list[Batch]) -> Inputs:
    context = model.encode(batch)
    state = model.decode(batch.target[:, :-1], context, model.start_decoding(context))
    return Inputs(batch, context, batch.target, *state, singles)


def _caches(sample: Sample) -> Pair:
    model = sample.model

    def fast(inputs: Inputs) -> list[Tensor]:
        cache = model.start_decoding(inputs.context)
        return _said(inputs, lambda said: model.decode(said[:, -1:], inputs.context, cache))

    def slow(inputs: Inputs) -> list[Tensor]:
        start = model.start_decoding(inputs.context)

        def step(said: Tensor) -> DecoderStep:
            cache = DecoderCache(start.memory_bias, [LayerCache(layer.memory) for layer in start.layers])
            return model.decode(said, inputs.context, cache)

        return _said(inputs, step)

    name = "keys, values and convolution inputs of a reply cached"
    return sample.pair(name, "the whole prefix at each step", fast, slow)


def _memory_once(sample: Sample) -> Pair:
    model = sample.model

    def fast(inputs: Inputs) -> list[Tensor]:
        cache = model.start_decoding(inputs.context)
        return _said(inputs, lambda said: model.decode(said[:, -1:], inputs.context, cache))

    def slow(inputs: Inputs) -> list[Tensor]:
        cache = model.start_decoding(inputs.context)

        def step(said: Tensor) -> DecoderStep:
            for layer, again in zip(cache.layers, model.start_decoding(inputs.context).layers, strict=True):
                layer.memory = again.memory
            return model.decode(said[:, -1:], inputs.context, cache)

        return _said(inputs, step)

    return sample.pair("cross-attention keys and values computed once", "at each step", fast, slow)


def _said(inputs: Inputs, step: Callable[[Tensor], DecoderStep]) -> list[Tensor]:
    """Say the gold replies word by word; returns the states [B, T, D] and copy scores [B, T, S] of all steps."""
    states = [step(inputs.words[:, :length]) for length in range(inputs.words.shape[1])]
    hidden = torch.stack([state.hidden[:, -1] for state in states], dim=1)
    return [hidden, torch.stack([state.copy_scores[:, -1] for state in states], dim=1)]


def _last_position(sample: Sample) -> Pair:
    generator = sample.model.generator

    def words(inputs: Inputs, first: Callable[[int], int]) -> list[Tensor]:
        """Choose the word after each prefix, projecting its positions from `first(length)` on."""
        found = []
        rows = torch.arange(len(inputs.words[:FEW]), device=inputs.words.device)
        for length in range(1, inputs.words.shape[1] + 1):
            part = slice(first(length), length)
            hidden, copy_scores = inputs.hidden[:FEW, part], inputs.copy_scores[:FEW, part]
            source = inputs.context.source.rows(rows.repeat_interleave(hidden.shape[1]))
            best = generator.best_word(hidden.flatten(0, 1), copy_scores.flatten(0, 1), source, sample.banned)
            found.append([value.view(len(rows), -1)[:, -1] for value in best])
        return [torch.stack(values, dim=1) for values in zip(*found, strict=True)]

    return sample.pair(
        "last position projected only",
        "every position of the prefix",
        lambda inputs: words(inputs, lambda length: length - 1),
        lambda inputs: words(inputs, lambda _length: 0),
        each=f"{FEW} replies",
    )


def _batches(sample: Sample) -> Pair:
    model = sample.model

    def fast(inputs: Inputs) -> list[Tensor]:
        return _tensors(greedy(model, model.encode(inputs.batch)))

    def slow(inputs: Inputs) -> list[Tensor]:
        return _tensors([greedy(model, model.encode(single))[0] for single in inputs.singles])

    return sample.pair(f"batches of {len(sample.inputs[0].batch)}", "one context at a time", fast, slow)


def _leaving(sample: Sample) -> Pair:
    def fast(inputs: Inputs) -> list[Tensor]:
        return _tensors(greedy(sample.model, inputs.context))

    def slow(inputs: Inputs) -> list[Tensor]:
        return _tensors(_staying(sample, inputs.context, stop=True))

    return sample.pair("finished replies leave the batch", "they stay until the last one has ended", fast, slow)


def _stopping(sample: Sample) -> Pair:
    model = sample.model

    def fast(inputs: Inputs) -> list[Tensor]:
        return _tensors([greedy(model, model.encode(single))[0] for single in inputs.singles[:FEW]])

    def slow(inputs: Inputs) -> list[Tensor]:
        replies = [_staying(sample, model.encode(single), stop=False)[0] for single in inputs.singles[:FEW]]
        return _tensors(replies)

    count = len(sample.inputs[0].singles[:FEW])
    return sample.pair("stop at EOS, one context at a time", f"always {MAX_TOKENS} steps", fast, slow, "a reply", count)


def _staying(sample: Sample, context: Context, stop: bool) -> list[list[int]]:
    """Greedy decoding that no reply leaves: `stop` when all have ended, or take all steps."""
    model = sample.model
    cache = model.start_decoding(context)
    said_BT = context.source.ids[:, :0]
    for _ in range(MAX_TOKENS):
        state = model.decode(said_BT[:, -1:], context, cache)
        last = (state.hidden[:, -1], state.copy_scores[:, -1])
        words_B, _log_probability = model.generator.best_word(*last, context.source, sample.banned)
        said_BT = torch.cat([said_BT, words_B[:, None]], dim=1)
        if stop and bool((said_BT == EOS).any(dim=1).all()):
            break
    return [row[: row.index(EOS)] if EOS in row else row for row in said_BT.tolist()]


def _tensors(replies: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(reply, dtype=torch.long) for reply in replies]


def _best_word(sample: Sample) -> Pair:
    def slow(hidden_BD: Tensor, copy_scores_BS: Tensor, source: CopySource) -> list[Tensor]:
        value_B1, word_B1 = top_k(_mixture(sample, hidden_BD, copy_scores_BS, source), 1)
        return [word_B1.squeeze(1), value_B1.squeeze(1)]

    name = "arg-max without building the mixture"
    return _of_steps(sample, name, "a dense mixture `[N, V]`", _words_of(sample), slow)


def _top_words(sample: Sample) -> Pair:
    def fast(hidden_BD: Tensor, copy_scores_BS: Tensor, source: CopySource) -> list[Tensor]:
        return list(sample.model.generator.top_words(hidden_BD, copy_scores_BS, source, sample.banned, BEST))

    def slow(hidden_BD: Tensor, copy_scores_BS: Tensor, source: CopySource) -> list[Tensor]:
        value_BK, word_BK = top_k(_mixture(sample, hidden_BD, copy_scores_BS, source), BEST)
        return [word_BK, value_BK]

    name = f"the {BEST} best words without building the mixture"
    return _of_steps(sample, name, "a dense mixture `[N, V]`", fast, slow)


def _words_of(sample: Sample) -> Choose:
    def best_word(hidden_BD: Tensor, copy_scores_BS: Tensor, source: CopySource) -> list[Tensor]:
        return list(sample.model.generator.best_word(hidden_BD, copy_scores_BS, source, sample.banned))

    return best_word


def _mixture(sample: Sample, hidden_BD: Tensor, copy_scores_BS: Tensor, source: CopySource) -> Tensor:
    size = max(sample.model.vocabulary_size, int(source.ids.max()) + 1)
    log_BV = sample.model.generator.distribution(hidden_BD, copy_scores_BS, source, size)
    return log_BV.index_fill_(1, sample.banned, float("-inf"))


def _of_steps(sample: Sample, technique: str, replaces: str, fast: Choose, slow: Choose) -> Pair:
    """Build a pair of output layers, which get the states of all replies of a batch at one step."""
    steps = min(STEPS, *(inputs.words.shape[1] for inputs in sample.inputs))

    def at_each(side: Choose) -> Callable[[Inputs], list[Tensor]]:
        def run(inputs: Inputs) -> list[Tensor]:
            states = [(inputs.hidden[:, step], inputs.copy_scores[:, step]) for step in range(steps)]
            return [tensor for state in states for tensor in side(*state, inputs.context.source)]

        return run

    each = f"a step of {len(sample.inputs[0].batch)} replies"
    return sample.pair(technique, replaces, at_each(fast), at_each(slow), each, steps)
