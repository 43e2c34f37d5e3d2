"""Small inputs for the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from ctsm.bench import machine, train
from ctsm.config import RunConfig
from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.training.loop import build_model


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, because threads that wait for each other make tiny products slow; short matrix measurements."""
    monkeypatch.setattr(machine, "SECONDS", 0.0)
    monkeypatch.setattr(train, "SQUARE", 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config_file(tmp_path: Path, tiny_config: RunConfig) -> Path:
    """`tiny_config` as a YAML file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config.to_json()), encoding="utf-8")
    return path


@pytest.fixture
def model_directory(tmp_path: Path, prepared: Path, tiny_config: RunConfig) -> Path:
    """An untrained model on the tiny data."""
    data = PreparedData(prepared)
    facts = {"iteration": 0, "train_seconds": 0.0}
    model = build_model(tiny_config, data)
    save_bundle(tmp_path / "model", model, tiny_config, prepared, DataFacts.of(data.manifest), facts)
    return tmp_path / "model"
