"""`ctsm reproduce`: the list of rows, the exit codes, and bad input before anything begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctsm.cli.main import main
from ctsm.cli.reproduce import TARGETS
from ctsm.evaluation.paper import TABLE_1, TABLE_3
from ctsm.models.ctsm import CTSM
from ctsm.reproduction.plan import TARGETS as PLANNED

CONFIG = """
model: ctsm
options: {size: 16, depth: 8, filter_size: 8, semantic_size: 4, fusion_size: 24}
training: {batch_size: 4, iterations: 4, warmup: 10, evaluate_every: 4, evaluate_from: 4, tensorboard: false}
"""
SHIPPED = Path(__file__).parents[2] / "configs"


@pytest.fixture
def command(tmp_path: Path, prepared: Path) -> Callable[..., list[str]]:
    """The words of a call in an empty folder, with a tiny configuration of CTSM."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ctsm.yaml").write_text(CONFIG, encoding="utf-8")

    def build(target: str, *words: str) -> list[str]:
        places = ["--data", str(prepared), "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
        return ["reproduce", target, *places, "--configs", str(tmp_path / "configs"), *words]

    return build


def made(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name in ("runs", "results"))


def test_the_choices_of_the_light_help_are_those_of_the_plan() -> None:
    assert TARGETS == PLANNED


@pytest.mark.parametrize(("target", "rows"), [("table1", TABLE_1), ("table3", TABLE_3)])
def test_a_dry_run_lists_every_row_of_the_papers_table(
    target: str,
    rows: tuple[object, ...],
    prepared_all: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ctsm.reproduction.estimate.measured_seconds_per_step", lambda *_arguments: 0.18)
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(prepared_all), "--configs", str(SHIPPED), "--training.iterations", "1000", "--dry-run"]
    assert main(["reproduce", target, *words]) == 0
    printed = capsys.readouterr().out
    lines = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    assert [line[1].strip() for line in lines] == [row.label for row in rows]  # type: ignore[attr-defined]
    assert {tuple(cell.strip() for cell in line[2:5]) for line in lines} == {("42", "missing", "3 min")}
    hours = f"{len(rows) * 180 // 60} min"
    assert f"{len(rows)} of {len(rows)} runs are missing; one process needs at most {hours}." in printed
    assert made(tmp_path) == []


def test_it_trains_and_names_the_tables(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--rows", "default", "vad_default=kemp", "--training.iterations", "4")
    assert main(command("ambiguities", *words)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'results' / 'ambiguities' / 'README.md'}\n"
    assert main(command("ambiguities", *words, "--dry-run")) == 0
    assert "0 of 2 runs are missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--budget", "-1"], "--budget is -1"),
        (["--rows", "CEM"], "--rows CEM: there is no such row; choose from default, "),
        (["--training.iterations", "many"], "training.iterations is many, not a whole number"),
        (["--training.speed", "9"], "speed"),
        (["--configs", "nowhere"], "nowhere/ctsm.yaml: no such file"),
        (["--data", "nowhere"], "nowhere: not a prepared dataset"),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_begins(
    command: Callable[..., list[str]],
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command("ambiguities", *words)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ctsm reproduce: error: ")
    assert message in error
    assert made(tmp_path) == []


def test_data_that_lacks_what_a_model_needs_is_refused_before_anything_begins(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(CTSM, "needs", frozenset({"concepts"}))
    assert main(command("ambiguities")) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("ctsm reproduce: error: default: ")
    assert "--concepts" in error
    assert made(tmp_path) == []


def test_a_dry_run_lists_rows_whose_needs_the_data_do_not_meet(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ctsm.reproduction.estimate.measured_seconds_per_step", lambda *_arguments: 0.18)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(prepared), "--configs", str(SHIPPED), "--training.iterations", "1000", "--dry-run"]
    assert main(["reproduce", "table1", *words]) == 0
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    rows = {line[0]: line[2:] for line in lines if line[0]}
    assert list(rows) == [row.label for row in TABLE_1]
    for label, (state, time, source) in rows.items():
        if label in ("EmpDG", "KEMP", "CASE"):
            assert state.startswith("cannot run: was prepared without")
            assert (time, source) == ("", "")
        else:
            assert (state, time) == ("missing", "3 min")
    assert "run `ctsm prepare` again with --emotion-words FILE --feedback." in " ".join(line[2] for line in lines)
    count = len(TABLE_1)
    assert f"{count} of {count} runs are missing, 3 of them cannot run; one process needs at most" in printed
    assert printed.strip().endswith(f"{3 * (count - 3)} min for the others.")
    assert made(tmp_path) == []
