"""Running the web application of a study."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing

from ctsm.errors import CtsmError, MissingExtraError
from ctsm.judging.store import Store


def serve(study: str, host: str, port: int, admin_from_anywhere: bool, say: Callable[[str], None] = print) -> None:
    """Serve a study until interrupted.

    Args:
        study: path or URL.
        host: address to listen on.
        port: 0 takes a free one.
        admin_from_anywhere: whether other machines may ask for the admin's page.
        say: is told the address once the server takes connections.

    Raises:
        CtsmError: the study cannot be opened, or the address is taken or not of this machine.
        MissingExtraError: the web server is not installed.
    """
    try:
        import uvicorn

        from ctsm.judging.server import create_app, is_loopback
    except ImportError:
        raise MissingExtraError("judge", "serving a study") from None
    with closing(Store.open(study)) as store, listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        # No access log: it would hold the tokens of the links.
        config = uvicorn.Config(
            create_app(store, admin_from_anywhere),
            access_log=False,
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        try:
            say(f"Serving on http://{shown}:{listener.getsockname()[1]} (Ctrl-C stops; what is saved stays).")
            if not is_loopback(host):
                text = "warning: links cross the network unencrypted; put a proxy with HTTPS before this server."
                print(text, file=sys.stderr)
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            say("Stopped.")


def listen(host: str, port: int) -> socket.socket:
    """Take an address, before anything else is done, so that a taken one is told in a sentence.

    Raises:
        CtsmError: it is taken, or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", error)
        raise CtsmError(f"{host}, port {port}: cannot listen there ({reason}); choose --host and --port.") from None
    # Else the body of a response waits some 40 ms for the receipt of its head; asyncio sees to this only on sockets of
    # its own making.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
