"""The time a row still needs, from the best source there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctsm.corpus.prepared import PreparedData
from ctsm.evaluation.records import ResultRecord, read_record
from ctsm.reproduction import estimate as estimating
from ctsm.reproduction.estimate import Estimator, in_words, measured_seconds_per_step
from ctsm.reproduction.plan import Job, Places, plan
from ctsm.reproduction.standing import Standing

pytestmark = pytest.mark.usefixtures("two_rows")
NOTHING = Standing({}, 0, False, ("dev", "test"))


@pytest.fixture
def job(places: Places) -> Job:
    return plan("table1", places, 1, ["--training.iterations", "1000"])[0]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def measure(*arguments: Any) -> float:
        calls.append(arguments)
        return 2.0

    monkeypatch.setattr(estimating, "measured_seconds_per_step", measure)
    return calls


def write_run(run: Path, job: Job, seconds: float, **training: Any) -> None:
    """A run directory whose log says that 50 steps took so many seconds."""
    run.mkdir(parents=True)
    config = replace(job.config, training=replace(job.config.training, **training))
    (run / "run.json").write_text(json.dumps({"config": config.to_json(), "data_fingerprint": "x"}))
    lines = [{"kind": "train", "iteration": 50 * part, "seconds": seconds * part} for part in (1, 2)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def estimator(job: Job, prepared: Path, records: list[ResultRecord]) -> Estimator:
    return Estimator(PreparedData(prepared), job.run.parent, records, "cpu")


def test_its_own_log_comes_first(job: Job, prepared: Path, measured: list[Any]) -> None:
    write_run(job.run, job, 100.0)
    write_run(job.run.parent / "another-seed", job, 400.0, seed=8)
    at = Standing({}, 100, False, ("dev", "test"))
    found = estimator(job, prepared, []).estimate(job, at)
    assert (found.seconds, found.source) == (900 * 100.0 / 50, "its log")
    assert measured == []


def test_then_logs_of_runs_that_take_the_same_steps(job: Job, prepared: Path, measured: list[Any]) -> None:
    write_run(job.run.parent / "a-bf16", job, 1.0, precision="bf16")
    write_run(job.run.parent / "b-batch", job, 1.0, batch_size=8)
    write_run(job.run.parent / "deeper" / "c-seed8", job, 400.0, seed=8, iterations=50)
    found = estimator(job, prepared, []).estimate(job, NOTHING)
    assert (found.seconds, found.source) == (1000 * 400.0 / 50, "log of c-seed8")
    assert measured == []


@pytest.fixture
def own_record(finished: Callable[[str], None], places: Places) -> ResultRecord:
    finished("table1")
    record = read_record(places.results / "ctsm-8-seed7-test.json")
    return replace(record, train_seconds=80.0, checkpoint_step=8, evaluate_seconds=3.0)


def test_then_records_and_their_evaluations_count_in_any_case(
    job: Job, prepared: Path, measured: list[Any], own_record: ResultRecord
) -> None:
    (job.run / "log.jsonl").unlink()
    others = [
        replace(own_record, device="cuda", train_seconds=1.0, evaluate_seconds=99.0),
        replace(own_record, model="cem", train_seconds=1.0, evaluate_seconds=99.0),
        replace(own_record, precision="bf16 steps, fp32 scores", train_seconds=1.0, evaluate_seconds=99.0),
    ]
    found = estimator(job, prepared, [*others, own_record]).estimate(job, NOTHING)
    assert (found.seconds, found.source) == (1000 * 10.0 + 2 * 3.0, "an earlier record")
    assert measured == []
    evaluated = Standing({}, 1000, True, ("test",))
    assert estimator(job, prepared, [own_record]).estimate(job, evaluated).seconds == 3.0


def test_else_a_few_steps_are_taken_once_for_all_seeds(job: Job, prepared: Path, measured: list[Any]) -> None:
    guess = estimator(job, prepared, [])
    assert guess.estimate(job, NOTHING).seconds == 2000.0
    second = replace(job, config=replace(job.config, training=replace(job.config.training, seed=8)))
    assert guess.estimate(second, NOTHING).source == "10 steps, no evaluation"
    assert len(measured) == 1
    other = replace(job, config=replace(job.config, options=replace(job.config.options, vad_default="kemp")))
    guess.estimate(other, NOTHING)
    assert len(measured) == 2


def test_the_short_measurement_takes_steps_of_the_model(job: Job, prepared: Path) -> None:
    assert 0 < measured_seconds_per_step(job.config, PreparedData(prepared), "cpu") < 60


def test_damaged_logs_are_passed_over(job: Job, prepared: Path, measured: list[Any]) -> None:
    write_run(job.run, job, 100.0)
    (job.run / "log.jsonl").write_text('{"kind": "tr')
    (job.run.parent / "other").mkdir()
    (job.run.parent / "other" / "run.json").write_text("[1]")
    assert estimator(job, prepared, []).estimate(job, NOTHING).seconds == 2000.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min"), (3570, "1 h 0 min"), (3500, "58 min"), (12_000, "3 h 20 min")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
