"""`ctsm bench growth`: what is measured is what it says; nothing here depends on how fast the machine is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml

from ctsm.bench.growth import BASE, TARGET, GrowthSettings, Sizes, endless, made_up_batch, made_up_model
from ctsm.cli import bench as verb
from ctsm.cli.main import main
from ctsm.config import RunConfig
from ctsm.decoding.greedy import greedy
from ctsm.text.vocabulary import CLS, EOS, PAD, SPECIALS


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["bench", "growth", *map(str, words), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_a_batch_holds_what_its_sizes_say_and_no_padding() -> None:
    batch = made_up_batch(Sizes(vocabulary=50, context=9, batch=3))
    assert batch.context.shape == batch.speakers.shape == (3, 9)
    assert batch.target.shape == (3, TARGET)
    assert batch.cognitive.shape[:2] == (3, 4)
    for words in (batch.context, batch.target, batch.cognitive, batch.reaction):
        assert not (words == PAD).any()
        assert words.max() < 50
    assert (batch.context[:, 0] == CLS).all()
    assert (batch.context[:, 1:] >= len(SPECIALS)).all()
    assert (batch.target[:, -1] == EOS).all()
    assert len(batch.target_positions) == 3 * TARGET
    assert torch.equal(batch.context, made_up_batch(Sizes(vocabulary=50, context=9, batch=3)).context)


def test_decoding_always_says_the_same_number_of_words(tiny_config: RunConfig) -> None:
    model = made_up_model(tiny_config, 50).train()
    batch = made_up_batch(Sizes(vocabulary=50, context=9, batch=3))
    with torch.no_grad():
        model.generator.vocabulary.bias[EOS] = 100.0
        model.generator.gate.bias.fill_(100.0)  # nothing is copied
    model.eval()
    with torch.inference_mode():
        assert greedy(model, model.encode(batch), TARGET) == [[], [], []]
        with endless(model):
            assert not model.training
            assert [len(reply) for reply in greedy(model, model.encode(batch), TARGET)] == [TARGET] * 3
    assert model.training
    assert model.generator.vocabulary.bias[EOS] == 100.0


def test_every_size_is_measured_once() -> None:
    settings = GrowthSettings(vocabulary=(100, BASE.vocabulary), context=(BASE.context, 64), batch=(1, BASE.batch, 2))
    assert settings.points() == [
        BASE._replace(vocabulary=100),
        BASE,
        BASE._replace(context=64),
        BASE._replace(batch=1),
        BASE._replace(batch=2),
    ]


def test_the_default_sizes_rise_and_hold_the_base() -> None:
    parser = jsonargparse.ArgumentParser()
    verb.add_arguments(parser)
    chosen = parser.parse_args(["growth"]).growth
    for axis, size in BASE._asdict().items():
        assert size in chosen[axis]
        assert chosen[axis] == sorted(set(chosen[axis]))


def test_the_report(config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctsm.bench.growth.BASE", Sizes(vocabulary=60, context=8, batch=2))
    sizes = ["--vocabulary", 60, 120, "--context", 4, 8, "--batch", 2, "--rounds", 2]
    report = run(capsys, "--config", config_file, *sizes)
    assert report["verb"] == "growth"
    assert report["data"]["source"] == "made up"
    assert report["settings"]["base"] == {"vocabulary": 60, "context": 8, "batch": 2}
    medians = {(one["name"], *one["at"].values()): one["median"] for one in report["series"]}
    points = [(60, 8, 2), (120, 8, 2), (60, 4, 2)]
    kinds = ("training step", "greedy decoding")
    assert set(medians) == {(kind, *point) for kind in kinds for point in points}
    assert all(one["unit"] == "ms" and one["n"] == 2 for one in report["series"])
    factors = {one["name"]: one["value"] for one in report["figures"]}
    assert factors == {
        f"{kind}, {change}": pytest.approx(medians[kind, *after] / medians[kind, *before])
        for kind in kinds
        for change, before, after in (
            ("vocabulary 60 to 120", (60, 8, 2), (120, 8, 2)),
            ("context 4 to 8", (60, 4, 2), (60, 8, 2)),
        )
    }
    assert main(["bench", "growth", "--config", str(config_file), *map(str, sizes)]) == 0
    assert "training step, vocabulary 120," in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocabulary", "39"], "--vocabulary is 39"),
        (["--context", "8", "1"], "--context is 1"),
        (["--batch", "0"], "--batch is 0"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--device", "toaster"], "--device toaster: cannot be used"),
    ],
)
def test_sizes_that_are_impossible(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "growth", *words]) == 2
    assert message in capsys.readouterr().err


def test_other_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"model": "transformer"}), encoding="utf-8")
    assert main(["bench", "growth", "--config", str(tmp_path / "other.yaml")]) == 2
    assert "for the model ctsm only, not transformer" in capsys.readouterr().err
