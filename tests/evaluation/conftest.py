from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctsm.evaluation.records import Interval, ResultRecord, VocabularyInfo


def _record(**changes: Any) -> ResultRecord:
    values: dict[str, Any] = {
        "schema": 2,
        "model": "ctsm",
        "variant": "",
        "options": {"vad_default": "neutral", "dropout": 0.1, "depth": 2, "sum": False, "none": None},
        "seed": 7,
        "split": "dev",
        "n": 40,
        "acc": 36.5,
        "acc_interval": Interval(low=30.25, high=42.5),
        "top3": 60.25,
        "top5": 70.0,
        "ppl_example": 51.2,
        "ppl_interval": Interval(low=48.5, high=54.75),
        "ppl_token": 60.9,
        "target_tokens": 600,
        "dist1": 1.5,
        "dist2": 6.0,
        "unigrams": 520,
        "bigrams": 480,
        "mean_length": 13.0,
        "distinct_replies": 31,
        "bleu4": 2.5,
        "bleu_signature": "nrefs:1|tok:none",
        "decoder": "greedy",
        "max_tokens": 51,
        "vocabulary": VocabularyInfo(size=23712, kind="all"),
        "vectors": "vectors.txt",
        "inferences": "atomic",
        "precision": "fp32",
        "iterations": 4000,
        "checkpoint_step": 3800,
        "selected_on": "dev ppl_example",
        "data_fingerprint": "abc123",
        "parameters": 20_735_777,
        "commit": "0123abcd",
        "device": "cpu",
        "train_seconds": 1234.5,
        "evaluate_seconds": 60,
        "status": "current",
        "superseded_reason": "",
        "created": "2024-05-01T12:00:00+00:00",
        "ctsm_version": "0.1.0",
    }
    if changes.get("acc", 0.0) is None:
        values["acc_interval"] = None
    return ResultRecord(**values | changes)


@pytest.fixture(scope="session")
def record() -> Callable[..., ResultRecord]:
    """A builder of good records: its keyword arguments replace fields."""
    return _record
