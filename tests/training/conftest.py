"""What tests of runs share: a changed configuration, a run's log, its files, its newest checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ctsm.config import RunConfig
from ctsm.corpus.prepared import PreparedData
from ctsm.training.checkpoint import load_checkpoint
from ctsm.training.loop import build_model


def changed(config: RunConfig, **training: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **training))


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def state_of(run: Path, config: RunConfig, prepared: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's model and optimiser."""
    model = build_model(config, PreparedData(prepared))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    load_checkpoint(run, model, optimizer)
    tensors = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        tensors |= {f"{name}/{key}": value for key, value in optimizer.state[parameter].items()}
    return tensors


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """The functions of this file."""
    return SimpleNamespace(changed=changed, records=records, tree=tree, state_of=state_of, same=same)
