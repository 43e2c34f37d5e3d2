from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctsm.nn.encoder import BlockSizes, Encoder, EncoderLayer, Refiner

SIZES = BlockSizes(layers=2, heads=2, depth=6, filter_size=4)


def perturbed(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Double precision, with norms and biases that are neither 1 nor 0."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return module.double()


def norm(module: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    """Biased variance, 1e-5 inside the root."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * module.weight + module.bias


def attend(layer: EncoderLayer, x_SD: Tensor) -> Tensor:
    attention = layer.attention
    query, key, value = (linear(x_SD) for linear in (attention.query, attention.key, attention.value))
    heads = [
        torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1) @ v
        for q, k, v in zip(query.chunk(2, dim=1), key.chunk(2, dim=1), value.chunk(2, dim=1), strict=True)
    ]
    return attention.output(torch.cat(heads, dim=1))


def convolve(convolution: torch.nn.Module, x_SD: Tensor) -> Tensor:
    return F.relu(F.conv1d(x_SD.T[None], convolution.weight, convolution.bias, padding=1))[0].T


def signal(length: int, size: int) -> Tensor:
    half = size // 2
    rates = [10_000.0 ** (-i / (half - 1)) for i in range(half)]
    rows = [[math.sin(p * r) for r in rates] + [math.cos(p * r) for r in rates] for p in range(length)]
    return F.pad(torch.tensor(rows, dtype=torch.float64), (0, size - 2 * half))


def written_out(encoder: Encoder, x_SD: Tensor, positions: bool) -> Tensor:
    """One example without padding."""
    x_SD = x_SD @ encoder.projection.weight.T
    if positions:
        x_SD = x_SD + signal(*x_SD.shape)
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        x_SD = x_SD + attend(layer, norm(layer.attention_norm, x_SD))
        fed = norm(layer.feed_forward_norm, x_SD)
        x_SD = x_SD + convolve(layer.feed_forward.narrow, convolve(layer.feed_forward.widen, fed))
    return norm(encoder.norm, x_SD)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize(("inputs", "size"), [(8, 8), (5, 9)])
def test_padded_batch_equals_each_example_written_out(positions: bool, inputs: int, size: int) -> None:
    encoder = perturbed(Encoder(inputs, size, SIZES, positions))
    x = torch.randn(3, 7, inputs, dtype=torch.float64)
    lengths = [7, 4, 1]
    real = torch.arange(7) < torch.tensor(lengths)[:, None]
    output = encoder(x, real)
    assert bool(torch.isfinite(output).all())
    for b, length in enumerate(lengths):
        expected = written_out(encoder, x[b, :length], positions)
        torch.testing.assert_close(output[b, :length], expected, rtol=0, atol=2e-6)


def test_what_padding_holds_does_not_matter() -> None:
    encoder = perturbed(Encoder(6, 6, SIZES))
    real = torch.tensor([[True, True, True, False, False]])
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    other = x.clone()
    other[:, 3:] = 100.0
    torch.testing.assert_close(encoder(x, real)[:, :3], encoder(other, real)[:, :3], rtol=0, atol=1e-12)
    torch.testing.assert_close(encoder(x, real)[:, :3], encoder(x[:, :3], real[:, :3]), rtol=0, atol=1e-12)


def test_a_row_of_padding_alone_is_finite_with_finite_gradients() -> None:
    encoder = perturbed(Encoder(6, 6, SIZES))
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    output = encoder(x, torch.tensor([[False] * 3, [True] * 3]))
    output.square().sum().backward()
    assert bool(torch.isfinite(output).all())
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_refiner_is_the_encoder_over_context_and_repeated_knowledge() -> None:
    refiner = perturbed(Refiner(8, SIZES), seed=4)
    context, knowledge = torch.randn(2, 5, 8).double(), torch.randn(2, 3, 8).double()
    lengths = [5, 2]
    refined = refiner(context, knowledge, torch.arange(5) < torch.tensor(lengths)[:, None])
    assert refined.shape == (2, 3, 5, 8)
    for b, length in enumerate(lengths):
        for k in range(3):
            both = torch.cat([context[b, :length], knowledge[b, k].expand(length, 8)], dim=1)
            expected = written_out(refiner.encoder, both, positions=True)
            torch.testing.assert_close(refined[b, k, :length], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("inputs", "size", "count"), [(300, 300, 230_150), (600, 300, 320_150), (14, 14, 6_784), (43, 43, 21_980)]
)
def test_parameter_counts_of_the_family(inputs: int, size: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in Encoder(inputs, size, BlockSizes()).parameters()) == count


@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_position_alone(layers: int) -> None:
    encoder = perturbed(Encoder(5, 9, BlockSizes(layers, 2, 6, 4)).double())
    assert isinstance(encoder, Encoder)
    for length in (1, 2, 3, 7):
        x = torch.randn(3, 7, 5).double()
        real = torch.arange(7) < torch.tensor([length, 7, 0])[:, None]
        rows = encoder.first(x, real)
        for b in range(2):
            expected = written_out(encoder, x[b, : int(real[b].sum())], positions=True)
            torch.testing.assert_close(rows[b], expected[0], rtol=0, atol=2e-6)
        assert bool(rows.isfinite().all())
