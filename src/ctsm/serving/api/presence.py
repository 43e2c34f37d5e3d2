"""Waiting for an answer only while its client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from fastapi.responses import Response

Value = TypeVar("Value")

CLIENT_GONE = 499
"""The status that web servers log for this case; nobody gets it."""


class ClientGoneError(Exception):
    """Nobody waits for the answer."""


async def unless_gone(request: Request, work: Awaitable[Value]) -> Value:
    """Await `work` while the client is there.

    Raises:
        ClientGoneError: it has gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def client_gone(_request: Request, _error: Exception) -> Response:
    """Handle the exception where a route lets it pass."""
    return Response(status_code=CLIENT_GONE)
