"""What an evaluation writes agrees with itself; a model without an emotion head has no accuracy anywhere."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from ctsm.config import RunConfig
from ctsm.evaluation.evaluate import evaluate
from ctsm.evaluation.records import read_per_example, read_record
from ctsm.evaluation.replies import read_replies
from ctsm.models.base import Context
from ctsm.models.ctsm import CTSM
from ctsm.training.loop import train


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ctsm.config import TrainingOptions
    from ctsm.models.ctsm import CTSMOptions

    options = CTSMOptions(size=16, depth=8, filter_size=8, semantic_size=4, fusion_size=24)
    training = TrainingOptions(
        batch_size=4, iterations=4, warmup=10, rate_factor=0.2, evaluate_every=4, evaluate_from=4, tensorboard=False
    )
    run = tmp_path_factory.mktemp("evaluate") / "run"
    train(RunConfig("ctsm", "", options, training), prepared, run, resume=False)
    return run


def test_the_intervals_hold_the_scores_and_follow_the_conversations(
    trained: Path, prepared: Path, tmp_path: Path
) -> None:
    found = evaluate(trained, prepared, "dev", tmp_path)
    record, examples = read_record(found.record_file), read_per_example(found.per_example_file)
    assert record == found.record
    assert record.ppl_interval is not None
    assert record.ppl_interval.low <= record.ppl_example <= record.ppl_interval.high
    # Drawing conversations, written out, with another generator: the ends agree up to the noise of the draws.
    random = np.random.default_rng(99)
    names = sorted({one.conversation_id for one in examples})
    values = []
    for _ in range(4_000):
        drawn = [one for name in random.choice(names, len(names)) for one in examples if one.conversation_id == name]
        values.append(math.exp(sum(one.nll / one.tokens for one in drawn) / len(drawn)))
    low, high = np.quantile(values, [0.025, 0.975])
    assert record.ppl_interval.low == pytest.approx(low, abs=0.1 * (high - low))
    assert record.ppl_interval.high == pytest.approx(high, abs=0.1 * (high - low))


def test_a_model_without_emotions_is_scored_by_its_replies(
    trained: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = CTSM.encode

    def without_emotions(self: CTSM, *arguments: Any, **options: Any) -> Context:
        return dataclasses.replace(encode(self, *arguments, **options), emotion_logits=None)

    whole = evaluate(trained, prepared, "dev", tmp_path / "whole").record
    monkeypatch.setattr(CTSM, "encode", without_emotions)
    found = evaluate(trained, prepared, "dev", tmp_path / "bare")
    record = read_record(found.record_file)
    assert (record.acc, record.acc_interval, record.top3, record.top5) == (None, None, None, None)
    assert (record.ppl_example, record.ppl_interval, record.dist2) == (
        whole.ppl_example,
        whole.ppl_interval,
        whole.dist2,
    )
    assert {one.correct for one in read_per_example(found.per_example_file)} == {None}
    assert {one.predicted for one in read_replies(found.replies_file)} == {None}
    assert all(one.emotion for one in read_replies(found.replies_file)), "the gold label is known"


def test_bf16_replies_are_named_in_the_record_and_scores_stay_fp32(
    trained: Path, prepared: Path, tmp_path: Path
) -> None:
    exact = evaluate(trained, prepared, "dev", tmp_path / "fp32").record
    rounded = evaluate(trained, prepared, "dev", tmp_path / "bf16", precision="bf16").record
    assert exact.precision == "fp32"
    assert rounded.precision == "bf16 replies, fp32 scores"
    assert (rounded.acc, rounded.ppl_example, rounded.ppl_token) == (exact.acc, exact.ppl_example, exact.ppl_token)
    parameters = sum(
        tensor.numel()
        for name, tensor in load_file(trained / "best" / "model.safetensors").items()
        if name not in ("diversity.counts", "word_features", "in_lexicon", "label_ids")
    )
    assert exact.parameters == parameters
