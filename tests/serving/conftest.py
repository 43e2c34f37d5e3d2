"""A small untrained model directory: enough for everything but the quality of its replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ctsm
from ctsm.config import read_config
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.serving.responder import Responder
from ctsm.training.loop import build_model

CONVERSATIONS = [
    (
        "proud",
        "I painted the whole fence alone.",
        ["I painted our whole fence alone today!", "Well done, that is a big job."],
    ),
    (
        "afraid",
        "A dog chased me.",
        ["A big dog chased me.", "Oh no, are you hurt?", "I am fine, but afraid of it.", "Stay safe!"],
    ),
    ("lonely", "Nobody called.", ["Nobody called me this week.", "I am glad you told me. Who do you miss?"]),
]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    lines = [
        {"id": f"c{number}", "emotion": emotion, "situation": situation, "split": split, "turns": turns}
        for split in ("train", "dev", "test")
        for number, (emotion, situation, turns) in enumerate(CONVERSATIONS)
    ]
    for line in lines:
        line["id"] = f"{line['split']}-{line['id']}"
    (folder / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    options = PrepareOptions(
        str(folder / "talk.jsonl"), vad="sample", inferences="atomic:sample", vector_size=16, vocabulary="train"
    )
    manifest = prepare(options, folder / "data")
    config = read_config(
        None,
        ["--options.size", "16", "--options.depth", "8", "--options.filter_size", "8", "--options.fusion_size", "12"],
    )
    model = build_model(config, PreparedData(folder / "data"))
    facts = {"iteration": 0, "train_seconds": 0.0}
    save_bundle(folder / "model", model, config, folder / "data", DataFacts.of(manifest), facts)
    return folder / "model"


@pytest.fixture(scope="session")
def responder(model_directory: Path) -> Responder:
    return ctsm.load(model_directory)
