"""Whether a record is of a run, and how far a run is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctsm.corpus.prepared import PreparedData
from ctsm.evaluation.records import read_record, write_record
from ctsm.reproduction.plan import Job, Places, plan
from ctsm.reproduction.standing import evaluation_file, publish, standing

Put = Callable[[str], None]
pytestmark = pytest.mark.usefixtures("two_rows")


@pytest.fixture
def job(places: Places, finished: Put) -> Job:
    """The finished run of CTSM's row."""
    finished("table1")
    return plan("table1", places, 1, ["--training.iterations", "8"])[0]


@pytest.fixture
def fingerprint(prepared: Path) -> str:
    return PreparedData(prepared).fingerprint


def test_a_finished_row(job: Job, fingerprint: str) -> None:
    at = standing(job, fingerprint)
    assert (at.iteration, at.trained, at.missing, at.describe(8)) == (8, True, (), "done")
    assert {split: path.name for split, path in at.records.items()} == {
        "dev": "ctsm-8-seed7-dev.json",
        "test": "ctsm-8-seed7-test.json",
    }
    for split, path in at.records.items():
        assert evaluation_file(job, split, path) == job.run / "evaluation" / f"{split}.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"variant": "w/o TEE"},
        {"model": "cem"},
        {"iterations": 9},
        {"options": {}},
        {"precision": "bf16 steps, fp32 scores"},
        {"data_fingerprint": "other"},
        {"split": "train"},
        {"decoder": "beam 5"},
        {"status": "superseded", "superseded_reason": "a fault"},
    ],
)
def test_records_of_other_runs_do_not_count(job: Job, fingerprint: str, changes: dict[str, Any]) -> None:
    path = job.results / "ctsm-8-seed7-test.json"
    record = read_record(path)
    write_record(path, replace(record, **changes))
    assert standing(job, fingerprint).missing == ("test",)
    assert evaluation_file(job, "test", path) is None
    assert publish(job, record, fingerprint).name == "ctsm-8-seed7-2-test.json", "nobody's record is overwritten"
    assert standing(job, fingerprint).missing == ()
    write_record(path, replace(record, acc=None, acc_interval=None, top3=None, top5=None, commit="x", device="cuda"))
    assert standing(job, fingerprint).missing == (), "scores, code and device do not make another run"


def test_a_bf16_record_is_of_a_bf16_run(job: Job, fingerprint: str) -> None:
    training = replace(job.config.training, precision="bf16")
    other = replace(job, config=replace(job.config, training=training))
    assert standing(other, fingerprint).missing == ("dev", "test")
    for split in job.splits:
        path = job.results / f"ctsm-8-seed7-{split}.json"
        write_record(path, replace(read_record(path), precision="bf16 steps, fp32 scores"))
    assert standing(other, fingerprint).missing == ()


def test_how_far_a_run_is(job: Job, fingerprint: str) -> None:
    for path in job.results.glob("*.json"):
        path.unlink()
    assert standing(job, fingerprint).describe(8) == "trained, dev and test not evaluated"
    longer = replace(job, config=replace(job.config, training=replace(job.config.training, iterations=20)))
    assert standing(longer, fingerprint).describe(20) == "at 8 of 20"
    newest = job.run / "checkpoints" / "step-00000008" / "state.json"
    state = json.loads(newest.read_text())
    newest.write_text(json.dumps(state | {"stale_evaluations": 99}))
    assert standing(longer, fingerprint).trained, "patience ended it; a higher limit changes nothing"
    newest.write_text("{damaged")
    assert standing(job, fingerprint).iteration == 4, "training would fall back on the checkpoint before"
    shutil.rmtree(job.run)
    assert standing(job, fingerprint).describe(8) == "missing"


def test_another_evaluation_of_the_run_is_not_the_published_one(job: Job, fingerprint: str) -> None:
    own = job.run / "evaluation" / "test.json"
    write_record(own, replace(read_record(own), created="2024-05-01T12:00:00+00:00"))
    assert evaluation_file(job, "test", standing(job, fingerprint).records["test"]) is None
    own.unlink()
    assert evaluation_file(job, "test", standing(job, fingerprint).records["test"]) is None
