"""Greedy decoding: the most probable word at each step."""

from __future__ import annotations

import torch
from torch import Tensor

from ctsm.decoding.next_words import NEVER_SAID, NextWords
from ctsm.decoding.options import MAX_TOKENS, DecodingOptions
from ctsm.decoding.single import Choose, Hypothesis, follow
from ctsm.models.base import Context, DecoderStep, EmpatheticModel
from ctsm.nn.pointer import CopySource

__all__ = ["MAX_TOKENS", "NEVER_SAID", "greedy", "greedy_search"]


def greedy(model: EmpatheticModel, context: Context, max_tokens: int = MAX_TOKENS) -> list[list[int]]:
    """Return each reply's extended word ids, without EOS, at most `max_tokens` of them.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        max_tokens: steps at most; a reply that has not ended by then is cut.
    """
    return [reply.words for reply in greedy_search(model, context, DecodingOptions(max_tokens=max_tokens))]


@torch.inference_mode()
def greedy_search(model: EmpatheticModel, context: Context, options: DecodingOptions) -> list[Hypothesis]:
    """Say the word with the highest score at each step: the most probable one, or what the rules leave of it.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        options: the length limit and the rules against repetition.
    """
    return follow(model, context, options.max_tokens, greedy_choice(model, context, options))


def greedy_choice(model: EmpatheticModel, context: Context, options: DecodingOptions) -> Choose:
    """Return what chooses the word with the highest score; arguments as for `greedy_search`."""
    next_words = NextWords.of(model, options, context.memory.device)

    def choose(state: DecoderStep, source: CopySource, said_NT: Tensor, _rows: Tensor) -> tuple[Tensor, Tensor]:
        if options.controls_repetition:
            candidates = next_words.best(state, source, said_NT, 1)
            return candidates.ids[:, 0], candidates.log_probability[:, 0]
        return model.generator.best_word(state.hidden[:, -1], state.copy_scores[:, -1], source, next_words.banned)

    return choose
