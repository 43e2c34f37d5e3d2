"""Whatever is sent, the service answers as it documents, and never with a failure of its own.

CTSM_FUZZ_CASES sets how many bodies are tried.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctsm.serving.api.bodies import Completion, EmotionsList, ErrorBody

CASES = int(os.environ.get("CTSM_FUZZ_CASES", "400"))
fuzz = settings(max_examples=CASES // 2, deadline=None, suppress_health_check=list(HealthCheck))

# Lone halves of surrogate pairs and NUL are wanted too.
texts = st.text(st.characters(exclude_categories=()), max_size=30) | st.sampled_from(["A dog chased me.", "I am fine."])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
roles = st.sampled_from(["system", "developer", "user", "assistant"])
message = st.fixed_dictionaries({"role": roles, "content": texts | parts}, optional={"name": texts})
messages = st.lists(message, min_size=1, max_size=5)

# As documented. Few words, for speed.
REQUIRED: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("ctsm"),
    "messages": messages,
    "max_tokens": st.integers(1, 3),
}
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "n": st.none() | st.integers(1, 4),
    "stop": st.none() | st.text(min_size=1, max_size=3) | st.lists(st.text(min_size=1, max_size=3), max_size=4),
    "stream": st.none() | st.booleans(),
    "stream_options": st.none() | st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "temperature": st.none() | st.floats(0, 2),
    "top_p": st.none() | st.floats(0, 1),
    "seed": st.none() | st.integers(-(1 << 63) + 1, (1 << 63) - 1),
    "user": texts,
    "tools": st.none() | st.just([]),
    "response_format": st.none() | st.just({"type": "text"}),
}
good = st.fixed_dictionaries(REQUIRED, optional=OPTIONAL)
mixed = st.fixed_dictionaries(
    {name: field | anything for name, field in REQUIRED.items()},
    optional={name: field | anything for name, field in OPTIONAL.items()},
)
inputs = texts | st.lists(texts | messages, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def http(served: Any) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


@pytest.fixture(scope="module")
def documented(http: httpx.Client) -> dict[str, set[str]]:
    paths = http.get("/openapi.json").json()["paths"]
    return {path: set(methods["post"]["responses"]) for path, methods in paths.items() if "post" in methods}


def post(http: httpx.Client, path: str, body: Any, documented: dict[str, set[str]]) -> httpx.Response:
    """Send a body, check what must hold of every answer, and return it."""
    answer = http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500
    assert str(answer.status_code) in documented[path]
    if answer.status_code >= 400:
        ErrorBody.model_validate_json(answer.content, strict=True)
    elif answer.headers["content-type"].startswith("text/event-stream"):
        events = answer.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        for event in events[:-2]:
            assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"
    else:
        kind = Completion if "chat" in path else EmotionsList
        kind.model_validate_json(answer.content, strict=True)
    return answer


@fuzz
@given(body=mixed | anything)
def test_any_request_for_a_reply(http: httpx.Client, documented: dict[str, set[str]], body: Any) -> None:
    post(http, "/v1/chat/completions", body, documented)


@settings(fuzz, max_examples=CASES // 4)
@given(body=good)
def test_a_documented_request_is_refused_for_its_conversation_alone(
    http: httpx.Client, documented: dict[str, set[str]], body: Any
) -> None:
    answer = post(http, "/v1/chat/completions", body, documented)
    if answer.status_code != 200:
        assert answer.json()["error"]["param"].startswith("messages")


@settings(fuzz, max_examples=CASES // 4)
@given(body=st.fixed_dictionaries({"input": inputs | anything}, optional={"model": st.just("ctsm") | anything}))
def test_any_request_for_emotions(http: httpx.Client, documented: dict[str, set[str]], body: Any) -> None:
    post(http, "/v1/emotions", body, documented)
