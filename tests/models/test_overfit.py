"""Every system learns 32 conversations by heart: what it is made of works together, gradients and decoding included.

Deterministic mode: the model stays in evaluation mode, so nothing is drawn at random or dropped out, and its own
schedules have run out (`step` is large). The learning rate is constant.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from ctsm.config import RunConfig, TrainingOptions
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.sample import sample_path
from ctsm.decoding.greedy import greedy
from ctsm.models import REGISTRY, options_class
from ctsm.models.base import EmpatheticModel
from ctsm.training.loop import build_model

CONVERSATIONS = 32
SIZE, RATE, BATCH = 64, 2e-3, 16
EPOCHS, LOOK_EVERY = 300, 10
ASKED, ENOUGH = 1.5, 1.15
"""The perplexity that is asked for, and the one at which most replies are known by heart."""
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in sorted(REGISTRY)]
CASES += [("transformer", {"emotion_head": True})]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """32 training conversations of the sample, with all that any system needs."""
    folder = tmp_path_factory.mktemp("overfit")
    lines = sample_path("dialogues").read_text(encoding="utf-8").splitlines()
    train = islice((line for line in lines if json.loads(line)["split"] == "train"), CONVERSATIONS)
    (folder / "some.jsonl").write_text("\n".join(train) + "\n", encoding="utf-8")
    options = PrepareOptions(
        str(folder / "some.jsonl"),
        vad="sample",
        vector_size=SIZE,
        inferences="atomic:sample",
        emotion_words="sample",
        concepts="sample",
        feedback=True,
        cognition=True,
    )
    prepare(options, folder / "data")
    return PreparedData(folder / "data")


def build(name: str, data: PreparedData, changes: dict[str, Any]) -> EmpatheticModel:
    """A system with its default options, but smaller."""
    widths: dict[str, Any] = {"size": SIZE, "depth": 32, "filter_size": 48}
    for field in fields(options_class(name)):
        if field.name.endswith("_size") and field.name not in widths:
            widths[field.name] = min(field.default, 2 * SIZE)
    options = options_class(name)(**{**widths, **changes})
    return build_model(RunConfig(name, "", options, TrainingOptions()), data)


@pytest.mark.models
@pytest.mark.parametrize(("name", "changes"), CASES, ids=["-".join([name, *changes]) for name, changes in CASES])
def test_every_system_overfits_32_conversations(name: str, changes: dict[str, Any], data: PreparedData) -> None:
    model = build(name, data, changes).eval()
    model.step = 10**6
    examples = data.examples("train", model.needs)
    assert len(set(examples.conversation.tolist())) == CONVERSATIONS
    everyone = np.arange(len(examples))
    batches = [examples.batch(everyone[start : start + BATCH]) for start in range(0, len(everyone), BATCH)]
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    perplexities = []
    for epoch in range(1, EPOCHS + 1):
        for batch in batches:
            optimizer.zero_grad()
            model.loss(batch).total.backward()
            optimizer.step()
        if epoch % LOOK_EVERY == 0:
            with torch.inference_mode():
                scores = [model.score(batch) for batch in batches]
            nll, tokens = sum(one.nll.sum().item() for one in scores), sum(one.tokens.sum().item() for one in scores)
            perplexities.append(math.exp(nll / tokens))
            if perplexities[-1] < ENOUGH:
                break
    assert perplexities[-1] < ASKED, perplexities
    with torch.inference_mode():
        said = [reply for batch in batches for reply in greedy(model, model.encode(batch))]
    gold = [examples.target.row(row)[:-1] for row in everyone]
    assert sum(first == second for first, second in zip(said, gold, strict=True)) > len(gold) / 2
    print(f"{name}: perplexity {perplexities[-1]:.3f} after {epoch} epochs")
