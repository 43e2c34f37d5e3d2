from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctsm.nn.attention import MultiHeadAttention
from ctsm.nn.decoder import Decoder, DecoderLayer
from ctsm.nn.encoder import BlockSizes

SIZE, MEMORY = 8, 5
LENGTHS = (4, 2, 1)


def build(layers: int, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    decoder = Decoder(SIZE, MEMORY, BlockSizes(layers=layers, heads=2, depth=6, filter_size=4))
    for parameter in decoder.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return decoder.double()


def inputs(steps: int, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Embedded words [B, T, D], memory [B, S, D'] and its mask [B, S]."""
    x, memory = torch.randn(rows, steps, SIZE).double(), torch.randn(rows, 4, MEMORY).double()
    return x, memory, torch.arange(4) < torch.tensor(LENGTHS[:rows])[:, None]


def attend(attention: MultiHeadAttention, x_TD: Tensor, memory_SD: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Position by position over the positions it may see: outputs, and raw scores averaged over the two heads."""
    query, key, value = attention.query(x_TD), attention.key(memory_SD), attention.value(memory_SD)
    rows, all_scores = [], []
    for t in range(len(x_TD)):
        seen = t + 1 if causal else len(memory_SD)
        heads, scores = [], torch.zeros(seen, dtype=torch.float64)
        for q, k, v in zip(query[t].chunk(2), key[:seen].chunk(2, dim=1), value[:seen].chunk(2, dim=1), strict=True):
            raw = k @ q / math.sqrt(len(q))
            scores = scores + raw / 2
            heads.append(torch.softmax(raw, dim=0) @ v)
        rows.append(attention.output(torch.cat(heads)))
        all_scores.append(scores)
    return torch.stack(rows), all_scores[0] if causal else torch.stack(all_scores)


def convolve(convolution: torch.nn.Module, x_TD: Tensor) -> Tensor:
    """Each position sees itself and the two before it."""
    padded = F.pad(x_TD, (0, 0, 2, 0))
    rows = [
        convolution.bias + sum(convolution.weight[:, :, k] @ padded[t + k] for k in range(3)) for t in range(len(x_TD))
    ]
    return torch.stack(rows).clamp_min(0)


def written_out(decoder: Decoder, x_TD: Tensor, memory_SD: Tensor) -> tuple[Tensor, Tensor]:
    """One example without padding: states [T, D] and the last layer's mean cross-attention scores [T, S]."""
    x_TD, half = x_TD @ decoder.projection.weight.T, SIZE // 2
    rates = torch.tensor([10_000.0 ** (-i / (half - 1)) for i in range(half)], dtype=torch.float64)
    angles = torch.arange(len(x_TD))[:, None] * rates
    x_TD = x_TD + torch.cat([angles.sin(), angles.cos()], dim=1)
    scores = torch.empty(0)
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        normed = F.layer_norm(x_TD, (SIZE,), layer.self_norm.weight, layer.self_norm.bias, 1e-5)
        x_TD = x_TD + attend(layer.self_attention, normed, normed, causal=True)[0]
        normed = F.layer_norm(x_TD, (SIZE,), layer.cross_norm.weight, layer.cross_norm.bias, 1e-5)
        mixed, scores = attend(layer.cross_attention, normed, memory_SD, causal=False)
        x_TD = x_TD + mixed
        normed = F.layer_norm(x_TD, (SIZE,), layer.feed_forward_norm.weight, layer.feed_forward_norm.bias, 1e-5)
        x_TD = x_TD + convolve(layer.feed_forward.narrow, convolve(layer.feed_forward.widen, normed))
    return F.layer_norm(x_TD, (SIZE,), decoder.norm.weight, decoder.norm.bias, 1e-5), scores


@pytest.mark.parametrize("layers", [1, 2])
def test_teacher_forcing_equals_each_example_written_out(layers: int) -> None:
    decoder = build(layers)
    x, memory, real = inputs(steps=6)
    hidden, scores = decoder(x, decoder.start(memory, real))
    for b, length in enumerate(LENGTHS):
        expected, expected_scores = written_out(decoder, x[b], memory[b, :length])
        torch.testing.assert_close(hidden[b], expected, rtol=0, atol=5e-6)
        torch.testing.assert_close(scores[b, :, :length], expected_scores, rtol=0, atol=5e-6)
        assert bool((scores[b, :, length:] < -1e8).all())


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    layers=st.integers(1, 2),
    seed=st.integers(0, 99),
    gradients=st.booleans(),
)
def test_any_way_of_cutting_into_steps_gives_the_same_states(
    cuts: list[int], layers: int, seed: int, gradients: bool
) -> None:
    """Without gradients, steps of one position after the first take a way of their own."""
    decoder = build(layers, seed)
    x, memory, real = inputs(sum(cuts))
    hidden, scores = decoder(x, decoder.start(memory, real))
    with torch.set_grad_enabled(gradients):
        cache = decoder.start(memory, real)
        parts = [decoder(part, cache) for part in x.split(cuts, dim=1)]
    assert cache.length == sum(cuts)
    torch.testing.assert_close(torch.cat([part[0] for part in parts], dim=1), hidden, rtol=0, atol=1e-11)
    torch.testing.assert_close(torch.cat([part[1] for part in parts], dim=1), scores, rtol=1e-12, atol=1e-11)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.integers(0, 2), min_size=1, max_size=5),
    done=st.integers(0, 4),
    layers=st.integers(1, 2),
    chunked=st.booleans(),
    gradients=st.booleans(),
)
def test_a_cache_with_rows_repeated_dropped_and_reordered_continues_those_rows(
    rows: list[int], done: int, layers: int, chunked: bool, gradients: bool
) -> None:
    decoder = build(layers)
    x, memory, real = inputs(steps=4)
    index = torch.tensor(rows)
    more = torch.randn(len(rows), 3, SIZE).double()  # repeated rows go on with different words
    full = torch.cat([x[index, :done], more], dim=1)
    expected, expected_scores = decoder(full, decoder.start(memory[index], real[index]))
    cache = decoder.start(memory, real)
    if done:
        decoder(x[:, :done], cache)
    selected = cache.select(index)
    steps = [more] if chunked else list(more.split(1, dim=1))
    with torch.set_grad_enabled(gradients):
        parts = [decoder(step, selected) for step in steps]
    torch.testing.assert_close(torch.cat([part[0] for part in parts], dim=1), expected[:, done:], rtol=0, atol=1e-11)
    torch.testing.assert_close(
        torch.cat([part[1] for part in parts], dim=1), expected_scores[:, done:], rtol=1e-12, atol=1e-11
    )
    # The cache it was taken from is as it was.
    again, _ = decoder(x[:, done:], cache) if done < 4 else (torch.empty(0), None)
    if done < 4:
        whole, _ = decoder(x, decoder.start(memory, real))
        torch.testing.assert_close(again, whole[:, done:], rtol=0, atol=1e-11)


def test_later_words_do_not_change_earlier_states() -> None:
    decoder = build(2)
    x, memory, real = inputs(steps=6)
    changed = x.clone()
    changed[:, 4:] = 9.0
    first, second = (decoder(words, decoder.start(memory, real))[0] for words in (x, changed))
    torch.testing.assert_close(first[:, :4], second[:, :4], rtol=0, atol=1e-12)
    assert not torch.allclose(first[:, 4:], second[:, 4:])


def test_padding_of_the_memory_does_not_matter() -> None:
    decoder = build(2)
    x, memory, real = inputs(steps=5)
    wide, wide_real = F.pad(memory, (0, 0, 0, 3), value=50.0), F.pad(real, (0, 3), value=False)
    torch.testing.assert_close(
        decoder(x, decoder.start(memory, real))[0], decoder(x, decoder.start(wide, wide_real))[0], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("memory", "count"), [(300, 278_750), (357, 278_750 + 4_560)])
def test_parameter_counts_of_the_family(memory: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in Decoder(300, memory, BlockSizes()).parameters()) == count
