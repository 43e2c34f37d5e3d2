from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctsm.nn import precision
from ctsm.nn.precision import Linear, bf16_products, linear, rounded_rows


@pytest.fixture
def every_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count every product as large enough for bf16."""
    monkeypatch.setattr(precision, "SMALLEST", 1)


def operands(rows: tuple[int, ...] = (3, 7), inputs: int = 5, outputs: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(*rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def rounded(x: Tensor) -> Tensor:
    """To the nearest bf16 number, kept in fp64 so that the test's own products are exact enough."""
    return x.detach().bfloat16().double()


@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("rows", [(1,), (16,), (17,), (3, 7), (2, 3, 11)])
def test_products_and_gradients_are_those_of_rounded_operands(rows: tuple[int, ...]) -> None:
    x, weight, bias = operands(rows)
    upstream = torch.randn(*rows, 4)
    with bf16_products():
        y = linear(x, weight, bias)
    assert y.dtype == torch.float32
    assert y.shape == (*rows, 4)
    # Each product is rounded to bf16 once (8 bits); the bias is added in fp32.
    exact = rounded(x) @ rounded(weight).T
    torch.testing.assert_close((y - bias).detach().double(), exact, rtol=2**-8, atol=1e-5)
    y.backward(upstream)  # outside the context: the backward products follow the forward one
    assert x.grad is not None
    assert weight.grad is not None
    assert bias.grad is not None
    flat = rounded(upstream).reshape(-1, 4)
    x_gradient, weight_gradient = flat @ rounded(weight), flat.T @ rounded(x).reshape(-1, 5)
    torch.testing.assert_close(x.grad.double().reshape(-1, 5), x_gradient, rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(weight.grad.double(), weight_gradient, rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(bias.grad, upstream.reshape(-1, 4).sum(dim=0))
    assert x.grad.dtype == weight.grad.dtype == torch.float32


def test_outside_the_context_and_for_small_products_nothing_is_rounded() -> None:
    x, weight, bias = operands()
    exact = F.linear(x, weight, bias)
    assert torch.equal(linear(x, weight, bias), exact)
    with bf16_products():
        assert torch.equal(linear(x, weight, bias), exact)  # small
    with bf16_products(enabled=False):
        assert torch.equal(linear(x, weight, bias), exact)


@pytest.mark.usefixtures("every_product")
def test_the_context_ends_also_by_an_error_and_nests() -> None:
    x, weight, bias = operands()
    exact = F.linear(x, weight, bias)
    with pytest.raises(RuntimeError, match="boom"), bf16_products():
        assert not torch.equal(linear(x, weight, bias), exact)
        with bf16_products(enabled=False):
            assert torch.equal(linear(x, weight, bias), exact)
        assert not torch.equal(linear(x, weight, bias), exact)
        raise RuntimeError("boom")
    assert torch.equal(linear(x, weight, bias), exact)


@pytest.mark.usefixtures("every_product")
def test_another_thread_keeps_its_own_precision() -> None:
    x, weight, bias = operands()
    seen: list[Tensor] = []
    with bf16_products():
        thread = threading.Thread(target=lambda: seen.append(linear(x, weight, bias)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], F.linear(x, weight, bias))


def test_linear_has_the_parameters_of_the_librarys() -> None:
    torch.manual_seed(1)
    mine = Linear(5, 4)
    torch.manual_seed(1)
    theirs = torch.nn.Linear(5, 4)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(2, 5)
    assert torch.equal(mine(x), theirs(x))
    assert Linear(5, 4, bias=False).bias is None


@settings(deadline=None)
@given(rows=st.integers(1, 100_000))
def test_row_counts_are_rounded_up_to_few_values(rows: int) -> None:
    result = rounded_rows(rows)
    assert 0 <= result - rows < max(16, rows / 4)
    assert rounded_rows(result) == result


def test_there_are_few_row_counts() -> None:
    assert len({rounded_rows(rows) for rows in range(1024, 2049)}) <= 5


@pytest.mark.usefixtures("every_product")
def test_gradients_that_are_not_wanted_are_not_computed() -> None:
    x, weight, _ = operands()
    with bf16_products():
        y = linear(x.detach(), weight)
    y.sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    with bf16_products():
        y = linear(x, weight.detach())
    y.sum().backward()
    assert x.grad is not None
