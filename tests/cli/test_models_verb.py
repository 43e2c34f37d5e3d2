"""`ctsm models`: every system with its size, paper and what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctsm.cli.main import main
from ctsm.evaluation.paper import TABLE_1
from ctsm.evaluation.records import ResultRecord, VocabularyInfo, write_record
from ctsm.evaluation.systems import list_systems
from ctsm.models import REGISTRY


def test_the_systems_of_the_paper_come_in_its_order(tmp_path: Path) -> None:
    systems = list_systems(tmp_path / "none")
    assert [one.name for one in systems] == [row.model for row in TABLE_1]
    assert {one.name for one in systems} == set(REGISTRY)
    assert {one.status for one in systems} == {"not measured"}
    for one in systems:
        assert one.parameters > one.inner > 0
        assert "(" in one.paper, "authors and year of the paper"


def test_ctsm_has_the_parameters_of_the_specification(tmp_path: Path) -> None:
    """20,735,777, of them 23,712 x 300 in the embedding and 23,712 x 301 in the output layer."""
    ctsm = next(one for one in list_systems(tmp_path) if one.name == "ctsm")
    assert ctsm.parameters == 20_735_777
    assert ctsm.inner == 20_735_777 - 23_712 * 601
    assert ctsm.paper.startswith("CTSM: Combining Trait and State Emotions")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    def put(name: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            **dict.fromkeys(("acc_interval", "ppl_interval", "bleu4", "bleu_signature")),
            **dict.fromkeys(("top3", "top5"), 50.0),
            **dict.fromkeys(("dist1", "dist2", "mean_length", "train_seconds", "evaluate_seconds"), 1.0),
            **dict.fromkeys(("n", "target_tokens", "unigrams", "bigrams", "distinct_replies", "max_tokens"), 9),
            **dict.fromkeys(("vectors", "inferences", "decoder", "precision", "selected_on"), "x"),
            **dict.fromkeys(("data_fingerprint", "commit", "device", "ctsm_version"), "x"),
            **{"schema": 2, "model": "ctsm", "variant": "", "options": {}, "seed": 1, "split": "test", "acc": 40.0},
            **{"ppl_example": 36.0, "ppl_token": 40.0, "vocabulary": VocabularyInfo(size=9, kind="all")},
            **{"iterations": 6000, "checkpoint_step": 6000, "parameters": 1, "status": "current"},
            **{"superseded_reason": "", "created": "2024-05-01T12:00:00Z"},
        }
        write_record(tmp_path / f"{name}.json", ResultRecord(**values | changes))

    return put


def status(folder: Path) -> str:
    return next(one.status for one in list_systems(folder) if one.name == "ctsm")


def test_the_status_is_the_longest_run_of_the_full_model_on_test(tmp_path: Path, write: Callable[..., None]) -> None:
    write("dev", split="dev")
    write("ablation", variant="w/o TEE", options={"without": "TEE"}, iterations=90_000)
    write("option", options={"vad_default": "kemp"}, iterations=90_000)
    assert status(tmp_path) == "on dev only"
    write("short", iterations=6000, acc=35.0)
    assert status(tmp_path) == "Acc 35.00, PPL 36.00 on test, limit 6,000, seeds 1 (1)"
    write("long-1", iterations=20_000, acc=42.0)
    write("long-2", iterations=20_000, acc=44.0, seed=2)
    assert status(tmp_path) == "Acc 43.00 ± 1.41, PPL 36.00 ± 0.00 on test, limit 20,000, seeds 2 (1, 2)"


def test_the_verb_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "20,735,777" in printed
    assert all(name in printed for name in REGISTRY)
