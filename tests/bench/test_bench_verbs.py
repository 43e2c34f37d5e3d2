"""`ctsm bench`: its JSON, its inputs, its errors. Nothing here depends on how fast the machine is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ctsm.bench.document import GOALS
from ctsm.bench.report import Report
from ctsm.cli.main import main
from ctsm.config import RunConfig
from ctsm.evaluation.paper import TABLE_1

DOCS = Path(__file__).parents[2] / "docs" / "performance.md"
CONFIGS = Path(__file__).parents[2] / "configs"


def bench(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """Run `ctsm bench ... --json` and check what every verb's object has, and that each goal finds its figure."""
    capsys.readouterr()
    assert main(["bench", *map(str, words), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert list(report) == [
        *("schema", "verb", "machine", "settings", "data", "series", "figures", "profile", "notes"),
    ]
    assert report["schema"] == 1
    assert report["verb"] == words[0]
    assert report["machine"]["threads"] >= 1
    for series in report["series"]:
        assert list(series) == ["name", "unit", "n", "median", "min", "max", "at"]
        assert 0 < series["min"] <= series["median"] <= series["max"]
    for figure in report["figures"]:
        assert list(figure) == ["name", "unit", "value", "at_least", "at_most", "met"]
        assert figure["value"] >= 0 or figure["name"].endswith("bf16 less fp32")
    for goal in GOALS:
        found = any(re.fullmatch(goal.pattern, one["name"]) for one in [*report["figures"], *report["series"]])
        assert goal.verb != words[0] or found or ("bf16" in goal.pattern and "bf16" not in words), goal.what
    return report


def error(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run `ctsm bench ...`, which must fail with one sentence, and return that."""
    capsys.readouterr()
    assert main(["bench", *map(str, words)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.endswith("...")]
    assert captured.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("ctsm bench: error: ")
    assert lines[0].endswith(".")
    return lines[0]


def values(report: dict[str, Any]) -> dict[str, float]:
    return {figure["name"]: figure["value"] for figure in report["figures"]}


def medians(report: dict[str, Any]) -> dict[str, float]:
    return {series["name"]: series["median"] for series in report["series"]}


def test_train(prepared: Path, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--steps", 2, "--rounds", 2, "--precision", "fp32", "bf16", "--profile"]
    report = bench(capsys, "train", "--data", prepared, "--config", config_file, *sizes)
    found, speeds = values(report), medians(report)
    assert report["data"]["source"] == "prepared"
    assert [series["n"] for series in report["series"][:4]] == [2] * 4
    for precision in ("fp32", "bf16"):
        ratio = speeds[f"fast CTSM, {precision}"] / speeds["plain CTSM"]
        assert found[f"fast {precision} / plain"] == pytest.approx(ratio)
        rate = max(rate for name, rate in speeds.items() if name.startswith(f"{precision} product"))
        limit = next(
            value for name, value in found.items() if name.startswith(f"arithmetic limit at the rate of {precision}")
        )
        assert limit == pytest.approx(rate / found["arithmetic of an example, forward and backward"])
        assert found[f"share of the limit, {precision}"] == pytest.approx(
            100 * speeds[f"fast CTSM, {precision}"] / limit
        )
    calibration = next(figure for figure in report["figures"] if figure["name"].startswith("calibration"))
    assert calibration["value"] == speeds["plain Transformer"]
    assert calibration["at_least"] == 50
    assert found["peak memory of the process, fast path alone"] > 10
    assert all(seconds > 0 for seconds in report["profile"].values())


def test_train_takes_the_precisions_that_pay(
    prepared: Path, config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for faster in (True, False):
        bf16_rate = 2e9 if faster else 5e8
        rates = {torch.float32: 1e9, torch.bfloat16: bf16_rate}
        monkeypatch.setattr(
            "ctsm.bench.train.multiply_add_rate", lambda dtype, *_, rates=rates, **_device: rates[dtype]
        )
        report = bench(capsys, "train", "--data", prepared, "--config", config_file, "--steps", 1, "--rounds", 1)
        assert ("fast bf16 / plain" in values(report)) is faster
        assert "fast fp32 / plain" in values(report)
        assert report["profile"] == {}


def test_decode_on_the_sample(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--contexts", 4, "--replies", 3, "--rounds", 2]
    report = bench(capsys, "decode", "--config", config_file, *sizes)
    found, speeds = values(report), medians(report)
    assert report["data"]["source"] == "sample"
    assert report["data"]["examples"] == 63
    assert len(report["notes"]) == 2
    ratio = speeds["fast CTSM, greedy, batch 64"] / speeds["plain CTSM, greedy"]
    assert found["fast / plain, greedy, fp32"] == pytest.approx(ratio)
    assert found["replies that are identical on both paths"] == 100
    assert found["greedy, all 63 contexts of the split (from the sample)"] == pytest.approx(
        63 / speeds["fast CTSM, greedy, batch 64"]
    )
    assert found["calibration: plain Transformer, one reply"] == pytest.approx(
        1000 / speeds["plain Transformer, greedy"]
    )
    assert "fast CTSM, beam 5, batch 16" in speeds


def test_decode_tells_what_bf16_gains_and_changes(
    prepared: Path, model_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--contexts", 4, "--replies", 2, "--rounds", 1, "--split", "dev"]
    for faster in (True, False):
        rates = {torch.float32: 1e9, torch.bfloat16: 2e9 if faster else 5e8}
        monkeypatch.setattr("ctsm.bench.decode.multiply_add_rate", lambda dtype, *_, rates=rates: rates[dtype])
        report = bench(capsys, "decode", model_directory, "--data", prepared, *sizes)
        assert ("fast / plain, greedy, bf16" in values(report)) is faster
    report = bench(capsys, "decode", model_directory, "--data", prepared, *sizes, "--precision", "fp32")
    assert "fast / plain, greedy, bf16" not in values(report)
    report = bench(capsys, "decode", model_directory, "--data", prepared, *sizes, "--precision", "bf16")
    found, speeds = values(report), medians(report)
    assert found["fast / plain, greedy, bf16"] == pytest.approx(
        speeds["fast CTSM, greedy, batch 64, bf16"] / speeds["plain CTSM, greedy"]
    )
    assert found["replies that are identical in fp32 and bf16"] in (0, 25, 50, 75, 100)
    if found["replies that are identical in fp32 and bf16"] == 100:
        for score in ("Dist-1", "Dist-2", "words of a reply"):
            assert found[f"{score}: bf16 less fp32"] == 0
    assert found["Acc: bf16 less fp32"] == 0  # no product of this small model's encoder is computed in bf16


def test_decode_with_a_model(prepared: Path, model_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--contexts", 2, "--replies", 2, "--rounds", 9, "--split", "dev"]
    report = bench(capsys, "decode", model_directory, "--data", prepared, *sizes)
    assert report["notes"] == []
    assert report["data"]["split"] == "dev"
    assert report["series"][0]["n"] == 2  # no more rounds than replies


def test_reply(model_directory: Path, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(capsys, "reply", model_directory, "--data", prepared, "--replies", 3)
    found = values(report)
    assert report["series"][0]["n"] == 3
    assert found["one reply, median"] == report["series"][0]["median"]
    assert found["one reply, 99th percentile"] == report["series"][0]["max"]
    assert found["peak memory of the process"] > 50
    assert report["data"]["inferences"] == "atomic"


def test_startup_runs_every_command_once_more_than_it_counts(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    report = bench(capsys, "startup", model_directory, "--rounds", 2)
    ran = log.read_text(encoding="utf-8").splitlines()
    assert len(ran) == 3 * 5
    assert ran[:5] == ran[5:10] == ran[10:]
    assert ran[4].endswith(str(model_directory))
    assert [series["name"] for series in report["series"]] == [
        *("python -c pass", "ctsm --help", "import ctsm", "import torch", "ctsm.load"),
    ]
    program.write_text("#!/bin/sh\necho 'no memory' >&2\nexit 3\n", encoding="utf-8")
    assert "failed (no memory)" in error(capsys, "startup", model_directory)


@pytest.mark.long
def test_startup_and_reply_on_the_sample_for_real(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = bench(capsys, "startup", "--config", config_file, "--rounds", 1)
    assert medians(report)["ctsm.load"] > medians(report)["python -c pass"]
    report = bench(capsys, "reply", "--config", config_file, "--replies", 3)
    assert report["data"]["source"] == "sample"


def test_techniques(
    prepared: Path,
    model_directory: Path,
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ctsm.bench.techniques.verb.DECODING_BATCH", 3)
    sizes = ["--steps", 1, "--rounds", 1]
    with_model = bench(capsys, "techniques", model_directory, "--data", prepared, *sizes)
    on_sample = bench(capsys, "techniques", "--config", config_file, *sizes)
    assert [len(with_model["notes"]), len(on_sample["notes"])] == [0, 2]
    for report in (with_model, on_sample):
        times, ratios = medians(report), values(report)
        assert list(times) == [one["name"] for one in report["series"]]  # no name twice
        for fast, slow in zip(report["series"][::2], report["series"][1::2], strict=True):
            part, technique, replaces = slow["name"].split(": ")
            assert part in ("training", "decoding")
            assert replaces
            assert fast["name"] == f"{part}: {technique}"
            assert fast["unit"] == slow["unit"]
            assert fast["unit"].startswith("ms for ")
            assert ratios.pop(fast["name"]) == pytest.approx(slow["median"] / fast["median"])
        assert not ratios


@pytest.fixture
def tiny_systems(tmp_path: Path) -> Path:
    """The eight systems' configurations with small sizes."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for row in TABLE_1:
        value = yaml.safe_load((CONFIGS / f"{row.name}.yaml").read_text(encoding="utf-8"))
        value["options"]["size"] = 16
        (folder / f"{row.name}.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    return folder


def test_systems(
    prepared_all: Path, tiny_systems: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctsm.bench.systems.SLOW", float("inf"))
    sizes = ["--configs", tiny_systems, "--steps", 1, "--rounds", 2, "--profile"]
    report = bench(capsys, "systems", "--data", prepared_all, *sizes)
    speeds, labels = medians(report), [row.label for row in TABLE_1]
    measured = [f"{label}, {precision}" for label in labels for precision in ("fp32", "bf16")]
    assert [one["name"] for one in report["series"][:16]] == measured
    assert {(one["unit"], one["n"]) for one in report["series"][:16]} == {("examples/s", 2)}
    for label in labels:
        gain = speeds[f"{label}, bf16"] / speeds[f"{label}, fp32"]
        assert values(report)[f"{label}, bf16 / fp32"] == pytest.approx(gain)
        for precision in ("fp32", "bf16"):
            title = f"{label}, a step in {precision}: "
            stages = {name.removeprefix(title) for name in speeds if name.startswith(title)}
            assert {"collate", "backward", "optimiser", "decoder", "generator"} < stages
    assert len(report["notes"]) == 1


def test_systems_whose_needs_the_data_lacks_are_left_out(
    prepared: Path, tiny_systems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--steps", 1, "--rounds", 1, "--precision", "fp32"]
    report = bench(capsys, "systems", "--data", prepared, "--configs", tiny_systems, *sizes)
    assert list(medians(report)) == [f"{label}, fp32" for label in ("Transformer", "MoEL", "MIME", "CEM", "CTSM")]
    assert report["figures"] == []
    assert [note.partition(":")[0] for note in report["notes"][1:]] == [
        f"{label} is left out" for label in ("EmpDG", "KEMP", "CASE")
    ]
    assert str(prepared) not in json.dumps(report)
    assert "no such file" in error(capsys, "systems", "--data", prepared, "--configs", tmp_path / "nowhere")


def test_tables_are_printed_without_json(
    model_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    assert main(["bench", "startup", str(model_directory), "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert "ctsm bench startup" in text
    assert "ctsm.load, median" in text


def test_errors_are_one_sentence(
    prepared: Path, model_directory: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    assert "not a prepared dataset" in error(capsys, "train", "--data", nowhere)
    assert "--steps is 0" in error(capsys, "train", "--steps", 0)
    assert "--replies is -1" in error(capsys, "reply", "--replies", -1)
    assert "nowhere" in error(capsys, "train", "--config", nowhere)
    assert "options.size is 300" in error(capsys, "train", "--data", prepared)
    assert "--device toaster: cannot be used" in error(capsys, "decode", "--device", "toaster")
    assert "add --data" in error(capsys, "decode", model_directory)
    assert "add --data" in error(capsys, "techniques", model_directory)
    assert "leave out --config" in error(capsys, "decode", model_directory, "--config", config_file)
    assert "not a model or run directory" in error(capsys, "reply", nowhere)
    assert "not a model or run directory" in error(capsys, "startup", nowhere)


def test_a_damaged_model_is_one_sentence(model_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_directory / "model.safetensors").write_bytes(b"12345678")
    assert "model.safetensors: cannot read the weights" in error(capsys, "reply", model_directory, "--replies", 1)


def test_switches_that_the_plain_path_does_not_know_are_refused(
    prepared: Path, tiny_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = tiny_config.to_json()
    value["options"]["decoder_memory"] = "stu+emo"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    message = error(capsys, "train", "--data", prepared, "--config", tmp_path / "other.yaml")
    assert "options.decoder_memory is stu+emo" in message


def test_a_model_of_other_data_is_refused(
    prepared: Path, model_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_directory / "vocabulary.txt"
    words = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps([*words[:-1], "quixotic"]), encoding="utf-8")
    assert "has another vocabulary than" in error(capsys, "decode", model_directory, "--data", prepared)


def test_the_documented_keys_are_those_of_the_json() -> None:
    text = DOCS.read_text(encoding="utf-8")
    section = text[text.rindex("## The JSON object") :]
    documented = re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)
    assert documented == list(Report("train", {}, {}, {}, [], []).to_json())
