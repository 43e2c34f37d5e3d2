"""The vocabulary projection while replying: most of what a word costs.

In training and scoring it is a linear map like any other. `OutputLayer.log_probabilities` is for decoding, which has
one position for each unfinished reply: where these are few it takes the routine that reads the matrix faster on this
processor, and inside `with bf16_words():` it reads it in bf16. That finds candidates; the CANDIDATES best of each row
are scored again in fp32, because bf16 keeps eight bits, too few to tell the better of two similar words.

Axes: N unfinished replies, D hidden, V vocabulary, C candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ctsm.nn.precision import Linear
from ctsm.nn.top_k import top_k

FEW = 8
"""Rows up to which the time goes into reading the matrix, and two routines differ in how fast they do."""
TRIALS = 3
CANDIDATES = 16

_bf16: ContextVar[bool] = ContextVar("bf16_words", default=False)


@contextmanager
def bf16_words(enabled: bool = True) -> Iterator[None]:
    """Let output layers read their matrix in bf16 in this context."""
    token = _bf16.set(enabled)
    try:
        yield
    finally:
        _bf16.reset(token)


class OutputLayer(Linear):
    """A linear map from decoder states to the scores of all V words."""

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__(size, vocabulary_size)
        self._converted: tuple[Tensor, int, Tensor] | None = None
        self._matrix_first: dict[int, bool] = {}

    def log_probabilities(self, hidden_ND: Tensor) -> Tensor:
        """Return the log-softmax of the scores [N, V] in a tensor of its own, which may be written to."""
        scores_NV = self._screened(hidden_ND) if _bf16.get() else self._scores(hidden_ND)
        return F.log_softmax(scores_NV, dim=-1)

    def _scores(self, hidden_ND: Tensor) -> Tensor:
        """Return the scores [N, V]; of few rows by the routine that was faster when their number was first met.

        Which one that is differs between processors, by a factor of two either way; and they round differently, so a
        model in training mode, whose runs can be repeated exactly, uses neither.
        """
        rows = len(hidden_ND)
        if self.training or rows > FEW or hidden_ND.device.type != "cpu":
            scores: Tensor = self(hidden_ND)
            return scores
        if rows not in self._matrix_first:
            seconds = [_least_seconds(routine, hidden_ND) for routine in (self._multiply_matrix, self._multiply_hidden)]
            self._matrix_first[rows] = seconds[0] < seconds[1]
        return self._multiply_matrix(hidden_ND) if self._matrix_first[rows] else self._multiply_hidden(hidden_ND)

    def _multiply_hidden(self, hidden_ND: Tensor) -> Tensor:
        return F.linear(hidden_ND, self.weight, self.bias)

    def _multiply_matrix(self, hidden_ND: Tensor) -> Tensor:
        rows = len(hidden_ND)
        columns_DN = hidden_ND.expand(max(rows, 2), -1).T  # with one column it would be the routine of `F.linear`
        return (self.weight @ columns_DN)[:, :rows].T + self.bias

    def _screened(self, hidden_ND: Tensor) -> Tensor:
        """Scores from products in bf16, those of the best candidates from products in the full precision."""
        scores_NV = F.linear(hidden_ND.to(torch.bfloat16), self._weight_in_bf16()).to(hidden_ND.dtype) + self.bias
        _, words_NC = top_k(scores_NV, min(CANDIDATES, scores_NV.shape[1]))
        exact_NC = torch.einsum("ncd,nd->nc", self.weight[words_NC], hidden_ND) + self.bias[words_NC]
        return scores_NV.scatter_(1, words_NC, exact_NC)

    def _weight_in_bf16(self) -> Tensor:
        """Return the matrix in bf16, converted anew only after it was changed."""
        weight = self.weight.detach()
        version = 0 if weight.is_inference() else weight._version
        if self._converted is not None:
            source, source_version, converted = self._converted
            if source.data_ptr() == weight.data_ptr() and source_version == version:
                return converted
        converted = weight.to(torch.bfloat16)
        self._converted = (weight, version, converted)
        return converted


def _least_seconds(routine: Callable[[Tensor], Tensor], hidden_ND: Tensor) -> float:
    seconds = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        routine(hidden_ND)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
