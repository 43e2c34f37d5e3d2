"""The vocabulary projection of decoding steps against the log-softmax written out in NumPy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctsm.nn import output, precision
from ctsm.nn.output import FEW, OutputLayer
from ctsm.nn.precision import bf16_products

D = 24
Numbers = npt.NDArray[np.float64]


def layer_and_states(words: int, rows: int, seed: int, dtype: torch.dtype) -> tuple[OutputLayer, Tensor]:
    torch.manual_seed(seed)
    layer = OutputLayer(D, words)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer.to(dtype).eval(), torch.randn(rows, D).to(dtype)


def scores(layer: OutputLayer, states: Tensor) -> Numbers:
    weight, bias = (tensor.detach().double().numpy() for tensor in (layer.weight, layer.bias))
    return np.stack([[row @ weight[word] + bias[word] for word in range(len(bias))] for row in states.double().numpy()])


def log_softmax(scores_NV: Numbers) -> Numbers:
    peak = scores_NV.max(axis=1, keepdims=True)
    found: Numbers = scores_NV - peak - np.log(np.exp(scores_NV - peak).sum(axis=1, keepdims=True))
    return found


@settings(max_examples=40)
@given(words=st.integers(1, 70), rows=st.integers(1, 2 * FEW + 3), seed=st.integers(0, 99))
def test_log_probabilities_are_the_log_softmax(words: int, rows: int, seed: int) -> None:
    layer, states = layer_and_states(words, rows, seed, torch.float64)
    with torch.no_grad():
        found = layer.log_probabilities(states)
    assert found.shape == (rows, words)
    np.testing.assert_allclose(found.numpy(), log_softmax(scores(layer, states)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rows", [1, 2, FEW, FEW + 1])
def test_the_result_may_be_written_to(rows: int) -> None:
    layer, states = layer_and_states(30, rows, 0, torch.float32)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        first = layer.log_probabilities(states)
        kept = first.clone()
        first.fill_(7.0)
        assert torch.equal(layer.log_probabilities(states), kept)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("slower", ["_multiply_matrix", "_multiply_hidden"])
@pytest.mark.parametrize("rows", [1, 2, FEW])
def test_few_rows_are_scored_by_the_routine_that_was_faster(
    rows: int, slower: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, states = layer_and_states(40, rows, 2, torch.float64)
    routines = {name: getattr(layer, name) for name in ("_multiply_matrix", "_multiply_hidden")}
    for name, routine in routines.items():
        with torch.no_grad():
            np.testing.assert_allclose(routine(states).numpy(), scores(layer, states), rtol=1e-12, err_msg=name)
    timed: list[str] = []

    def seconds(routine: Any, _states: Tensor) -> float:
        timed.append(routine.__name__)
        return 2.0 if routine.__name__ == slower else 1.0

    def never(_states: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(output, "_least_seconds", seconds)
    with torch.no_grad():
        layer.log_probabilities(states)
        assert sorted(timed) == sorted(routines)
        setattr(layer, slower, never)
        layer.log_probabilities(states)
    assert len(timed) == 2


def test_in_training_mode_nothing_is_timed_and_the_precision_is_the_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated run must make the same choices: EmpDG replies while it trains."""
    monkeypatch.setattr(precision, "SMALLEST", 1)
    layer, states = layer_and_states(40, 2, 2, torch.float32)
    layer.train()
    monkeypatch.delattr(output, "_least_seconds")
    with torch.no_grad():
        exact = layer.log_probabilities(states)
        with bf16_products():
            rounded = layer.log_probabilities(states)
    np.testing.assert_allclose(exact.numpy(), log_softmax(scores(layer, states)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(exact, rounded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
