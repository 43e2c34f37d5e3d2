"""Errors in OpenAI's format, whatever part of the service they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ctsm.serving.api.bodies import UNSUPPORTED, ErrorBody

MEANINGS = {
    400: "The request is malformed, or asks for what is not supported.",
    401: "There is no valid API key.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    422: "The conversation is too long.",
    429: "Too many requests wait; try again after the seconds in `Retry-After`.",
    500: "The model failed.",
    503: "The service is stopping, or the reply took too long.",
}
RETRY_AFTER = {"Retry-After": "1"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: one sentence.
        code: for programs.
        param: the field that is wrong.
        headers: to be sent too.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    def body(self) -> dict[str, Any]:
        """Return the error as JSON values."""
        kind = {429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the error as an answer."""
        return EscapedJson(self.body(), self.status, self.headers)


class EscapedJson(JSONResponse):
    """JSON in ASCII: halves of surrogate pairs, which a field's name can hold, cannot be sent otherwise."""

    def render(self, content: Any) -> bytes:
        """Return the bytes to send."""
        return json.dumps(content, separators=(",", ":")).encode()


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of these errors."""
    return {status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses}


def install_handlers(app: FastAPI) -> None:
    """Let the application answer all errors in OpenAI's format."""

    async def api_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def http_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return from_http(error).response()

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return from_validation(error).response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)


def from_http(error: HTTPException) -> ApiError:
    """Translate the framework's own errors: no such path, another method, a body that cannot be read."""
    codes = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "body_too_large"}
    messages = {
        400: "The body cannot be read as JSON.",
        404: "There is nothing at this address.",
        405: "This address does not take this method.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, codes.get(error.status_code), headers=error.headers)


def from_validation(error: RequestValidationError) -> ApiError:
    """Translate the first thing that is wrong with a body."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON ({first['ctx']['error']}).", "invalid_json")
    if not place:
        return ApiError(400, "The body must be a JSON object, sent as application/json.", "invalid_body")
    if place[0] in UNSUPPORTED:
        return ApiError(400, f"{place[0]} is not supported; leave it out.", "unsupported_parameter", place[0])
    param = ".".join(place)
    return ApiError(400, f"{param}: {first['msg']}.", "invalid_value", param)
