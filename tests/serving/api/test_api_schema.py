"""Schemathesis over the whole OpenAPI document: every answer to good and bad data is as documented, and none is a 5xx.

CTSM_FUZZ_CASES sets how many requests are tried.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

CASES = int(os.environ.get("CTSM_FUZZ_CASES", "1000"))
TAKE_DATA = {"POST /v1/chat/completions", "POST /v1/emotions", "POST /v1/explain", "GET /v1/models/{model}"}
EXAMPLES = -(-CASES // (2 * len(TAKE_DATA)))
"""For each of these routes, good data and bad data apart: CASES in all, or a few more."""
TAKE_NONE = {"GET /v1/models", "GET /healthz", "GET /readyz", "GET /metrics"}
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_headers_conformance,
    schemathesis.checks.response_schema_conformance,
]
"""Neither acceptance of good data (a conversation that fits the schema may still end with the assistant's turn) nor
rejection of bad data (a service without keys takes any): test_api_fuzz.py says which of these are refused."""


@pytest.fixture(scope="module")
def operations(served: Any) -> dict[str, Any]:
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    found = [result.ok() for result in document.get_all_operations()]
    return {f"{one.method.upper()} {one.path}": one for one in found}


def test_the_document_has_every_route(operations: dict[str, Any]) -> None:
    assert set(operations) == TAKE_DATA | TAKE_NONE


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("route", sorted(TAKE_DATA))
def test_every_answer_is_as_documented(operations: dict[str, Any], route: str, mode: GenerationMode) -> None:
    sent = list[str]()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operations[route].as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        sent.append(route)
        case.call_and_validate(checks=CHECKS, timeout=60)

    send()
    assert len(sent) >= EXAMPLES, "fewer requests were sent than are promised in all"


@pytest.mark.parametrize("route", sorted(TAKE_NONE))
def test_routes_that_take_no_data_answer_as_documented(operations: dict[str, Any], route: str) -> None:
    operations[route].Case().call_and_validate(checks=CHECKS, timeout=60)
