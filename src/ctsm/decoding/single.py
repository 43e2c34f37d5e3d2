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


class Paths:
    """Replies to a batch of contexts that grow by one word a step.

    Each step computes one position from the caches. Replies leave the batch with `keep`.

    Args:
        model: in evaluation mode.
        context: from `model.encode`.
        choose: finds the next words.

    Attributes:
        rows: places in the batch of the replies that still grow [N].
        said: their extended word ids so far, EOS included [N, T].
        total: the sums of the model's log-probabilities of these words [N].
    """

    def __init__(self, model: EmpatheticModel, context: Context, choose: Choose) -> None:
        device = context.memory.device
        self._model, self._context, self._choose = model, context, choose
        self._cache = model.start_decoding(context)
        self._source = context.source
        self.rows = torch.arange(len(context.memory), device=device)
        self.said = torch.empty((len(self.rows), 0), dtype=torch.long, device=device)
        self.total = torch.zeros(len(self.rows), dtype=torch.float64, device=device)

    def step(self) -> Tensor:
        """Add one word to each reply and return these words [N]."""
        state = self._model.decode(self.said[:, -1:], self._context, self._cache)
        words, log_probability = self._choose(state, self._source, self.said, self.rows)
        self.said = torch.cat([self.said, words[:, None]], dim=1)
        self.total = self.total + log_probability
        return words

    def keep(self, going: Tensor) -> None:
        """Let only these replies go on (indices into `rows`)."""
        self.rows, self.said, self.total = self.rows[going], self.said[going], self.total[going]
        self._cache, self._source = self._cache.select(going), self._source.rows(going)


def follow(model: EmpatheticModel, context: Context, max_tokens: int, choose: Choose) -> list[Hypothesis]:
    """Return a reply to each context: `choose` a word at each step until EOS or `max_tokens` words."""
    paths = Paths(model, context, choose)
    replies = torch.full((len(paths.rows), max_tokens), EOS, device=paths.rows.device)
    totals = torch.zeros_like(paths.total)
    for length in range(1, max_tokens + 1):
        going = (paths.step() != EOS).nonzero().squeeze(1)
        left = 0 if length == max_tokens else going.numel()
        if left < paths.rows.numel():
            replies[paths.rows, :length], totals[paths.rows] = paths.said, paths.total
            if not left:
                break
            paths.keep(going)
    return hypotheses(replies, totals)


def hypotheses(replies_NT: Tensor, log_probability_N: Tensor) -> list[Hypothesis]:
    """Cut each row of words at its first EOS."""
    rows = zip(replies_NT.tolist(), log_probability_N.tolist(), strict=True)
    return [Hypothesis(row[: row.index(EOS)] if EOS in row else row, total) for row, total in rows]
