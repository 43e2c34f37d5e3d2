from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.training.schedule import noam_rate


@pytest.mark.parametrize(("step", "rate"), [(1, 8.07e-8), (8_000, 6.46e-4), (17_250, 4.40e-4)])
def test_the_papers_schedule(step: int, rate: float) -> None:
    assert noam_rate(step, 300, 8_000) == pytest.approx(rate, rel=1e-3)


@given(st.integers(1, 10**6), st.integers(1, 2000), st.integers(1, 20_000), st.floats(1e-3, 1e3))
def test_the_formula(step: int, size: int, warmup: int, factor: float) -> None:
    rising = step / (math.sqrt(size) * warmup * math.sqrt(warmup))
    falling = 1.0 / math.sqrt(size * step)
    assert noam_rate(step, size, warmup, factor) == pytest.approx(factor * min(rising, falling), rel=1e-9)


@given(st.integers(1, 2000), st.integers(2, 500))
def test_it_rises_to_the_end_of_the_warm_up_and_then_falls(size: int, warmup: int) -> None:
    rates = [noam_rate(step, size, warmup) for step in range(1, 2 * warmup)]
    assert max(range(len(rates)), key=rates.__getitem__) + 1 == warmup
    assert rates[: warmup - 1] == sorted(rates[: warmup - 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
