"""A claim excludes other processes, and ends with its process."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctsm.errors import CtsmError
from ctsm.reproduction.claims import claim

HOLD = """
import sys, time
from pathlib import Path
from ctsm.reproduction.claims import claim
with claim(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
print("left", flush=True)
sys.stdin.close()
time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that claims `path`, and wait until it has."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_the_claim_of_a_dead_process_is_free(tmp_path: Path, death: signal.Signals) -> None:
    path = tmp_path / "locks" / "row.lock"
    with hold(path) as process:
        with claim(path) as mine:
            assert not mine
        process.send_signal(death)
        process.wait(timeout=60)
    with claim(path) as mine:
        assert mine


def test_a_claim_that_was_let_go_is_free(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    with hold(path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.readline() == "left\n"
        with claim(path) as mine:
            assert mine
        process.kill()


def test_waiting_ends_when_the_other_process_does(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    with hold(path) as process:
        process.kill()
        with claim(path, wait=True) as mine:
            assert mine


def test_within_a_process_a_claim_excludes_too_and_an_error_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "row.lock"
    with claim(path) as first, claim(path) as second, claim(tmp_path / "other.lock") as other:
        assert (first, second, other) == (True, False, True)
    with pytest.raises(RuntimeError), claim(path):
        raise RuntimeError
    with claim(path) as again:
        assert again


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_handle: int, _operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    message = r"row\.lock: this file system has no locks .*choose another --out"
    with pytest.raises(CtsmError, match=message), claim(tmp_path / "row.lock"):
        pass
