"""A budget is a number of hours, counted from now."""

from __future__ import annotations

import time

import pytest

from ctsm.errors import CtsmError
from ctsm.reproduction.deadline import Deadline


@pytest.mark.parametrize("hours", [0.0, -1.0, float("inf"), float("nan")])
def test_a_budget_is_a_positive_number_of_hours(hours: float) -> None:
    with pytest.raises(CtsmError, match=r"--budget is .*above 0"):
        Deadline(hours)


def test_it_passes_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    half, never = Deadline(0.5), Deadline(None)
    for seconds, passed in ((0, False), (1799, False), (1800, True), (9999, True)):
        now[0] = 1000.0 + seconds
        assert half.passed() is passed
        assert not never.passed()
