"""The pipeline on the real data: only where CTSM_DATA names a folder with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ctsm.config import read_config
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.training.loop import build_model

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("CTSM_DATA" not in os.environ, reason="CTSM_DATA does not name a folder with the real data"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    source = Path(os.environ["CTSM_DATA"])
    out = tmp_path_factory.mktemp("real") / "data"
    options = PrepareOptions(
        dialogues=str(source / "empatheticdialogues.tar.gz"),
        vad=str(source / "lexicons/NRC-VAD-Lexicon.txt"),
        vectors=source / "vectors/glove840b-space.300d.txt.gz",
        inferences=f"atomic:{source / 'atomic/atomic.tsv.gz'}",
    )
    prepare(options, out)
    return PreparedData(out)


def test_one_example_for_each_listener_turn(data: PreparedData) -> None:
    counts = {split: count["examples"] for split, count in data.manifest["counts"].items()}
    assert counts == {"train": 40_254, "dev": 5_738, "test": 5_259}


def test_the_vocabulary_is_the_papers_within_a_percent(data: PreparedData) -> None:
    assert abs(len(data.vocabulary) - 23_712) < 237


def test_no_example_has_an_unknown_word(data: PreparedData) -> None:
    for split in ("train", "dev", "test"):
        examples = data.examples(split)
        for rows in (examples.context, examples.target):
            assert int(rows.values.max()) < len(data.vocabulary)
            assert not np.any(rows.values == 0)


def test_lengths_are_those_measured_in_the_lineage(data: PreparedData) -> None:
    """Means of context (CLS included) and target (EOS included), measured on another rebuild of the data set."""
    expected = {"train": (35.5, 14.5), "dev": (38.5, 15.2), "test": (41.5, 15.4)}
    for split, (context, target) in expected.items():
        examples = data.examples(split)
        assert examples.context.lengths.mean() == pytest.approx(context, abs=0.5)
        assert examples.target.lengths.mean() == pytest.approx(target, abs=0.5)


def test_a_few_steps_lower_the_loss(data: PreparedData) -> None:
    config = read_config(None, [])
    model = build_model(config, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    batch = data.examples("train").batch(np.arange(16))
    losses = []
    for _ in range(4):
        loss = model.loss(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
