"""The decoder over several memories: with one it is the plain decoder, and cached steps equal teacher forcing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctsm.nn.decoder import Decoder
from ctsm.nn.encoder import BlockSizes
from ctsm.nn.memories import MemoriesDecoder

SIZES = BlockSizes(layers=2, heads=2, depth=8, filter_size=5)
CLOSE = {"rtol": 0.0, "atol": 1e-10}


def make(memories: int) -> MemoriesDecoder:
    torch.manual_seed(memories)
    decoder = MemoriesDecoder(12, memories, SIZES)
    for parameter in decoder.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.4, std=0.4)
    return decoder.double()


def memory(seed: int, lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), width, 12, generator=torch.Generator().manual_seed(seed)).double(), real


def test_with_one_memory_it_is_the_plain_decoder() -> None:
    decoder, plain = make(1), Decoder(12, 12, SIZES).double()
    names = {"norms.0": "cross_norm", "attentions.0": "cross_attention"}
    state: dict[str, Any] = {}
    for name, value in decoder.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    plain.load_state_dict(state)
    context, real = memory(1, [5, 2], 5)
    x = torch.randn(2, 4, 12).double()
    found, expected = decoder(x, decoder.start([(context, real)])), plain(x, plain.start(context, real))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_the_memories_are_attended_to_in_their_order() -> None:
    """Where the later attentions add nothing, only the first memory is left; and its norm reads the sum so far."""
    decoder, single = make(2), make(1)
    for ours, theirs in zip(decoder.layers, single.layers, strict=True):
        nn.init.zeros_(ours.attentions[1].output.weight)
        state = {
            name: value for name, value in ours.state_dict().items() if not name.startswith(("norms.1", "attentions.1"))
        }
        theirs.load_state_dict(state)
    for name in ("projection", "norm"):
        getattr(single, name).load_state_dict(getattr(decoder, name).state_dict())
    first, second = memory(1, [3, 2], 3), memory(2, [4, 1], 4)
    x = torch.randn(2, 4, 12).double()
    hidden, scores = decoder(x, decoder.start([first, second]))
    torch.testing.assert_close(hidden, single(x, single.start([first]))[0], **CLOSE)
    assert scores.shape == (2, 4, 4)  # of the last memory
    nn.init.normal_(decoder.layers[0].attentions[1].output.weight)
    assert not torch.allclose(decoder(x, decoder.start([first, second]))[0], hidden)


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1], [3, 1], [1, 3]])
def test_cached_steps_equal_one_pass_and_selected_rows_go_on(cuts: list[int]) -> None:
    decoder = make(3)
    memories = [memory(seed, lengths, 4) for seed, lengths in ((1, [4, 2, 1]), (2, [1, 4, 4]), (3, [2, 3, 4]))]
    x = torch.randn(3, 4, 12).double()
    whole, whole_scores = decoder(x, decoder.start(memories))
    cache = decoder.start(memories)
    steps = [decoder(part, cache) for part in x.split(cuts, dim=1)]
    assert cache.length == 4
    torch.testing.assert_close(torch.cat([hidden for hidden, _ in steps], dim=1), whole, **CLOSE)
    torch.testing.assert_close(torch.cat([scores for _, scores in steps], dim=1), whole_scores)
    cache = decoder.start(memories)
    decoder(x[:, : cuts[0]], cache)
    rows = torch.tensor([2, 0, 2])
    rest, _ = decoder(x[rows, cuts[0] :], cache.select(rows))
    torch.testing.assert_close(rest, whole[rows, cuts[0] :], **CLOSE)


def test_padding_and_an_empty_memory_of_zeros_add_nothing() -> None:
    decoder = make(2)
    full, (other, other_real) = memory(1, [3, 3], 3), memory(2, [2, 0], 2)
    other = other * other_real[:, :, None]
    x = torch.randn(2, 4, 12).double()
    hidden, _ = decoder(x, decoder.start([(other, other_real), full]))
    wider = torch.cat([other, torch.zeros(2, 3, 12).double()], dim=1)
    wider_real = torch.cat([other_real, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    padded, _ = decoder(x, decoder.start([(wider, wider_real), full]))
    torch.testing.assert_close(padded, hidden, **CLOSE)
    alone = make(2)
    alone.load_state_dict(decoder.state_dict())
    for layer in alone.layers:
        nn.init.zeros_(layer.attentions[0].output.weight)
    torch.testing.assert_close(alone(x, alone.start([(other, other_real), full]))[0][1], hidden[1], **CLOSE)
