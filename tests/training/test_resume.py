"""A run that is killed anywhere and resumed equals one that was never disturbed, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ctsm.config import RunConfig
from ctsm.models.bundle import load_bundle
from ctsm.training.checkpoint import checkpoints

SCRIPT = Path(__file__).with_name("killable.py")
LEFT = {"best", "checkpoints", "log.jsonl", "run.json"}


def environment(threads: int) -> dict[str, str]:
    """Threads that wait without spinning: other processes may need the cores."""
    number = str(threads)
    return {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "OMP_WAIT_POLICY": "PASSIVE"}


class Runner:
    """Trains in child processes of one helper process, the only processes that are ever killed here."""

    def __init__(self, config: RunConfig, data: Path, folder: Path, threads: int) -> None:
        self.config, self.data, self.folder, self.threads = config, data, folder, threads
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(threads),
        )
        self.count = 0

    def job(self, run: Path, resume: bool, config: RunConfig | None = None, **faults: Any) -> dict[str, Any]:
        return {
            "config": (config or self.config).to_json(),
            "data": str(self.data),
            "run": str(run),
            "resume": resume,
            "result": str(self.folder / "result.json"),
            **faults,
        }

    def start(self, run: Path, resume: bool, **faults: Any) -> int:
        """Start a job and return its process id."""
        assert self.process.stdin
        assert self.process.stdout
        (self.folder / "result.json").unlink(missing_ok=True)
        self.process.stdin.write(json.dumps(self.job(run, resume, **faults)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def finish(self) -> tuple[int, dict[str, Any] | None]:
        """Wait for the job; return its exit code (negative: the signal that killed it) and what it said."""
        assert self.process.stdout
        code = os.waitstatus_to_exitcode(int(self.process.stdout.readline()))
        result = self.folder / "result.json"
        return code, json.loads(result.read_text()) if code == 0 else None

    def train(self, run: Path, resume: bool, **faults: Any) -> tuple[int, dict[str, Any] | None]:
        self.start(run, resume, **faults)
        return self.finish()

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"run{self.count}"

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    """Like `tiny_config`; a dev evaluation every 4 steps, a checkpoint every 3, a log line every 2, 13 steps."""
    from ctsm.config import TrainingOptions
    from ctsm.models.ctsm import CTSMOptions

    options = CTSMOptions(size=16, depth=8, filter_size=8, semantic_size=4, fusion_size=24, fusion_sharing="mlp_only")
    training = TrainingOptions(
        batch_size=4,
        iterations=13,
        warmup=10,
        rate_factor=0.3,
        evaluate_every=4,
        evaluate_from=4,
        checkpoint_every=3,
        log_every=2,
        pool=2,
        seed=3,
        tensorboard=False,
    )
    return RunConfig("ctsm", "", options, training)


@pytest.fixture(scope="module")
def runner(config: RunConfig, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(config, prepared, tmp_path_factory.mktemp("resume"), threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(runner: Runner) -> tuple[Path, int]:
    """An undisturbed run, and the number of moments in which it could have been killed."""
    run = runner.new()
    code, result = runner.train(run, resume=False)
    assert code == 0
    assert result
    return run, result["moments"]


def state(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return value


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) | {"seconds": 0} for line in (run / "log.jsonl").read_text().splitlines()]


def assert_equal_tensors(first: Path, second: Path) -> None:
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert first.read_bytes() == second.read_bytes()


def assert_same_run(run: Path, other: Path) -> None:
    """Final checkpoint, best model and log are equal; only clocks may differ. Nothing else is left in the folder."""
    ours, theirs = checkpoints(run)[-1], checkpoints(other)[-1]
    assert ours.name == theirs.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert_equal_tensors(ours / name, theirs / name)
    clocks = {"train_seconds": 0, "log_bytes": 0}  # the log holds seconds, in more digits or fewer
    assert state(ours) | clocks == state(theirs) | clocks
    assert state(ours)["log_bytes"] == (run / "log.jsonl").stat().st_size
    assert log(run) == log(other)
    assert_equal_tensors(run / "best" / "model.safetensors", other / "best" / "model.safetensors")
    best, other_best = load_bundle(run).progress, load_bundle(other).progress
    assert best | {"train_seconds": 0} == other_best | {"train_seconds": 0}
    assert {path.name for path in run.iterdir()} == LEFT
    assert {path.name for path in (run / "checkpoints").iterdir()} == {folder.name for folder in checkpoints(run)}
    assert len(checkpoints(run)) <= 3  # two, or three when the kill came before the oldest was removed


def assert_usable(run: Path) -> None:
    """What a kill may never leave: half a checkpoint, half a best model, or none where there was one."""
    for folder in checkpoints(run):
        sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
        assert len(sums) == 3
        for name, digest in sums.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    known = [state(folder)["best_iteration"] for folder in checkpoints(run)]
    if any(known):
        assert load_bundle(run).progress["iteration"] >= max(known)
    elif (run / "best").exists():
        load_bundle(run)


def finish(runner: Runner, run: Path, whole: Path) -> None:
    """Resume to the end and compare with the undisturbed run."""
    assert_usable(run)
    code, result = runner.train(run, resume=run.exists())
    assert code == 0
    assert result
    assert result["progress"]["finished"]
    assert_same_run(run, whole)


def test_the_undisturbed_run_is_as_meant(whole: tuple[Path, int]) -> None:
    run, moments = whole
    assert [(line["kind"], line["iteration"]) for line in log(run) if line["kind"] == "dev"] == [
        ("dev", 4),
        ("dev", 8),
        ("dev", 12),
        ("dev", 13),
    ]
    assert checkpoints(run)[-1].name == "step-00000013"
    assert moments > 100, "the disk operations are not seen"
    assert len({line["loss"] for line in log(run) if line["kind"] == "train"}) == 6


@pytest.mark.parametrize(
    ("number", "steps"),
    [
        (signal.SIGTERM, [3, 5, 10]),
        (signal.SIGINT, [4]),
        pytest.param(signal.SIGTERM, [1], marks=pytest.mark.long),
        pytest.param(signal.SIGINT, [2, 3, 13], marks=pytest.mark.long),
    ],
)
def test_interrupted_by_a_signal(
    runner: Runner, whole: tuple[Path, int], number: signal.Signals, steps: list[int]
) -> None:
    """In the middle of steps: before the first checkpoint, at an evaluation, several times, in the last step."""
    run = runner.new()
    for place, step in enumerate(steps):
        code, result = runner.train(run, resume=place > 0, signal_at=[step, int(number)])
        assert code == 0
        assert result
        assert result["progress"]["iteration"] == step
        assert result["signal"] == number
        assert checkpoints(run)[-1].name == f"step-{step:08d}"
    finish(runner, run, whole[0])


@pytest.mark.parametrize("share", [0.02, 0.23, 0.41, 0.62, 0.99])
def test_killed_between_disk_operations(runner: Runner, whole: tuple[Path, int], share: float) -> None:
    run = runner.new()
    assert runner.train(run, resume=False, kill_at=int(share * whole[1])) == (-signal.SIGKILL, None)
    finish(runner, run, whole[0])


def test_killed_again_and_again(runner: Runner, whole: tuple[Path, int]) -> None:
    run = runner.new()
    kills = 0
    for kill_at in (50, 70, 60):
        kills += runner.train(run, resume=run.exists(), kill_at=kill_at)[0] == -signal.SIGKILL
        assert_usable(run)
    assert kills == 3
    finish(runner, run, whole[0])


def test_killed_between_best_model_and_checkpoint(runner: Runner, whole: tuple[Path, int]) -> None:
    """The best model of step 8 stands there, the newest checkpoint is of step 6 and knows nothing of it."""
    found = False
    low, high = 0, whole[1]
    while low < high and not found:  # bisect for the first moment with a newer best model
        middle = (low + high) // 2
        run = runner.new()
        assert runner.train(run, resume=False, kill_at=middle)[0] == -signal.SIGKILL
        newest = state(checkpoints(run)[-1])["iteration"] if checkpoints(run) else 0
        best = load_bundle(run).progress["iteration"] if (run / "best").exists() else 0
        found = (newest, best) == (6, 8)
        if newest >= 8:
            high = middle
        else:
            low = middle + 1
    assert found
    longer = (run / "log.jsonl").stat().st_size > state(checkpoints(run)[-1])["log_bytes"]
    assert longer, "the log should be ahead of the checkpoint too"
    finish(runner, run, whole[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_real_process_and_a_real_signal(runner: Runner, config: RunConfig, number: signal.Signals) -> None:
    """From outside, whenever the log has grown: no hook in the process knows of it."""
    run, reference = runner.new(), runner.new()
    endless = replace(config, training=replace(config.training, iterations=100_000, evaluate_every=50))
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(runner.job(run, False, endless))],
        stderr=subprocess.DEVNULL,
        env=environment(threads=1),
    )
    try:
        while process.poll() is None and not (checkpoints(run) and (run / "log.jsonl").stat().st_size > 500):
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=60) == (-number if number == signal.SIGKILL else 0)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert_usable(run)
    reached = state(checkpoints(run)[-1])["iteration"]
    limited = replace(endless, training=replace(endless.training, iterations=reached + 4))
    for place, resume in ((run, True), (reference, False)):
        runner.start(place, resume, config=limited)
        code, result = runner.finish()
        assert code == 0
        assert result
        assert result["progress"]["iteration"] == reached + 4
    assert_same_run(run, reference)


@pytest.mark.long
def test_killed_at_every_disk_operation(runner: Runner, whole: tuple[Path, int]) -> None:
    for kill_at in range(whole[1]):
        run = runner.new()
        assert runner.train(run, resume=False, kill_at=kill_at) == (-signal.SIGKILL, None), kill_at
        finish(runner, run, whole[0])


@pytest.mark.long
@pytest.mark.parametrize("threads", [1, 2])
def test_killed_at_random_times(
    config: RunConfig, prepared: Path, tmp_path_factory: pytest.TempPathFactory, threads: int
) -> None:
    """25 kills, whenever they come; a run is resumed until it gets through."""
    longer = replace(config, training=replace(config.training, iterations=40))
    runner = Runner(longer, prepared, tmp_path_factory.mktemp("random"), threads)
    try:
        durations = []
        for reference in (runner.new(), runner.new()):
            started = time.monotonic()
            assert runner.train(reference, resume=False)[0] == 0
            durations.append(time.monotonic() - started)
        kills = 0
        chance = random.Random(threads)
        while kills < 25:
            run = runner.new()
            code = -1
            while code != 0:
                process = runner.start(run, resume=run.exists())
                time.sleep(chance.uniform(0.1, 0.9) * min(durations))
                with suppress(ProcessLookupError):  # it may end in this very moment
                    if not (runner.folder / "result.json").exists():
                        os.kill(process, signal.SIGKILL)
                code, _ = runner.finish()
                assert code in (0, -signal.SIGKILL)
                kills += code != 0
                assert_usable(run)
            assert_same_run(run, reference)
    finally:
        runner.close()
