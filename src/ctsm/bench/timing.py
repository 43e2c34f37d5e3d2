"""Measuring several contenders in alternation, so that what else happens on the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ctsm.bench.inputs import Say
from ctsm.bench.machine import synchronise


def alternate(
    contenders: Mapping[str, Callable[[int], None]], rounds: int, say: Say, device: str = "cpu"
) -> dict[str, tuple[float, ...]]:
    """Return the seconds of each contender in each round: A B C, A B C, ...

    Args:
        contenders: what to run, by name; each gets the number of the round.
        rounds: how many count; one before them, with the number -1, warms up and is not counted.
        say: called at the beginning of each round.
        device: what to wait for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        say("warming up" if number < 0 else f"round {number + 1} of {rounds}")
        for name, run in contenders.items():
            synchronise(device)
            started = time.perf_counter()
            run(number)
            synchronise(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: tuple(values) for name, values in seconds.items()}
