from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.training.loop import train
from ctsm.training.step import ADAM, denormals_flushed

DENORMAL = 1e-40

if not torch.set_flush_denormal(True):
    pytest.skip("this processor has no mode that flushes denormal numbers", allow_module_level=True)
torch.set_flush_denormal(False)


def flushed() -> bool:
    return float(torch.tensor(DENORMAL) * 1.0) == 0.0


def rarely_seen(steps: int) -> tuple[Tensor, Tensor]:
    """A parameter and its first mean after one gradient and then none, as of a word that no batch holds."""
    parameter = torch.nn.Parameter(torch.tensor([0.25]))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True, **ADAM)  # type: ignore[arg-type]
    parameter.grad = torch.tensor([1e-6])
    optimizer.step()
    parameter.grad = torch.zeros(1)
    for _ in range(steps):
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter]["exp_avg"]


def test_adams_means_of_rare_words_become_zero_instead_of_staying_denormal() -> None:
    mean = np.float32(0.1) * np.float32(1e-6)  # the first mean after one step
    for _ in range(1_500):
        mean = np.float32(0.9) * mean
    assert 0 < mean < np.finfo(np.float32).tiny  # it has stopped shrinking: 0.9 times it is rounded to itself
    assert np.float32(0.9) * mean == mean
    parameter, first_mean = rarely_seen(1_500)
    assert 0 < first_mean.item() < torch.finfo(torch.float32).tiny
    with denormals_flushed():
        same_parameter, flushed_mean = rarely_seen(1_500)
        assert flushed_mean.item() == 0.0
    assert torch.equal(parameter, same_parameter)


def test_the_mode_ends_with_the_context_also_by_an_error_and_an_outer_one_stays() -> None:
    assert not flushed()
    with pytest.raises(RuntimeError, match="boom"), denormals_flushed():
        assert flushed()
        with denormals_flushed():
            assert flushed()
        assert flushed()
        raise RuntimeError("boom")
    assert not flushed()


IN_ALL_THREADS = f"""
import torch
from ctsm.training.step import denormals_flushed
torch.set_num_threads(2)
with denormals_flushed():
    print(int(torch.full((1 << 22,), {DENORMAL}).mul(1.0).count_nonzero()))
"""


def test_threads_that_start_within_the_context_flush_too() -> None:
    run = subprocess.run([sys.executable, "-c", IN_ALL_THREADS], check=True, capture_output=True, text=True)
    assert run.stdout == "0\n"


def test_a_training_flushes_and_its_caller_does_not(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    seen: list[bool] = []

    def stop() -> bool:
        seen.append(flushed())
        return False

    train(tiny_config, prepared, tmp_path / "run", resume=False, stop=stop)
    assert len(seen) == tiny_config.training.iterations
    assert all(seen)
    assert not flushed()
