"""Training with batches of few shapes and a compiled loss: the same training."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError, InvalidCxxCompiler, TritonMissing

from ctsm.config import RunConfig
from ctsm.corpus.batches import Examples
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.errors import CtsmError
from ctsm.models.ctsm import CTSM
from ctsm.training.device import loss_function, training_examples
from ctsm.training.loop import build_model, train

COMPILE = torch.compile


def compiling(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, training=replace(config.training, compile=True, **changes))


def log(run: Path) -> dict[str, list[float]]:
    """Losses of the steps and perplexities of dev."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "train": [line["loss"] for line in lines if line["kind"] == "train"],
        "dev": [line["ppl_example"] for line in lines if line["kind"] == "dev"],
    }


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Trace and run the graphs without translating them, which would take minutes; remembers the options."""
    asked: list[dict[str, Any]] = []

    def compiled(function: Any, **options: Any) -> Any:
        asked.append(options)
        return COMPILE(function, backend="eager", dynamic=options["dynamic"])

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compiled)
    return asked


def test_the_cpu_keeps_its_own_batches_unless_the_loss_is_compiled(prepared: Path, tiny_config: RunConfig) -> None:
    examples = PreparedData(prepared).examples("train")
    assert training_examples(examples, tiny_config.training, "cpu") is examples
    assert isinstance(training_examples(examples, compiling(tiny_config).training, "cpu"), ResidentExamples)
    assert isinstance(training_examples(examples, tiny_config.training, "meta"), ResidentExamples), "as on a GPU"


def test_a_compiled_training_is_the_same_training(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, traced: list[dict[str, Any]]
) -> None:
    """Twelve steps over two epochs, the short batch at an epoch's end included."""
    train(tiny_config, prepared, tmp_path / "plain", resume=False)
    train(compiling(tiny_config), prepared, tmp_path / "compiled", resume=False)
    assert traced == [{"dynamic": False, "mode": None}]
    plain, compiled = log(tmp_path / "plain"), log(tmp_path / "compiled")
    assert len(plain["train"]) == 6
    for kind, values in plain.items():
        assert compiled[kind] == pytest.approx(values, rel=1e-4), kind


@pytest.mark.parametrize(
    "failure",
    [
        InductorError(InvalidCxxCompiler("g++"), None),
        BackendCompilerFailed("inductor", RuntimeError("the compiler\nsaid much"), None),
        TritonMissing(None),
    ],
)
def test_a_loss_that_cannot_be_compiled_is_one_sentence(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def compiled(*_batch: Any) -> Any:
        raise failure

    monkeypatch.setattr(torch, "compile", lambda *_arguments, **_options: compiled)
    with pytest.raises(CtsmError) as refusal:
        train(compiling(tiny_config), prepared, tmp_path / "run", resume=False)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("training.compile is true, but PyTorch cannot compile the loss here (")
    assert "install a C++ compiler" in str(refusal.value)
    assert "training.compile set to false" in str(refusal.value)
    assert refusal.value.__cause__ is failure
    monkeypatch.setattr(torch, "compile", lambda function, **_options: function)
    assert train(compiling(tiny_config), prepared, tmp_path / "run", resume=True).progress.iteration == 12


def test_other_faults_of_a_compiled_loss_are_not_hidden(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_batch: Any) -> Any:
        raise RuntimeError("a fault of the loss")

    monkeypatch.setattr(torch, "compile", lambda *_arguments, **_options: compiled)
    with pytest.raises(RuntimeError, match="a fault of the loss"):
        train(compiling(tiny_config), prepared, tmp_path / "run", resume=False)


def test_short_batches_are_not_compiled(
    prepared: Path, tiny_config: RunConfig, traced: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreparedData(prepared)
    model, config = build_model(tiny_config, data), compiling(tiny_config)
    source = training_examples(data.examples("train"), config.training, "cpu")
    loss, original, eager = loss_function(model, config.training), CTSM.loss, []

    def spy(self: CTSM, batch: Any) -> Any:
        if not torch.compiler.is_compiling():
            eager.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(CTSM, "loss", spy)
    for count in (4, 3, 4):
        loss(source.batch(np.arange(count)))
    assert eager == [3]
    assert len(traced) == 1


def test_a_run_goes_on_compiled_if_it_began_so(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, traced: list[dict[str, Any]]
) -> None:
    """Other roundings are another training; a run of a version that could not compile goes on uncompiled."""
    train(tiny_config, prepared, tmp_path / "run", resume=False)
    longer = replace(tiny_config, training=replace(tiny_config.training, iterations=13))
    with pytest.raises(CtsmError, match="another configuration"):
        train(compiling(longer), prepared, tmp_path / "run", resume=True)
    facts = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    del facts["config"]["training"]["compile"]
    (tmp_path / "run/run.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(CtsmError, match="another configuration"):
        train(compiling(longer), prepared, tmp_path / "run", resume=True)
    assert train(longer, prepared, tmp_path / "run", resume=True).progress.iteration == 13


@pytest.mark.long
def test_the_compiled_loss_is_the_loss(prepared: Path, tiny_config: RunConfig) -> None:
    """With PyTorch's compiler itself: steps of two shapes, and gradients; minutes for each shape."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        if os.environ.get("CTSM_REQUIRE") == "all":
            pytest.fail("there is no C++ compiler, and CTSM_REQUIRE=all asks for every tool")
        pytest.skip("there is no C++ compiler")
    torch._dynamo.reset()
    data, config = PreparedData(prepared), compiling(tiny_config)
    examples: Examples = data.examples("train")
    models = [build_model(config, data).train() for _ in range(2)]
    losses = [models[0].loss, loss_function(models[1], config.training)]
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-3) for model in models]
    source = training_examples(examples, config.training, "cpu")
    order = np.argsort(examples.context.lengths)
    widths = set()
    for rows in (order[:4], order[-4:], order[4:8], order[-4:][::-1]):
        batch = source.batch(rows)
        widths.add(batch.context.shape[1])
        totals = []
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            found = loss(batch)
            found.total.backward()
            optimizer.step()
            totals.append({"total": found.total.item(), **{name: term.item() for name, term in found.terms.items()}})
        assert totals[1] == pytest.approx(totals[0], rel=1e-4)
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert one.grad is not None and other.grad is not None
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5)
        assert torch.equal(models[0].get_buffer("diversity.counts"), models[1].get_buffer("diversity.counts"))
    assert len(widths) == 2
