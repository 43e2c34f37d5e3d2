"""`ctsm serve`: from arguments to a running service, and to its end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctsm.errors import CtsmError, MissingExtraError
from ctsm.files import describe_os_error
from ctsm.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ctsm.serving.api.server import Server

GRACE = 5.0
"""Seconds that a stop waits beyond the longest request."""
BACKLOG = 2_048
"""Connections that may wait to be accepted."""
LOOPBACK = ("127.", "::1", "localhost")


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str
    port: int


def serve(
    run: str,
    address: Address,
    limits: Limits,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    name: str | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> None:
    """Load a model and serve it until SIGTERM or Ctrl-C, then finish what was accepted.

    Args:
        run: a run or model directory, or "user/name" on the Hugging Face Hub.
        address: where to listen.
        limits: of requests.
        keys: API keys; without one everybody who reaches the address may use the service.
        origins: of web pages on other sites that may use it.
        name: the model's id.
        device: cpu or cuda.
        threads: of the model's computations; 0 takes as many as there are cores for this process.

    Raises:
        CtsmError: the address cannot be used, or the model cannot be loaded or cannot reply.
        MissingExtraError: the web framework is not installed.
    """
    try:
        from ctsm.serving.api.app import create_app
        from ctsm.serving.api.service import Service
    except ImportError:
        raise MissingExtraError("serve", "`ctsm serve`") from None
    import torch

    from ctsm import load

    with listening(address) as listener:
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        service = Service(load(run, device), limits, name)
        service.engine.start()
        try:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            server = make_server(
                create_app(service, keys, origins),
                limits,
                started=lambda: _announce(listener, service.name, bool(keys)),
                ending=service.engine.drain,
            )
            with _ended_by_signals(server):
                server.run(sockets=[listener])
        finally:
            service.engine.stop()


def make_server(
    app: FastAPI,
    limits: Limits,
    started: Callable[[], None] = lambda: None,
    ending: Callable[[], None] = lambda: None,
) -> Server:
    """Return a server that logs no addresses of clients and no queries, and ends when all requests are answered.

    Args:
        app: the application.
        limits: of requests.
        started: called when connections are accepted.
        ending: called in the main thread, at any place, when a signal asks for the end.
    """
    import uvicorn

    from ctsm.serving.api.server import Server

    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(limits.timeout + GRACE),
    )
    return Server(config, started, ending)


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """Take the address before the model is loaded: it is quick to say that it is in use.

    Who connects from now on waits until the model is loaded. Only a socket that listens has the address to itself: two
    that are bound can share it.

    Raises:
        CtsmError: it cannot be used.
    """
    where = f"{address.host}:{address.port}"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        # With the protocol named, the event loop sends what it has at once, and does not wait 40 ms for more.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CtsmError(f"{where}: no such address ({error.strerror}); choose another --host.") from None
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(target)
            listener.listen(BACKLOG)
        except (OSError, OverflowError) as error:
            reasons = {
                errno.EADDRINUSE: "is in use by another program; choose another --port",
                errno.EACCES: "may not be used by this user; choose a --port above 1023",
                errno.EADDRNOTAVAIL: "is no address of this machine; choose another --host",
            }
            reason = reasons.get(getattr(error, "errno", 0) or 0, f"cannot be used ({error}); choose another --port")
            raise CtsmError(f"{where} {reason}.") from None
        yield listener


@contextmanager
def _ended_by_signals(server: Server) -> Iterator[None]:
    """Let signals end the server, also those that come before it runs.

    At its end it raises those that came while it ran once more, which must not kill the process either.
    """
    handlers = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _announce(listener: socket.socket, name: str, protected: bool) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{name} at http://{shown}:{port} (API: /docs); Ctrl-C ends.", flush=True)
    if not protected and not host.startswith(LOOPBACK):
        print("Everybody who reaches this address may use it: there is no --api-key-file.", flush=True)


def read_keys(path: Path) -> list[str]:
    """Read API keys: one a line; empty lines and those that begin with # are left out.

    Raises:
        CtsmError: the file cannot be read, holds no key, or one that no request can carry.
    """
    try:
        # With a byte order mark, if there is one, as the first key would not match otherwise.
        lines = [line.strip(" \t") for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except OSError as error:
        raise CtsmError(f"--api-key-file: {describe_os_error(error)}") from None
    except UnicodeDecodeError:
        raise CtsmError(f"{path}: is not UTF-8 text; write one API key a line.") from None
    for number, line in enumerate(lines, start=1):
        if not line.startswith("#") and not (line.isascii() and line.isprintable()):
            signs = "signs that no request can carry; write letters, digits and signs of ASCII"
            raise CtsmError(f"{path}, line {number}: the key has {signs}.")
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise CtsmError(f"{path}: holds no API key; write one a line.")
    return keys
