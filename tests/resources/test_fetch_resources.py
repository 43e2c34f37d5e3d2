from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ctsm.errors import CtsmError
from ctsm.resources.catalogue import CATALOGUE
from ctsm.resources.download import Patience
from ctsm.resources.fetch import fetch, list_resources

QUICK = Patience(attempts=2, pause=0.0, timeout=5.0)
VAD = b"".join(b"word%d\t0.%d\t0.5\t0.25\n" % (number, number % 10) for number in range(300))
ATOMIC = {part: b"PersonX does %d\txWant\tto rest %s\n" % (number, part.encode())
          for number, part in enumerate(("train", "dev", "test"))}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def run(publisher, data):
    def call(*names: str, accept_terms: bool = True, mirror: str | None = None) -> list[Path]:
        return fetch(names, data, accept_terms=accept_terms, mirror=mirror or publisher.root, patience=QUICK)

    return call


def path_of(name: str) -> str:
    return urlsplit(CATALOGUE[name].address).path


def publish(publisher, behave, *names: str) -> None:
    contents = {
        "nrc-vad": behave.zip_of({"NRC-VAD-Lexicon/NRC-VAD-Lexicon.txt": VAD, "__MACOSX/._NRC-VAD-Lexicon.txt": b"?"}),
        "emolex": behave.zip_of({"a/b/NRC-Emotion-Lexicon-Wordlevel-v0.92.txt": b"glad\tjoy\t1\n"}),
        "atomic": behave.zip_of({f"atomic2020_data-feb2021/{part}.tsv": text for part, text in ATOMIC.items()}),
        "glove": behave.zip_of({"glove.6B.300d.txt": b"word 0.1\n"}),
        "conceptnet": b"\x1f\x8b" + bytes(50),
    }
    for name in names:
        publisher.put(path_of(name), contents[name])


def record_of(data: Path, name: str) -> dict:
    return json.loads((data / "fetched.json").read_text())["resources"][name]


def names_in(data: Path) -> list[str]:
    return sorted(path.name for path in data.iterdir())


def test_lexicon_is_downloaded_unpacked_and_recorded(publisher, behave, run, data, capsys):
    publish(publisher, behave, "nrc-vad")
    assert run("nrc-vad") == [data / "NRC-VAD-Lexicon.txt"]
    assert (data / "NRC-VAD-Lexicon.txt").read_bytes() == VAD
    record = record_of(data, "nrc-vad")
    archive = publisher.files[path_of("nrc-vad")]
    assert record["sha256"] == hashlib.sha256(archive).hexdigest()
    assert record["bytes"] == len(archive)
    assert record["address"] == publisher.root + path_of("nrc-vad")
    assert record["terms"] == CATALOGUE["nrc-vad"].terms.licence
    assert record["sha256_published"] is False
    assert record["files"] == {"NRC-VAD-Lexicon.txt": hashlib.sha256(VAD).hexdigest()}
    for key in ("fetched_at", "terms_accepted_at"):
        assert datetime.fromisoformat(record[key]).utcoffset() is not None
    shown = capsys.readouterr().out
    assert CATALOGUE["nrc-vad"].terms.summary in shown
    assert "as found in public code, not checked" in shown
    assert f"nrc-vad: fetched: ctsm prepare --vad {data / 'NRC-VAD-Lexicon.txt'}" in shown
    assert names_in(data) == ["NRC-VAD-Lexicon.txt", "NRC-VAD-Lexicon.zip", "fetched.json"]


def test_several_resources_each_with_its_option(publisher, behave, run, data, capsys):
    publish(publisher, behave, "atomic", "glove", "emolex", "conceptnet")
    run("atomic", "glove", "emolex", "conceptnet")
    assert (data / "atomic2020.tsv").read_bytes() == ATOMIC["train"] + ATOMIC["dev"] + ATOMIC["test"]
    assert (data / "glove.6B.zip").read_bytes() == publisher.files[path_of("glove")]
    assert (data / "NRC-Emotion-Lexicon-Wordlevel-v0.92.txt").read_bytes() == b"glad\tjoy\t1\n"
    shown = capsys.readouterr().out
    assert f"ctsm prepare --inferences atomic:{data / 'atomic2020.tsv'}" in shown
    assert f"ctsm prepare --vectors {data / 'glove.6B.zip'}" in shown
    assert f"conceptnet: fetched: ctsm prepare --concepts {data / 'conceptnet-assertions-5.7.0.csv.gz'}" in shown
    assert f"--emotion-words {data / 'NRC-Emotion-Lexicon-Wordlevel-v0.92.txt'}" in shown


def test_second_run_verifies_and_asks_nothing(publisher, behave, run, capsys):
    publish(publisher, behave, "nrc-vad", "glove")
    run("nrc-vad", "glove")
    requests = len(publisher.requests)
    capsys.readouterr()
    run("glove", "nrc-vad", accept_terms=False)
    assert len(publisher.requests) == requests
    shown = capsys.readouterr().out
    assert shown.count("already there, verified") == 2
    assert "Do not pass it on" not in shown


def test_archive_may_be_deleted_after_unpacking(publisher, behave, run, data):
    publish(publisher, behave, "nrc-vad")
    run("nrc-vad")
    (data / "NRC-VAD-Lexicon.zip").unlink()
    run("nrc-vad", accept_terms=False)
    assert len(publisher.requests) == 1


def test_deleted_product_is_made_again_without_a_download(publisher, behave, run, data):
    publish(publisher, behave, "nrc-vad")
    run("nrc-vad")
    (data / "NRC-VAD-Lexicon.txt").unlink()
    run("nrc-vad")
    assert (data / "NRC-VAD-Lexicon.txt").read_bytes() == VAD
    assert len(publisher.requests) == 1


def test_first_hash_binds_later_downloads(publisher, behave, run, data):
    publish(publisher, behave, "glove")
    run("glove")
    first = record_of(data, "glove")["sha256"]
    (data / "glove.6B.zip").unlink()
    publisher.put(path_of("glove"), behave.zip_of({"glove.6B.300d.txt": b"word 0.2\n"}))
    with pytest.raises(CtsmError, match=f"{first} is expected"):
        run("glove")
    assert names_in(data) == ["fetched.json"]
    publish(publisher, behave, "glove")
    run("glove")
    assert record_of(data, "glove")["sha256"] == first


@pytest.mark.parametrize("name", ["NRC-VAD-Lexicon.txt", "glove.6B.zip"])
def test_changed_file_is_reported_and_left_alone(publisher, behave, run, data, name):
    publish(publisher, behave, "nrc-vad", "glove")
    run("nrc-vad", "glove")
    (data / name).write_bytes(b"mine")
    with pytest.raises(CtsmError, match=rf"{name}: has SHA-256 .*move it away"):
        run("nrc-vad", "glove")
    assert (data / name).read_bytes() == b"mine"


def test_archive_put_there_by_hand_is_used(publisher, behave, run, data):
    publish(publisher, behave, "nrc-vad")
    data.mkdir()
    (data / "NRC-VAD-Lexicon.zip").write_bytes(publisher.files[path_of("nrc-vad")])
    run("nrc-vad")
    assert (data / "NRC-VAD-Lexicon.txt").read_bytes() == VAD
    assert publisher.requests == []
    assert "address" not in record_of(data, "nrc-vad")


def test_archive_put_there_by_hand_must_have_the_known_hash(run, data):
    data.mkdir()
    (data / "empatheticdialogues.tar.gz").write_bytes(b"\x1f\x8bsomething else")
    with pytest.raises(CtsmError, match=CATALOGUE["empatheticdialogues"].sha256):
        run("empatheticdialogues")
    assert (data / "empatheticdialogues.tar.gz").exists()


def test_product_of_somebody_else_is_not_overwritten(publisher, behave, run, data):
    publish(publisher, behave, "nrc-vad")
    data.mkdir()
    (data / "NRC-VAD-Lexicon.txt").write_bytes(b"mine")
    with pytest.raises(CtsmError, match="did not make it"):
        run("nrc-vad")
    assert (data / "NRC-VAD-Lexicon.txt").read_bytes() == b"mine"
    assert publisher.requests == []


def test_published_hash_is_checked(publisher, run, data):
    publisher.put(path_of("empatheticdialogues"), b"\x1f\x8bnot it")
    with pytest.raises(CtsmError) as caught:
        run("empatheticdialogues")
    assert hashlib.sha256(b"\x1f\x8bnot it").hexdigest() in str(caught.value)
    assert CATALOGUE["empatheticdialogues"].sha256 in str(caught.value)
    assert names_in(data) == []


def test_web_page_is_not_taken_for_an_archive(publisher, run, data):
    publisher.put(path_of("glove"), b"<html>moved</html>")
    with pytest.raises(CtsmError, match="web page"):
        run("glove")
    assert names_in(data) == []


def test_bad_archive_leaves_no_product(publisher, behave, run, data):
    publisher.put(path_of("nrc-vad"), behave.zip_of({"../NRC-VAD-Lexicon.txt": b"evil"}))
    with pytest.raises(CtsmError, match="unsafe path"):
        run("nrc-vad")
    assert names_in(data) == ["NRC-VAD-Lexicon.zip", "fetched.json"]
    assert names_in(data.parent) == ["data"]
    with pytest.raises(CtsmError, match="unsafe path"):  # and is not "already there" the next time
        run("nrc-vad")


def test_terms_are_needed_before_anything_happens(publisher, behave, run, data, monkeypatch, capsys):
    publish(publisher, behave, "nrc-vad")
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115
    with pytest.raises(CtsmError, match=r"nrc-vad are not accepted.*--accept-terms"):
        run("nrc-vad", accept_terms=False)
    assert publisher.requests == []
    assert names_in(data) == []
    assert CATALOGUE["nrc-vad"].terms.summary in capsys.readouterr().out


class Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answers", [[""], ["n"], ["y", "no"], [EOFError()]])
def test_declining_at_the_terminal(publisher, behave, run, monkeypatch, answers):
    publish(publisher, behave, "nrc-vad", "glove")
    replies = iter(answers)

    def answer(_: str) -> str:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(CtsmError, match="nothing was downloaded"):
        run("nrc-vad", "glove", accept_terms=False)
    assert publisher.requests == []


def test_accepting_at_the_terminal(publisher, behave, run, data, monkeypatch):
    publish(publisher, behave, "nrc-vad", "glove")
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "Yes ")
    run("nrc-vad", "glove", accept_terms=False)
    assert [question.split()[6].rstrip("?") for question in asked] == ["nrc-vad", "glove"]
    assert "terms_accepted_at" in record_of(data, "glove")


def test_second_run_in_the_same_folder_is_kept_out(publisher, behave, run, data):
    publish(publisher, behave, "nrc-vad")
    data.mkdir()
    handle = os.open(data, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(CtsmError, match="another `ctsm fetch`"):
        run("nrc-vad")
    os.close(handle)
    run("nrc-vad")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version": 2, "resources": {}}', '{"version": 1, "resources": {"glove": {}}}']
)
def test_broken_record_is_refused(publisher, behave, run, data, content):
    publish(publisher, behave, "nrc-vad")
    data.mkdir()
    (data / "fetched.json").write_text(content)
    with pytest.raises(CtsmError, match=r"fetched\.json"):
        run("nrc-vad")
    assert publisher.requests == []


def test_target_that_is_a_file(run, data):
    data.write_text("")
    with pytest.raises(CtsmError, match="--to needs a folder"):
        run("glove")


def test_failure_of_the_second_keeps_the_first(publisher, behave, run, data):
    publish(publisher, behave, "nrc-vad")
    with pytest.raises(CtsmError, match="404"):
        run("nrc-vad", "glove")
    assert list(json.loads((data / "fetched.json").read_text())["resources"]) == ["nrc-vad"]
    assert (data / "NRC-VAD-Lexicon.txt").read_bytes() == VAD


def test_full_disk_at_every_step(publisher, behave, run, data, disk):
    publish(publisher, behave, "nrc-vad")
    finals = {"NRC-VAD-Lexicon.txt": VAD, "NRC-VAD-Lexicon.zip": publisher.files[path_of("nrc-vad")]}
    unfinished = {"NRC-VAD-Lexicon.zip.part", "NRC-VAD-Lexicon.zip.part.json"}
    data.mkdir()
    for budget in itertools.count():
        for path in data.iterdir():
            path.unlink()
        disk.restart(budget)
        try:
            run("nrc-vad")
            break
        except (CtsmError, OSError) as error:
            assert "space" in str(error)
        for name, content in finals.items():
            assert not (data / name).exists() or (data / name).read_bytes() == content
        if (data / "fetched.json").exists():
            json.loads((data / "fetched.json").read_text())
        assert set(names_in(data)) <= {*finals, "fetched.json", *unfinished}
        disk.restart(None)
        run("nrc-vad")
        assert names_in(data) == sorted([*finals, "fetched.json"])
        assert (data / "NRC-VAD-Lexicon.txt").read_bytes() == VAD
    assert budget > 20


def test_list_names_everything():
    text = list_resources()
    for resource in CATALOGUE.values():
        assert f"{resource.name}: {resource.title}" in text
        assert resource.address in text
    assert text.count("as found in public code, not checked") == len(CATALOGUE)
