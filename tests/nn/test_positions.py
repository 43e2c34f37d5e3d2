from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctsm.nn.positions import Positions, sinusoids


def written_out(length: int, size: int) -> list[list[float]]:
    """[sin | cos], wavelengths 2 pi ... 10,000 * 2 pi in equal ratios, an odd last column 0."""
    half = size // 2
    rows = []
    for position in range(length):
        angles = [position / 10_000.0 ** (index / max(half - 1, 1)) for index in range(half)]
        row = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        rows.append(row + [0.0] * (size - 2 * half))
    return rows


@pytest.mark.parametrize("size", [1, 2, 3, 12, 14, 43, 300])
def test_signal_is_sines_then_cosines(size: int) -> None:
    expected = torch.tensor(written_out(40, size), dtype=torch.float64)
    torch.testing.assert_close(sinusoids(40, size).double(), expected, rtol=0, atol=5e-6)


@settings(deadline=None, max_examples=30)
@given(first=st.integers(0, 20), steps=st.integers(0, 9), size=st.integers(2, 9))
def test_positions_are_added_from_the_given_one_on(first: int, steps: int, size: int) -> None:
    x = torch.randn(2, 3, steps, size, dtype=torch.float64)
    expected = x + torch.tensor(written_out(30, size), dtype=torch.float64)[first : first + steps]
    torch.testing.assert_close(Positions(size).double()(x, first), expected, rtol=0, atol=1e-5)


def test_a_longer_sequence_than_the_table_grows_it_without_changing_what_was_there() -> None:
    short, long = Positions(6, length=4), Positions(6, length=4)
    before = short(torch.zeros(1, 4, 6))
    grown = long(torch.zeros(1, 11, 6))
    assert torch.equal(grown[:, :4], before)
    torch.testing.assert_close(grown[0], torch.tensor(written_out(11, 6)), rtol=0, atol=1e-5)
    assert torch.equal(long(torch.zeros(1, 1, 6), first=30), sinusoids(31, 6)[None, 30:])


def test_the_table_keeps_the_modules_type_and_is_not_saved() -> None:
    positions = Positions(6, length=4).double()
    assert positions(torch.zeros(1, 9, 6, dtype=torch.float64)).dtype == torch.float64
    assert positions.signal.dtype == torch.float64
    assert not positions.state_dict()
