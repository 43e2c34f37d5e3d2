"""Small models that nobody trained: enough to ask what an analysis does with their scores and replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import ctsm
from ctsm.config import read_config
from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.serving.responder import Responder
from ctsm.training.loop import build_model

SMALL = ["--options.size", "16", "--options.depth", "8", "--options.filter_size", "8"]


@pytest.fixture(scope="session")
def save_untrained() -> Callable[..., Path]:
    """Save a model directory with the initial values of a seed."""

    def save(directory: Path, prepared: Path, seed: int = 1, model: str = "ctsm", options: Sequence[str] = ()) -> Path:
        config_file = directory.parent / f"{model}.yaml"
        config_file.write_text(f"model: {model}\n", encoding="utf-8")
        fusion = ["--options.fusion_size", "12"] if model == "ctsm" else []
        config = read_config(config_file, [*SMALL, *fusion, *options, "--training.seed", str(seed)])
        torch.manual_seed(seed)
        data = PreparedData(prepared)
        progress = {"iteration": 0, "train_seconds": 0.0}
        save_bundle(directory, build_model(config, data), config, prepared, DataFacts.of(data.manifest), progress)
        return directory

    return save


@pytest.fixture(scope="session")
def save_model(
    prepared: Path, save_untrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Save a model of the tiny dataset: `save_model("ctsm", "--options.without", "SEE")`."""

    def save(name: str, *options: str) -> Path:
        return save_untrained(tmp_path_factory.mktemp(name) / "model", prepared, model=name, options=options)

    return save


@pytest.fixture(scope="session")
def ctsm_directory(save_model: Callable[..., Path]) -> Path:
    return save_model("ctsm")


@pytest.fixture(scope="session")
def responder(ctsm_directory: Path) -> Responder:
    return ctsm.load(ctsm_directory)
