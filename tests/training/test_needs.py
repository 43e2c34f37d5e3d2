"""A model is not trained on data prepared without what it needs, nor resumed on other such data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctsm.config import RunConfig
from ctsm.corpus.batches import Batch
from ctsm.errors import CtsmError
from ctsm.models.ctsm import CTSM
from ctsm.training.loop import train


def test_missing_needs_end_a_run_before_anything_is_written(
    tmp_path: Path, prepared: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CTSM, "needs", frozenset({"concepts"}))
    with pytest.raises(CtsmError, match=r"was prepared without concepts, .* with --concepts FILE\.\Z"):
        train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_training_and_dev_batches_hold_what_the_model_needs(
    tmp_path: Path, prepared_all: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CTSM, "needs", frozenset({"feedback", "emotion_words"}))
    seen: dict[str, list[Batch]] = {"loss": [], "score": []}
    for name, batches in seen.items():
        original = getattr(CTSM, name)

        def remember(model: CTSM, batch: Batch, original: Any = original, batches: list[Batch] = batches) -> Any:
            batches.append(batch)
            return original(model, batch)

        monkeypatch.setattr(CTSM, name, remember)
    train(tiny_config, prepared_all, tmp_path / "run", resume=False)
    assert seen["loss"] and seen["score"]
    assert all(batch.feedback is not None and batch.reply_emotion_words is not None for batch in seen["loss"])
    assert all(batch.emotion_words is not None for batches in seen.values() for batch in batches)
    assert all(batch.feedback is None for batch in seen["score"]), "no score sees what comes after the reply"
    assert all(batch.concepts is None for batches in seen.values() for batch in batches)


def test_a_run_goes_on_with_the_same_extras_only(
    tmp_path: Path, prepared_all: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(prepared_all, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["extras"]["concepts"]["files"]["concepts.dev.safetensors"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    longer = replace(tiny_config, training=replace(tiny_config.training, iterations=13))
    for needs, refused in ((frozenset({"concepts"}), True), (frozenset[str](), False)):
        monkeypatch.setattr(CTSM, "needs", needs)
        run = tmp_path / f"run-{refused}"
        train(tiny_config, prepared_all, run, resume=False)
        if refused:
            with pytest.raises(CtsmError, match=r"was started on other data than .*other; give the same --data"):
                train(longer, other, run, resume=True)
        else:
            assert train(longer, other, run, resume=True).progress.iteration == 13
