"""Checkpoints that survive a kill at any moment and are refused when damaged.

A checkpoint is a folder `checkpoints/step-00001000` with model.safetensors, optimizer.safetensors and state.json. It is
written under a temporary name, synced, hashed and renamed, so under its final name it is whole. The previous one is
removed only afterwards.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctsm.errors import CtsmError
from ctsm.files import atomic_directory, read_json, sha256_of, write_json
from ctsm.models.base import EmpatheticModel
from ctsm.models.bundle import distinct_tensors, load_weights

TENSOR_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass
class Progress:
    """Where a run stands; together with model and optimiser all that a resumed run needs.

    Attributes:
        iteration: optimiser steps done.
        best_score: best dev score so far (example-averaged perplexity), or None.
        best_iteration: when it was reached.
        stale_evaluations: evaluations since then.
        train_seconds: wall time spent in training steps and evaluations over all sessions.
        log_bytes: length of the log when the checkpoint was written; a resumed run cuts it there.
        finished: whether patience or the iteration limit ended the run.
        window: sums of the loss terms since the last log line, and the steps they are over.
    """

    iteration: int = 0
    best_score: float | None = None
    best_iteration: int = 0
    stale_evaluations: int = 0
    train_seconds: float = 0.0
    log_bytes: int = 0
    finished: bool = False
    window: list[float] = field(default_factory=list)
    window_steps: int = 0


def save_checkpoint(run: Path, model: EmpatheticModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the state after `progress.iteration` steps and remove older checkpoints."""
    folder = run / "checkpoints" / f"step-{progress.iteration:08d}"
    with atomic_directory(folder) as temporary:
        save_file(distinct_tensors(model), temporary / TENSOR_FILES[0])
        save_file(
            _optimizer_tensors(model, optimizer) | {"random_state": torch.get_rng_state()}, temporary / TENSOR_FILES[1]
        )
        hashes = {name: sha256_of(temporary / name) for name in TENSOR_FILES}
        write_json(temporary / "state.json", {"progress": asdict(progress), "sha256": hashes})
    for other in checkpoints(run):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders, the oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def load_checkpoint(run: Path, model: EmpatheticModel, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore the newest intact checkpoint into model, optimiser and the random generator.

    Raises:
        CtsmError: there is none, or every one is damaged (the message names the damage).
    """
    problem = f"{run}: has no checkpoint to resume from; start without --resume."
    for folder in reversed(checkpoints(run)):
        try:
            progress = _verified_progress(folder)
        except CtsmError as error:
            problem = str(error)
            continue
        load_weights(model, folder / TENSOR_FILES[0])
        _restore_optimizer(model, optimizer, _load_tensors(folder / TENSOR_FILES[1]))
        return progress
    raise CtsmError(problem)


def _verified_progress(folder: Path) -> Progress:
    """Check a checkpoint's hashes and return its progress."""
    state: dict[str, Any] = read_json(folder / "state.json", "the state of a checkpoint")
    for name in TENSOR_FILES:
        path = folder / name
        if not path.is_file() or sha256_of(path) != state["sha256"].get(name):
            raise CtsmError(f"{path}: damaged or truncated; remove {folder.name} and train again from the start.")
    return Progress(**state["progress"])


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CtsmError(f"{path}: cannot read the checkpoint ({error}); remove it and resume again.") from error
    return tensors


def _optimizer_tensors(model: EmpatheticModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name Adam's state by parameter."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}/{key}"] = value
    return tensors


def _restore_optimizer(model: EmpatheticModel, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors.pop("random_state"))
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        optimizer.state[parameters[parameter]][key] = value
