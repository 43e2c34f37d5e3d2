"""What a person and a program see of a training run: a progress bar, a JSONL log and TensorBoard."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ctsm.errors import MissingExtraError


class Reporter:
    """Writes every record to RUN/log.jsonl and, where asked, to TensorBoard; shows progress on the terminal.

    Args:
        run: the run directory.
        total: iterations of the run, for the bar.
        iteration: where the run starts or resumes.
        log_bytes: the log is cut to this length first, so a resumed run leaves no record of undone steps.
        tensorboard: whether to write TensorBoard files.
    """

    def __init__(self, run: Path, total: int, iteration: int, log_bytes: int, tensorboard: bool) -> None:
        self._log = _open_log(run / "log.jsonl", log_bytes)
        self._writer: Any = None
        if tensorboard:
            self._writer = tensorboard_writer()(str(run / "tensorboard"), purge_step=iteration + 1)
        self._bar = _Bar(total, iteration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._log.close()
        if self._writer is not None:
            self._writer.close()

    def record(self, kind: str, iteration: int, values: dict[str, float], seconds: float) -> None:
        """Log one record: kind "train" or "dev", its values, and the run's seconds so far."""
        entry = {"kind": kind, "iteration": iteration, **values, "seconds": round(seconds, 2)}
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, iteration)
        self._bar.show(kind, iteration, values)

    def advance(self, iteration: int) -> None:
        """Move the bar."""
        self._bar.advance(iteration)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._bar.say(message)

    def sync(self) -> int:
        """Force the log to the disk and return its length in bytes."""
        self._log.flush()
        os.fsync(self._log.fileno())
        return self._log.tell()


def _open_log(path: Path, log_bytes: int) -> IO[str]:
    stream = path.open("a+", encoding="utf-8", newline="\n")
    if log_bytes < path.stat().st_size:  # a log that somebody shortened is not filled up
        stream.truncate(log_bytes)
    stream.seek(0, os.SEEK_END)
    return stream


def tensorboard_writer() -> Any:
    """Import the class that writes TensorBoard files.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("train", "writing TensorBoard logs (or set training.tensorboard to false)") from None
    return SummaryWriter


class _Bar:
    """On a terminal a progress bar with the latest loss terms below it, plain lines elsewhere."""

    def __init__(self, total: int, iteration: int) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
        from rich.text import Text

        self._console = Console(file=sys.stderr, highlight=False)
        self._progress = Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self._console)
        self._task = self._progress.add_task("", total=total, completed=iteration)
        self._terms = Text()
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(Group(self._progress, self._terms), console=self._console)
            self._live.start()

    def advance(self, iteration: int) -> None:
        self._progress.update(self._task, completed=iteration)

    def show(self, kind: str, iteration: int, values: dict[str, float]) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._live is not None and kind == "train":
            self._terms.plain = text
        else:
            self.say(f"{kind} {iteration}: {text}")

    def say(self, message: str) -> None:
        self._console.print(message, soft_wrap=True, markup=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
