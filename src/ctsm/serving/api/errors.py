"""Errors in OpenAI's format, whatever part of the service they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ctsm.serving.api.bodies import UNSUPPORTED, ErrorBody, Sent

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
TYPES = {
    "string_type": "a text",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""Pydantic's errors for values of another type, with what the field takes."""
FIELDS = {name for model in Sent.__subclasses__() for name in model.model_fields}
"""Names of fields; any other name in the place of one of pydantic's errors is that of a union's branch."""
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
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON ({first['ctx']['error']}).", "invalid_json")
    faults = _same_fault([Fault(one) for one in error.errors()])
    worst = faults[0]
    place = worst.place
    if not place:
        return ApiError(400, "The body must be a JSON object, sent as application/json.", "invalid_body")
    if place[0] in UNSUPPORTED:
        return ApiError(400, f"{place[0]} is not supported; leave it out.", "unsupported_parameter", place[0])
    param = ".".join(place)
    return ApiError(400, f"{param}: {_reason(faults)}.", "invalid_value", param)


class Fault:
    """One of pydantic's errors.

    Attributes:
        kind: of error, as pydantic calls it.
        place: of what is wrong: names of fields and numbers in lists, without pydantic's names for a union's branches.
        union: the place of the outermost union on the way there, or `place` where there is none.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.kind: str = error["type"]
        self.message: str = error["msg"]
        self.facts: Mapping[str, Any] = error.get("ctx", {})
        steps = error["loc"][1:]
        real = [isinstance(step, int) or step in FIELDS for step in steps]
        self.place = [str(step) for step, counts in zip(steps, real, strict=True) if counts]
        self.union = [str(step) for step in steps[: real.index(False)]] if False in real else self.place


def _same_fault(faults: Sequence[Fault]) -> list[Fault]:
    """Return what the branches of a union say of the first place that is wrong, the branch that fits best first.

    That is the one that got deepest, else one that takes this type and misses something else.
    """
    of_union = [fault for fault in faults if fault.union == faults[0].union]
    deepest = max((fault.place for fault in of_union), key=len)
    return sorted((fault for fault in of_union if fault.place == deepest), key=lambda one: one.kind in TYPES)


def _reason(faults: Sequence[Fault]) -> str:
    """Return in words what is wrong, without a full stop."""
    first = faults[0]
    if first.kind in TYPES:
        return f"must be {' or '.join(dict.fromkeys(TYPES[fault.kind] for fault in faults))}"
    if first.kind == "literal_error" and "content" in first.place and first.place[-1] == "type":
        return "only text parts are supported"
    if first.kind == "too_long":
        return f"holds {first.facts['actual_length']}; at most {first.facts['max_length']} are taken"
    if first.kind == "too_short":
        return f"holds nothing; send at least {first.facts['min_length']}"
    return {"missing": "is missing", "string_too_short": "must not be an empty text"}.get(first.kind, first.message)
