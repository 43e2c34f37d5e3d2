"""A small untrained CTSM on the sample's first conversations: enough for everything but the sense of its replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import ctsm
from ctsm.config import RunConfig, TrainingOptions
from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.models.ctsm import CTSMOptions
from ctsm.models.transformer import TransformerOptions
from ctsm.serving.responder import Responder
from ctsm.training.loop import build_model

SMALL = {"size": 16, "depth": 8, "filter_size": 8}


@pytest.fixture(scope="session")
def save_model(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a model directory: `save_model("ctsm", without="SEE")` or `save_model("transformer")`."""

    def save(name: str, **options: object) -> Path:
        data = PreparedData(prepared)
        if name == "ctsm":
            made = CTSMOptions(**{**SMALL, "semantic_size": 4, "fusion_size": 24, **options})  # type: ignore[arg-type]
        else:
            made = TransformerOptions(**{**SMALL, **options})  # type: ignore[arg-type,assignment]
        config = RunConfig(name, "", made, replace(TrainingOptions(), seed=3, tensorboard=False))
        model = build_model(config, data)
        folder = tmp_path_factory.mktemp(name) / "model"
        save_bundle(
            folder, model, config, prepared, DataFacts.of(data.manifest), {"iteration": 0, "train_seconds": 0.0}
        )
        return folder

    return save


@pytest.fixture(scope="session")
def ctsm_directory(save_model: Callable[..., Path]) -> Path:
    return save_model("ctsm")


@pytest.fixture(scope="session")
def responder(ctsm_directory: Path) -> Responder:
    return ctsm.load(ctsm_directory)
