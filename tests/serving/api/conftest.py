"""A service on loopback, in a thread, with the small untrained model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

import ctsm
from ctsm.serving.api.app import create_app
from ctsm.serving.api.service import Service
from ctsm.serving.limits import Limits
from ctsm.serving.serve import Address, listening, make_server


@dataclass(frozen=True)
class Served:
    """A running service."""

    service: Service
    port: int
    hold: Callable[[threading.Event], Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def openai(self, key: str = "none") -> OpenAI:
        """OpenAI's client, which tries each request once."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the engine's thread occupied."""
        over = threading.Event()

        async def make() -> Any:
            return self.hold(over)

        held = asyncio.run(make())
        self.service.engine.submit(held)
        assert held.begun.wait(60)
        try:
            yield
        finally:
            over.set()


@contextmanager
def serving(
    directory: Path,
    limits: Limits,
    keys: tuple[str, ...],
    origins: tuple[str, ...],
    hold: Callable[[threading.Event], Any],
) -> Iterator[Served]:
    service = Service(ctsm.load(directory), limits)
    service.engine.start()
    server = make_server(create_app(service, keys, origins), limits)
    with listening(Address("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield Served(service, listener.getsockname()[1], hold)
        finally:
            server.should_exit = True
            thread.join(60)
            service.engine.stop()
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve_with(
    model_directory: Path, hold: Callable[[threading.Event], Any]
) -> Callable[..., AbstractContextManager[Served]]:
    """Start a service of one's own: `with serve_with(max_queue=3) as served`."""

    def start(
        keys: tuple[str, ...] = (), origins: tuple[str, ...] = (), **limits: Any
    ) -> AbstractContextManager[Served]:
        return serving(model_directory, Limits(**limits), keys, origins, hold)

    return start


@pytest.fixture(scope="session")
def served(serve_with: Callable[..., AbstractContextManager[Served]]) -> Iterator[Served]:
    with serve_with() as one:
        yield one


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that happens soon; the limit only keeps a broken test from hanging."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "did not happen"
            time.sleep(0.005)

    return wait
