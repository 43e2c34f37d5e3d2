"""Where the time of a training step goes: timers around parts of the fast model, each without what it calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from inspect import isfunction
from operator import attrgetter
from typing import Any

from torch import nn

from ctsm.bench.fast import FastTrainer, Precision
from ctsm.bench.machine import synchronise
from ctsm.config import RunConfig
from ctsm.corpus.batches import Examples, IntArray
from ctsm.corpus.resident import ResidentExamples

COLLATE, BACKWARD, OPTIMISER, OTHER = "collate", "backward", "optimiser", "forward, other"

PARTS = {
    "embedding look-up": ("_look_up",),
    "encoders": (
        *("context_encoder", "cognitive_encoder", "affective_encoder"),
        *("trait_encoder", "state_encoder", "reply_encoder"),
    ),
    "refiners": (
        *("student_fusion.cognitive", "student_fusion.affective"),
        *("teacher_fusion.cognitive", "teacher_fusion.affective"),
    ),
    "fusion MLP": ("student_fusion.mlp", "teacher_fusion.mlp"),
    "emotion heads": ("student_head", "teacher_head"),
    "decoder": ("decoder", "decoder.start"),
    "vocabulary and mixture": ("_generation",),
    "contrastive loss": ("_contrast",),
}
"""Stages of the forward pass: modules or methods of CTSM. What is left of the forward pass is OTHER."""

STAGES = (COLLATE, *PARTS, OTHER, BACKWARD, OPTIMISER)


class StageTimer:
    """Adds up seconds by stage; a stage that begins inside another one stops the other's clock until it ends."""

    def __init__(self, device: str, stages: Iterable[str] = STAGES) -> None:
        self.seconds = dict.fromkeys(stages, 0.0)
        self._device = device
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of a block to a stage."""
        self._count()
        self._running.append(name)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def _count(self) -> None:
        synchronise(self._device)
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def uncompiled(trainer: FastTrainer, config: RunConfig) -> FastTrainer:
    """Return a trainer that goes on where another one is, but whose steps have stages.

    A compiled or recorded step has none.
    """
    plain_config = replace(config, training=replace(config.training, compile=False))
    return FastTrainer(trainer.model, plain_config, trainer.iteration, trainer.optimizer, record=False)


def profiled(
    trainer: FastTrainer,
    config: RunConfig,
    examples: Examples | ResidentExamples,
    batches: Sequence[IntArray],
    precision: Precision,
    device: str,
) -> dict[str, float]:
    """Train any system on batches, uncompiled, and return the mean seconds of each stage of a step.

    The stages of the forward pass are the model's parts by their names, with everything that their public methods do.
    """
    trainer, model = uncompiled(trainer, config), trainer.model
    parts = {name: part for name, part in model.named_children() if name != "embedding"}
    timer = StageTimer(device, [COLLATE, *parts, OTHER, BACKWARD, OPTIMISER])
    with ExitStack() as stack:
        for stage, part in parts.items():
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                for name in _methods(module):
                    stack.enter_context(_timed(module, name, timer, stage))
        stack.enter_context(_timed(model, "loss", timer, OTHER))
        stack.enter_context(_timed(trainer.optimizer, "step", timer, OPTIMISER))
        seconds = timed_steps(trainer, timer, examples, batches, precision, device)
    return {stage: value for stage, value in seconds.items() if value}


def _methods(module: nn.Module) -> set[str]:
    """Return the names of the public methods that a class of ours defines, and `forward`."""
    ours = (kind for kind in type(module).__mro__ if kind.__module__.startswith("ctsm."))
    own = {name for kind in ours for name, value in vars(kind).items() if isfunction(value)}
    return {name for name in own if not name.startswith("_")} | {"forward"}


def timed_steps(
    trainer: FastTrainer,
    timer: StageTimer,
    examples: Examples | ResidentExamples,
    batches: Sequence[IntArray],
    precision: Precision,
    device: str,
) -> dict[str, float]:
    """Take a step on each batch and return the mean seconds of each of a new timer's stages."""
    for rows in batches:
        with timer.stage(COLLATE):
            batch = examples.batch(rows).to(device)
        with timer.stage(BACKWARD):
            trainer.step(batch, precision)
    return {stage: seconds / len(batches) for stage, seconds in timer.seconds.items()}


@contextmanager
def timed_parts(trainer: FastTrainer, timer: StageTimer) -> Iterator[None]:
    """Put timers around the parts of a trainer's model, and take them away at the end."""
    model = trainer.model
    with ExitStack() as stack:
        for stage, paths in PARTS.items():
            for path in paths:
                part = attrgetter(path)(model)
                owner, _, name = path.rpartition(".")
                if hasattr(part, "forward"):
                    stack.enter_context(_timed(part, "forward", timer, stage))
                else:
                    stack.enter_context(_timed(attrgetter(owner)(model) if owner else model, name, timer, stage))
        stack.enter_context(_timed(model, "loss", timer, OTHER))
        stack.enter_context(_timed(trainer.optimizer, "step", timer, OPTIMISER))
        yield


@contextmanager
def _timed(owner: Any, name: str, timer: StageTimer, stage: str) -> Iterator[None]:
    """Replace a method of one object by itself with a timer around."""
    original: Callable[..., Any] = getattr(owner, name)

    def run(*arguments: Any, **options: Any) -> Any:
        with timer.stage(stage):
            return original(*arguments, **options)

    setattr(owner, name, run)
    try:
        yield
    finally:
        delattr(owner, name)
