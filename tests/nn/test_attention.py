from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctsm.nn.attention import MultiHeadAttention
from ctsm.nn.masking import attention_bias

Array = NDArray[np.float64]
DEPTH, HEADS = 6, 2


def written_out(attention: MultiHeadAttention, x_TD: Array, memory_SD: Array) -> tuple[Array, Array]:
    """One example without padding, head by head and position by position: outputs [T, D], mean raw scores [T, S]."""
    weights = {name: value.detach().double().numpy() for name, value in attention.named_parameters()}
    queries = x_TD @ weights["query.weight"].T
    keys, values = memory_SD @ weights["key.weight"].T, memory_SD @ weights["value.weight"].T
    width = DEPTH // HEADS
    joined, scores = np.zeros((len(x_TD), DEPTH)), np.zeros((len(x_TD), len(memory_SD)))
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(x_TD)):
            raw = np.array([queries[t, part] @ keys[s, part] / math.sqrt(width) for s in range(len(memory_SD))])
            scores[t] += raw / HEADS
            powers = np.exp(raw - raw.max())
            joined[t, part] = powers / powers.sum() @ values[:, part]
    return joined @ weights["output.weight"].T, scores


@pytest.fixture
def attention() -> MultiHeadAttention:
    torch.manual_seed(3)
    return MultiHeadAttention(5, 7, DEPTH, HEADS).double()


def test_padded_batch_equals_each_example_written_out(attention: MultiHeadAttention) -> None:
    x, memory = torch.randn(3, 4, 5).double() * 2, torch.randn(3, 6, 7).double() * 2
    lengths = [6, 2, 1]
    bias = attention_bias(torch.arange(6)[None] < torch.tensor(lengths)[:, None])[:, None, None].double()
    keys, values = attention.keys_values(memory)
    plain = attention.attend(attention.queries(x), keys, values, bias)
    mixed, scores = attention.with_scores(x, keys, values, bias)
    for b, length in enumerate(lengths):
        output, raw = written_out(attention, x[b].numpy(), memory[b, :length].numpy())
        np.testing.assert_allclose(plain[b].detach().numpy(), output, atol=1e-12)
        np.testing.assert_allclose(mixed[b].detach().numpy(), output, atol=1e-12)
        np.testing.assert_allclose(scores[b, :, :length].detach().numpy(), raw, atol=1e-12)
        assert bool((scores[b, :, length:] < -1e8).all())


def test_without_a_bias_every_position_is_attended(attention: MultiHeadAttention) -> None:
    x, memory = torch.randn(1, 3, 5).double(), torch.randn(1, 4, 7).double()
    output, _ = written_out(attention, x[0].numpy(), memory[0].numpy())
    mixed = attention.attend(attention.queries(x), *attention.keys_values(memory), None)
    np.testing.assert_allclose(mixed[0].detach().numpy(), output, atol=1e-12)


def test_a_sequence_may_attend_to_itself() -> None:
    attention = MultiHeadAttention(5, 5, DEPTH, HEADS).double()
    x = torch.randn(1, 4, 5).double()
    output, _ = written_out(attention, x[0].numpy(), x[0].numpy())
    mixed = attention.attend(*attention.queries_keys_values(x), None)
    np.testing.assert_allclose(mixed[0].detach().numpy(), output, atol=1e-12)


def test_there_are_no_biases_and_the_key_width_is_free() -> None:
    shapes = {name: tuple(value.shape) for name, value in MultiHeadAttention(5, 7, 40, 2).named_parameters()}
    assert shapes == {
        "query.weight": (40, 5),
        "key.weight": (40, 7),
        "value.weight": (40, 7),
        "output.weight": (5, 40),
    }


def test_depth_must_divide_into_heads() -> None:
    with pytest.raises(ValueError, match="multiple"):
        MultiHeadAttention(5, 5, 7, 2)
