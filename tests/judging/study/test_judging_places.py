"""Nothing that a verb writes may stand where the study's database is, or where SQLite keeps its logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctsm.cli.main import main

OWN = ["study.db", "study.db-wal", "study.db-shm", "study.db-journal", "folder/../study.db", "link.db"]
VERBS = {
    "csv": ["export", "{study}", "--format", "csv", "-o", "{out}"],
    "label-studio": ["export", "{study}", "--format", "label-studio", "-o", "{out}"],
    "potato": ["export", "{study}", "--format", "potato", "-o", "{out}"],
    "report": ["report", "{study}", "-o", "{out}"],
    "links": ["links", "{study}", "--links", "{out}"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("named", ["study.db", "link.db"])
def test_a_studys_own_files_are_never_written(
    verb: str, named: str, make: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(items=2, annotators=1)
    made.store.close_study()
    made.store.close()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.db").symlink_to("study.db")  # SQLite keeps the logs beside the file that a link names
    study = tmp_path / "study.db"
    before, names = study.read_bytes(), sorted(tmp_path.rglob("*"))
    for out in OWN:
        words = [word.format(study=tmp_path / named, out=tmp_path / out) for word in VERBS[verb]]
        assert main(["judge", *words]) == 2
        error = capsys.readouterr().err
        what = "is the study itself" if out.endswith(".db") else "is where SQLite keeps a log of"
        assert f"{tmp_path / out}: {what}" in error
        assert error.count("\n") == 1
        assert (study.read_bytes(), sorted(tmp_path.rglob("*"))) == (before, names)


@pytest.mark.parametrize("name", ["study.db", "study.db-wal"])
def test_links_and_a_new_study_need_two_files(
    name: str, tmp_path: Path, replies: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = f"ns={replies('north')},{replies('south')}"
    words = ["judge", "create", str(tmp_path / "study.db"), "--pair", pair, "--items", "2"]
    assert main([*words, "--links", str(tmp_path / name)]) == 2
    assert f"{name}: is " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north.jsonl", "south.jsonl"]


def test_the_configuration_of_label_studio_is_no_study(
    make: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(items=2, annotators=1, place=str(tmp_path / "study.xml"))
    made.store.close_study()
    made.store.close()
    before = (tmp_path / "study.xml").read_bytes()
    words = ["export", made.place, "--format", "label-studio", "-o", str(tmp_path / "study.json")]
    assert main(["judge", *words]) == 2
    assert "study.xml: exists already" in capsys.readouterr().err
    assert (tmp_path / "study.xml").read_bytes() == before
    assert not (tmp_path / "study.json").exists()
