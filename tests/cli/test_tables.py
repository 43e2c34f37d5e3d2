from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonargparse
import pytest

from ctsm.cli import tables
from ctsm.errors import CtsmError

RECORD: dict[str, Any] = {
    "schema": 2,
    "model": "ctsm",
    "variant": "",
    "options": {},
    "seed": 1,
    "split": "test",
    "n": 5259,
    "acc": 40,
    "acc_interval": {"low": 38, "high": 42.5},
    "top3": 60.0,
    "top5": 70.0,
    "ppl_example": 36.5,
    "ppl_interval": None,
    "ppl_token": 43.5,
    "target_tokens": 81000,
    "dist1": 1.0,
    "dist2": 5.0,
    "unigrams": 70000,
    "bigrams": 65000,
    "mean_length": 13.5,
    "distinct_replies": 4000,
    "bleu4": None,
    "bleu_signature": None,
    "decoder": "greedy",
    "max_tokens": 51,
    "vocabulary": {"size": 23712, "kind": "all"},
    "vectors": "none",
    "inferences": "none",
    "precision": "fp32",
    "iterations": 4000,
    "checkpoint_step": 4000,
    "selected_on": "dev ppl_example",
    "data_fingerprint": "f",
    "parameters": 20000000,
    "commit": "unknown",
    "device": "cpu",
    "train_seconds": 1.0,
    "evaluate_seconds": 1.0,
    "status": "current",
    "superseded_reason": "",
    "created": "2024-05-01T12:00:00Z",
    "ctsm_version": "0.1.0",
}


def run(*words: str | Path) -> None:
    parser = jsonargparse.ArgumentParser()
    tables.add_arguments(parser)
    tables.run(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize("option", ["-o", "--out"])
def test_a_folder_of_records_becomes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str):
    (tmp_path / "r.json").write_text(json.dumps(RECORD))
    run(tmp_path, option, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| CTSM | paper | 43.41 | 34.56 | 2.00 | 7.34 |" in text
    assert "| ours [1] | 40.00 | 36.50 | 1.00 | 5.00 | Acc 38.00 to 42.50 | - | 5,259 | 1 (1) |" in text
    assert "| difference | -3.41 | +1.94 | -1.00 | -2.34 |" in text
    assert text.count("| not known |") == 2  # in Tables 1 and 3
    assert capsys.readouterr().out == f"{tmp_path / 'results.md'}: tables of 1 records\n"


def test_a_wrong_record_is_named_and_nothing_is_written(tmp_path: Path):
    (tmp_path / "r.json").write_text(json.dumps(RECORD | {"n": 0}))
    with pytest.raises(CtsmError, match=r"r\.json: the field 'n' must be at least 1, not 0"):
        run(tmp_path, "-o", tmp_path / "results.md")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
