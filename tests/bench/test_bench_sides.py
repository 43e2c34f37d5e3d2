from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctsm.bench.sides import Side, Tasks
from ctsm.errors import CtsmError


def build(word: str) -> Tasks:
    said: list[str] = []

    def say() -> list[str]:
        print("a message, no answer")
        said.append(word)
        return said

    def fail() -> None:
        raise CtsmError(f"{word}: cannot be measured.")

    return {
        "say": say,
        "add": lambda a, b: a + b,
        "fail": fail,
        "read": Path("/no/such/file").read_bytes,
        "break": lambda: 1 // 0,
        "end": lambda: os._exit(3),
        "where": os.getpid,
    }


def test_tasks_keep_their_state_in_a_process_of_their_own() -> None:
    with Side(build, word="a") as first, Side(build, word="b") as second:
        assert first.run("say") == ["a"]
        assert second.run("say") == ["b"]
        assert first.run("say") == ["a", "a"]
        assert first.run("add", 2, 3) == 5
        assert len({os.getpid(), first.run("where"), second.run("where")}) == 3


def test_a_users_error_and_an_early_end_are_told() -> None:
    with Side(build, word="a") as side:
        with pytest.raises(CtsmError, match="a: cannot be measured"):
            side.run("fail")
        with pytest.raises(CtsmError, match="/no/such/file"):
            side.run("read")
        assert side.run("say") == ["a"]
        with pytest.raises(CtsmError, match="end: its process ended with exit code 3"):
            side.run("end")


def test_a_fault_ends_the_process_and_is_told() -> None:
    with Side(build, word="a") as side, pytest.raises(CtsmError, match="break: its process ended with exit code 1"):
        side.run("break")


def test_the_process_ends_with_the_block() -> None:
    with Side(build, word="a") as side:
        number = side.run("where")
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
