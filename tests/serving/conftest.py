"""A small untrained model directory: enough for everything but the quality of its replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

import pytest

import ctsm
from ctsm.config import read_config
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.serving.responder import Responder
from ctsm.serving.tasks import ReadTask, Turns
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


class Gated(tuple[Turns, ...]):
    """Conversations that cannot be read before a gate opens."""

    begun: threading.Event
    gate: threading.Event

    def __iter__(self) -> Iterator[Turns]:
        self.begun.set()
        self.gate.wait(60)
        return super().__iter__()


class Hold(ReadTask):
    """Keeps the engine's thread occupied until the gate opens; it is computed alone."""

    def __init__(self, gate: threading.Event) -> None:
        conversations = Gated([("Hello.",)])
        self.begun = conversations.begun = threading.Event()
        conversations.gate = gate
        super().__init__(conversations=conversations, length=1)

    @property
    def group(self) -> Hashable:
        return id(self)


@pytest.fixture(scope="session")
def hold() -> Callable[[threading.Event], Hold]:
    """Make a task that keeps the engine busy; in the event loop."""
    return Hold


@pytest.fixture(scope="session")
def responder(model_directory: Path) -> Responder:
    return ctsm.load(model_directory)
