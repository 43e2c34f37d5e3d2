"""Every error has OpenAI's format, and every protected route asks for a key."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from ctsm.errors import CtsmError

BODY = {"model": "ctsm", "messages": [{"role": "user", "content": "A big dog chased me."}], "max_tokens": 2}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Check the form of an error and return what it says."""
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    assert error["type"] in ("invalid_request_error", "rate_limit_error", "server_error")
    return error


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "invalid_body"),
        (b"[]", "invalid_body"),
        (b"null", "invalid_body"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (json.dumps({**BODY, "temperature": float("nan")}).encode(), "invalid_value"),
        (json.dumps({**BODY, "n": 10**400}).encode(), "invalid_value"),
        (json.dumps({**BODY, "seed": 1 << 64}).encode(), "invalid_value"),
        (b'{"model": "ctsm", "messages": [{"role": "user", "content": "\\ud83d"}]}', "invalid_value"),
        (b'{"model": "ctsm", "messages": [{"role": "user", "content": "hi"}], "stop": [""]}', "invalid_value"),
        (b'{"model": "ctsm", "messages": [{"role": "assistant", "content": null}]}', "invalid_value"),
    ],
)
def test_malformed_bodies(served: Any, content: bytes, code: str) -> None:
    with served.http() as http:
        answer = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["code"] == code


def test_a_body_of_another_type(served: Any) -> None:
    with served.http() as http:
        answer = http.post("/v1/chat/completions", content=json.dumps(BODY), headers={"Content-Type": "text/plain"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_body")


def test_what_is_not_there(served: Any) -> None:
    with served.http() as http:
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("POST", "/v1/completions", 404),
            ("GET", "/v1/models/a/b", 404),
            ("GET", "/../guard.py", 404),
            ("GET", "/v1/chat/completions", 405),
            ("DELETE", "/v1/models", 405),
        ):
            answer = http.request(method, path)
            assert answer.status_code == status
            error_of(answer)
            assert (status == 405) == ("allow" in answer.headers)


def test_a_models_name_may_have_a_slash(served: Any) -> None:
    with served.openai() as client:
        with pytest.raises(openai.NotFoundError, match="There is no such model here; this service has ctsm") as refusal:
            client.models.retrieve("a/b")
        assert refusal.value.code == "model_not_found"


def test_health_is_told_to_head_too(served: Any) -> None:
    with served.http() as http:
        for path in ("/healthz", "/readyz"):
            answer = http.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_name_every_route_that_there_is(serve_with: Any) -> None:
    asking = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    with serve_with(keys=KEYS, origins=("https://chat.example",)) as one, one.http() as http:
        http.get("/openapi.json")
        http.post("/v1/emotions", json={})
        http.get("/v1/models/a/b")
        http.get("/v1/chat/completions")
        http.options("/v1/explain", headers=asking)
        http.get("/v1/zebra")
        http.get("/zebra")
        metrics = http.get("/metrics", headers={"Authorization": f"Bearer {KEYS[0]}"}).text
    counts = set(re.findall(r'^ctsm_requests_total{route="(.*?)",status="(.*?)"} (.*)$', metrics, re.MULTILINE))
    assert counts == {
        ("/openapi.json", "200", "1.0"),
        ("/v1/emotions", "401", "1.0"),
        ("/v1/models/{model}", "401", "1.0"),
        ("/v1/chat/completions", "401", "1.0"),
        ("/v1/explain", "200", "1.0"),
        ("unknown", "401", "1.0"),
        ("unknown", "404", "1.0"),
    }


def test_a_fault_of_ours_is_not_told_to_clients(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sentences for the operator can name files."""

    def breaks(*_: Any, **__: Any) -> Any:
        raise CtsmError(f"{served.service.name}/vocabulary.json: is not there.")

    monkeypatch.setattr(served.service.engine._responder.bundle.model, "encode", breaks)
    with served.http() as http:
        answer = http.post("/v1/emotions", json={"input": "A big dog chased me."})
    assert (answer.status_code, error_of(answer)["code"]) == (500, "model_failed")
    assert "vocabulary" not in answer.text
    assert "CtsmError at" in caplog.text and "in breaks" in caplog.text
    assert "ctsm/vocabulary" not in caplog.text and "dog" not in caplog.text


def head(length: str) -> bytes:
    """Return the beginning of a request with a body."""
    lines = ["POST /v1/emotions HTTP/1.1", "Host: x", "Content-Type: application/json", length, "", ""]
    return "\r\n".join(lines).encode()


def test_too_large_bodies_are_refused_while_they_are_read(serve_with: Any) -> None:
    large = json.dumps({**BODY, "padding": "x" * 5_000}).encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 700):
            yield large[start : start + 700]

    with serve_with(max_body=4_096) as served, served.http() as http:
        headers = {"Content-Type": "application/json"}
        for content in (large, pieces()):
            answer = http.post("/v1/chat/completions", content=content, headers=headers)
            assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
        # What is announced as too large is refused before it comes; what never ends, before it ends.
        for sent in (
            head("Content-Length: 5000"),
            head("Transfer-Encoding: chunked") + b"1000\r\n" + b" " * 4_096 + b"\r\n1\r\nx\r\n",
        ):
            with socket.create_connection(("127.0.0.1", served.port), timeout=60) as raw:
                raw.sendall(sent)
                assert b" 413 " in raw.recv(4_096).split(b"\r\n")[0]
        assert http.post("/v1/chat/completions", json={**BODY, "padding": "x" * 2_000}).status_code == 200


def test_a_body_that_does_not_come(serve_with: Any) -> None:
    with serve_with(timeout=0.3) as served, socket.create_connection(("127.0.0.1", served.port), timeout=60) as raw:
        raw.sendall(
            b"POST /v1/emotions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert b" 408 " in raw.recv(4_096).split(b"\r\n")[0]


KEYS = ("first-secret", "second-secret")


def test_every_protected_route_asks_for_a_key(serve_with: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serve_with(keys=KEYS) as served, served.http() as http:
        document = http.get("/openapi.json").json()
        protected = {
            (method.upper(), path): "security" in facts
            for path, methods in document["paths"].items()
            for method, facts in methods.items()
        }
        free = {path for (_, path), needs_key in protected.items() if not needs_key}
        assert free == {"/healthz", "/readyz"}
        for (method, path), needs_key in protected.items():
            for header in ({}, {"Authorization": "Bearer wrong-secret"}, {"Authorization": f"Basic {KEYS[0]}"}):
                answer = http.request(method, path.replace("{model}", "ctsm"), json=BODY, headers=header)
                if needs_key:
                    assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
                    assert answer.headers["www-authenticate"] == "Bearer"
                else:
                    assert answer.status_code == 200
            for key in KEYS if needs_key else ():
                header = {"Authorization": f"Bearer {key}"}
                body = {**BODY, "input": "A dog."} if method == "POST" else None
                path_here = path.replace("{model}", "ctsm")
                assert http.request(method, path_here, json=body, headers=header).status_code == 200
        with served.openai("wrong-secret") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        for path in ("/docs", "/", "/openapi.json"):
            assert http.get(path, follow_redirects=True).status_code == 200
    assert "secret" not in caplog.text


def test_no_page_of_another_site_may_ask_unless_it_is_named(served: Any, serve_with: Any) -> None:
    asking = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    with served.http() as http:
        assert "access-control-allow-origin" not in http.options("/v1/chat/completions", headers=asking).headers
        assert "access-control-allow-origin" not in http.get("/v1/models", headers=asking).headers
    with serve_with(keys=KEYS, origins=("https://chat.example",)) as open_to_one, open_to_one.http() as http:
        answer = http.options("/v1/chat/completions", headers=asking)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://chat.example")
        other = http.options("/v1/chat/completions", headers={**asking, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        exposed = http.get("/v1/models", headers=asking).headers["access-control-expose-headers"]
        assert set(exposed.split(", ")) == {"Retry-After", "X-Request-Id"}


def test_a_key_is_compared_as_it_is_sent(serve_with: Any) -> None:
    with serve_with(keys=("schlüssel",)) as one, one.http() as http:
        for sent, status in ((b"Bearer schl\xc3\xbcssel", 200), (b"Bearer schl\xfcssel", 401), (b"bearer  x", 401)):
            assert http.get("/v1/models", headers={"Authorization": sent}).status_code == status  # type: ignore[dict-item]


def test_headers_for_browsers(served: Any) -> None:
    with served.http() as http:
        for path in ("/docs", "/", "/v1/models", "/nothing"):
            headers = http.get(path, follow_redirects=True).headers
            assert headers["x-content-type-options"] == "nosniff"
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none';")
            assert "http" not in policy
            assert "script-src 'self'" in policy or "script-src" not in policy


def test_the_reference_names_every_route_and_asks_no_other_site(served: Any) -> None:
    with served.http() as http:
        page, document = http.get("/docs").text, http.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    assert "<script" not in page
    assert "//" not in page.replace("<!--", "").split("<body>")[1]
    assert document["info"]["title"] == "CTSM"
    assert "HTTPValidationError" not in json.dumps(document)


def test_a_route_that_breaks_says_nothing_of_the_text(
    served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    def breaks(text: str) -> None:
        raise ValueError(text)

    monkeypatch.setattr("ctsm.care.notice_for", breaks)
    with served.http() as http:
        answer = http.post("/v1/chat/completions", json=BODY)
        assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")
        metrics = http.get("/metrics").text
    assert 'ctsm_requests_total{route="/v1/chat/completions",status="500"}' in metrics
    assert "ValueError" in caplog.text
    assert "dog" not in caplog.text + metrics + answer.text
