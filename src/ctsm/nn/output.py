"""The vocabulary projection while replying: most of what a word costs.

In training and scoring it is a linear map like any other. `OutputLayer.log_probabilities` is for decoding, which has
one position for each unfinished reply: where these are few it takes the routine that reads the matrix faster on this
processor.

Axes: N unfinished replies, D hidden, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from ctsm.nn.precision import Linear

FEW = 8
"""Rows up to which the time goes into reading the matrix, and two routines differ in how fast they do."""
TRIALS = 3


class OutputLayer(Linear):
    """A linear map from decoder states to the scores of all V words."""

    def __init__(self, size: int, vocabulary_size: int) -> None:
        super().__init__(size, vocabulary_size)
        self._matrix_first: dict[int, bool] = {}

    def log_probabilities(self, hidden_ND: Tensor) -> Tensor:
        """Return the log-softmax of the scores [N, V] in a tensor of its own, which may be written to."""
        return F.log_softmax(self._scores(hidden_ND), dim=-1)

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


def _least_seconds(routine: Callable[[Tensor], Tensor], hidden_ND: Tensor) -> float:
    seconds = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        routine(hidden_ND)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
