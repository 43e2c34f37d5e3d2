"""Which steps are recorded, and which recording is replayed; what CUDA does with them is in test_cuda.py."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.training import graphs
from ctsm.training.graphs import RecordedStep, Step, tensors_of
from ctsm.training.loop import build_model
from ctsm.training.step import Stepper, adam


def batch_of(width: int, examples: int = 2) -> Batch:
    words = torch.zeros(examples, width, dtype=torch.long)
    row = words[:, 0]
    return Batch(row, words, words, row, words[:, None].expand(-1, 4, -1), words, words, torch.arange(examples))


@dataclass
class Fake:
    """A device whose recordings only remember that they were replayed."""

    taken: list[tuple[str, int, int]] = field(default_factory=list)
    recorded: int = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        self.taken.append(("as it is", *batch.context.shape))
        return {"loss": torch.tensor(0.0)}

    def warm_up(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        return step(batch)

    def record(self, _step: Step, batch: Batch) -> Step:
        self.recorded += 1
        shape = batch.context.shape

        def replay(other: Batch) -> dict[str, Tensor]:
            assert other.context.shape == shape
            self.taken.append(("replayed", *other.context.shape))
            return {"loss": torch.tensor(0.0)}

        return replay


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from(["", "late", None])), max_size=30))
def test_every_call_is_one_step_and_each_combination_is_recorded_once(calls: list[tuple[int, int, str | None]]) -> None:
    fake, phases = Fake(), [phase for _, _, phase in calls]
    current = iter(phases)
    take = RecordedStep(fake.step, lambda: next(current), fake)
    known: set[Hashable] = set()
    expected = []
    for width, examples, phase in calls:
        take(batch_of(width, examples))
        replayed = phase is not None and (width, examples, phase) in known
        expected.append(("replayed" if replayed else "as it is", examples, width))
        if phase is not None:
            known.add((width, examples, phase))
    assert fake.taken == expected
    assert fake.recorded == len(known)


def test_an_absent_field_and_one_more_field_are_other_shapes() -> None:
    fake = Fake()
    take = RecordedStep(fake.step, lambda: "", fake)
    plain = batch_of(3)
    more = Batch(**tensors_of(plain), emotion_words=plain.context)
    assert "emotion_words" not in tensors_of(plain)
    for batch in (plain, more, plain, more):
        take(batch)
    assert fake.recorded == 2
    assert [kind for kind, *_ in fake.taken] == ["as it is", "as it is", "replayed", "replayed"]


def test_each_phase_has_room_for_so_many_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """CASE's pre-training has more shapes than one would think; its second phase must not run unrecorded for that."""
    monkeypatch.setattr(graphs, "MOST", 2)
    fake, current = Fake(), [""]
    take = RecordedStep(fake.step, lambda: current[0], fake)
    for current[0] in ("early", "late"):
        fake.taken.clear()
        for width in (1, 2, 3, 3, 1):
            take(batch_of(width))
        assert [kind for kind, *_ in fake.taken] == ["as it is", "as it is", "as it is", "as it is", "replayed"]
    assert fake.recorded == 4


def test_a_step_on_the_cpu_is_not_recorded(
    prepared: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object) -> RecordedStep:
        raise AssertionError

    monkeypatch.setattr("ctsm.training.step.RecordedStep", never)
    data = PreparedData(prepared)
    model = build_model(tiny_config, data).train()
    take = Stepper(model, adam(model), tiny_config)
    source = ResidentExamples(data.examples("train"), "cpu")
    assert take(source.batch(np.arange(4)), 1)["loss"].item() > 0
