"""Where the time of a training step goes: timers around parts of the fast model, each without what it calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

from ctsm.bench.fast import FastTrainer
from ctsm.bench.machine import synchronise

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

    def __init__(self, device: str) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
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
