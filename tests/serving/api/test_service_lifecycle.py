"""Full queues, clients that leave, requests that take too long, and what the log and the metrics tell of them."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from ctsm.serving.api.app import create_app
from ctsm.serving.limits import Limits
from ctsm.serving.serve import make_server

AXES = ("valence", "arousal", "dominance")
ASKED = {"model": "ctsm", "messages": [{"role": "user", "content": "A zebra chased me."}], "max_tokens": 5}


def metric(served: Any, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", served.service.metrics.text().decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def raw_request(served: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> socket.socket:
    """Send a request and leave the answer to the caller."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
    return connection


def test_a_full_queue_refuses_and_says_when_to_come_again(serve_with: Any, wait_until: Any) -> None:
    with serve_with(max_queue=2) as served, ThreadPoolExecutor(2) as threads, served.http() as http:
        with served.busy():
            accepted = [
                threads.submit(httpx.post, f"{served.url}/v1/chat/completions", json=ASKED, timeout=60)
                for _ in range(2)
            ]
            wait_until(lambda: metric(served, "ctsm_waiting") == 2)
            for path, body in (
                ("/v1/chat/completions", ASKED),
                ("/v1/chat/completions", {**ASKED, "stream": True}),
                ("/v1/emotions", {"input": "A dog."}),
            ):
                answer = http.post(path, json=body)
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
                assert answer.json()["error"]["code"] == "queue_full"
            with served.openai() as client, pytest.raises(openai.RateLimitError):
                client.chat.completions.create(**ASKED)
            assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
        assert [one.result().status_code for one in accepted] == [200, 200]
        assert metric(served, "ctsm_refused_total") == 4


def test_two_hundred_clients_that_leave_while_they_wait_leave_nothing(served: Any, wait_until: Any) -> None:
    dropped = metric(served, "ctsm_dropped_total")
    with served.busy():
        clients = [raw_request(served, {**ASKED, "stream": bool(number % 2)}) for number in range(190)]
        clients += [raw_request(served, {"input": "A dog."}, "/v1/emotions") for _ in range(10)]
        wait_until(lambda: metric(served, "ctsm_waiting") == 200)
        for client in clients:
            client.close()
        wait_until(lambda: metric(served, "ctsm_waiting") == 0)
        assert metric(served, "ctsm_running") == 1, "the call that keeps the engine busy"
    wait_until(lambda: metric(served, "ctsm_running") == 0)
    assert metric(served, "ctsm_dropped_total") == dropped + 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_its_reply_is_made_frees_its_place(
    served: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    model = served.service.engine._responder.bundle.model
    decode, steps, go_on = model.decode, [0], threading.Event()

    def waiting(*arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] == 2:
            go_on.wait(60)
        return decode(*arguments)

    monkeypatch.setattr(model, "decode", waiting)
    dropped = metric(served, "ctsm_dropped_total")
    with raw_request(served, {**ASKED, "max_tokens": 51, "stream": stream}) as client:
        wait_until(lambda: steps[0] == 2)
        if stream:
            received = b""
            while b"chat.completion.chunk" not in received:
                received += client.recv(65_536)
    try:
        wait_until(lambda: metric(served, "ctsm_running") == 0)
    finally:
        go_on.set()
    with served.http() as http:  # the next one gets its reply, and the other goes no further
        assert http.post("/v1/emotions", json={"input": "A dog."}).status_code == 200
    assert steps[0] <= 3
    assert metric(served, "ctsm_dropped_total") == dropped + 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_that_takes_too_long(serve_with: Any, stream: bool) -> None:
    with serve_with(timeout=0.2) as served, served.openai() as client:
        with served.busy(), pytest.raises(openai.InternalServerError) as refusal:
            client.chat.completions.create(**ASKED, stream=stream)
        assert (refusal.value.status_code, refusal.value.code) == (503, "timeout")
        assert refusal.value.response.headers["retry-after"] == "1"
        assert metric(served, "ctsm_dropped_total") == 1
        assert metric(served, "ctsm_waiting") == 0


def test_a_stream_that_takes_too_long_ends_with_an_error(serve_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_with(timeout=1.0) as served, served.openai() as client:
        model = served.service.engine._responder.bundle.model
        decode, over = model.decode, threading.Event()

        def waiting(words: Any, *others: Any) -> Any:
            if words.shape[1]:
                over.wait(60)
            return decode(words, *others)

        monkeypatch.setattr(model, "decode", waiting)
        chunks = client.chat.completions.create(**ASKED, stream=True)
        with pytest.raises(openai.APIError, match="took longer than 1 second"):
            list(chunks)
        over.set()


def test_neither_log_nor_metrics_hold_what_was_said(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with served.http() as http:
        reply = http.post("/v1/chat/completions", json=ASKED).json()["choices"][0]["message"]["content"]
        http.post("/v1/emotions?zebra=1", json={"input": "A zebra."})
        http.post("/v1/chat/completions", json={**ASKED, "temperature": "zebra"})
        http.get("/zebra")
        metrics = http.get("/metrics").text
    own = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("ctsm", "uvicorn")))
    assert "POST /v1/chat/completions 200" in own
    assert "GET unknown 404" in own
    assert 'ctsm_requests_total{route="/v1/chat/completions",status="400"}' in metrics
    for said in ("zebra", reply):
        assert said not in own + metrics


def test_a_service_that_stops_says_so(serve_with: Any) -> None:
    with serve_with() as served, served.http() as http:
        assert http.get("/readyz").json() == {"status": "ok"}
        served.service.engine.stop()
        answer = http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
        answer = http.post("/v1/chat/completions", json=ASKED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
        assert http.get("/healthz").status_code == 200


def test_from_the_signal_on_it_is_not_ready_but_answers_what_comes(serve_with: Any) -> None:
    """As long as its connections are open: uvicorn closes them when they are answered."""
    with serve_with() as served, served.http() as http:
        server = make_server(create_app(served.service), Limits(), ending=served.service.engine.drain)
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit
        answer = http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
        assert http.post("/v1/chat/completions", json=ASKED).status_code == 200
        assert http.get("/healthz").status_code == 200


def test_emotions_of_a_text_and_of_conversations(served: Any, responder: Any) -> None:
    turns = ["A big dog chased me.", "Oh no!", "I am fine."]
    conversation = [{"role": "assistant" if place % 2 else "user", "content": turn} for place, turn in enumerate(turns)]
    with served.http() as http:
        single = http.post("/v1/emotions", json={"input": turns[0]}).json()
        batch = http.post("/v1/emotions", json={"input": [turns[0], conversation], "model": "ctsm"}).json()
    assert single["data"][0]["probabilities"] == pytest.approx(batch["data"][0]["probabilities"], abs=1e-5)
    assert [one["index"] for one in batch["data"]] == [0, 1]
    for found, said in zip(batch["data"], ([turns[0]], turns), strict=True):
        expected = responder.respond(said)
        assert found["emotion"] == expected.emotion
        assert found["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
        assert found["notice"] is None
        for token, wanted in zip(found["tokens"], expected.context_tokens, strict=True):
            assert (token["token"], token["role"] == "user") == (wanted.token, wanted.role == "speaker")
            assert token["state"] == pytest.approx(wanted.state, abs=1e-5)
            assert token["inclination"] == pytest.approx(wanted.inclination, abs=1e-5)
            trait = None if wanted.trait is None else dict(zip(AXES, wanted.trait, strict=True))
            assert token["trait"] == trait
    assert len(batch["emotions"]) == 32
    assert batch["usage"]["prompt_tokens"] == sum(1 + len(one["tokens"]) for one in batch["data"])


def test_emotions_flag_danger_and_hold_nothing_back(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctsm.care.notice_for", lambda text: "Call." if "danger" in text else None)
    with served.http() as http:
        answer = http.post("/v1/emotions", json={"input": ["I am in danger.", "I am fine."]}).json()
    assert [one["notice"] for one in answer["data"]] == ["Call.", None]
    assert all(one["emotion"] and one["tokens"] for one in answer["data"])


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": []}, 400, "input"),
        ({"input": [""]}, 400, "input.0"),
        ({"input": ["hi", [{"role": "assistant", "content": "hi"}]]}, 400, "input.1"),
        ({"input": ["hi"] * 33}, 400, "input"),
        ({"input": ["a " * 1_000] * 5}, 422, "input"),
        ({"input": "hi", "model": "other"}, 404, "model"),
        ({}, 400, "input"),
    ],
)
def test_emotions_that_cannot_be_told(served: Any, body: dict[str, Any], status: int, param: str) -> None:
    with served.http() as http:
        answer = http.post("/v1/emotions", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"].startswith(param)


def test_a_system_without_emotions_is_served_too(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = served.service.engine._responder.bundle.model
    encode = model.encode

    def bare(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(encode(*arguments, **options), emotion_logits=None, perception=None)

    monkeypatch.setattr(model, "encode", bare)
    with served.http() as http:
        reply = http.post("/v1/chat/completions", json=ASKED).json()
        assert reply["choices"][0]["message"]["content"]
        assert (reply["ctsm"]["emotion"], reply["ctsm"]["probabilities"]) == (None, {})
        (item,) = http.post("/v1/emotions", json={"input": "A dog."}).json()["data"]
        assert (item["emotion"], item["probabilities"], item["tokens"]) == (None, {}, [])
