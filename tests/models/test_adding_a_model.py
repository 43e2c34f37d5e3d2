"""docs/adding-a-model.md, followed to the letter: a ninth model from its page to a comparison of its scores."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ctsm.models
from ctsm.cli.main import main
from ctsm.config import read_config
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.evaluation.records import read_record
from ctsm.models import REGISTRY, ModelEntry, options_class
from ctsm.models.base import EmpatheticModel
from ctsm.models.bundle import load_bundle
from ctsm.text.vocabulary import CLS, PAD
from ctsm.training.loop import build_model

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-model.md"
TINY = [
    "--options.size",
    "16",
    "--training.batch_size",
    "4",
    "--training.warmup",
    "10",
    "--training.tensorboard",
    "false",
]
TINY += ["--training.iterations", "8", "--training.evaluate_every", "4", "--training.evaluate_from", "4"]


def block(name: str) -> str:
    """The block of code that the page gives below a file's name."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


@pytest.fixture
def bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page in place; returns the configuration."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "bag.py").write_text(block("src/ctsm/models/bag.py"), encoding="utf-8")
    monkeypatch.setattr(ctsm.models, "__path__", [*ctsm.models.__path__, str(package)])
    (line,) = re.findall(r'^    "bag": (ModelEntry\(.*\)),$', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    monkeypatch.setitem(REGISTRY, "bag", ModelEntry(*re.findall(r'"([^"]+)"', line)))
    config = tmp_path / "bag.yaml"
    config.write_text(block("configs/bag.yaml"), encoding="utf-8")
    yield config
    sys.modules.pop("ctsm.models.bag", None)


@pytest.fixture
def model(bag: Path, prepared: Path) -> EmpatheticModel:
    return build_model(read_config(bag, TINY), PreparedData(prepared)).eval()


def test_from_the_page_to_a_comparison(
    bag: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "bag-1", tmp_path / "bag-2"]
    for seed, run in enumerate(runs):
        words = [*TINY, "--training.seed", str(seed)]
        assert main(["train", str(bag), "--data", str(prepared), "--out", str(run), *words]) == 0
        assert main(["evaluate", str(run), "--data", str(prepared), "--split", "dev"]) == 0
    record = read_record(runs[0] / "evaluation" / "dev.json")
    assert (record.model, record.options) == ("bag", {"size": 16})
    assert record.acc is not None
    bundle = load_bundle(runs[0])
    assert record.parameters == sum(parameter.numel() for parameter in bundle.model.parameters())
    assert main(["compare", *map(str, runs), "--split", "dev"]) == 0
    capsys.readouterr()
    assert main(["models", "--results", str(runs[0] / "evaluation")]) == 0
    printed = capsys.readouterr().out
    assert "bag" in printed
    assert "on dev only" not in printed, "a record with other options than the default's is not the model's row"


def test_the_configuration_lists_every_option_at_its_default(bag: Path) -> None:
    written = yaml.safe_load(bag.read_text(encoding="utf-8"))
    assert written["options"] == vars(options_class("bag")())
    with pytest.raises(CtsmError, match="options"):
        read_config(bag, ["--options.colour", "red"])


def test_emotions_come_from_the_mean_of_the_words(model: EmpatheticModel, prepared: Path) -> None:
    """Written out for one example; and in a batch with longer ones nothing changes."""
    examples = PreparedData(prepared).examples("dev")
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together = model.encode(examples.batch(np.arange(len(examples)))).emotion_logits
    assert together is not None
    for row in range(len(examples)):
        words = [word if word < model.vocabulary_size else 0 for word in examples.context.row(row)]
        assert words[0] == CLS
        mean = sum(math.sqrt(16) * weights["embedding.weight"][word] for word in words) / len(words)
        logits = weights["emotion.weight"] @ mean + weights["emotion.bias"]
        assert together[row].double().numpy() == pytest.approx(logits, rel=1e-4, abs=1e-5)


def test_cached_decoding_is_teacher_forcing_and_batches_do_not_matter(model: EmpatheticModel, prepared: Path) -> None:
    examples = PreparedData(prepared).examples("dev")
    rows = np.arange(len(examples))
    batch = examples.batch(rows)
    with torch.no_grad():
        together = model.score(batch).nll
        for row in rows:
            alone = examples.batch(rows[row : row + 1])
            assert float(model.score(alone).nll) == pytest.approx(float(together[row]), rel=1e-5)
        context = model.encode(batch)
        whole = model.decode(batch.target[:, :-1], context, model.start_decoding(context)).hidden
        cache = model.start_decoding(context)
        steps = [model.decode(batch.target[:, :0], context, cache).hidden]
        steps += [model.decode(batch.target[:, t : t + 1], context, cache).hidden for t in range(whole.shape[1] - 1)]
    real = batch.target != PAD
    assert torch.allclose(torch.cat(steps, dim=1)[real], whole[real], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(model: EmpatheticModel, prepared: Path) -> None:
    model.train().loss(PreparedData(prepared).examples("train").batch(np.arange(8))).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name
