from __future__ import annotations

import io

from rich.console import Console

from ctsm.resources.progress import BarReporter, LineReporter, reporter_for_terminal


def test_lines_at_each_tenth(capsys):
    reporter = LineReporter()
    reporter.begin("x.zip", 0, 1000)
    for _ in range(100):
        reporter.advance(10)
    reporter.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "x.zip: 1000 bytes"
    assert lines[1:] == [f"x.zip: {100 * step} bytes ({10 * step} %)" for step in range(1, 11)]


def test_lines_when_going_on_and_when_the_total_is_unknown(capsys):
    reporter = LineReporter()
    reporter.begin("x.zip", 600, 1000)
    reporter.begin("x.zip", 0, None)
    for _ in range(64):
        reporter.advance(2_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["x.zip: 1000 bytes, going on from 600 bytes", "x.zip: an unknown number of bytes"]
    assert lines[2:] == ["x.zip: 64 MB", "x.zip: 128 MB"]


def test_bar_shows_name_and_amount_and_notes_as_they_are():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    reporter = BarReporter(console)
    reporter.note("[bold]not markup[/bold]")
    reporter.begin("x.zip", 0, 2000)
    reporter.advance(500)
    reporter.begin("x.zip", 500, 2000)
    reporter.advance(1500)
    reporter.close()
    reporter.close()
    text = console.file.getvalue()
    assert "x.zip" in text
    assert "2.0/2.0 kB" in text
    assert "[bold]not markup[/bold]" in text


def test_no_bar_when_standard_error_is_not_a_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(reporter_for_terminal(), LineReporter)
