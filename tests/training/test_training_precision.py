"""bf16 products in training: close to fp32, and only in the steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctsm.config import RunConfig
from ctsm.models.bundle import load_bundle
from ctsm.nn import precision
from ctsm.training.loop import train


def losses(run: Path) -> list[float]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["kind"] == "train"]


def test_bf16_steps_follow_fp32_steps(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "SMALLEST", 1)  # a tiny model has no large products
    low = replace(tiny_config, training=replace(tiny_config.training, precision="bf16"))
    train(tiny_config, prepared, tmp_path / "fp32", resume=False)
    train(low, prepared, tmp_path / "bf16", resume=False)
    exact, rounded = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


def test_everything_but_the_steps_is_fp32(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scoring must not see the precision of the steps: it does so only inside `model.loss`."""
    monkeypatch.setattr(precision, "SMALLEST", 1)
    rounded = {True: 0, False: 0}
    original = precision.linear

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        output = original(x, weight, bias)
        exact = torch.nn.functional.linear(x, weight, bias)
        rounded[torch.is_grad_enabled()] += int(not torch.allclose(output, exact, rtol=1e-5, atol=1e-6))
        return output

    monkeypatch.setattr(precision, "linear", spy)
    low = replace(tiny_config, training=replace(tiny_config.training, precision="bf16"))
    train(low, prepared, tmp_path / "run", resume=False)
    assert rounded[True] > 100
    assert rounded[False] == 0
    assert {tensor.dtype for tensor in load_bundle(tmp_path / "run").model.parameters()} == {torch.float32}
