"""What a training step runs on: where its batches are made, and whether its loss is compiled.

On the CPU, batches are made by numpy, as narrow as they can be. On a GPU, and where the loss is compiled, they are
gathered on the device in few shapes (`corpus.resident`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ctsm.config import TrainingOptions
from ctsm.corpus.batches import Batch, Examples
from ctsm.corpus.resident import ResidentExamples
from ctsm.errors import CtsmError
from ctsm.models.base import EmpatheticModel, Losses

SHAPES = 128
"""Shapes, times phases of a model's schedule, that are compiled at most; steps of further ones run uncompiled."""


def training_examples(examples: Examples, training: TrainingOptions, device: str) -> Examples | ResidentExamples:
    """Return what makes the batches of a split."""
    if training.compile or torch.device(device).type != "cpu":
        return ResidentExamples(examples, device)
    return examples


def loss_function(model: EmpatheticModel, training: TrainingOptions) -> Callable[[Batch], Losses]:
    """Return `model.loss`, compiled if `training.compile` says so, for the device that the model is on.

    It is compiled anew for each shape of full batches; the short batch at an epoch's end is not worth it. On a GPU a
    step's losses are overwritten by the next step.

    Raises:
        CtsmError: by the function, when PyTorch cannot compile it.
    """
    if not training.compile:
        return lambda batch: model.loss(batch)  # looked up at each call: a benchmark puts timers around it
    graphs = next(model.parameters()).is_cuda

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses = model.loss(batch)
        return losses.total, losses.terms

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    compiled = torch.compile(loss, dynamic=False, mode="reduce-overhead" if graphs else None)

    def run(batch: Batch) -> Losses:
        if len(batch) < training.batch_size:
            return model.loss(batch)
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return Losses(*compiled(batch))
        except torch._dynamo.exc.ShortenTraceback as error:  # what all failures of its compilers have in common
            raise CtsmError(_cannot_compile(error)) from error

    return run


def _cannot_compile(error: Exception) -> str:
    """Say in one sentence why the first compiled step failed; the first line of PyTorch's reason is enough."""
    cause = getattr(error, "inner_exception", error)
    reason = f"{type(cause).__name__}: {cause}".partition("\n")[0].rstrip(".")
    return (
        f"training.compile is true, but PyTorch cannot compile the loss here ({reason}); install a C++ compiler (and "
        "Triton for a GPU) and resume, or start another run with training.compile set to false."
    )
