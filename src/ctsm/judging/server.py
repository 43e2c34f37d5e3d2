"""The web application of a study: the pages and what they ask for.

Whoever has no valid link gets the same answer whatever was asked, so that nothing can be found out by trying.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ctsm.errors import MissingExtraError
from ctsm.judging import desk
from ctsm.judging.progress import overview
from ctsm.judging.store import ADMIN, ClosedError, ConflictError, Store

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
    from pydantic import BaseModel, ConfigDict, ValidationError
    from sqlalchemy.exc import SQLAlchemyError
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import MutableHeaders
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:
    raise MissingExtraError("judge", "serving a study") from None

WEB = Path(__file__).parent / "web"
STATIC = ("judge.css", "judge.js", "admin.js", "icon.svg")
LARGEST_BODY = 4_096
"""Bytes; an answer has a few hundred."""
LONGEST_BODY = 10.0
"""Seconds that a body may take to arrive."""
REFUSAL = (
    "This link is not valid, or the study cannot be read just now. Try again later, or ask the person who sent it to "
    "you for a new one.\n"
)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PROXIES = ("forwarded", "via", "x-real-ip", "cf-connecting-ip")
"""Headers that proxies add; so is every one that begins with x-forwarded-."""

Body = TypeVar("Body", bound=BaseModel)


class AnswerBody(BaseModel):
    """What the page sends for one trial."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trial: str
    revision: int
    answers: dict[str, desk.Choice]


class WithdrawBody(BaseModel):
    """What the page sends to take the last trial's answers back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trial: str
    revision: int


class RefusedError(Exception):
    """Whoever asks has no valid link for this."""


class UncheckedError(Exception):
    """Nobody can tell now whether whoever asks has a valid link."""


class WrongBodyError(Exception):
    """The body is too large, too slow or not what the page sends."""


class Application:
    """The handlers of one study's pages."""

    def __init__(self, store: Store, admin_from_anywhere: bool) -> None:
        self._store = store
        self._admin_from_anywhere = admin_from_anywhere

    async def page(self, token: str) -> Response:
        """Send the annotator's page; what it shows it asks for itself."""
        await self._annotator(token)
        return FileResponse(WEB / "judge.html")

    async def admin_page(self, request: Request, token: str) -> Response:
        """Send the admin's page."""
        await self._admin(request, token)
        return FileResponse(WEB / "admin.html")

    async def static(self, name: str) -> Response:
        """Send a script, style sheet or picture; they are part of the program and say nothing of a study."""
        if name not in STATIC:
            raise RefusedError
        return FileResponse(WEB / name)

    async def state(self, request: Request) -> Response:
        """Tell an annotator's page where it stands."""
        annotator = await self._annotator(_bearer(request))
        return JSONResponse(await run_in_threadpool(desk.state, self._store, annotator))

    async def answer(self, request: Request) -> Response:
        """Store the answers to a trial; 200 only after the commit, 409 with the stored state if they do not fit it."""
        annotator = await self._annotator(_bearer(request))
        body = await read_body(request, AnswerBody)
        return await self._change(annotator, desk.answer, body.trial, body.revision, body.answers)

    async def withdraw(self, request: Request) -> Response:
        """Take the last trial's answers back; replies as `answer`."""
        annotator = await self._annotator(_bearer(request))
        body = await read_body(request, WithdrawBody)
        return await self._change(annotator, Store.withdraw, body.trial, body.revision)

    async def admin_state(self, request: Request) -> Response:
        """Tell the admin's page about progress and agreement."""
        await self._admin(request, _bearer(request))
        return JSONResponse(await run_in_threadpool(overview, self._store))

    async def close_study(self, request: Request) -> Response:
        """Close the study."""
        await self._admin(request, _bearer(request))
        await run_in_threadpool(self._store.close_study)
        return JSONResponse(await run_in_threadpool(overview, self._store))

    async def _change(self, annotator: str, change: Callable[..., None], *arguments: object) -> Response:
        """Make a change and send the new state, or the stored one if the change does not fit it."""
        status, problem = 200, None
        try:
            await run_in_threadpool(change, self._store, annotator, *arguments)
        except ClosedError:
            status, problem = 409, "closed"
        except ConflictError:
            status, problem = 409, "conflict"
        state = await run_in_threadpool(desk.state, self._store, annotator)
        return JSONResponse({**state, "problem": problem}, status)

    async def _annotator(self, token: str) -> str:
        owner = await self._owner(token)
        if owner is None or owner == ADMIN:
            raise RefusedError
        return owner

    async def _admin(self, request: Request, token: str) -> None:
        if not self._admin_from_anywhere and not _is_local(request):
            raise RefusedError
        if await self._owner(token) != ADMIN:
            raise RefusedError

    async def _owner(self, token: str) -> str | None:
        try:
            return await run_in_threadpool(self._store.owner, token)
        except SQLAlchemyError:
            raise UncheckedError from None


class Protected:
    """Puts the protecting headers on every response, those of errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_protected)


def create_app(store: Store, admin_from_anywhere: bool = False) -> ASGIApp:
    """Return the web application of a study.

    Args:
        store: an open study.
        admin_from_anywhere: whether the admin's page may be asked for by other machines than this one.
    """
    served = Application(store, admin_from_anywhere)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for method, path, handler in (
        ("GET", "/judge/{token}", served.page),
        ("GET", "/admin/{token}", served.admin_page),
        ("GET", "/static/{name}", served.static),
        ("GET", "/api/state", served.state),
        ("POST", "/api/answer", served.answer),
        ("POST", "/api/withdraw", served.withdraw),
        ("GET", "/api/admin", served.admin_state),
        ("POST", "/api/admin/close", served.close_study),
    ):
        app.add_api_route(path, handler, methods=[method], response_model=None)
    handlers: dict[Any, Callable[[], Response]] = {
        RefusedError: lambda: PlainTextResponse(REFUSAL, 403),
        404: lambda: PlainTextResponse(REFUSAL, 403),
        405: lambda: PlainTextResponse(REFUSAL, 403),
        UncheckedError: lambda: PlainTextResponse(REFUSAL, 503),
        WrongBodyError: lambda: JSONResponse({"problem": "wrong request"}, 400),
        SQLAlchemyError: lambda: JSONResponse({"problem": "database"}, 503),
        Exception: lambda: JSONResponse({"problem": "server"}, 500),
    }
    for error, respond in handlers.items():
        app.add_exception_handler(error, lambda _request, _error, respond=respond: respond())
    return Protected(app)


def _bearer(request: Request) -> str:
    """Return the token in the Authorization header; nobody's if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _is_local(request: Request) -> bool:
    """Tell whether the request comes from this machine itself, and not through a proxy on it.

    A proxy that adds no header and asks for a name of this machine cannot be told from a person who sits here.
    """
    if any(name in PROXIES or name.startswith("x-forwarded-") for name in request.headers):
        return False
    try:
        asked_for = urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return False
    return request.client is not None and is_loopback(request.client.host) and is_loopback(asked_for or "")


def is_loopback(host: str) -> bool:
    """Tell whether a host's name or address is one by which this machine reaches itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


async def read_body(request: Request, model: type[Body]) -> Body:
    """Read a small body."""
    body = bytearray()
    try:
        async with asyncio.timeout(LONGEST_BODY):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_BODY:
                    raise WrongBodyError
        return model.model_validate_json(bytes(body))
    except (TimeoutError, ValidationError):
        raise WrongBodyError from None
