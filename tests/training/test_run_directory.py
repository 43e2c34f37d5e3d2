"""A run directory: what may become one, what a resumed one refuses, and what faults leave behind in it."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctsm.config import RunConfig
from ctsm.corpus.prepare import PrepareOptions, prepare
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError, MissingExtraError
from ctsm.files import exclusive
from ctsm.models.bundle import load_bundle
from ctsm.training import loop
from ctsm.training.checkpoint import checkpoints
from ctsm.training.loop import train
from ctsm.training.schedule import noam_rate


def test_an_existing_run_is_not_overwritten(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    train(runs.changed(tiny_config, iterations=2), prepared, tmp_path / "run", resume=False)
    before = runs.tree(tmp_path / "run")
    with pytest.raises(CtsmError, match=r"run: holds a training run already; add --resume"):
        train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert runs.tree(tmp_path / "run") == before


def test_another_folder_is_not_taken_for_a_run(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        for resume in (False, True):
            with pytest.raises(CtsmError, match="exists and is not a training run; choose another --out"):
                train(tiny_config, prepared, tmp_path / name, resume)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine", "thesis.tex"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"batch_size": 5},
        {"pool": 4},
        {"warmup": 11},
        {"rate_factor": 0.3},
        {"evaluate_every": 5},
        {"evaluate_from": 5},
        {"log_every": 3},
    ],
)
def test_a_resumed_run_has_the_same_configuration(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, change: dict[str, Any], runs: SimpleNamespace
) -> None:
    train(runs.changed(tiny_config, iterations=1), prepared, tmp_path / "run", resume=False)
    before = runs.tree(tmp_path / "run")
    ((name, value),) = change.items()
    there = getattr(tiny_config.training, name)
    message = (
        rf"run: was started with another configuration \(training\.{name} is {there} there and {value} here\); use"
    )
    with pytest.raises(CtsmError, match=message):
        train(runs.changed(tiny_config, **change), prepared, tmp_path / "run", resume=True)
    other = replace(tiny_config, options=replace(tiny_config.options, fusion_sharing="all"))
    message = r'another configuration \(options\.fusion_sharing is "\w+" there and "all" here\)'
    with pytest.raises(CtsmError, match=message):
        train(other, prepared, tmp_path / "run", resume=True)
    assert runs.tree(tmp_path / "run") == before


def test_a_setting_that_the_run_does_not_know_is_named_too(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    train(runs.changed(tiny_config, iterations=1), prepared, tmp_path / "run", resume=False)
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    del facts["config"]["options"]["depth"]
    path.write_text(json.dumps(facts))
    with pytest.raises(CtsmError, match=r"\(options\.depth is unset there and 8 here\)"):
        train(tiny_config, prepared, tmp_path / "run", resume=True)
    facts["config"]["options"] |= {"depth": 8, "new": None}
    path.write_text(json.dumps(facts))
    with pytest.raises(CtsmError, match=r"\(options\.new is null there and unset here\)"):
        train(tiny_config, prepared, tmp_path / "run", resume=True)


def test_a_resumed_run_has_the_same_data(
    prepared: Path, tiny_dialogues: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    train(runs.changed(tiny_config, iterations=1), prepared, tmp_path / "run", resume=False)
    before = runs.tree(tmp_path / "run")
    prepare(PrepareOptions(str(tiny_dialogues), vector_size=16), tmp_path / "other")
    with pytest.raises(CtsmError, match=r"run: was started on other data than .*other; give the same --data"):
        train(tiny_config, tmp_path / "other", tmp_path / "run", resume=True)
    assert runs.tree(tmp_path / "run") == before


@pytest.mark.parametrize("content", ["{}", "[]", '{"data_fingerprint": "x", "config": 3}', "{"])
def test_a_spoilt_description_is_refused(prepared: Path, tiny_config: RunConfig, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(CtsmError, match=r"run\.json: "):
        train(tiny_config, prepared, tmp_path / "run", resume=True)


def test_a_run_is_not_stopped_before_where_it_stands(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    interrupt_at(tiny_config, prepared, tmp_path / "run", 7)
    before = runs.tree(tmp_path / "run")
    for limit in (3, 7):
        with pytest.raises(CtsmError, match=r"run: stands at iteration 7 .*raise --training.iterations"):
            train(runs.changed(tiny_config, iterations=limit), prepared, tmp_path / "run", resume=True)
    assert runs.tree(tmp_path / "run") == before


def interrupt_at(config: RunConfig, prepared: Path, run: Path, iteration: int, number: int = signal.SIGTERM) -> Any:
    """Start a run that gets a signal in the middle of a step."""
    with pytest.MonkeyPatch.context() as patch:

        def rate(step: int, *rest: float) -> float:
            if step == iteration:
                os.kill(os.getpid(), number)
            return noam_rate(step, *rest)

        patch.setattr("ctsm.training.step.noam_rate", rate)
        return train(config, prepared, run, resume=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    outcome = interrupt_at(tiny_config, prepared, tmp_path / "run", 5, number)
    assert signal.getsignal(number) is before
    assert outcome.signal == number
    assert outcome.progress.iteration == 5
    assert not outcome.progress.finished
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000005"


def test_a_signal_at_a_checkpoint_does_not_write_it_twice(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    original = loop.save_checkpoint

    def save(*arguments: Any) -> None:
        saved.append(arguments[-1].iteration)
        original(*arguments)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    interrupt_at(tiny_config, prepared, tmp_path / "run", 6)
    assert saved == [3, 4, 6]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_training_needs_train_and_dev_examples(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    original = PreparedData.examples

    def examples(data: PreparedData, name: str) -> Any:
        found = original(data, name)
        return replace(found, emotion=found.emotion[:0]) if name == split else found

    monkeypatch.setattr(PreparedData, "examples", examples)
    with pytest.raises(CtsmError, match=f"has no {split} example; prepare dialogues with a {split} split"):
        train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_dev_conversations(tiny_dialogues: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    lines = [line for line in tiny_dialogues.read_text().splitlines() if json.loads(line)["split"] == "train"]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    prepare(PrepareOptions(str(tmp_path / "train.jsonl"), vector_size=16), tmp_path / "data")
    with pytest.raises(CtsmError, match="has no dev example"):
        train(tiny_config, tmp_path / "data", tmp_path / "run", resume=False)


def test_vectors_of_another_width_leave_nothing(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    wide = replace(tiny_config, options=replace(tiny_config.options, size=24))
    with pytest.raises(CtsmError, match=r"word vectors are 16 wide but options.size is 24.*--options.size 16"):
        train(wide, prepared, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_an_extra(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: SimpleNamespace
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = runs.changed(tiny_config, tensorboard=True, iterations=2)
    with pytest.raises(MissingExtraError, match=r"TensorBoard.*training\.tensorboard.*pip install 'ctsm\[train\]'"):
        train(config, prepared, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
    train(runs.changed(config, tensorboard=False), prepared, tmp_path / "run", resume=False)


def test_a_diverged_training_keeps_what_was_good(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsm.training.step.noam_rate", lambda step, *_rest: float("nan") if step == 6 else 1e-4)
    with pytest.raises(CtsmError, match=r"run: the training diverged before iteration 6 .*lower training\.rate_factor"):
        train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert checkpoints(tmp_path / "run")[-1].name == "step-00000004"
    assert load_bundle(tmp_path / "run").progress["iteration"] == 4


def test_a_run_that_never_was_good_leaves_no_model(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsm.training.step.noam_rate", lambda *_arguments: float("nan"))
    with pytest.raises(CtsmError, match="diverged before iteration 3"):
        train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "best").exists()
    assert checkpoints(tmp_path / "run") == []


def test_a_full_disk_ends_the_run_but_not_its_checkpoint(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: SimpleNamespace
) -> None:
    train(tiny_config, prepared, tmp_path / "whole", resume=False)
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "step-00000006" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            train(tiny_config, prepared, tmp_path / "run", resume=False)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] != []
    train(tiny_config, prepared, tmp_path / "run", resume=True)
    assert runs.same(
        runs.state_of(tmp_path / "run", tiny_config, prepared), runs.state_of(tmp_path / "whole", tiny_config, prepared)
    )


def test_only_one_process_works_on_a_run(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    train(runs.changed(tiny_config, iterations=3), prepared, tmp_path / "run", resume=False)
    with exclusive(tmp_path / "run"), pytest.raises(CtsmError, match="another process is working in it"):
        train(tiny_config, prepared, tmp_path / "run", resume=True)
    assert train(tiny_config, prepared, tmp_path / "run", resume=True).progress.iteration == 12


def test_a_log_that_somebody_shortened_is_not_filled_up(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace
) -> None:
    train(runs.changed(tiny_config, iterations=8), prepared, tmp_path / "run", resume=False)
    (tmp_path / "run" / "log.jsonl").write_text("")
    train(tiny_config, prepared, tmp_path / "run", resume=True)
    assert [line["iteration"] for line in runs.records(tmp_path / "run", "train")] == [10, 12]


def test_a_damaged_checkpoint_is_passed_over_aloud(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: SimpleNamespace
) -> None:
    train(tiny_config, prepared, tmp_path / "whole", resume=False)
    train(runs.changed(tiny_config, iterations=8), prepared, tmp_path / "run", resume=False)
    newest = checkpoints(tmp_path / "run")[-1] / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    capsys.readouterr()
    train(tiny_config, prepared, tmp_path / "run", resume=True)
    assert "step-00000008/optimizer.safetensors: damaged or truncated" in capsys.readouterr().err
    assert runs.same(
        runs.state_of(tmp_path / "run", tiny_config, prepared), runs.state_of(tmp_path / "whole", tiny_config, prepared)
    )
    for folder in checkpoints(tmp_path / "run"):
        (folder / "state.json").unlink()
    with pytest.raises(CtsmError, match=r"step-00000012.*cannot read the checkpoint"):
        train(tiny_config, prepared, tmp_path / "run", resume=True)


def test_resuming_what_never_began_begins(prepared: Path, tiny_config: RunConfig, tmp_path: Path) -> None:
    assert train(tiny_config, prepared, tmp_path / "run", resume=True).progress.iteration == 12


def test_killed_before_it_began(prepared: Path, tiny_config: RunConfig, tmp_path: Path, runs: SimpleNamespace) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.k1ll3d__").write_text("{")
    train(runs.changed(tiny_config, iterations=1), prepared, tmp_path / "run", resume=False)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"best", "checkpoints", "log.jsonl", "run.json"}
