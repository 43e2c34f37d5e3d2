from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctsm.nn.convolution import Convolution, ConvolutionalFeedForward


def library(convolution: Convolution, x_BTC: Tensor, left: int, right: int) -> Tensor:
    """The same parameters in PyTorch's own convolution."""
    padded = F.pad(x_BTC.transpose(1, 2), (left, right))
    return F.conv1d(padded, convolution.weight, convolution.bias).transpose(1, 2)


def build(inputs: int, outputs: int) -> Convolution:
    convolution = Convolution(inputs, outputs).double()
    torch.nn.init.normal_(convolution.bias)
    return convolution


def feed_forward(size: int = 7, filter_size: int = 3) -> ConvolutionalFeedForward:
    module = ConvolutionalFeedForward(size, filter_size).double()
    for convolution in (module.widen, module.narrow):
        torch.nn.init.normal_(convolution.bias, mean=0.3)
    return module


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (3, 7), (5, 5)])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_centred_convolution_and_its_gradients_equal_the_librarys(inputs: int, outputs: int, length: int) -> None:
    torch.manual_seed(length)
    convolution = build(inputs, outputs)
    x = torch.randn(2, length, inputs, dtype=torch.float64, requires_grad=True)
    mine, theirs = convolution(x), library(convolution, x, 1, 1)
    torch.testing.assert_close(mine, theirs)
    weights = torch.randn_like(mine)
    of = (x, convolution.weight, convolution.bias)
    for a, b in zip(
        torch.autograd.grad((mine * weights).sum(), of),
        torch.autograd.grad((theirs * weights).sum(), of),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (3, 7)])
def test_padding_counts_as_zeros_whatever_it_holds(inputs: int, outputs: int) -> None:
    convolution = build(inputs, outputs)
    x = torch.randn(3, 6, inputs, dtype=torch.float64)
    lengths = [6, 3, 1]
    real = (torch.arange(6) < torch.tensor(lengths)[:, None]).unsqueeze(-1).double()
    result = convolution(x, real)
    for b, length in enumerate(lengths):
        alone = library(convolution, x[b : b + 1, :length], 1, 1)
        torch.testing.assert_close(result[b : b + 1, :length], alone)


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 3), (3, 7)])
def test_causal_convolution_sees_itself_and_two_before(inputs: int, outputs: int) -> None:
    convolution = build(inputs, outputs)
    x = torch.randn(2, 5, inputs, dtype=torch.float64)
    torch.testing.assert_close(convolution.causal(x, None), library(convolution, x, 2, 0))
    previous = torch.randn(2, 2, inputs, dtype=torch.float64)
    torch.testing.assert_close(
        convolution.causal(x, previous), library(convolution, torch.cat([previous, x], dim=1), 0, 0)
    )


def test_both_convolutions_of_the_feed_forward_end_in_a_relu_and_see_no_padding() -> None:
    torch.manual_seed(1)
    module = feed_forward()
    x = torch.randn(2, 6, 7, dtype=torch.float64)
    lengths = [6, 4]
    real = (torch.arange(6) < torch.tensor(lengths)[:, None]).unsqueeze(-1).double()
    output = module(x, real)
    for b, length in enumerate(lengths):
        inner = F.relu(library(module.widen, x[b : b + 1, :length], 1, 1))
        expected = F.relu(library(module.narrow, inner, 1, 1))
        torch.testing.assert_close(output[b : b + 1, :length], expected)
        assert 0 < int((expected == 0).sum()) < expected.numel()  # the outer ReLU does cut


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_causal_feed_forward_in_steps_equals_all_at_once(cuts: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    module = feed_forward()
    x = torch.randn(2, sum(cuts), 7, dtype=torch.float64)
    inner = F.relu(library(module.widen, x, 2, 0))
    expected = F.relu(library(module.narrow, inner, 2, 0))
    torch.testing.assert_close(module.causal(x, None)[0], expected)
    previous, outputs = None, []
    for part in x.split(cuts, dim=1):
        output, previous = module.causal(part, previous)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected)


def test_parameters_have_the_shapes_of_a_width_3_convolution() -> None:
    convolution = Convolution(4, 6)
    assert convolution.weight.shape == torch.nn.Conv1d(4, 6, 3).weight.shape
    assert convolution.bias.shape == (6,)
    assert float(convolution.weight.detach().abs().max()) <= (6 / (3 * 4 + 3 * 6)) ** 0.5
