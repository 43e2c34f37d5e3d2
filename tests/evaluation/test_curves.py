"""Dev curves and the README's table come from files, never from typing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctsm.errors import CtsmError
from ctsm.evaluation.curves import read_curves
from ctsm.evaluation.records import ResultRecord, write_record
from ctsm.evaluation.tables import README_BEGIN, README_END, write_tables

Builder = Callable[..., ResultRecord]

LOG = [
    {"kind": "train", "iteration": 50, "loss": 3.0},
    {"kind": "dev", "iteration": 1000, "acc": 12.345, "ppl_example": 80.0, "ppl_token": 91.119, "seconds": 3.2},
    {"kind": "dev", "iteration": 2000, "acc": 23.456, "ppl_example": 70.5, "ppl_token": 81.5, "seconds": 6.2},
]


def write_log(path: Path, entries: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def test_only_dev_evaluations_are_read_in_order(tmp_path: Path) -> None:
    write_log(tmp_path / "b.log.jsonl", LOG)
    write_log(tmp_path / "a.log.jsonl", LOG[:2])
    (tmp_path / "other.jsonl").write_text("{}\n", encoding="utf-8")
    curves = dict(read_curves(tmp_path))
    assert list(curves) == ["a", "b"]
    assert [point["iteration"] for point in curves["b"]] == [1000, 2000]
    assert curves["a"] == [{"iteration": 1000, "acc": 12.345, "ppl_example": 80.0, "ppl_token": 91.119}]


def test_a_log_without_a_score_is_refused_by_line(tmp_path: Path) -> None:
    write_log(tmp_path / "a.log.jsonl", [LOG[0], {"kind": "dev", "iteration": 5, "acc": 1.0, "ppl_token": 3.0}])
    with pytest.raises(CtsmError, match=r"a\.log\.jsonl, line 2: a dev evaluation without 'ppl_example'"):
        list(read_curves(tmp_path))


def test_a_model_without_emotions_has_no_accuracy_on_its_curve(tmp_path: Path, record: Builder) -> None:
    bare = [{key: value for key, value in entry.items() if key != "acc"} for entry in LOG]
    write_log(tmp_path / "a.log.jsonl", [*bare[:2], bare[2] | {"acc": None}])
    assert [set(point) for _, points in read_curves(tmp_path) for point in points] == [
        {"iteration", "ppl_example", "ppl_token"}
    ] * 2
    write_record(tmp_path / "r.json", record())
    write_tables(tmp_path, tmp_path / "out.md")
    assert "| 1,000 | - | 80.00 | 91.12 |" in (tmp_path / "out.md").read_text(encoding="utf-8")


def test_tables_show_the_curves(tmp_path: Path, record: Builder) -> None:
    write_record(tmp_path / "r.json", record())
    write_log(tmp_path / "run-1.log.jsonl", LOG)
    write_tables(tmp_path, tmp_path / "out.md")
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert "### run-1" in text
    assert "| 1,000 | 12.35 | 80.00 | 91.12 |" in text or "| 1,000 | 12.34 | 80.00 | 91.12 |" in text


def test_the_readme_gets_the_test_comparison_between_its_markers(tmp_path: Path, record: Builder) -> None:
    write_record(tmp_path / "records/r.json", record(split="test", options={}, acc=40.02, ppl_example=39.75))
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{README_BEGIN}\nold\n{README_END}\n\nafter\n", encoding="utf-8")
    write_tables(tmp_path / "records", tmp_path / "out.md", readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{README_BEGIN}\n")
    assert text.endswith(f"{README_END}\n\nafter\n")
    assert "old" not in text
    assert "43.41" in text  # the paper's accuracy
    assert "40.02" in text
    write_tables(tmp_path / "records", tmp_path / "out.md", readme)
    assert readme.read_text(encoding="utf-8") == text


def test_the_readme_shows_each_rows_longest_runs_with_default_options(tmp_path: Path, record: Builder) -> None:
    """Both of the longest, in either precision; the lengths of other splits and rows do not count."""
    common: dict[str, Any] = {"split": "test", "options": {}, "iterations": 500}
    runs = [
        {**common, "acc": 31.01},
        {**common, "acc": 31.02, "precision": "bf16 steps, fp32 scores"},
        {**common, "acc": 31.03, "iterations": 400},
        {**common, "acc": 31.04, "iterations": 900, "options": {"emotion_pool": "sum"}},
        {**common, "acc": 31.05, "iterations": 900, "split": "dev"},
        {**common, "acc": 31.06, "iterations": 300, "model": "moel"},
        {**common, "acc": 31.07, "iterations": 900, "variant": "w/o TEE", "options": {"without": "TEE"}},
    ]
    for number, run in enumerate(runs):
        write_record(tmp_path / f"records/{number}.json", record(**run))
    readme = tmp_path / "README.md"
    readme.write_text(f"{README_BEGIN}\n{README_END}\n", encoding="utf-8")
    write_tables(tmp_path / "records", tmp_path / "out.md", readme)
    text, whole = (path.read_text(encoding="utf-8") for path in (readme, tmp_path / "out.md"))
    assert [run["acc"] for run in runs if str(run["acc"]) in text] == [31.01, 31.02, 31.06]
    assert all(str(run["acc"]) in whole for run in runs)


def test_a_readme_without_markers_is_refused_and_nothing_is_written(tmp_path: Path, record: Builder) -> None:
    write_record(tmp_path / "records/r.json", record(split="test"))
    (tmp_path / "README.md").write_text("# Title\n", encoding="utf-8")
    with pytest.raises(CtsmError, match="has no lines"):
        write_tables(tmp_path / "records", tmp_path / "out.md", tmp_path / "README.md")
    assert not (tmp_path / "out.md").exists()
