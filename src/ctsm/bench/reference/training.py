"""Training of the plain path: random batches, an unfused optimiser, losses read on the host at every step."""

from __future__ import annotations

import numpy as np
import torch

from ctsm.bench.reference.base import PlainModel
from ctsm.config import TrainingOptions
from ctsm.corpus.batches import Batch, IntArray
from ctsm.training.schedule import noam_rate


def random_batches(count: int, batch_size: int, seed: int) -> list[IntArray]:
    """Cut one random order of all examples into batches, whatever their lengths."""
    order = np.random.default_rng(seed).permutation(count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


class PlainTrainer:
    """Adam with the Noam schedule, written as the published loops are.

    Args:
        model: a model of the plain path, in training mode.
        size: width that the schedule depends on.
        training: warm-up and factor of the schedule.
    """

    def __init__(self, model: PlainModel, size: int, training: TrainingOptions) -> None:
        self.model = model
        self.iteration = 0
        self._size = size
        self._training = training
        self._optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.98), eps=1e-9, foreach=False)

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one step and return its losses."""
        self.iteration += 1
        self._optimizer.zero_grad()
        total, terms = self.model.loss(batch)
        total.backward()
        rate = noam_rate(self.iteration, self._size, self._training.warmup, self._training.rate_factor)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return {"loss": total.item(), **{name: term.item() for name, term in terms.items()}}
