"""The web server: says when it accepts connections, and that it is going to end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """Runs an application until it is told to end; then finishes what was accepted.

    Args:
        config: of uvicorn.
        started: called when connections are accepted.
        ending: called when a signal asks for the end, possibly more than once. It interrupts the main thread anywhere,
            so it must not wait for a lock.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start, self._on_ending = started, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so unless the end was asked for already."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal that asks for the end."""
        self._on_ending()
        super().handle_exit(sig, frame)
