"""The fast path, driven as training drives it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.models.base import EmpatheticModel
from ctsm.nn.precision import bf16_products
from ctsm.training.device import loss_function
from ctsm.training.loop import ADAM
from ctsm.training.schedule import noam_rate

Precision = Literal["fp32", "bf16"]


class FastTrainer:
    """One optimiser step at a time, without checkpoints, logs and evaluations.

    Args:
        model: in training mode.
        config: schedule, sizes and whether to compile.
    """

    def __init__(self, model: EmpatheticModel, config: RunConfig) -> None:
        self.model = model
        self.iteration = 0
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True, **ADAM)  # type: ignore[arg-type]
        self._config = config
        self._loss = loss_function(model, config.training)

    def step(self, batch: Batch, precision: Precision) -> dict[str, Tensor]:
        """Take one step; returns the losses without waiting for the device."""
        self.iteration += 1
        training = self._config.training
        rate = noam_rate(self.iteration, self._config.options.size, training.warmup, training.rate_factor)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        with bf16_products(precision == "bf16"):
            losses = self._loss(batch)
        losses.total.backward()
        self.optimizer.step()
        return {"loss": losses.total.detach(), **{name: term.detach() for name, term in losses.terms.items()}}
