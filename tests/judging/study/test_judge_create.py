"""`ctsm judge create` and `links`: what is made, what is refused, and that a refusal leaves everything as it was."""

from __future__ import annotations

import re
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import ctsm.judging.store as store_module
from ctsm.cli.main import main
from ctsm.errors import CtsmError
from ctsm.judging.store import ADMIN, ClosedError, Store
from ctsm.judging.study import Pair

Replies = Callable[..., Path]
LINK = re.compile(r"^(annotator \d+|admin)\thttp://127\.0\.0\.1:8765/(judge|admin)/([\w-]{32})$", re.MULTILINE)


def create(place: Path, *pairs: str, options: Sequence[str] = ()) -> int:
    words = ["judge", "create", str(place), "--items", "4", *options]
    return main([*words, *(word for pair in pairs for word in ("--pair", pair))])


def test_a_study_and_a_link_for_each(tmp_path: Path, replies: Replies, capsys: pytest.CaptureFixture[str]) -> None:
    north, south, west = (replies(name) for name in ("north", "south", "west"))
    place = tmp_path / "new folder" / "study.db"
    assert create(place, f"ns={north},{south}", f"nw={north},{west}", options=["--aspects", "fluency,empathy"]) == 0
    printed = capsys.readouterr().out
    found = LINK.findall(printed)
    assert [who for who, _, _ in found] == ["annotator 1", "annotator 2", "annotator 3", "admin"]
    store = Store.open(place)
    study = store.study()
    assert study.pairs == (Pair(name="ns", a="north", b="south"), Pair(name="nw", a="north", b="west"))
    assert (study.aspects, study.seed, len(study.items)) == (("fluency", "empathy"), 1, 4)
    assert store.judgements() == []
    assert not store.closed
    for who, kind, token in found:
        assert store.owner(token) == who.removeprefix("annotator ")
        assert (kind == "admin") == (who == ADMIN)
        assert token.encode() not in place.read_bytes()
    store.close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [path.name for path in place.parent.iterdir()] == ["study.db"]


def test_links_go_to_a_private_file_and_are_renewed(
    tmp_path: Path, replies: Replies, capsys: pytest.CaptureFixture[str]
) -> None:
    place, file, later = tmp_path / "study.db", tmp_path / "links.txt", tmp_path / "later.txt"
    assert create(place, f"ns={replies('north')},{replies('south')}", options=["--links", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not LINK.search(capsys.readouterr().out)
    old = {who: token for who, _, token in LINK.findall(file.read_text())}
    assert main(["judge", "links", str(place), "--for", "2", "--links", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (
        main(["judge", "links", str(place), "--for", "2", "--url", "https://study.example/", "--links", str(later)])
        == 0
    )
    who, url = later.read_text().split("\t")
    store = Store.open(place)
    assert who == "annotator 2"
    assert url.startswith("https://study.example/judge/")
    assert store.owner(url.strip().rpartition("/")[2]) == "2"
    assert [store.owner(token) for token in old.values()] == ["1", None, "3", "admin"]
    assert main(["judge", "links", str(place), "--for", "4"]) == 2
    assert "annotator '4': there is none; choose of 1, 2, 3, admin." in capsys.readouterr().err
    store.close()


def test_a_study_is_closed(make: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    made = make()
    assert not made.store.closed
    for _ in range(2):
        assert main(["judge", "close", made.place]) == 0
        assert capsys.readouterr().out == f"{made.place}: is closed with 0 judgements and takes no more.\n"
        assert made.store.closed
    with pytest.raises(ClosedError):
        made.store.answer("1", made.store.sequence("1")[0].id, 0, dict.fromkeys(made.store.study().aspects, "win"))


def test_runs_of_one_model_are_told_apart_by_their_files(tmp_path: Path, replies: Replies) -> None:
    north = replies("north")
    other = tmp_path / "other.jsonl"
    other.write_bytes(north.read_bytes())
    assert create(tmp_path / "s.db", f"runs={north},{other}") == 0
    store = Store.open(tmp_path / "s.db")
    assert store.study().pairs == (Pair(name="runs", a=f"north ({north})", b=f"north ({other})"),)
    store.close()


def test_the_number_of_same_replies_is_told(
    tmp_path: Path, replies: Replies, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [replies(name, 4, "same") for name in ("north", "south")]
    assert create(tmp_path / "s.db", f"ns={files[0]},{files[1]}") == 0
    assert "ns: north against south; both give the same reply to 4 of 4 items" in capsys.readouterr().out


def test_one_of_each_is_named_as_one(tmp_path: Path, replies: Replies, capsys: pytest.CaptureFixture[str]) -> None:
    def without_reference(lines: list[Any]) -> None:
        for line in lines:
            line["reference"] = None

    files = [replies(name, 4, change=without_reference) for name in ("north", "south")]
    options = ["--annotators", "1", "--items", "1"]
    assert create(tmp_path / "s.db", f"ns={files[0]},{files[1]}", options=options) == 0
    printed = capsys.readouterr().out
    assert "1 annotator with 1 comparison: 1 item, 1 pair, 0 catch trials\n" in printed
    assert "both give the same reply to 0 of 1 item\n" in printed


def drop(field: str) -> Callable[[list[Any]], object]:
    return lambda lines: lines[2].pop(field)


def put(**values: object) -> Callable[[list[Any]], object]:
    return lambda lines: lines[2].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("context"), "south.jsonl, line 3: the field 'context' is missing"),
        (put(id="c0#0"), "south.jsonl, line 3: the id 'c0#0' is used twice"),
        (put(id="c99#9"), "south.jsonl: has no reply with the id 'c1#2', but"),
        (lambda lines: lines.append({**lines[0], "id": "x"}), "north.jsonl: has no reply with the id 'x', but"),
        (put(context=["Another day."]), "south.jsonl: the context of 'c1#2' is not that of"),
        (put(reference="Another answer."), "south.jsonl: the reference of 'c1#2' is not that of"),
        (put(system="east"), "south.jsonl: holds replies of 2 systems ('east', 'south')"),
        (lambda lines: lines.clear(), "south.jsonl: has no reply with the id"),
    ],
)
def test_wrong_files_are_refused(
    change: Callable[[list[Any]], object],
    message: str,
    tmp_path: Path,
    replies: Replies,
    capsys: pytest.CaptureFixture[str],
) -> None:
    north, south, links = replies("north"), replies("south", change=change), tmp_path / "links.txt"
    assert create(tmp_path / "s.db", f"ns={north},{south}", options=["--links", str(links)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north.jsonl", "south.jsonl"]


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        (
            ["ns={n},{s}"],
            ["--aspects", "empathy,wit"],
            "--aspects: 'wit' is unknown; choose of empathy, relevance, fluency",
        ),
        (["ns={n},{s}"], ["--aspects", "empathy,empathy"], "--aspects: an aspect is named twice"),
        (["ns={n},{s}"], ["--items", "31"], "--items 31: the replies files hold only 30"),
        (["ns={n},{s}"], ["--items", "0"], "--items: must be 1 or more, not 0"),
        (["ns={n},{s}"], ["--annotators", "0"], "--annotators: must be 1 to 1,000, not 0"),
        (["ns={n},{s}"], ["--annotators", "100000"], "--annotators: must be 1 to 1,000, not 100000"),
        (["ns={n},{s}"], ["--guidelines", "{n}.txt"], "no such file (the guidelines)"),
        (["ns={n},{n}"], [], "with itself; name two files"),
        (["ns={n}"], [], "must be NAME=A.jsonl,B.jsonl"),
        (["{n},{s}"], [], "must be NAME=A.jsonl,B.jsonl"),
        (["=a,b"], [], "must be NAME=A.jsonl,B.jsonl"),
        (["ns={n},"], [], "must be NAME=A.jsonl,B.jsonl"),
        (["ns={n},{s}", "ns={s},{n}"], [], "--pair: the name 'ns' is used twice"),
        (["ns={n},{s}.gone"], [], "no such file (a replies file)"),
        ([], [], "--pair is required"),
    ],
)
def test_wrong_arguments_are_refused(
    pairs: list[str],
    options: list[str],
    message: str,
    tmp_path: Path,
    replies: Replies,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"n": replies("north"), "s": replies("south")}
    given = [pair.format(**names) for pair in pairs]
    assert create(tmp_path / "s.db", *given, options=[option.format(**names) for option in options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north.jsonl", "south.jsonl"]


def test_nothing_is_created_over_something(
    make: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = make()
    trial = made.store.sequence("1")[0]
    made.store.answer("1", trial.id, 0, dict.fromkeys(made.store.study().aspects, "win"))
    made.store.close()
    files = f"poles={tmp_path / 'north.jsonl'},{tmp_path / 'south.jsonl'}"
    for name, content, message in (
        ("study.db", None, "a study with 3 judgements is there already and stays as it is"),
        ("notes.txt", b"no database at all", "something that is no study of this version is there already"),
        ("empty.db", b"", "something that is no study of this version is there already"),
    ):
        place = tmp_path / name
        if content is not None:
            place.write_bytes(content)
        before = place.read_bytes()
        assert create(place, files) == 2
        assert message in capsys.readouterr().err
        assert place.read_bytes() == before


@pytest.mark.parametrize("log", ["study.db-wal", "study.db-shm", "study.db-journal"])
def test_a_log_that_a_removed_study_left_is_not_replayed_into_a_new_one(
    log: str, tmp_path: Path, replies: Replies, capsys: pytest.CaptureFixture[str]
) -> None:
    files = f"ns={replies('north')},{replies('south')}"
    (tmp_path / log).write_bytes(b"left")
    (tmp_path / "link.db").symlink_to("study.db")
    for name in ("study.db", "link.db"):
        assert create(tmp_path / name, files) == 2
        error = capsys.readouterr().err
        assert f"{log}: is left of a study that was removed" in error
        assert error.count("\n") == 1
    assert (tmp_path / log).read_bytes() == b"left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.db", "north.jsonl", "south.jsonl", log]


def test_a_log_that_appears_while_a_study_is_made(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, place = make().store.study(), tmp_path / "new" / "s.db"
    fill = store_module._fill

    def fill_slowly(*arguments: Any) -> None:
        fill(*arguments)
        (tmp_path / "new" / "s.db-wal").write_bytes(b"left")

    monkeypatch.setattr(store_module, "_fill", fill_slowly)
    with pytest.raises(CtsmError, match="is left of a study that was removed"):
        Store.create(place, study)
    assert [path.name for path in place.parent.iterdir()] == ["s.db-wal"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("new/", "new/: names a folder; give the path of a new file in it"),
        ("folder", "folder: names a folder; give the path of a new file in it"),
        (":memory:", ":memory:: would be gone at once; give the path of a new file"),
        ("./:memory:", ":memory:: would be gone at once; give the path of a new file"),
    ],
)
def test_places_where_no_study_can_be(
    place: str,
    message: str,
    tmp_path: Path,
    replies: Replies,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["judge", "create", place, "--items", "4", "--pair", f"ns={replies('north')},{replies('south')}"]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "north.jsonl", "south.jsonl"]


def test_what_is_no_study_is_not_opened(
    make: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make()
    made.store.close()
    text, empty, other = tmp_path / "text.db", tmp_path / "empty.db", tmp_path / "other.db"
    text.write_bytes(b"no database at all" * 100)
    empty.touch()
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE meta (name TEXT)")
    newer = Path(made.place)
    with closing(sqlite3.connect(newer)) as connection, connection:
        connection.execute("UPDATE meta SET schema = 2")
    for place, message in (
        (newer, "a study of version 2, and this ctsm reads version 1"),
        (text, "cannot be used as a study (file is not a database)"),
        (empty, "holds no study"),
        (other, "lacks the table annotators; restore a copy of it"),
        (tmp_path / "missing.db", "no such file (a study); make it with `ctsm judge create`"),
        (tmp_path, "no such file (a study)"),
        ("postgresql://u:secret@localhost:port/x", "not a database URL; write postgresql://USER@HOST/DATABASE"),
        ("mysql://root:secret@localhost/x", "studies are kept in a SQLite file"),
        ("postgresql://u:secret@127.0.0.1:1/x", "check that the server runs and takes this user"),
    ):
        before = place.read_bytes() if isinstance(place, Path) and place.is_file() else None
        assert main(["judge", "serve", str(place), "--port", "0"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert "secret" not in error
        assert before is None or place.read_bytes() == before
    assert not (tmp_path / "missing.db").exists()


def test_a_taken_port_is_told(make: Callable[..., Any], serving: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = make()
    with serving(made.store) as url:
        assert main(["judge", "serve", made.place, "--port", url.rpartition(":")[2]]) == 2
    assert "cannot listen there (Address already in use); choose --host and --port." in capsys.readouterr().err
