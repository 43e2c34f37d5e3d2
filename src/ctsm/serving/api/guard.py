"""What stands before every route: the log, API keys, the size of bodies, and headers for browsers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ctsm.serving.api.errors import ApiError
from ctsm.serving.api.metrics import Metrics
from ctsm.serving.discreet import describe_error

log = logging.getLogger("ctsm.serving")

PROTECTED = ("/v1/", "/metrics")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


class Watch:
    """Logs and counts every answer, by its route and never by what it holds, and answers when a route breaks.

    Args:
        app: what stands behind.
        metrics: to count in.
        routes: of the application, whose names are used.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, identity, status = time.monotonic(), f"req_{uuid.uuid4().hex}", 0

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = identity
                headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except Exception as error:
            log.error("%s failed: %s", identity, describe_error(error))
            if not status:
                failure = ApiError(500, "The service failed; its log says where.", "internal_error")
                await failure.response()(scope, receive, send_watched)
        seconds = time.monotonic() - started
        route = self._route_of(scope)
        self._metrics.requests.labels(route, str(status or "dropped")).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log.info("%s %s %s %s %.3f s", identity, scope["method"], route, status or "dropped", seconds)

    def _route_of(self, scope: Scope) -> str:
        """Return the route's address; also of what another layer answered, so that no route was asked."""
        asked = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        return getattr(scope.get("route") or next(asked, None), "path_format", "unknown")


class Keys:
    """Lets only those with an API key pass to the protected paths.

    Args:
        app: what stands behind.
        keys: the valid ones.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED) and not self._has_key(Headers(scope=scope)):
            headers = {"WWW-Authenticate": "Bearer"}
            error = ApiError(401, "There is no valid API key in the request.", "invalid_api_key", headers=headers)
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # The bytes that were sent, which come decoded as Latin-1.
        digest = hashlib.sha256(key.strip(" \t").encode("latin-1")).digest()
        # All are compared, each in constant time: how long it takes tells nothing of the keys.
        found = [hmac.compare_digest(digest, valid) for valid in self._digests]
        return scheme.lower() == "bearer" and any(found)


class Bodies:
    """Ends the reading of bodies that are too large, by their bytes and not by what is announced, or too slow."""

    def __init__(self, app: ASGIApp, max_body: int, timeout: float) -> None:
        self._app, self._max_body, self._timeout = app, max_body, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        deadline, size, complete = time.monotonic() + self._timeout, 0, False

        async def receive_some() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            if announced.isdecimal() and int(announced) > self._max_body:
                raise self._too_large()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "The body did not arrive in time.", {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            if size > self._max_body:
                raise self._too_large()
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_some, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body is larger than {self._max_body:,} bytes.", {"Connection": "close"})
