"""Showing how a download goes: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ctsm.resources.catalogue import size_in_words

STEP_WITHOUT_TOTAL = 64 * 10**6
"""Bytes between two log lines when the server does not say how many will come."""


class Reporter(Protocol):
    """What a download tells the person who waits for it."""

    def begin(self, name: str, done: int, total: int | None) -> None:
        """A transfer starts (or starts again) at `done` of `total` bytes."""

    def advance(self, count: int) -> None:
        """`count` more bytes are on the disk."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line."""

    def close(self) -> None:
        """The transfer is over, well or badly."""


class LineReporter:
    """Log lines on standard error, one for each tenth of a file."""

    def __init__(self) -> None:
        self._name = ""
        self._done = 0
        self._total: int | None = None
        self._next = 0

    def begin(self, name: str, done: int, total: int | None) -> None:
        """Say where the transfer starts."""
        self._name, self._done, self._total = name, done, total
        size = "an unknown number of bytes" if total is None else size_in_words(total)
        self.note(f"{name}: {size}" + (f", going on from {size_in_words(done)}" if done else ""))
        self._next = done + self._step()

    def advance(self, count: int) -> None:
        """Count the bytes, and write a line at each step."""
        self._done += count
        if self._done >= self._next:
            share = "" if not self._total else f" ({100 * self._done // self._total} %)"
            self.note(f"{self._name}: {size_in_words(self._done)}{share}")
            self._next = self._done + self._step()

    def note(self, text: str) -> None:
        """Write a line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left to tidy."""

    def _step(self) -> int:
        return STEP_WITHOUT_TOTAL if self._total is None else max(1, self._total // 10)


class BarReporter:
    """A rich progress bar on standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, name: str, done: int, total: int | None) -> None:
        """Show a bar that starts at `done`, in place of any earlier one."""
        self.close()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task(name, total=total, completed=done)
        self._bar.start()

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop drawing; the last state of the bar stays on the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def reporter_for_terminal() -> Reporter:
    """Return the bar when standard error is a terminal, log lines otherwise."""
    console = Console(stderr=True)
    return BarReporter(console) if console.is_terminal else LineReporter()
