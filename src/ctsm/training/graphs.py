"""Steps recorded as CUDA graphs: at batch 16 a GPU computes a step faster than Python can ask for its 2,000 kernels.

A recording repeats the same kernels on the same addresses, so there is one for each combination of shapes, and for each
phase of a model's schedule. What changes from step to step (the batch, the learning rate, the random generator's place,
a schedule's numbers) is read from the device when it is replayed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor

from ctsm.corpus.batches import Batch
from ctsm.errors import CtsmError

Step = Callable[[Batch], dict[str, Tensor]]
"""Takes one optimiser step on a batch and returns the loss terms, scalars on the device."""

MOST = 256
"""Recordings of a phase at most; steps of further shapes run as they are."""


class Recorder(Protocol):
    """Records a step on a device."""

    def warm_up(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        """Take the step as it is, so that all it creates once is there before it is recorded."""

    def record(self, step: Step, batch: Batch) -> Step:
        """Record the step without taking it; returns what takes it on batches of the same shapes."""


class RecordedStep:
    """A step that is recorded when a combination of shapes is met for the first time, and replayed from then on.

    Args:
        step: what to record; the same kernels for the same shapes and phase, without waiting for the device.
        phase: what else decides which kernels a step has; None where it cannot be recorded.
        recorder: of the device.
    """

    def __init__(self, step: Step, phase: Callable[[], Hashable | None], recorder: Recorder) -> None:
        self._step, self._phase, self._recorder = step, phase, recorder
        self._recordings: dict[Hashable, dict[Hashable, Step]] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Take the step; the next one overwrites the terms returned."""
        phase = self._phase()
        if phase is None:
            return self._step(batch)
        recordings = self._recordings.setdefault(phase, {})
        shapes = tuple((name, tensor.shape) for name, tensor in tensors_of(batch).items())
        if shapes in recordings:
            return recordings[shapes](batch)
        terms = self._recorder.warm_up(self._step, batch)
        if len(recordings) < MOST:
            recordings[shapes] = self._recorder.record(self._step, batch)
        return terms


class CudaRecorder:
    """Records CUDA graphs that share their memory: only one runs at a time, and its terms are read before the next.

    Args:
        device: that the step computes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        """Take the step on the stream that records, where libraries then have their workspaces."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            terms = step(batch)
        current.wait_stream(self._stream)
        return terms

    def record(self, step: Step, batch: Batch) -> Step:
        """Record the step on a copy of the batch, which replaying fills anew.

        Raises:
            CtsmError: the step waits for the device.
        """
        inputs = {name: tensor.clone() for name, tensor in tensors_of(batch).items()}
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(self._device),
                _nothing_collected(),
                torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
            ):
                terms = step(Batch(**inputs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise CtsmError(
                f"a training step of this model cannot be recorded as a CUDA graph ({reason}); let its `loss` not wait "
                "for the device, or its `phase` return None."
            ) from error

        def replay(batch: Batch) -> dict[str, Tensor]:
            torch._foreach_copy_(list(inputs.values()), list(tensors_of(batch).values()))
            with torch.cuda.device(self._device):
                graph.replay()
            return terms

        return replay


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Collect garbage before a recording and not during it: a graph of an earlier run that is freed then spoils it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tensors_of(batch: Batch) -> dict[str, Any]:
    """Return the fields of a batch that there are, in their order."""
    found = {part.name: getattr(batch, part.name) for part in fields(batch)}
    return {name: tensor for name, tensor in found.items() if tensor is not None}
