"""The verb as users meet it: words in, files and output out."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonargparse
import pytest

from ctsm.cli import fetch as verb
from ctsm.errors import CtsmError

VAD = b"calm\t0.9\t0.1\t0.5\nstorm\t0.2\t0.9\t0.7\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "served" / "copies" / "WebDocs" / "Lexicons"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "NRC-VAD-Lexicon.zip", "w") as archive:
        archive.writestr("NRC-VAD-Lexicon/NRC-VAD-Lexicon.txt", VAD)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/copies"
    server.shutdown()
    server.server_close()


def call(*words: str) -> None:
    parser = jsonargparse.ArgumentParser(prog="ctsm fetch")
    verb.add_arguments(parser)
    verb.run(parser.parse_args(list(words)))


def test_fetch_with_a_mirror_and_again(tmp_path, mirror, capsys):
    words = ("nrc-vad", "--to", str(tmp_path / "data"), "--mirror", mirror)
    call(*words, "--accept-terms")
    lexicon = tmp_path / "data" / "NRC-VAD-Lexicon.txt"
    assert lexicon.read_bytes() == VAD
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"nrc-vad: fetched: ctsm prepare --vad {lexicon}"
    assert "NRC-VAD-Lexicon.zip: " in err
    record = json.loads((tmp_path / "data" / "fetched.json").read_text())["resources"]["nrc-vad"]
    assert record["files"] == {"NRC-VAD-Lexicon.txt": hashlib.sha256(VAD).hexdigest()}
    call(*words)
    assert capsys.readouterr().out.startswith("nrc-vad: already there, verified: ")


def test_terms_are_required(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # a pipe may not answer for a person
    with pytest.raises(CtsmError, match=r"--accept-terms\.$"):
        call("nrc-vad", "--to", str(tmp_path / "data"), "--mirror", mirror)
    assert list((tmp_path / "data").iterdir()) == []


def test_missing_file_is_one_sentence(tmp_path, mirror):
    with pytest.raises(CtsmError, match="404") as caught:
        call("glove", "--to", str(tmp_path / "data"), "--mirror", mirror, "--accept-terms")
    assert "\n" not in str(caught.value)


def test_list_needs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call("--list")
    out = capsys.readouterr().out
    for name in ("empatheticdialogues", "glove", "nrc-vad", "emolex", "atomic", "conceptnet", "comet"):
        assert f"{name}: " in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["word2vec"]])
def test_wrong_names(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CtsmError, match="empatheticdialogues, glove"):
        call(*words)
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_resource():
    parser = jsonargparse.ArgumentParser(prog="ctsm fetch")
    verb.add_arguments(parser)
    text = parser.format_help()
    for name in (
        "empatheticdialogues",
        "glove",
        "nrc-vad",
        "emolex",
        "atomic",
        "conceptnet",
        "comet",
        "--accept-terms",
    ):
        assert name in text
    assert verb.HELP
