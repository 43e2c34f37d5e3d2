"""Reproducing tables of few rows on tiny data: from nothing, again, interrupted, out of time, failing."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.errors import CtsmError
from ctsm.evaluation.compare import read_comparisons
from ctsm.evaluation.records import read_per_example, read_record, read_records, write_record
from ctsm.reproduction import work
from ctsm.reproduction.plan import Places
from ctsm.reproduction.work import Request, outlook, reproduce
from ctsm.training.schedule import noam_rate

Build = Callable[..., Request]
Put = Callable[[str], None]
pytestmark = pytest.mark.usefixtures("two_rows")

DEFAULT, KEMP = "ctsm-default-seed7", "ctsm-vad-default-kemp-seed7"


def rows(document: Path) -> list[list[str]]:
    """The cells of the first table of a document, without its header and rule."""
    lines = document.read_text(encoding="utf-8").split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")][2:]


def stamps(*folders: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


def run(request: Request) -> tuple[work.Summary, list[str]]:
    said: list[str] = []
    return reproduce(request, said.append), said


def test_the_open_points_from_nothing_to_the_table(request_for: Build, places: Places) -> None:
    summary, said = run(request_for())
    folder = places.results / "ambiguities"
    assert (summary.tables, summary.open, summary.signal) == (folder / "README.md", {}, None)
    assert [line for line in said if "training" in line] == [
        f"{name}: training from iteration 0 to at most 8" for name in (DEFAULT, KEMP)
    ]
    records = {path.name: record for path, record in read_records([folder]).items()}
    assert set(records) == {"ctsm-default-8-seed7-dev.json", "ctsm-vad-default-kemp-8-seed7-dev.json"}
    assert "not known" not in (folder / "README.md").read_text(encoding="utf-8"), "nothing of the paper's is compared"

    first, second, difference = rows(folder / "README.md")
    default, kemp = records["ctsm-default-8-seed7-dev.json"], records["ctsm-vad-default-kemp-8-seed7-dev.json"]
    assert first == ["[1]", "", "default", *scores(default), "-", str(default.n), "1 (7)", str(default.checkpoint_step)]
    assert second[1:7] == ["A2", "vad_default=kemp", *scores(kemp)]
    # The default has other options than the model's own (it is tiny), and only the open point counts as changed.
    assert kemp.options == {**default.options, "vad_default": "kemp"}

    sides = [
        read_per_example(places.runs / "ambiguities" / name / "evaluation" / "dev.per-example.jsonl")
        for name in (DEFAULT, KEMP)
    ]
    means = [math.exp(sum(one.nll / one.tokens for one in side) / len(side)) for side in sides]
    assert difference[2] == "minus default"
    assert difference[4].startswith(f"{means[1] - means[0]:+.2f} (")
    tests = read_comparisons(folder / "comparisons" / "ambiguities.json")
    assert tests.reference == "ctsm-default-8-seed7-dev.json"
    assert {row.record for row in tests.rows} == {"ctsm-vad-default-kemp-8-seed7-dev.json"}
    assert Counter(path.suffixes[-2:] == [".log", ".jsonl"] for path in folder.iterdir())[True] == 2


def scores(record: Any) -> list[str]:
    return [f"{value:.2f}" for value in (record.acc, record.ppl_example, record.dist1, record.dist2)]


def test_a_second_call_trains_nothing_and_makes_the_same_table(
    request_for: Build, places: Places, finished: Put
) -> None:
    finished("ambiguities")
    document = places.results / "ambiguities" / "README.md"
    text, before = document.read_bytes(), stamps(places.runs / "ambiguities")
    summary, said = run(request_for())
    assert said == []
    assert summary.open == {}
    assert document.read_bytes() == text
    assert stamps(places.runs / "ambiguities") == before


def test_a_row_of_the_paper_gets_records_of_dev_and_test_and_its_place(
    request_for: Build, places: Places, finished: Put
) -> None:
    finished("table1")
    names = sorted(path.name for path in places.results.iterdir())
    stem = "ctsm-8-seed7"
    assert names == ["README.md", f"{stem}-dev.json", f"{stem}-test.json", f"{stem}.log.jsonl"]
    text = (places.results / "README.md").read_text(encoding="utf-8")
    record = read_record(places.results / f"{stem}-test.json")
    assert f"{record.ppl_example:.2f}" in text
    assert "not known" in text
    assert f"### {stem}" in text, "the dev curve"
    assert (places.runs / "ctsm-seed7" / "log.jsonl").read_bytes() == (
        places.results / f"{stem}.log.jsonl"
    ).read_bytes()


def test_only_what_is_missing_is_made(request_for: Build, places: Places, finished: Put) -> None:
    finished("table1")
    (places.results / "ctsm-8-seed7-test.json").unlink()
    before = stamps(places.runs / "ctsm-seed7" / "checkpoints")
    _, said = run(request_for("table1"))
    assert said == ["ctsm-seed7: evaluating on test", str(places.results / "ctsm-8-seed7-test.json")]
    assert stamps(places.runs / "ctsm-seed7" / "checkpoints") == before


def test_a_superseded_record_is_made_again_and_kept(request_for: Build, places: Places, finished: Put) -> None:
    finished("table1")
    path = places.results / "ctsm-8-seed7-test.json"
    write_record(path, replace(read_record(path), status="superseded", superseded_reason="a fault"))
    run(request_for("table1"))
    assert read_record(path).status == "superseded"
    assert read_record(places.results / "ctsm-8-seed7-2-test.json").status == "current"
    _, said = run(request_for("table1"))
    assert said == []


def test_seeds_are_a_row_of_their_own_each_and_one_in_the_table(request_for: Build, places: Places) -> None:
    summary, _ = run(request_for(seeds=2, rows=("default",)))
    (line,) = rows(places.results / "ambiguities" / "README.md")
    assert line[-2] == "2 (7, 8)"
    assert "PPL" in line[7], "the spread over seeds"
    assert summary.open == {}
    text = (places.results / "ambiguities" / "README.md").read_text(encoding="utf-8")
    assert "No current record: vad_default=kemp." in text


def test_longer_training_goes_on_in_the_same_run(request_for: Build, places: Places, finished: Put) -> None:
    finished("ambiguities")
    _, said = run(request_for(rows=("default",), overrides=("--training.iterations", "12")))
    assert said[0] == f"{DEFAULT}: training from iteration 8 to at most 12"
    names = {path.name for path in (places.results / "ambiguities").glob("*.json")}
    assert "ctsm-default-8-seed7-dev.json" in names, "the shorter one stays"
    assert "ctsm-default-12-seed7-dev.json" in names


def test_an_interrupted_row_goes_on_where_it_stopped(
    request_for: Build, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = noam_rate

    def interrupting(step: int, *rest: float) -> float:
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return rate(step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("ctsm.training.step.noam_rate", interrupting)
        summary, _ = run(request_for())
    assert summary.signal == signal.SIGINT
    assert summary.open == {DEFAULT: "at 6 of 8", KEMP: "missing"}
    assert summary.tables is None
    _, said = run(request_for())
    assert said[0] == f"{DEFAULT}: training from iteration 6 to at most 8"

    straight = replace(request_for(), places=Places(places.configs, tmp_path / "runs2", tmp_path / "results2"))
    run(straight)
    for name in ("ctsm-default-8-seed7-dev.json", "ctsm-vad-default-kemp-8-seed7-dev.json"):
        ours, theirs = (
            read_record(folder / "ambiguities" / name) for folder in (places.results, tmp_path / "results2")
        )
        changing = ("train_seconds", "evaluate_seconds", "created")
        assert {key: value for key, value in vars(ours).items() if key not in changing} == {
            key: value for key, value in vars(theirs).items() if key not in changing
        }


def test_a_budget_ends_the_training_with_a_checkpoint(
    request_for: Build, budget_of_steps: Callable[[int], None]
) -> None:
    budget_of_steps(6)
    summary, said = run(request_for(hours=1.0))
    assert summary.signal is None
    assert said == [f"{DEFAULT}: training from iteration 0 to at most 8"]
    assert summary.open == {DEFAULT: "at 5 of 8", KEMP: "missing"}
    budget_of_steps(1000)
    _, said = run(request_for(hours=1.0))
    assert said[0] == f"{DEFAULT}: training from iteration 5 to at most 8"


def test_a_trained_row_is_evaluated_even_so_and_no_row_begins_after_the_budget(
    request_for: Build, places: Places, budget_of_steps: Callable[[int], None]
) -> None:
    budget_of_steps(9)
    summary, _ = run(request_for(hours=1.0))
    assert summary.open == {KEMP: "missing"}
    budget_of_steps(0)
    summary, said = run(request_for(hours=1.0))
    assert said == []
    assert summary.open == {KEMP: "missing"}
    assert not (places.runs / "ambiguities" / KEMP).exists()


def test_a_row_that_fails_is_told_and_the_others_are_done(
    request_for: Build, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = work.train

    def failing(config: Any, *rest: Any, **options: Any) -> Any:
        if config.options.vad_default == "paper":
            raise CtsmError("runs/x: the training diverged; start another run.")
        return train(config, *rest, **options)

    monkeypatch.setattr(work, "train", failing)
    said: list[str] = []
    with pytest.raises(CtsmError, match=rf"^{DEFAULT} failed: runs/x: the training diverged; start another run\.?$"):
        reproduce(request_for(), said.append)
    names = [path.name for path in (places.results / "ambiguities").glob("*.json")]
    assert names == ["ctsm-vad-default-kemp-8-seed7-dev.json"]
    assert said[0].startswith(f"{DEFAULT}: training")
    assert said[1].startswith(f"{DEFAULT}: runs/x: the training diverged")


@pytest.fixture
def other_data(tiny_dialogues: Path, tmp_path: Path) -> Path:
    prepare(PrepareOptions(str(tiny_dialogues), vad="sample", vector_size=16, vocabulary="train"), tmp_path / "other")
    return tmp_path / "other"


def test_other_data_is_refused_before_any_training(
    request_for: Build, places: Places, finished: Put, other_data: Path
) -> None:
    finished("ambiguities")
    shutil.rmtree(places.runs / "ambiguities" / DEFAULT)
    before = stamps(places.runs, places.results)
    with pytest.raises(CtsmError, match=rf"^vad_default=kemp: .*{KEMP}: was started on other data than"):
        run(replace(request_for(), data=other_data))
    assert stamps(places.runs, places.results) == before
    moved = replace(request_for(), data=other_data, places=replace(places, runs=places.runs / "second"))
    summary, said = run(moved)
    assert summary.open == {}
    assert len([line for line in said if "training from iteration 0" in line]) == 2, (
        "records of other data do not count"
    )
    assert "ctsm-vad-default-kemp-8-seed7-2-dev.json" in {p.name for p in (places.results / "ambiguities").iterdir()}


def test_a_changed_configuration_is_refused_before_any_training(
    request_for: Build, places: Places, finished: Put
) -> None:
    finished("ambiguities")
    shutil.rmtree(places.runs / "ambiguities" / DEFAULT)
    shutil.rmtree(places.results)
    before = stamps(places.runs)
    message = (
        rf"^vad_default=kemp: .*{KEMP}: was started with another configuration \(training\.warmup is 10 there and 11"
    )
    with pytest.raises(CtsmError, match=message):
        run(request_for(overrides=("--training.warmup", "11")))
    assert stamps(places.runs) == before
    assert not places.results.exists()


def test_a_row_that_is_done_is_not_checked(request_for: Build, places: Places, finished: Put) -> None:
    """What its record says is what the row is; its run directory may have gone on to something else."""
    finished("ambiguities")
    for name in (DEFAULT, KEMP):
        (places.runs / "ambiguities" / name / "run.json").write_text("{}", encoding="utf-8")
    assert run(request_for())[1] == []
    (places.results / "ambiguities" / "ctsm-default-8-seed7-dev.json").unlink()
    with pytest.raises(CtsmError, match=rf"^default: .*{DEFAULT}/run\.json: not the description of a run"):
        run(request_for())


def test_an_outlook_lists_rows_that_cannot_run(
    request_for: Build, places: Places, finished: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsm.reproduction.estimate.measured_seconds_per_step", lambda *_arguments: 0.5)
    finished("ambiguities")
    (places.results / "ambiguities" / "ctsm-default-8-seed7-dev.json").unlink()
    request = request_for(seeds=2, overrides=("--training.warmup", "11"))
    first, done, *others = outlook(request)
    assert first.estimate is None
    assert f"{DEFAULT}: was started with another configuration (training.warmup is 10" in first.problem
    assert (done.problem, done.standing.describe(8)) == ("", "done")
    assert [(row.problem, row.estimate and row.estimate.seconds > 0) for row in others] == [("", True)] * 2


def test_an_outlook_writes_nothing_and_adds_up(
    request_for: Build, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsm.reproduction.estimate.measured_seconds_per_step", lambda *_arguments: 0.5)
    found = outlook(request_for())
    assert [(row.job.label, row.standing.describe(8), row.estimate and row.estimate.seconds) for row in found] == [
        ("default", "missing", 4.0),
        ("vad_default=kemp", "missing", 4.0),
    ]
    assert not places.runs.exists()
    assert not places.results.exists()
    run(request_for(rows=("default",)))
    before = stamps(places.runs, places.results)
    states = [row.standing.describe(8) for row in outlook(request_for())]
    assert states == ["done", "missing"]
    assert stamps(places.runs, places.results) == before
