from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.errors import CtsmError
from ctsm.evaluation.records import (
    Interval,
    PerExample,
    ResultRecord,
    commit_of,
    current_commit,
    per_example_file,
    read_per_example,
    read_record,
    read_records,
    utc_now,
    write_per_example,
    write_record,
)

ISSUE_KEYS = {
    *("model", "variant", "seed", "split", "n", "acc", "ppl_example", "ppl_token", "target_tokens", "dist1", "dist2"),
    *("bleu4", "decoder", "max_tokens", "vocabulary", "vectors", "inferences", "precision", "iterations"),
    *("checkpoint_step", "selected_on", "data_fingerprint", "commit", "device", "train_seconds"),
}


Builder = Callable[..., ResultRecord]


def as_json(folder: Path, good: ResultRecord, **changes: Any) -> Path:
    """Write a good record, then change some of its JSON keys by hand."""
    path = folder / "r.json"
    write_record(path, good)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")
    return path


def test_round_trip_and_keys(tmp_path: Path, record: Builder):
    path = tmp_path / "new" / "r.json"
    write_record(path, record())
    assert read_record(path) == record()
    value = json.loads(path.read_text())
    assert set(value) >= ISSUE_KEYS
    assert set(value) == {field.name for field in dataclasses.fields(ResultRecord)}
    assert value["vocabulary"] == {"size": 23712, "kind": "all"}
    assert value["variant"] == ""


def test_a_model_without_emotions_and_bleu(tmp_path: Path, record: Builder):
    bare = record(acc=None, top3=None, top5=None, bleu4=None, bleu_signature=None, bigrams=0, dist2=0.0)
    write_record(tmp_path / "r.json", bare)
    assert read_record(tmp_path / "r.json") == bare


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ResultRecord)])
def test_a_missing_key_is_named(tmp_path: Path, record: Builder, name: str):
    path = as_json(tmp_path, record())
    value = json.loads(path.read_text())
    del value[name]
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(CtsmError, match=rf"r\.json: the field '{name}' is missing"):
        read_record(path)


def test_an_unknown_key_is_named(tmp_path: Path, record: Builder):
    with pytest.raises(CtsmError, match=r"r\.json: unknown field 'perplexity'"):
        read_record(as_json(tmp_path, record(), perplexity=3.0))
    with pytest.raises(CtsmError, match=r"r\.json: in 'vocabulary': unknown field 'words'"):
        read_record(as_json(tmp_path, record(), vocabulary={"size": 3, "kind": "all", "words": []}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("seed", 1.0),
        ("seed", True),
        ("seed", "1"),
        ("split", "valid"),
        ("split", ["dev"]),
        ("n", None),
        ("acc", "36"),
        ("acc", True),
        ("acc", float("nan")),
        ("ppl_example", None),
        ("ppl_example", float("inf")),
        ("ppl_token", 10**400),
        ("vocabulary", 23712),
        ("options", []),
        ("options", {"a": [1]}),
        ("options", {"a": float("nan")}),
        ("status", "old"),
        ("created", 3),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, record: Builder, name: str, value: object):
    with pytest.raises(CtsmError, match=rf"r\.json: (in|the field) '{name}'.*must be"):
        read_record(as_json(tmp_path, record(), **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("acc", 100.1),
        ("top3", -0.1),
        ("dist2", 101),
        ("bleu4", 100.5),
        ("ppl_example", 0.5),
        ("ppl_token", -1.0),
        ("target_tokens", 0),
        ("seed", -1),
        ("train_seconds", -0.5),
        ("max_tokens", 0),
        ("bigrams", -1),
    ],
)
def test_a_value_out_of_range_is_named(tmp_path: Path, record: Builder, name: str, value: float):
    with pytest.raises(CtsmError, match=rf"r\.json: the field '{name}' must be (in 0\.\.100|at least)"):
        read_record(as_json(tmp_path, record(), **{name: value}))


def test_sums_of_floats_just_above_the_limit_pass(tmp_path: Path, record: Builder):
    write_record(tmp_path / "r.json", record(bleu4=100.00000000000004, ppl_example=0.9999999999999998))


def test_another_schema_is_named_before_its_fields(tmp_path: Path, record: Builder):
    with pytest.raises(CtsmError, match="record schema 3, but this version of ctsm reads 2"):
        read_record(as_json(tmp_path, record(), schema=3, new_field=3))


def test_records_of_the_first_schema_are_read_without_intervals(tmp_path: Path, record: Builder):
    path = as_json(tmp_path, record(), schema=1)
    value = json.loads(path.read_text())
    del value["acc_interval"], value["ppl_interval"]
    path.write_text(json.dumps(value), encoding="utf-8")
    assert read_record(path) == record(acc_interval=None, ppl_interval=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"acc": None, "top3": None, "top5": None, "acc_interval": Interval(low=1.0, high=2.0)},
        {"acc_interval": Interval(low=40.0, high=30.0)},
        {"ppl_interval": Interval(low=52.0, high=51.0)},
    ],
)
def test_an_interval_has_a_score_and_two_ends(tmp_path: Path, record: Builder, changes: dict[str, Any]):
    with pytest.raises(CtsmError, match=r"the interval of '.*' does not fit its score"):
        write_record(tmp_path / "r.json", record(**changes))
    assert list(tmp_path.iterdir()) == []


def test_the_per_example_file_stands_beside_its_record():
    assert per_example_file(Path("runs/a/evaluation/test.json")) == Path("runs/a/evaluation/test.per-example.jsonl")
    assert per_example_file(Path("a.b/dev.json")) == Path("a.b/dev.per-example.jsonl")


@pytest.mark.parametrize("changes", [{"status": "superseded"}, {"superseded_reason": "a fault"}])
def test_status_and_reason_go_together(tmp_path: Path, record: Builder, changes: dict[str, str]):
    with pytest.raises(CtsmError, match="'superseded_reason' must be given exactly when"):
        write_record(tmp_path / "r.json", record(**changes))
    write_record(tmp_path / "r.json", record(status="superseded", superseded_reason="a fault in the mask"))


@pytest.mark.parametrize("created", ["yesterday", "2024-05-01T12:00:00", "2024-05-01T12:00:00+02:00"])
def test_created_is_utc(tmp_path: Path, record: Builder, created: str):
    with pytest.raises(CtsmError, match="'created' must be a UTC time"):
        write_record(tmp_path / "r.json", record(created=created))
    write_record(tmp_path / "r.json", record(created=utc_now()))
    write_record(tmp_path / "r.json", record(created="2024-05-01T12:00:00Z"))


def test_bleu_comes_with_its_signature(tmp_path: Path, record: Builder):
    with pytest.raises(CtsmError, match="'bleu4' and 'bleu_signature'"):
        write_record(tmp_path / "r.json", record(bleu_signature=None))


def test_a_bad_record_is_not_written(tmp_path: Path, record: Builder):
    with pytest.raises(CtsmError, match="'ppl_example' must be a finite number"):
        write_record(tmp_path / "r.json", record(ppl_example=float("nan")))
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_named(tmp_path: Path):
    with pytest.raises(CtsmError, match=r"none\.json: no such file"):
        read_record(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"model": "ct')
    with pytest.raises(CtsmError, match=r"half\.json: cannot read a result record"):
        read_record(tmp_path / "half.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(CtsmError, match=r"list\.json: must be a JSON object, not \[1, 2\]"):
        read_record(tmp_path / "list.json")


def test_folders_and_files_are_read_in_order(tmp_path: Path, record: Builder):
    for name in ("b", "a"):
        write_record(tmp_path / f"{name}.json", record(seed=ord(name)))
    (tmp_path / "notes.yaml").write_text("not a record")
    write_record(tmp_path / "more" / "c.json", record(seed=1))
    found = read_records([tmp_path, tmp_path / "more" / "c.json"])
    assert [(path.name, item.seed) for path, item in found.items()] == [("a.json", 97), ("b.json", 98), ("c.json", 1)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CtsmError, match="empty: holds no result record"):
        read_records([tmp_path / "empty"])


PER_EXAMPLE = st.builds(
    PerExample,
    id=st.text(max_size=8),
    conversation_id=st.text(max_size=8),
    nll=st.floats(0, 1e4),
    tokens=st.integers(1, 500),
    correct=st.none() | st.booleans(),
    reply_tokens=st.lists(st.text(max_size=5), max_size=4).map(tuple),
)


@given(st.lists(PER_EXAMPLE, max_size=5, unique_by=lambda example: example.id))
def test_per_example_round_trip(tmp_path_factory: pytest.TempPathFactory, examples: list[PerExample]):
    path = tmp_path_factory.mktemp("examples") / "e.jsonl"
    write_per_example(path, examples)
    assert read_per_example(path) == examples


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 0}, "'tokens' must be at least 1"),
        ({"tokens": 2.0}, "'tokens' must be an integer"),
        ({"nll": None}, "'nll' must be a finite number"),
        ({"correct": 1}, "'correct' must be true or false"),
        ({"reply_tokens": "a b"}, "'reply_tokens' must be a list of texts"),
        ({"other": 1}, "unknown field 'other'"),
        ({"id": "one"}, "the id 'one' is used twice"),
    ],
)
def test_a_wrong_example_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], message: str):
    good = {"id": "one", "conversation_id": "c", "nll": 3, "tokens": 2, "correct": True, "reply_tokens": ["a"]}
    path = tmp_path / "e.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in (good, good | {"id": "two"} | changes)))
    with pytest.raises(CtsmError, match=rf"e\.jsonl, line 2: .*{message}"):
        read_per_example(path)


def git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one file in src/."""
    if shutil.which("git") is None:
        if os.environ.get("CTSM_REQUIRE") == "all":
            pytest.fail("git is not installed, and CTSM_REQUIRE=all asks for every tool")
        pytest.skip("git is not installed")
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("x = 1\n")
    return tmp_path


def test_commit_of_a_checkout(checkout: Path):
    assert commit_of(checkout / "src") == "unknown"  # not tracked yet
    git(checkout, "add", ".")
    assert commit_of(checkout / "src") == "unknown"  # no commit yet
    git(checkout, "commit", "-qm", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert commit_of(checkout / "src") == commit
    (checkout / "results.json").write_text("{}")
    assert commit_of(checkout / "src") == commit
    (checkout / "src" / "code.py").write_text("x = 2\n")
    assert commit_of(checkout / "src") == f"{commit}-dirty"
    git(checkout, "checkout", "-q", "--", ".")
    (checkout / "src" / "new.py").write_text("y = 1\n")
    assert commit_of(checkout / "src") == f"{commit}-dirty"


def test_commit_of_an_installed_copy_is_unknown(checkout: Path):
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    installed = checkout / "venv" / "ctsm"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("x = 1\n")
    assert commit_of(installed) == "unknown"


def test_commit_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    commit = commit_of(checkout / "src")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit_of(checkout / "src") == commit
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit_of(checkout / "src") == "unknown"
    assert current_commit() == "unknown"


def test_commit_outside_a_checkout(tmp_path: Path):
    (tmp_path / "f").write_text("x")
    assert commit_of(tmp_path) == "unknown"
