"""Under load every request is answered, with the reply that a lone client gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"


def check_load(directory: Path, out: Path, clients: int, requests: int, *words: str) -> None:
    command = [sys.executable, str(SCRIPT), str(directory), "--clients", str(clients), "--requests", str(requests)]
    done = subprocess.run([*command, "--json", str(out), *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(out.read_text(encoding="utf-8"))
    assert outcome["requests"] == clients * requests
    assert (outcome["errors"], outcome["different"], outcome["exit_code"]) == (0, 0, 0)
    assert 0 < outcome["p50"] <= outcome["p99"] <= outcome["slowest"]


def test_a_little_load(model_directory: Path, tmp_path: Path) -> None:
    check_load(model_directory, tmp_path / "outcome.json", 12, 3, "--stream")


@pytest.mark.long
@pytest.mark.parametrize("words", [(), ("--stream",)])
def test_much_load(model_directory: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    check_load(model_directory, tmp_path / "outcome.json", 64, 50, *words)
