"""The fast path, driven as training drives it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.models.base import EmpatheticModel
from ctsm.training.step import Stepper, adam

Precision = Literal["fp32", "bf16"]


class FastTrainer:
    """One optimiser step at a time, without checkpoints, logs and evaluations.

    Args:
        model: in training mode.
        config: schedule, sizes and whether to compile.
        done: steps that count as taken before: a model with phases is in the one that comes after them.
        optimizer: one that has taken steps already; None for a new one.
        record: whether steps on a GPU may be recorded.
    """

    def __init__(
        self,
        model: EmpatheticModel,
        config: RunConfig,
        done: int = 0,
        optimizer: torch.optim.Optimizer | None = None,
        record: bool = True,
    ) -> None:
        self.model = model
        self.iteration = done
        self.optimizer = optimizer or adam(model)
        precisions: tuple[Precision, ...] = ("fp32", "bf16")
        self._steppers: dict[Precision, Stepper] = {
            precision: Stepper(
                model, self.optimizer, replace(config, training=replace(config.training, precision=precision)), record
            )
            for precision in precisions
        }

    def step(self, batch: Batch, precision: Precision) -> dict[str, Tensor]:
        """Take one step; returns the losses without waiting for the device."""
        self.iteration += 1
        return self._steppers[precision](batch, self.iteration)
