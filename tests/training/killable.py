"""Runs trainings that tests kill: each job is a fork of a process that has torch imported already.

Reads one JSON job a line: {"config", "data", "run", "resume", "result"} and perhaps
"kill_at": n, die by SIGKILL right before or after a disk operation (operation k is n = 2k before it, 2k + 1 after it),
"signal_at": [i, s], get signal s in the middle of step i.
Answers twice: the child's process id, and later its wait status.
With a job as the only argument it runs that job in this very process.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctsm import files
from ctsm.config import config_from_json
from ctsm.training import loop
from ctsm.training import step as stepping

for module in ("ctsm.models.ctsm", "jsonargparse", "rich.console", "rich.progress", "torch._dynamo"):
    importlib.import_module(module)  # what a job would import, once for all of them

moments = itertools.count()


def watch(call: Callable[..., Any], kill_at: int | None) -> Callable[..., Any]:
    """Count the moments before and after a call, and die in one of them."""

    def moment() -> None:
        if next(moments) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(*arguments: Any, **options: Any) -> Any:
        moment()
        result = call(*arguments, **options)
        moment()
        return result

    return watched


def watch_the_disk(kill_at: int | None) -> None:
    for owner, name in (
        (os, "fsync"),
        (os, "replace"),
        (os, "rmdir"),
        (files, "_swap"),
        (shutil, "rmtree"),
        (Path, "write_bytes"),
    ):
        setattr(owner, name, watch(getattr(owner, name), kill_at))


def send_a_signal(step: int, number: int) -> None:
    rate = stepping.noam_rate

    def interrupting(iteration: int, *rest: float) -> float:
        if iteration == step:
            os.kill(os.getpid(), number)
        return rate(iteration, *rest)

    stepping.noam_rate = interrupting


def run(job: dict[str, Any]) -> None:
    watch_the_disk(job.get("kill_at"))
    if job.get("signal_at"):
        send_a_signal(*job["signal_at"])
    outcome = loop.train(config_from_json(job["config"], "job"), Path(job["data"]), Path(job["run"]), job["resume"])
    result = {"progress": dataclasses.asdict(outcome.progress), "signal": outcome.signal, "moments": next(moments)}
    Path(job["result"]).write_text(json.dumps(result))


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                run(json.loads(line))
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(json.loads(sys.argv[1]))
    else:
        serve()
