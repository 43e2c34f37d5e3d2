"""Training on a GPU: the CPU's numbers, and recorded steps that are the steps. Run by `make test-cuda`."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctsm.config import RunConfig, TrainingOptions
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.decoding.greedy import greedy
from ctsm.models import REGISTRY, options_class
from ctsm.models.base import EmpatheticModel
from ctsm.training.graphs import RecordedStep
from ctsm.training.loop import build_model, train
from ctsm.training.step import Stepper, adam

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use"),
]
SYSTEMS = sorted(REGISTRY)
LATE = 10**6


def config_of(name: str, **training: Any) -> RunConfig:
    options = options_class(name)
    sizes = {field.name: 14 for field in fields(options) if field.name.endswith("_size")}
    small = options(**{**sizes, "size": 16, "depth": 8, "filter_size": 5})
    return RunConfig(name, "", small, TrainingOptions(batch_size=4, seed=5, warmup=10, tensorboard=False, **training))


@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_gradients_scores_and_replies_are_those_of_the_cpu(name: str, prepared_all: Path) -> None:
    data = PreparedData(prepared_all)
    model = build_model(config_of(name), data)
    other = copy.deepcopy(model).cuda()
    examples = data.examples("train", model.needs)
    rows = np.arange(6)
    batches = [ResidentExamples(examples, device).batch(rows) for device in ("cpu", "cuda")]
    found: list[dict[str, torch.Tensor]] = []
    for one, batch in zip((model, other), batches, strict=True):
        one.step = LATE + 1
        one.eval()  # without dropout and draws
        losses = one.loss(batch)
        losses.total.backward()
        gradients = {key: value.grad for key, value in one.named_parameters() if value.grad is not None}
        with torch.inference_mode():
            scores = one.score(batch)
            replies = greedy(one, one.encode(batch))
        found.append({"total": losses.total, "nll": scores.nll, "replies": torch.tensor([len(r) for r in replies])})
        found[-1] |= gradients
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(
            found[1][key].cpu(), value, rtol=2e-3, atol=2e-5, msg=lambda text, k=key: f"{k}: {text}"
        )


def steps(model: EmpatheticModel, source: ResidentExamples, config: RunConfig, first: int, record: bool) -> list[float]:
    """Train on batches of two widths, each met three times and more."""
    take = Stepper(model, adam(model), config, record)
    lengths = source.context.lengths
    order = np.argsort(lengths)
    torch.cuda.manual_seed(3)
    losses = []
    for number in range(8):
        rows = order[number : number + 4] if number % 2 else order[-4 - number :][:4]
        losses.append(take(source.batch(rows), first + number)["loss"].clone())
    return [loss.item() for loss in losses]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("first", [1, LATE + 1])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_recorded_training_is_the_training(
    name: str, first: int, precision: str, prepared_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws included: dropout, MIME's mimicry and MoEL's oracle take the same numbers when they are replayed."""
    replayed: list[int] = []
    call = RecordedStep.__call__

    def counting(self: RecordedStep, batch: Any) -> Any:
        before = sum(map(len, self._recordings.values()))
        terms = call(self, batch)
        replayed.append(sum(map(len, self._recordings.values())) == before and self._phase() is not None)
        return terms

    monkeypatch.setattr(RecordedStep, "__call__", counting)
    data, config = PreparedData(prepared_all), config_of(name, precision=precision)
    models = [build_model(config, data).cuda().train() for _ in range(2)]
    source = ResidentExamples(data.examples("train", models[0].needs), "cuda")
    plain = steps(models[0], source, config, first, record=False)
    assert not replayed
    recorded = steps(models[1], source, config, first, record=True)
    assert sum(replayed) >= 4
    assert recorded == pytest.approx(plain, rel=2e-4)
    for (key, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        # A softmax does not see the bias of its keys: the gradient is rounding noise, which Adam scales to a step.
        if not key.endswith("key.bias"):
            torch.testing.assert_close(other, one, rtol=1e-2, atol=2e-4, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("name", ["case", "ctsm", "empdg", "moel"])
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
    name: str, prepared_all: Path, tmp_path: Path
) -> None:
    limits = {"evaluate_every": 6, "evaluate_from": 1, "checkpoint_every": 3, "log_every": 2}
    short, whole = (config_of(name, iterations=count, **limits) for count in (6, 12))
    train(whole, prepared_all, tmp_path / "whole", resume=False, device="cuda")
    train(short, prepared_all, tmp_path / "parts", resume=False, device="cuda")
    train(whole, prepared_all, tmp_path / "parts", resume=True, device="cuda")
    losses = [
        [line.split('"seconds"')[0] for line in (tmp_path / run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        for run in ("whole", "parts")
    ]
    assert len(losses[0]) == len(losses[1])
    values = [
        [float(part.split(": ")[1]) for line in run for part in line.split(", ") if '"loss"' in part] for run in losses
    ]
    assert values[1] == pytest.approx(values[0], rel=2e-4)


def test_a_loss_that_waits_is_one_sentence(prepared_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctsm.errors import CtsmError
    from ctsm.models.ctsm import CTSM

    original = CTSM.loss

    def waiting(self: CTSM, batch: Any) -> Any:
        losses = original(self, batch)
        losses.total.item()
        return losses

    monkeypatch.setattr(CTSM, "loss", waiting)
    data, config = PreparedData(prepared_all), config_of("ctsm")
    model = build_model(config, data).cuda().train()
    source = ResidentExamples(data.examples("train"), "cuda")
    with pytest.raises(CtsmError, match="cannot be recorded as a CUDA graph"):
        Stepper(model, adam(model), config)(source.batch(np.arange(4)), 1)
