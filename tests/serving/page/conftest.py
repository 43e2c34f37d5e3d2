"""The page of a service with the small untrained model, open in a real browser."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import ctsm
from ctsm.serving.api.app import create_app
from ctsm.serving.api.service import Limits, Service

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@contextmanager
def _serving(directory: Path, keys: tuple[str, ...] = ()) -> Iterator[tuple[Service, str]]:
    """Serve a model from a thread and yield the service with its address."""
    service = Service(ctsm.load(directory), Limits())
    service.engine.start()
    server = uvicorn.Server(uvicorn.Config(create_app(service, keys), log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield service, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)
            service.engine.stop()


@pytest.fixture(scope="session")
def running(model_directory: Path) -> Iterator[tuple[Service, str]]:
    """A service without keys and its address."""
    with _serving(model_directory) as one:
        yield one


@pytest.fixture
def with_keys(model_directory: Path) -> Callable[..., AbstractContextManager[tuple[Service, str]]]:
    """Serves the model to those who have one of the keys."""
    return lambda *keys: _serving(model_directory, keys)


@dataclass
class Opened:
    """The page in a browser.

    Attributes:
        page: Playwright's.
        url: of the service.
        requests: [method, path] of all that the page asked for.
        expected: parts of messages on the console that a test means to cause.
    """

    page: Any
    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def say(self, text: str) -> Any:
        """Send a message, wait until it is answered or has failed, and return its turn."""
        count = self.turns.count()
        self.page.locator("#message").fill(text)
        self.page.keyboard.press("Enter")
        turn = self.turns.nth(count)
        turn.locator(".answer:is(.done, .failed)").wait_for()
        return turn

    @property
    def turns(self) -> Any:
        return self.page.locator("#turns > li")

    def explained(self) -> None:
        """Wait until the panel has the explanation."""
        self.page.locator("#words:not([hidden])").wait_for(state="attached")

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Ask the service without the page."""
        answer: dict[str, Any] = httpx.post(f"{self.url}{path}", json=body, timeout=60).json()
        return answer

    def asked(self, path: str) -> int:
        """Return how often the page posted to a path."""
        return self.requests.count(("POST", path))


@pytest.fixture
def opened(chromium: Any, running: tuple[Service, str]) -> Callable[..., AbstractContextManager[Opened]]:
    """Opens the page, and fails if a script breaks, the console tells an error or a request leaves the origin."""

    @contextmanager
    def open_page(url: str = running[1], **options: Any) -> Iterator[Opened]:
        context = chromium.new_context(**options)
        context.set_default_timeout(30_000)
        page = context.new_page()
        one, outside, errors = Opened(page, url), list[str](), list[str]()

        def note(request: Any) -> None:
            if request.url.startswith(f"{url}/"):
                one.requests.append((request.method, request.url.removeprefix(url)))
            elif not request.url.startswith(f"blob:{url}/"):
                outside.append(request.url)

        context.on("request", note)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.on("dialog", lambda dialog: errors.append(dialog.message))
        context.on("console", lambda entry: errors.append(entry.text) if entry.type in ("error", "warning") else None)
        page.goto(f"{url}/")
        yield one
        context.close()
        assert [error for error in errors if not any(part in error for part in one.expected)] == []
        assert outside == []

    return open_page


@pytest.fixture
def phone() -> dict[str, Any]:
    """Options of a context like a phone's."""
    return PHONE
