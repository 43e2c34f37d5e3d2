"""What a refusal of a body says: the field that is wrong, and why, in the words of this service."""

from __future__ import annotations

from typing import Any

import pytest

SAID = {"role": "user", "content": "A big dog chased me."}
PICTURE = {"type": "image_url", "image_url": {"url": "https://pictures.example/dog.png"}}
TEXT = {"type": "text", "text": "Look at this."}


def messages(content: Any, role: str = "user") -> list[dict[str, Any]]:
    """One message with this content, after one that is well."""
    return [SAID, {"role": role, "content": content}]


CONTENT = "messages.1.content"
REPLIES: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": messages([TEXT, PICTURE])}, f"{CONTENT}.1.type", "only text parts are supported."),
    ({"messages": messages([TEXT, "Look."])}, f"{CONTENT}.1", "must be an object."),
    ({"messages": messages([{"type": "text"}])}, f"{CONTENT}.0.text", "is missing."),
    ({"messages": messages([{"type": "text", "text": 5}])}, f"{CONTENT}.0.text", "must be a text."),
    ({"messages": messages(5)}, CONTENT, "must be a text or a list."),
    ({"messages": messages(None)}, CONTENT, "must be a text or a list."),
    ({"messages": messages({"str": "Look."})}, CONTENT, "must be a text or a list."),
    ({"messages": [SAID, "Look."]}, "messages.1", "must be an object."),
    ({"messages": [SAID, {"role": "user"}]}, CONTENT, "is missing."),
    ({"messages": "Look."}, "messages", "must be a list."),
    ({"messages": []}, "messages", "holds nothing; send at least 1."),
    ({"messages": [SAID], "stop": ""}, "stop", "must not be an empty text."),
    ({"messages": [SAID], "stop": [".", ""]}, "stop.1", "must not be an empty text."),
    ({"messages": [SAID], "stop": ["a", "b", "c", "d", "e"]}, "stop", "holds 5; at most 4 are taken."),
    ({"messages": [SAID], "stop": 5}, "stop", "must be a text or a list."),
    ({"messages": [SAID], "stop": [5]}, "stop.0", "must be a text."),
    ({"messages": [SAID], "n": 17}, "n", "Input should be less than or equal to 16."),
]
READINGS: list[tuple[dict[str, Any], str, str]] = [
    ({"input": ["A dog."] * 33}, "input", "holds 33; at most 32 are taken."),
    ({"input": []}, "input", "holds nothing; send at least 1."),
    ({"input": [5]}, "input.0", "must be a text or a list."),
    ({"input": 5}, "input", "must be a text or a list."),
    ({"input": None}, "input", "must be a text or a list."),
    (
        {"input": ["A dog.", [SAID, {"role": "user", "content": [PICTURE]}]]},
        "input.1.1.content.0.type",
        "only text parts",
    ),
    ({"input": ["A dog.", [{"role": "cat", "content": "Miaow."}]]}, "input.1.0.role", "Input should be 'system', "),
    ({}, "input", "is missing."),
]


@pytest.mark.parametrize(
    ("path", "body", "param", "reason"),
    [("/v1/chat/completions", {"model": "ctsm", **body}, param, reason) for body, param, reason in REPLIES]
    + [("/v1/emotions", body, param, reason) for body, param, reason in READINGS],
)
def test_a_refusal_names_the_field_and_the_reason(
    served: Any, path: str, body: dict[str, Any], param: str, reason: str
) -> None:
    with served.http() as http:
        answer = http.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert error["message"].startswith(f"{param}: {reason}")


@pytest.mark.parametrize("nothing", ["", " \u200b\n", None, [], [{"type": "text", "text": ""}]])
def test_an_assistants_message_without_words_is_left_out(served: Any, responder: Any, nothing: Any) -> None:
    said = ["A big dog chased me.", "I am fine.", "But I am afraid of it."]
    talk = [
        {"role": "user", "content": said[0]},
        {"role": "assistant", "content": nothing},
        {"role": "user", "content": said[1]},
        {"role": "assistant", "content": "Good."},
        {"role": "assistant", "content": nothing},
        {"role": "user", "content": said[2]},
    ]
    expected = responder.respond(["\n".join(said[:2]), "Good.", said[2]])
    with served.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": "ctsm", "messages": talk}).json()
        reading = http.post("/v1/emotions", json={"input": [talk]}).json()
    assert answer["choices"][0]["message"]["content"] == expected.text
    assert answer["ctsm"]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert reading["data"][0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)


@pytest.mark.parametrize("nothing", ["", " \u200b\n", None, []])
def test_a_users_message_without_words_is_refused(served: Any, nothing: Any) -> None:
    talk = [{"role": "user", "content": nothing}, {"role": "assistant", "content": "Go on."}, SAID]
    with served.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": "ctsm", "messages": talk})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_value")
    assert error["param"].startswith("messages")


@pytest.mark.parametrize("nothing", ["", None])
def test_it_is_left_out_at_the_end_too(served: Any, nothing: Any) -> None:
    talk = [SAID, {"role": "assistant", "content": nothing}]
    with served.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": "ctsm", "messages": talk, "max_tokens": 2})
    assert answer.status_code == 200
