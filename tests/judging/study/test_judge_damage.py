"""Studies that are damaged, locked or may not be written: one sentence, exit code 2, and nothing half-written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ctsm.cli.main import main
from ctsm.judging import database

Run = Callable[[str], str]
VERBS = ("serve", "links", "close", "report", "export")


@pytest.fixture
def place(make: Callable[..., Any]) -> Path:
    """A study that is closed, with one trial judged."""
    made = make(items=2, annotators=2)
    trial = made.store.sequence("1")[0]
    made.store.answer("1", trial.id, 0, dict.fromkeys(made.store.study().aspects, "win"))
    made.store.close_study()
    made.store.close()
    return Path(made.place)


@pytest.fixture
def refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a verb on the study and returns the sentence it was refused with."""

    def run(verb: str) -> str:
        options = {
            "serve": ["--port", "0"],
            "links": ["--links", str(tmp_path / "links.txt")],
            "report": ["-o", str(tmp_path / "report")],
            "export": ["--format", "csv", "-o", str(tmp_path / "out.csv")],
        }
        assert main(["judge", verb, str(place), *options.get(verb, [])]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert printed.err.startswith(f"ctsm judge: error: {place}: ")
        assert not {"links.txt", "report", "out.csv"} & {path.name for path in tmp_path.iterdir()}
        return printed.err

    return run


def execute(place: Path, *statements: str) -> None:
    with closing(sqlite3.connect(place)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE meta SET study = '{'", "is damaged (the study cannot be read); restore a copy of it"),
        ("UPDATE meta SET study = '[]'", "is damaged (the study cannot be read)"),
        ("UPDATE meta SET study = '{}'", "is damaged (the study cannot be read)"),
        ("UPDATE meta SET study = x'ff'", "is damaged"),
        ("DELETE FROM meta", "is damaged (the study cannot be read)"),
        ("UPDATE trials SET context = '['", "is damaged (the study cannot be read)"),
        ("UPDATE trials SET annotator = '7' || annotator", "is damaged (the study cannot be read)"),
        *((f"DROP TABLE {name}", f"lacks the table {name}; restore a copy") for name in ("judgements", "withdrawn")),
        *((f"DROP TABLE {name}", f"lacks the table {name}; restore a copy") for name in ("annotators", "trials")),
        ("DROP TABLE meta", "holds no study; make one with"),
    ],
)
def test_a_damaged_study_is_not_opened(statement: str, message: str, place: Path, refused: Run) -> None:
    execute(place, statement)
    for verb in VERBS:
        assert message in refused(verb)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE judgements SET trial = 'unknown' || aspect",
        "UPDATE judgements SET aspect = 'wit' WHERE aspect = 'fluency'",
    ],
)
def test_judgements_of_nothing_that_was_asked(statement: str, place: Path, refused: Run) -> None:
    execute(place, statement)
    for verb in ("report", "export"):
        assert "is damaged (a judgement of something that was not asked); restore a copy of it" in refused(verb)


@pytest.mark.parametrize("verb", ["links", "close", "report", "export"])
def test_a_column_that_is_gone(verb: str, place: Path, refused: Run) -> None:
    table, column = {"links": ("meta", "admin_token")}.get(verb, ("meta", "closed"))
    execute(place, f"ALTER TABLE {table} DROP COLUMN {column}")
    assert f"cannot be used as a study (no such column: {column}" in refused(verb).replace("meta.", "")


@pytest.fixture
def locked(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another program holds the study for itself."""
    monkeypatch.setattr(database, "BUSY_MS", 50)
    with closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.usefixtures("locked")
@pytest.mark.parametrize("verb", VERBS)
def test_a_locked_study(verb: str, refused: Run) -> None:
    assert "cannot be used as a study (database is locked); check that" in refused(verb)


@pytest.mark.parametrize("verb", ["links", "close"])
def test_a_study_that_may_not_be_written(verb: str, place: Path, refused: Run) -> None:
    execute(place, "UPDATE meta SET closed = NULL")
    execute(place, "CREATE TRIGGER no BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'read-only'); END")
    assert "cannot be used as a study (read-only); check that" in refused(verb)
