"""One optimiser step: what training takes and its benchmark times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.models.base import EmpatheticModel
from ctsm.nn.precision import bf16_products
from ctsm.training.device import loss_function
from ctsm.training.graphs import CudaRecorder, RecordedStep
from ctsm.training.schedule import noam_rate

ADAM = {"betas": (0.9, 0.98), "eps": 1e-9}


def adam(model: EmpatheticModel) -> torch.optim.Adam:
    """Return the family's Adam; on a GPU, its rate and step counts are there too, where a recorded step reads them."""
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    rate = torch.zeros((), device=device) if on_gpu else 0.0
    return torch.optim.Adam(model.parameters(), lr=rate, fused=True, capturable=on_gpu, **ADAM)  # type: ignore[arg-type]


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Let this thread, and the threads that PyTorch starts from it, take numbers nearer to 0 than 1.2e-38 for 0.

    Adam's means shrink at every step that a word does not occur in, to such denormal numbers, which rounding keeps from
    ever becoming 0 and which processors compute with many times slower: late in a run Adam takes twice as long and
    more. What is lost hardly ever changes how a parameter is rounded. Threads that PyTorch has started before stay as
    they are. Nothing happens on processors without this mode.
    """
    before = bool(torch.full((), 1e-40).mul(1.0) == 0.0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class Stepper:
    """Takes optimiser steps without waiting for the device.

    Args:
        model: in training mode, on its device.
        optimizer: from `adam`.
        config: schedule and precision.
        record: whether steps on a GPU may be recorded and replayed (`training.graphs`); a compiled loss records itself.
    """

    def __init__(
        self, model: EmpatheticModel, optimizer: torch.optim.Optimizer, config: RunConfig, record: bool = True
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._loss = loss_function(model, config.training)
        self._step = self._take
        device = next(model.parameters()).device
        if record and device.type == "cuda" and not config.training.compile:
            self._step = RecordedStep(self._take, lambda: model.phase, CudaRecorder(device))

    def __call__(self, batch: Batch, iteration: int) -> dict[str, Tensor]:
        """Take one step and return the loss terms, which the next step may overwrite.

        Args:
            batch: on the model's device.
            iteration: number of this step, from 1.
        """
        training = self._config.training
        self._model.step = iteration
        rate = noam_rate(iteration, self._config.options.size, training.warmup, training.rate_factor)
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return self._step(batch)

    def _take(self, batch: Batch) -> dict[str, Tensor]:
        self._optimizer.zero_grad()  # first: a CUDA graph's memory is free for the next step once nothing refers to it
        with bf16_products(self._config.training.precision == "bf16"):
            losses = self._loss(batch)
        losses.total.backward()
        self._optimizer.step()
        return {"loss": losses.total.detach(), **{name: term.detach() for name, term in losses.terms.items()}}
