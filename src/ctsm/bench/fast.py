"""The fast path, driven as training drives it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.models.base import EmpatheticModel
from ctsm.training.device import loss_function
from ctsm.training.loop import ADAM, take_step

Precision = Literal["fp32", "bf16"]


class FastTrainer:
    """One optimiser step at a time, without checkpoints, logs and evaluations.

    Args:
        model: in training mode.
        config: schedule, sizes and whether to compile.
        done: steps that count as taken before: a model with phases is in the one that comes after them.
    """

    def __init__(self, model: EmpatheticModel, config: RunConfig, done: int = 0) -> None:
        self.model = model
        self.iteration = done
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True, **ADAM)  # type: ignore[arg-type]
        self._configs: dict[Precision, RunConfig] = {
            "fp32": replace(config, training=replace(config.training, precision="fp32")),
            "bf16": replace(config, training=replace(config.training, precision="bf16")),
        }
        self._loss = loss_function(model, config.training)

    def step(self, batch: Batch, precision: Precision) -> dict[str, Tensor]:
        """Take one step; returns the losses without waiting for the device."""
        self.iteration += 1
        return take_step(self.model, self.optimizer, self._loss, batch, self._configs[precision], self.iteration)
