"""The whole pipeline through the command line, on the sample that comes with the package."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from ctsm.cli.main import main
from ctsm.evaluation.records import read_per_example, read_record
from ctsm.evaluation.replies import read_replies

CONFIG = Path(__file__).parents[2] / "configs" / "sample.yaml"
TINY = ["--options.size", "16", "--options.depth", "8", "--options.filter_size", "8", "--options.fusion_size", "12"]
SHORT = ["--training.iterations", "24", "--training.evaluate_every", "12", "--training.evaluate_from", "12"]
ISSUE_KEYS = [
    *("model", "variant", "seed", "split", "n", "acc", "ppl_example", "ppl_token", "target_tokens", "dist1", "dist2"),
    *("bleu4", "decoder", "max_tokens", "vocabulary", "vectors", "inferences", "precision", "iterations"),
    *("checkpoint_step", "selected_on", "data_fingerprint", "commit", "device", "train_seconds"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data, a finished run and its evaluation on test."""
    folder = tmp_path_factory.mktemp("pipeline")
    data, run = str(folder / "data"), str(folder / "run")
    sample = ["--dialogues", "sample", "--vad", "sample", "--inferences", "atomic:sample"]
    assert main(["prepare", *sample, "--vector-size", "16", "--out", data]) == 0
    assert main(["train", str(CONFIG), "--data", data, "--out", run, *TINY, *SHORT]) == 0
    assert main(["evaluate", run, "--data", data, "--split", "test"]) == 0
    return folder


def test_the_record_has_every_promised_key(work: Path) -> None:
    value = json.loads((work / "run/evaluation/test.json").read_text(encoding="utf-8"))
    assert set(ISSUE_KEYS) <= set(value)
    assert value["variant"] == ""
    assert value["n"] == 63
    assert value["inferences"] == "atomic:events.tsv"
    assert value["checkpoint_step"] in (12, 24)
    assert value["parameters"] > 0


def test_the_record_agrees_with_the_files_beside_it(work: Path) -> None:
    record = read_record(work / "run/evaluation/test.json")
    examples = read_per_example(work / "run/evaluation/test.per-example.jsonl")
    replies = read_replies(work / "run/evaluation/test.replies.jsonl")
    assert [example.id for example in examples] == [reply.id for reply in replies]
    assert len(replies) == record.n
    assert record.acc == pytest.approx(100 * sum(bool(example.correct) for example in examples) / record.n)
    assert record.acc == pytest.approx(100 * sum(reply.emotion == reply.predicted for reply in replies) / record.n)
    mean = sum(example.nll / example.tokens for example in examples) / record.n
    assert record.ppl_example == pytest.approx(math.exp(mean))
    total = sum(example.nll for example in examples) / sum(example.tokens for example in examples)
    assert record.ppl_token == pytest.approx(math.exp(total))
    words = Counter(token for reply in replies for token in reply.reply_tokens)
    assert record.dist1 == pytest.approx(100 * len(words) / sum(words.values()))
    assert all(reply.context and reply.reference for reply in replies)


def test_score_agrees_with_the_record(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_record(work / "run/evaluation/test.json")
    assert main(["score", str(work / "run/evaluation/test.replies.jsonl"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    for key in ("n", "dist1", "dist2", "unigrams", "bigrams", "mean_length", "distinct_replies"):
        assert scores[key] == pytest.approx(getattr(record, key))


def test_a_second_evaluation_gives_the_same_replies_and_scores(work: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(work / "run"), "--data", str(work / "data"), "--out", str(tmp_path)]) == 0
    for name in ("test.per-example.jsonl", "test.replies.jsonl"):
        assert (tmp_path / name).read_bytes() == (work / "run/evaluation" / name).read_bytes()


def test_tables_are_generated_from_the_record(work: Path, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records/toy.json").write_bytes((work / "run/evaluation/test.json").read_bytes())
    assert main(["tables", str(tmp_path / "records"), "-o", str(tmp_path / "table.md")]) == 0
    record = read_record(tmp_path / "records/toy.json")
    assert f"{record.ppl_example:.2f}" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_finished_run_is_not_trained_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (work / "run/best").iterdir())
    command = ["train", str(CONFIG), "--data", str(work / "data"), "--out", str(work / "run"), *TINY, *SHORT]
    assert main(command) == 2
    assert "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in (work / "run/best").iterdir()) == before


def test_evaluating_with_other_data_is_refused(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(tmp_path / "other")
    options = ["--dialogues", "sample", "--vector-size", "16", "--vocabulary", "train"]
    assert main(["prepare", *options, "--out", other]) == 0
    assert main(["evaluate", str(work / "run"), "--data", other]) == 2
    assert "has another vocabulary than" in capsys.readouterr().err


def test_ctrl_c_saves_and_says_how_to_go_on(work: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ctsm.cli.main", "train", str(CONFIG), "--data", str(work / "data")]
    command += ["--out", str(tmp_path / "run"), *TINY, "--training.iterations", "100000", "--training.patience", "9999"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/log.jsonl").exists() or not (tmp_path / "run/log.jsonl").stat().st_size:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "go on with: ctsm train" in errors
    assert errors.strip().endswith("--resume")
    assert list((tmp_path / "run/checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--dialogues", "nowhere.tar.gz", "--out", "x"], "nowhere.tar.gz"),
        (["prepare", "--dialogues", "sample", "--inferences", "oracle", "--out", "x"], "oracle"),
        (["prepare", "--dialogues", "sample", "--vad", "nowhere.txt", "--out", "x"], "nowhere.txt"),
        (["train", "nowhere.yaml", "--data", "d", "--out", "x"], "nowhere.yaml"),
        (["evaluate", "nowhere", "--data", "d"], "nowhere"),
        (["chat", "nowhere"], "nowhere"),
    ],
)
def test_wrong_inputs_are_one_sentence_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("...")]
    assert len(error) == 1
    assert error[0].startswith(f"ctsm {arguments[0]}: error: ")
    assert message in error[0]
    assert list(tmp_path.iterdir()) == []
