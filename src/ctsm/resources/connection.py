"""Opening an http or https address, and telling failures that may pass from those that will not."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from typing import IO
from urllib.parse import urlsplit

from ctsm.errors import CtsmError

PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be different a moment later."""


class Dropped(Exception):  # noqa: N818 (an event that the download handles; users never see it)
    """This attempt failed for a reason that may pass."""


class RangeRefused(Dropped):
    """The server has no bytes after those that are here: the part is longer than the file now is."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request for the new address.

        Raises:
            CtsmError: the server points to another kind of address.
        """
        scheme = urlsplit(newurl).scheme
        if scheme not in {"http", "https"} or (req.type == "https" and scheme == "http"):
            raise CtsmError(
                f"{req.full_url}: the server redirects to {newurl}, which is not a safe address; "
                "look for the file on the publisher's page."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_address(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """Send the request and return the answer.

    Args:
        request: to an http or https address.
        timeout: seconds without a byte after which the connection counts as dropped.

    Raises:
        Dropped: a failure that may pass.
        CtsmError: one that will not.
    """
    address = request.full_url
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    try:
        answer: http.client.HTTPResponse = opener.open(request, timeout=timeout)
        return answer
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server answered {error.code} ({error.reason})"
        if error.code == 416:
            raise RangeRefused(said) from error
        if error.code in PASSING_STATUS:
            raise Dropped(said) from error
        raise CtsmError(
            f"{address}: {said}; look for the file on the publisher's page, or name another server with --mirror."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise network_error(address, error) from error


def network_error(address: str, error: Exception) -> Exception:
    """Return what a failed connection means: a sentence for the user, or a reason to try again."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        host = urlsplit(address).hostname
        return CtsmError(f"{address}: the host {host} cannot be found; check the network connection and the name.")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return CtsmError(f"{address}: the server's certificate is not valid ({reason.verify_message}); do not go on.")
    if isinstance(reason, TimeoutError):
        return Dropped("the server did not answer in time")
    if isinstance(reason, OSError | http.client.HTTPException):
        return Dropped(f"the connection failed ({reason})" if str(reason) else "the connection was dropped")
    return CtsmError(f"{address}: cannot be opened ({reason}); check the address.")
