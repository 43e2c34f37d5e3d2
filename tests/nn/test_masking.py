from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.nn.masking import attention_bias, masked_mean, masked_softmax

MASKS = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)


@settings(deadline=None, max_examples=50)
@given(mask=MASKS, seed=st.integers(0, 1000))
def test_softmax_is_the_softmax_of_the_real_positions_alone(mask: list[list[bool]], seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(len(mask), 5), scale=4.0)
    result = masked_softmax(torch.from_numpy(scores), torch.tensor(mask)).numpy()
    for row, real, got in zip(scores, mask, result, strict=True):
        expected = np.zeros(5)
        if any(real):
            powers = np.exp(row[real] - row[real].max())
            expected[real] = powers / powers.sum()
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=50)
@given(mask=MASKS, seed=st.integers(0, 1000))
def test_mean_is_the_mean_of_the_real_positions_alone(mask: list[list[bool]], seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(len(mask), 5, 3))
    result = masked_mean(torch.from_numpy(x), torch.tensor(mask)).numpy()
    for row, real, got in zip(x, mask, result, strict=True):
        expected = row[real].mean(axis=0) if any(real) else np.zeros(3)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wholly_masked_row_has_finite_gradients(dtype: torch.dtype) -> None:
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    x = torch.randn(1, 4, 2, dtype=dtype, requires_grad=True)
    (masked_mean(x, nothing).sum() + masked_softmax(x[..., 0], nothing).sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_bias_leaves_real_positions_alone_and_removes_the_others() -> None:
    bias = attention_bias(torch.tensor([[True, False, True]]))
    assert bias.dtype == torch.float32
    assert bias[0, [0, 2]].tolist() == [0.0, 0.0]
    assert torch.softmax(torch.tensor([-50.0, 50.0, -50.0]) + bias[0], dim=0).tolist() == [0.5, 0.0, 0.5]
    assert bool(torch.isfinite(bias).all())
