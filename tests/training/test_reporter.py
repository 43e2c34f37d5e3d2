"""What a person at a terminal sees of a training run."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from ctsm.training.reporter import Reporter

TERMS = {"loss": 13.25, "teacher": 1.5, "student": 2.5, "generation": 3.5, "contrastive": 4.5, "diversity": 5.5}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_loss_term_is_on_a_terminal_of_any_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    with Reporter(tmp_path, 100, 0, 0, tensorboard=False) as reporter:
        reporter.advance(50)
        reporter.record("train", 50, TERMS, 1.0)
        reporter.say("a line above the bar")
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", terminal.getvalue()).split())
    assert "50/100" in shown
    assert "a line above the bar" in shown
    for name, value in TERMS.items():
        assert f"{name} {value:g}" in shown


def test_without_a_terminal_there_are_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with Reporter(tmp_path, 100, 0, 0, tensorboard=False) as reporter:
        reporter.advance(50)
        reporter.record("train", 50, {"loss": 13.25, "teacher": 1.5}, 1.0)
    assert capsys.readouterr().err == "train 50: loss 13.25  teacher 1.5\n"
