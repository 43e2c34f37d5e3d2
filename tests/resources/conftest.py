"""A publisher's web server on the loopback interface that misbehaves on request."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DATE = "Tue, 01 Sep 2020 10:00:00 GMT"


@dataclass
class Publisher:
    """`plan` holds one behaviour per coming request; when it is empty every request is served well."""

    files: dict[str, bytes] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    plan: list[Callable[[Handler], None]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    root: str = ""

    def put(self, path: str, content: bytes) -> str:
        """Publish `content`; its ETag and date are sent as `marks` says."""
        self.files[path] = content
        self.marks = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Last-Modified": DATE}
        return self.root + path

    def header(self, name: str) -> list[str | None]:
        """One request header of every request so far."""
        return [headers.get(name) for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    publisher: Publisher

    def do_GET(self) -> None:
        self.publisher.requests.append((self.path, dict(self.headers.items())))
        self.close_connection = True
        plan = self.publisher.plan
        (plan.pop(0) if plan else serve)(self)

    def log_message(self, *_: object) -> None:
        pass

    def content(self) -> bytes:
        return self.publisher.files[self.path]

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def serve(handler: Handler, *, up_to: int | None = None, obey_if_range: bool = True, span: int | None = None) -> None:
    """Answer as RFC 9110 says, closing the connection after `up_to` bytes of the body."""
    if handler.path not in handler.publisher.files:
        status(404)(handler)
        return
    content, marks = handler.content(), handler.publisher.marks
    asked = handler.headers.get("Range")
    same = handler.headers.get("If-Range") in marks.values() or not obey_if_range
    if asked and same:
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            handler.begin(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        body = content[start:] if span is None else content[start : start + span]
        extent = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        handler.begin(206, {**marks, "Content-Range": extent, "Content-Length": str(len(body))})
    else:
        body = content
        handler.begin(200, {**marks, "Content-Length": str(len(body))})
    handler.wfile.write(body if up_to is None else body[:up_to])


def drop(up_to: int, **options: bool) -> Callable[[Handler], None]:
    return lambda handler: serve(handler, up_to=up_to, **options)


def ignore_range(handler: Handler) -> None:
    handler.begin(200, {**handler.publisher.marks, "Content-Length": str(len(handler.content()))})
    handler.wfile.write(handler.content())


def status(code: int) -> Callable[[Handler], None]:
    return lambda handler: handler.begin(code, {"Content-Length": "0"})


def redirect(target: str) -> Callable[[Handler], None]:
    return lambda handler: handler.begin(302, {"Location": target, "Content-Length": "0"})


def without_length(handler: Handler) -> None:
    handler.begin(200, {})
    handler.wfile.write(handler.content())


def chunked(*, finish: bool) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.begin(200, {**handler.publisher.marks, "Transfer-Encoding": "chunked"})
        content = handler.content()
        for start in range(0, len(content), 700):
            block = content[start : start + 700]
            handler.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        if finish:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def silent(seconds: float) -> Callable[[Handler], None]:
    return lambda _: time.sleep(seconds)


def unlike(handler: Handler) -> None:
    """Give the rest of the file with a wrong position."""
    content = handler.content()
    handler.begin(206, {"Content-Range": f"bytes 0-9/{len(content)}", "Content-Length": "10"})
    handler.wfile.write(content[:10])


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Behaviours:
    """The functions above, for tests (a conftest cannot be imported by name)."""

    serve = staticmethod(serve)
    drop = staticmethod(drop)
    ignore_range = staticmethod(ignore_range)
    status = staticmethod(status)
    redirect = staticmethod(redirect)
    without_length = staticmethod(without_length)
    chunked = staticmethod(chunked)
    silent = staticmethod(silent)
    unlike = staticmethod(unlike)
    zip_of = staticmethod(zip_of)


@pytest.fixture(scope="session")
def behave() -> type[Behaviours]:
    return Behaviours


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("no_proxy", "*")
    state = Publisher()
    handler = type("BoundHandler", (Handler,), {"publisher": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    state.root = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class FaultyDisk:
    """Lets `budget` writes, flushes, syncs and renames through and refuses the next with "no space left".

    A refused write takes half of its bytes first, as a disk that fills up does.
    """

    def __init__(self) -> None:
        self.budget: int | None = None
        self.calls = 0

    def spend(self) -> None:
        self.calls += 1
        if self.budget is not None and self.calls > self.budget:
            raise OSError(28, "No space left on device")

    def restart(self, budget: int | None) -> None:
        self.budget, self.calls = budget, 0


class _Stream:
    def __init__(self, stream: io.IOBase, disk: FaultyDisk) -> None:
        self._stream, self._disk = stream, disk

    def write(self, data: bytes) -> int:
        try:
            self._disk.spend()
        except OSError:
            self._stream.write(data[: len(data) // 2])
            raise
        return self._stream.write(data)

    def flush(self) -> None:
        self._disk.spend()
        self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    faults = FaultyDisk()
    real_open = io.open

    def faulty_open(file: object, mode: str = "r", *args: object, **options: object) -> object:
        stream = real_open(file, mode, *args, **options)
        return _Stream(stream, faults) if set(mode) & set("wa+x") else stream

    monkeypatch.setattr("io.open", faulty_open)
    monkeypatch.setattr("os.fsync", lambda _: faults.spend())  # a refused sync is what matters here, not the wait
    for name in ("rename", "replace"):
        real = getattr(Path, name)

        def faulty(self: object, target: object, real: Callable[..., object] = real) -> object:
            faults.spend()
            return real(self, target)

        monkeypatch.setattr(f"pathlib.Path.{name}", faulty)
    return faults
