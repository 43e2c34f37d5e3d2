"""A device that PyTorch cannot use is refused in one sentence, by every verb, before anything else is done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ctsm
from ctsm.cli.main import main
from ctsm.config import read_config
from ctsm.corpus.prepared import PreparedData
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.files import write_json
from ctsm.models import hub

COMMANDS = {
    "train": ["{configs}/ctsm.yaml", "--data", "missing", "--out", "run"],
    "evaluate": ["missing", "--data", "missing", "--out", "out"],
    "generate": ["missing", "in.jsonl", "-o", "out.jsonl"],
    "chat": ["missing"],
    "reproduce": ["table1", "--data", "missing", "--configs", "{configs}"],
}
CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize("device", ["toaster", "meta"])
def test_every_verb_refuses_it_first(
    verb: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.format(configs=CONFIGS) for word in COMMANDS[verb]]
    assert main([verb, *words, "--device", device]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"ctsm {verb}: error: --device {device}: cannot be used (")
    assert error.endswith("); try cpu.")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_that_would_measure_refuses_it_and_another_does_not(
    prepared_all: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(prepared_all), "--configs", str(CONFIGS), "--dry-run", "--rows", "CTSM"]
    assert main(["reproduce", "table1", *words, "--device", "toaster"]) == 2
    assert "error: --device toaster: cannot be used" in capsys.readouterr().err
    run = tmp_path / "runs" / "ctsm-seed42"
    run.mkdir(parents=True)
    facts = {"config": read_config(CONFIGS / "ctsm.yaml", []).to_json(), "data_extras": {}}
    write_json(run / "run.json", {**facts, "data_fingerprint": PreparedData(prepared_all).fingerprint})
    (run / "log.jsonl").write_text('{"iteration": 100, "seconds": 20.0}\n', encoding="utf-8")
    assert main(["reproduce", "table1", *words, "--device", "toaster"]) == 0
    assert "its log" in capsys.readouterr().out


def test_a_model_is_not_downloaded_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "download", lambda *_arguments: pytest.fail("it was downloaded"))
    with pytest.raises(CtsmError, match="--device toaster: cannot be used"):
        ctsm.load("somebody/model", device="toaster")


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("Torch not compiled with CUDA enabled"),
        RuntimeError("Found no NVIDIA driver on your system. Please check\nthat you have one."),
        NotImplementedError("Could not run 'empty' on it. This could be because of much that nobody reads."),
        ModuleNotFoundError("No module named 'torch.hpu'"),
    ],
)
def test_whatever_pytorch_says_becomes_a_short_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(torch, "zeros", fail)
    reason = str(error).partition(". ")[0]
    with pytest.raises(CtsmError) as refusal:
        require_device("cuda")
    assert str(refusal.value) == f"--device cuda: cannot be used ({reason}); try cpu."


def test_the_cpu_is_there() -> None:
    require_device("cpu")
    require_device(torch.device("cpu"))
