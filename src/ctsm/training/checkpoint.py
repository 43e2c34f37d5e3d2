"""Checkpoints that survive a kill at any moment and are refused when damaged.

A checkpoint is a folder `checkpoints/step-00001000` with model.safetensors, optimizer.safetensors, state.json and their
hashes in SHA256SUMS (the format of `sha256sum -c`). It is written under a temporary name, synced and renamed, so under
its final name it is whole. The one before it is kept in case the disk damages the newest; older ones are removed.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ctsm.errors import CtsmError
from ctsm.files import atomic_directory, read_json, remove_directory, sha256_of, write_json
from ctsm.models.base import EmpatheticModel
from ctsm.models.bundle import distinct_tensors, load_weights

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FILES = (MODEL, OPTIMIZER, STATE)
SUMS = "SHA256SUMS"


@dataclass
class Progress:
    """Where a run stands; together with model and optimiser all that a resumed run needs.

    Attributes:
        iteration: optimiser steps done.
        best_score: best dev score so far (example-averaged perplexity), or None.
        best_iteration: when it was reached.
        stale_evaluations: evaluations since then.
        train_seconds: wall time of steps, evaluations and saving over all sessions.
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
    """Write the state after `progress.iteration` steps; of the other checkpoints only the one before it stays."""
    folder = run / "checkpoints" / f"step-{progress.iteration:08d}"
    random_state = {"random_state": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        random_state["cuda_random_state"] = torch.cuda.get_rng_state()
    with atomic_directory(folder) as temporary:
        (temporary / MODEL).write_bytes(save(distinct_tensors(model)))
        (temporary / OPTIMIZER).write_bytes(save(_optimizer_tensors(model, optimizer) | random_state))
        write_json(temporary / STATE, asdict(progress))
        (temporary / SUMS).write_text("".join(_sum(temporary / name) for name in FILES), encoding="utf-8")
    earlier = [other for other in checkpoints(run) if other.name < folder.name]
    for other in checkpoints(run):
        if other.name != folder.name and other not in earlier[-1:]:
            remove_directory(other)


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders, the oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def load_checkpoint(
    run: Path, model: EmpatheticModel, optimizer: torch.optim.Optimizer
) -> tuple[Progress, list[CtsmError]]:
    """Restore the newest intact checkpoint into model, optimiser and the random generator.

    Returns:
        Where the run stands, and what is wrong with newer checkpoints that were passed over.

    Raises:
        CtsmError: there is none, or every one is damaged (the message names the damage of the newest).
    """
    damages: list[CtsmError] = []
    for folder in reversed(checkpoints(run)):
        try:
            _verify(folder)
            progress = _read_progress(folder / STATE)
            load_weights(model, folder / MODEL)
            _restore_optimizer(model, optimizer, _load_tensors(folder / OPTIMIZER))
        except CtsmError as error:
            damages.append(error)
        else:
            return progress, damages
    raise damages[0] if damages else CtsmError(f"{run}: has no checkpoint to resume from; start without --resume.")


def _verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its hash."""
    try:
        stored = (folder / SUMS).read_bytes()
        sums = [_sum(folder / name).encode() for name in FILES]
    except OSError as error:
        raise CtsmError(f"{folder}: cannot read the checkpoint ({error}); start again in another folder.") from None
    if stored != b"".join(sums):
        damaged = [name for name, line in zip(FILES, sums, strict=True) if line not in stored] or [SUMS]
        raise CtsmError(
            f"{folder / damaged[0]}: damaged or truncated ({SUMS} does not fit); start again in another folder."
        )


def _sum(path: Path) -> str:
    """Return a file's line in SHA256SUMS."""
    return f"{sha256_of(path)}  {path.name}\n"


def _read_progress(path: Path) -> Progress:
    state: Any = read_json(path, "the state of a checkpoint")
    try:
        return Progress(**state)
    except TypeError as error:
        raise CtsmError(f"{path}: of another version ({error}); start again in another folder.") from None


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CtsmError(f"{path}: cannot read the checkpoint ({error}); start again in another folder.") from error
    return tensors


def _optimizer_tensors(model: EmpatheticModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name Adam's state by parameter."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}/{key}"] = value
    return tensors


def _restore_optimizer(model: EmpatheticModel, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give each parameter its state, as copies: the tensors themselves are views of a file that will be removed."""
    torch.set_rng_state(tensors.pop("random_state").clone())
    cuda_random_state = tensors.pop("cuda_random_state", None)
    if cuda_random_state is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda_random_state.clone())
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameter, _, key = name.rpartition("/")
        owner = parameters[parameter]
        optimizer.state[owner][key] = torch.empty_like(value, device=owner.device).copy_(value)
