"""Decoding that follows one path for each reply: greedy decoding and sampling differ only in how they choose a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ctsm.models.base import Context, DecoderStep, EmpatheticModel
from ctsm.nn.pointer import CopySource
from ctsm.text.vocabulary import EOS

Choose = Callable[[DecoderStep, CopySource, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(states of N unfinished replies, their sources, their words so far [N, T], their rows in the batch [N]) to the next
words [N] and the model's log-probabilities of these [N]."""


@dataclass(frozen=True)
class Hypothesis:
    """One reply.

    Attributes:
        words: extended word ids, without EOS.
        log_probability: sum of the model's log-probabilities of the words and, unless the reply was cut at the
            length limit, of EOS. Temperature, filters and rules against repetition do not change it.
    """

    words: list[int]
    log_probability: float


def follow(model: EmpatheticModel, context: Context, max_tokens: int, choose: Choose) -> list[Hypothesis]:
    """Return a reply to each context: `choose` a word at each step until EOS or `max_tokens` words.

    Each step computes one position from the caches, and finished replies leave the batch.
    """
    cache = model.start_decoding(context)
    source = context.source
    device = context.memory.device
    count = context.memory.shape[0]
    replies = torch.full((count, max_tokens), EOS, device=device)
    totals = torch.zeros(count, dtype=torch.float64, device=device)
    # Of the unfinished replies: their rows in the batch, words and log-probabilities so far.
    rows, said, total = torch.arange(count, device=device), replies[:, :0], totals
    for length in range(1, max_tokens + 1):
        words, log_probability = choose(model.decode(said[:, -1:], context, cache), source, said, rows)
        said = torch.cat([said, words[:, None]], dim=1)
        total = total + log_probability
        going = (words != EOS).nonzero().squeeze(1)
        left = 0 if length == max_tokens else going.numel()
        if left < rows.numel():
            replies[rows, :length], totals[rows] = said, total
            if not left:
                break
            rows, said, total = rows[going], said[going], total[going]
            cache, source = cache.select(going), source.rows(going)
    return hypotheses(replies, totals)


def hypotheses(replies_NT: Tensor, log_probability_N: Tensor) -> list[Hypothesis]:
    """Cut each row of words at its first EOS."""
    rows = zip(replies_NT.tolist(), log_probability_N.tolist(), strict=True)
    return [Hypothesis(row[: row.index(EOS)] if EOS in row else row, total) for row, total in rows]
