"""`ctsm serve`: from the command line to the end of the process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ctsm.cli.main import main
from ctsm.serving.api.server import Server
from ctsm.serving.limits import Limits
from ctsm.serving.serve import Address, listening, make_server, read_keys

ASKED = {"model": "ctsm", "messages": [{"role": "user", "content": "A zebra chased me."}]}
CLIENTS = 8
SECONDS_TO_END = 3.0
"""Promised: a stop takes no longer after the last answer."""


@pytest.fixture(autouse=True)
def no_service_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctsm.serving.serve.make_server", lambda *_: pytest.fail("it serves"))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the verb, which must refuse in one sentence, and return it."""
    assert main(["serve", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ctsm serve: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a model or run directory" in refusal(capsys, str(tmp_path), "--port", "0")
    assert "RUN is required" in refusal(capsys)


def test_a_port_in_use(model_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"127.0.0.1:{port} is in use by another program" in refusal(capsys, str(model_directory), "--port", port)


def test_a_port_that_another_service_has_just_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has loaded its model yet."""
    monkeypatch.setattr("ctsm.load", lambda *_: pytest.fail("it loads the model first"))
    with listening(Address("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"127.0.0.1:{port} is in use by another program" in refusal(capsys, str(tmp_path), "--port", port)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000; it must be from 0 to 65,535."),
        (["--host", "192.0.2.1"], "is no address of this machine"),
        (["--host", "no host"], "no such address"),
        (["--max-queue", "0"], "--max-queue is 0; it must be greater than 0."),
        (["--timeout", "-1"], "--timeout is -1.0; it must be greater than 0."),
        (["--max-tokens", "2000"], "--max-tokens is 2000; it must be from 1 to 1,000."),
        (["--port", "0", "--device", "abacus"], "--device abacus: cannot be used"),
    ],
)
def test_senseless_options(
    model_directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refusal(capsys, str(model_directory), *words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"# none yet\n\n", "holds no API key"),
        (b"\xff\n", "is not UTF-8 text"),
        ("# schlüssel\n\nsecret\nschlüssel\n".encode(), "line 4: the key has signs that no request can carry"),
        (b"sec\x00ret\r\n", "line 1: the key has signs that no request can carry"),
        ("one\x85two\n".encode(), "line 1: the key has signs that no request can carry"),
    ],
)
def test_a_file_of_keys_that_cannot_be_read(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    assert message in refusal(capsys, str(model_directory), "--api-key-file", str(path))


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n# a comment\r\n two words \r\n")
    assert read_keys(path) == ["first", "two words"]


@pytest.mark.parametrize(
    "origin",
    [
        "chat.example",
        "https://chat.example/",
        "https://chat.example:443",
        "https://Chat.example",
        "https://",
        "http:/x",
    ],
)
def test_an_origin_that_no_browser_sends(
    model_directory: Path, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    said = refusal(capsys, str(model_directory), "--port", "0", "--allow-origin", origin)
    assert f"--allow-origin is {origin!r}; write scheme, name and port alone, as in https://chat.example:8080." in said


def test_without_the_web_framework(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ctsm.serving.api.app", None)
    assert "needs the optional dependency group 'serve'" in refusal(capsys, str(model_directory))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_right_after_the_announcement_ends_it(model_directory: Path, number: signal.Signals) -> None:
    with process(model_directory) as (running, _):
        running.send_signal(number)
        _, log = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "Traceback" not in log


def test_a_signal_before_the_server_runs_ends_it(
    model_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = list[bool]()

    def signalled(*arguments: Any, **others: Any) -> Server:
        server = make_server(*arguments, **others)
        run = server.run

        def run_later(**words: Any) -> None:
            engine = others["ending"].__self__
            ready.append(engine.ready)
            signal.raise_signal(signal.SIGTERM)
            ready.append(engine.ready)
            run(**words)

        monkeypatch.setattr(server, "run", run_later)
        return server

    monkeypatch.setattr("ctsm.serving.serve.make_server", signalled)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)  # those of the other tests
    assert main(["serve", str(model_directory), "--port", "0"]) == 0
    assert capsys.readouterr().out == "", "it is announced and ends at once"
    assert ready == [True, False]


def test_what_is_announced_answers(model_directory: Path) -> None:
    accepts = list[bool]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody asks")

    with listening(Address("127.0.0.1", 0)) as listener:

        def started() -> None:
            accepts.append(server.started)
            server.should_exit = True

        server = make_server(app, Limits(), started=started)
        server.run(sockets=[listener])
    assert accepts == [True]
    with process(model_directory) as (_, url):
        assert httpx.get(f"{url}/readyz", timeout=60).json() == {"status": "ok"}


@contextmanager
def process(directory: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the verb in a process of its own; yields it and the service's address."""
    command = [sys.executable, "-m", "ctsm.cli.main", "serve", str(directory), "--port", "0", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # In a session of its own, so that processes it leaves behind can be found.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as running:
        assert running.stdout is not None
        try:
            said = re.match(r"\S+ at (http://\S+) ", running.stdout.readline())
            assert said is not None
            yield running, said[1]
        finally:
            running.kill()


class Load:
    """Clients that ask again and again until the service has gone."""

    def __init__(self, url: str) -> None:
        self.answered: list[int] = []
        self.last_answer = 0.0
        self.cut: list[Exception] = []
        self._url = url
        self._threads = [threading.Thread(target=self._ask, args=(bool(number % 2),)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, stream: bool) -> None:
        while True:
            try:
                answer = httpx.post(f"{self._url}/v1/chat/completions", json={**ASKED, "stream": stream}, timeout=60)
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
                self.cut.append(error)
                return
            self.last_answer = time.monotonic()
            whole = answer.text.endswith("data: [DONE]\n\n") if stream else "usage" in answer.json()
            self.answered.append(answer.status_code if whole else 0)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


def check_graceful_end(directory: Path) -> None:
    """Stop a service under load: all that it accepted is answered, and it ends by itself soon after."""
    with process(directory) as (running, url):
        load = Load(url)
        while len(load.answered) < 2 * CLIENTS:
            assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        _, log = running.communicate(timeout=60)
        ended = time.monotonic()
        load.join()
        assert running.returncode == 0
    assert ended - load.last_answer <= SECONDS_TO_END
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)  # no process of its group is left
    accepted = re.findall(r"POST /v1/chat/completions (\S+) ", log)
    assert set(accepted) == {"200"}
    assert load.answered == [200] * len(accepted), "a request that was accepted has no whole answer"
    # The others found nobody who listens, or were not read any more.
    assert len(load.cut) == CLIENTS
    assert "zebra" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("repetition", range(2))
def test_a_stop_answers_what_was_accepted(model_directory: Path, repetition: int) -> None:
    check_graceful_end(model_directory)


@pytest.mark.long
@pytest.mark.parametrize("repetition", range(20))
def test_many_stops_answer_what_was_accepted(model_directory: Path, repetition: int) -> None:
    check_graceful_end(model_directory)


def test_options_reach_the_service(model_directory: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# for tests\nletmein\n\nmetoo\n", encoding="utf-8")
    words = ["--api-key-file", str(keys), "--model-name", "listener", "--max-tokens", "2", "--max-body", "1"]
    with process(model_directory, *words, "--allow-origin", "https://a.example", "--threads", "1") as (running, url):
        asked: dict[str, Any] = {**ASKED, "model": "listener"}
        address, headers = (
            f"{url}/v1/chat/completions",
            {"Authorization": "Bearer metoo", "Origin": "https://a.example"},
        )
        assert httpx.post(address, json=asked).status_code == 401
        answer = httpx.post(address, json=asked, headers=headers)
        assert (answer.json()["model"], answer.json()["usage"]["completion_tokens"]) == ("listener", 2)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert httpx.post(address, json={**asked, "x": "y" * 1024}, headers=headers).status_code == 413
        running.send_signal(signal.SIGINT)
        out, log = running.communicate(timeout=60)
    assert (running.returncode, out) == (0, "")
    assert "letmein" not in log and "metoo" not in log


def test_answers_are_sent_at_once() -> None:
    """Without the protocol's name the event loop leaves Nagle's algorithm on, and each answer waits for 40 ms."""
    with listening(Address("127.0.0.1", 0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP
