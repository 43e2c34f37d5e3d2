"""Under load every request is answered, with the reply that a lone client gets."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ctsm.serving.responder import Responder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"


def check_load(directory: Path, out: Path, clients: int, requests: int, *words: str) -> None:
    command = [sys.executable, str(SCRIPT), str(directory), "--clients", str(clients), "--requests", str(requests)]
    done = subprocess.run([*command, "--json", str(out), *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(out.read_text(encoding="utf-8"))
    assert outcome["requests"] == clients * requests
    assert (outcome["errors"], outcome["different"], outcome["exit_code"]) == (0, 0, 0)
    assert 0 < outcome["p50"] <= outcome["p99"] <= outcome["slowest"]


def test_a_little_load(model_directory: Path, tmp_path: Path) -> None:
    check_load(model_directory, tmp_path / "outcome.json", 12, 3, "--stream", "--explain")
    outcome = json.loads((tmp_path / "outcome.json").read_text(encoding="utf-8"))
    assert (outcome["p50_met"], outcome["p99_met"]) == (outcome["p50"] <= 0.8, outcome["p99"] <= 1.5)
    assert 0 < outcome["explain_p50"] <= outcome["explain_p99"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_load", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["serve_load"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_difference_is_a_tie_only_where_the_words_are_close_there(
    script: ModuleType, responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "MOST_PATHS", 12)
    turns = ["I painted our whole fence alone today!"]
    text, steps = script.follow(responder, turns, [])
    assert text == responder.respond(turns).text
    gaps = [step.gap for step in steps]
    assert all(gap >= 0 for gap in gaps)
    # A reply that parts where the words are farther apart than at an earlier step.
    place = next(place for place in range(1, len(gaps)) if gaps[place] > min(gaps[:place]))
    other, _ = script.follow(responder, turns, [*(step.best for step in steps[:place]), steps[place].second])
    assert other != text
    monkeypatch.setattr(script, "TIE", (gaps[place] + min(gaps[:place])) / 2)
    assert script.is_tie(responder, turns, text)
    assert not script.is_tie(responder, turns, other), "the closeness of an earlier step does not account for it"
    monkeypatch.setattr(script, "TIE", gaps[place] * 1.01)
    assert script.is_tie(responder, turns, other)
    monkeypatch.setattr(script, "MOST_PATHS", 3)
    assert not script.is_tie(responder, turns, "Something else.")


@pytest.mark.long
@pytest.mark.parametrize("words", [(), ("--stream",)])
def test_much_load(model_directory: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    check_load(model_directory, tmp_path / "outcome.json", 64, 50, *words)


def test_the_docs_have_the_numbers_of_the_record() -> None:
    root = Path(__file__).parents[2]
    record = json.loads((root / "docs" / "results" / "serve" / "load.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    for name, key in (("default (2)", "default"), ("`--threads 1`", "one_thread")):
        one = record[key]
        counts = f"{one['requests']:,} | {one['errors']} | {one['different']} | {one['per_second']:.0f}"
        times = " | ".join(f"{one[percentile]:.2f} s" for percentile in ("p50", "p99", "slowest"))
        assert f"| {name} | {counts} | {times} |" in page
    default = record["default"]
    said = f"{default['per_second']:.0f} replies/s, p50 {default['p50']:.2f} s, p99 {default['p99']:.2f} s, no error"
    assert said in " ".join((root / "README.md").read_text(encoding="utf-8").split())
