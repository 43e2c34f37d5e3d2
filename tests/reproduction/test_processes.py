"""Two real processes share the rows; what one leaves behind when it is killed, the other takes up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ctsm.evaluation.records import read_records
from ctsm.reproduction.plan import Places
from ctsm.reproduction.work import Request, reproduce

# A process that has everything imported before it is let go, so that both start the work at the same time.
WORKER = """
import sys
import ctsm.reproduction.work, ctsm.training.reporter, rich.live, torch._dynamo
from ctsm.cli.main import main
print("ready", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


def start(places: Places, data: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, "reproduce", "ambiguities", "--data", str(data)]
    command += ["--configs", str(places.configs), "--out", str(places.runs), "--results", str(places.results), *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload, no-any-return]


def go(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()


def test_two_processes_do_every_row_once(places: Places, prepared: Path) -> None:
    workers = [start(places, prepared, "--training.iterations", "8") for _ in range(2)]
    go(*workers)
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    begun = [re.findall(r"^(\S+): training from iteration 0 ", errors, re.MULTILINE) for _, errors in outputs]
    assert all(begun), "both had their share"
    assert not any("training from iteration 8" in errors for _, errors in outputs)
    runs = {path.name for path in (places.runs / "ambiguities").iterdir()}
    assert len(runs) == 9
    assert sorted(begun[0] + begun[1]) == sorted(runs), "every row by one process, and by one only"
    records = read_records([places.results / "ambiguities"])
    assert len(records) == 9
    table = (places.results / "ambiguities" / "README.md").read_text(encoding="utf-8")
    assert "No current record" not in table
    assert table.count("minus default |") == 8


def test_the_row_of_a_killed_process_is_taken_up(
    places: Places, prepared: Path, request_for: Callable[..., Request], budget_of_steps: Callable[[int], None]
) -> None:
    endless = ("--training.iterations", "1000000", "--training.evaluate_every", "1000000")
    worker = start(places, prepared, "--rows", "default", *endless)
    go(worker)
    run = places.runs / "ambiguities" / "ctsm-default-seed7"
    deadline = time.monotonic() + 120
    while not (run / "checkpoints").is_dir() or not list((run / "checkpoints").glob("step-*")):
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    request = request_for(rows=("default",), overrides=endless)
    said: list[str] = []
    summary = reproduce(request, said.append)
    assert said == []
    assert re.fullmatch(r"at [\d,]+ of 1,000,000; another process is working on it", summary.open[run.name])
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=60)
    budget_of_steps(20)
    reproduce(replace(request, hours=1.0), said.append)
    (line,) = said
    begun = re.fullmatch(r"ctsm-default-seed7: training from iteration ([\d,]+) to at most 1,000,000", line)
    assert begun is not None
    assert int(begun[1].replace(",", "")) > 0
    assert max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")) > int(begun[1].replace(",", ""))


def test_an_interrupted_process_says_so_by_its_exit_code(places: Places, prepared: Path) -> None:
    worker = start(places, prepared, "--rows", "default", "--training.iterations", "1000000")
    go(worker)
    run = places.runs / "ambiguities" / "ctsm-default-seed7"
    deadline = time.monotonic() + 120
    while not (run / "checkpoints").is_dir():
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    worker.send_signal(signal.SIGINT)
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 128 + signal.SIGINT
    assert re.search(r"^ctsm-default-seed7: at [\d,]+ of 1,000,000$", errors, re.MULTILINE)
