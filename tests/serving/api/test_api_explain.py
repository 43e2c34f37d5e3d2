"""`POST /v1/explain` against `ctsm.analysis.explain`, and what it refuses or withholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import ctsm
from ctsm.analysis.explain import explain
from ctsm.care import NOTICE
from ctsm.config import read_config
from ctsm.corpus.emotions import EMOTIONS
from ctsm.corpus.prepared import PreparedData
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.serving.api.app import create_app
from ctsm.serving.api.service import Limits, Service
from ctsm.training.loop import build_model

TURNS = [
    "A big dog chased me.",
    "Oh no, are you hurt?",
    "I am fine, but I walked into a surprise birthday party for the zzyzx.",
]
DANGER = "I want to kill myself."


def messages_of(turns: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def test_every_field_is_that_of_the_analysis(served: Any, model_directory: Path) -> None:
    expected = explain(ctsm.load(model_directory), TURNS)
    with served.http() as http:
        body = http.post("/v1/explain", json={"messages": messages_of(TURNS), "model": "ctsm"}).json()
    assert (body["object"], body["model"], body["notice"], body["truncated"]) == ("explanation", "ctsm", None, False)
    assert body["emotions"] == list(EMOTIONS)
    assert body["emotion"] == expected.response.emotion
    assert body["probabilities"] == pytest.approx(expected.response.probabilities, abs=1e-6)
    assert body["inferences"] == {name: list(phrases) for name, phrases in expected.response.inferences.items()}
    assert any(body["inferences"].values()), "the sample infers something of a party, or nothing is tested"
    for shown, word, standardised in zip(body["tokens"], expected.words, expected.standardised, strict=True):
        assert shown["token"] == word.token
        assert shown["role"] == {"speaker": "user", "listener": "assistant"}[word.role]
        trait = shown["trait"]
        assert (trait and (trait["valence"], trait["arousal"], trait["dominance"])) == word.trait
        assert shown["inclination"] == pytest.approx(word.inclination, abs=1e-6)
        assert shown["state"] == pytest.approx(word.state, abs=1e-6)
        assert shown["standardised"] == pytest.approx(standardised, abs=1e-4)
        assert shown["intensity"] == pytest.approx(word.intensity, abs=1e-6)
        assert shown["attention"] == pytest.approx(word.attention, abs=1e-6)
    assert {word["trait"] is None for word in body["tokens"]} == {True, False}
    assert body["reply"]["content"] == expected.response.text
    assert expected.reply, "the untrained model must say something, or nothing is tested"
    for said, word in zip(body["reply"]["words"], expected.reply, strict=True):
        assert said["token"] == word.token
        assert said["copied"] == pytest.approx(word.copied, abs=1e-5)
        assert said["weights"] == pytest.approx(word.weights, abs=1e-6)


def test_the_explained_reply_is_the_one_that_chat_gives(served: Any) -> None:
    with served.http() as http:
        explained = http.post("/v1/explain", json={"messages": messages_of(TURNS)}).json()
        chat = http.post("/v1/chat/completions", json={"model": "ctsm", "messages": messages_of(TURNS)}).json()
    assert explained["reply"]["content"] == chat["choices"][0]["message"]["content"]
    assert explained["probabilities"] == pytest.approx(chat["ctsm"]["probabilities"], abs=1e-5)


def test_a_notice_withholds_the_reply_and_makes_none(
    served: Any, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = served.service.engine._responder.bundle.model
    steps = list[object]()
    monkeypatch.setattr(model, "decode", lambda *_: steps.append(None))
    with served.http() as http:
        for turns in ([DANGER], [DANGER, "I see.", "Thank you."]):
            body = http.post("/v1/explain", json={"messages": messages_of(turns)}).json()
            assert body["notice"] == NOTICE
            assert body["reply"] == {"content": NOTICE, "words": []}
            assert body["inferences"] == {}
            expected = explain(ctsm.load(model_directory, care=False), turns)
            assert body["probabilities"] == pytest.approx(expected.response.probabilities, abs=1e-6)
            for shown, word, standardised in zip(body["tokens"], expected.words, expected.standardised, strict=True):
                assert (shown["token"], shown["state"]) == (word.token, pytest.approx(word.state, abs=1e-6))
                assert (shown["intensity"], shown["attention"]) == pytest.approx(
                    (word.intensity, word.attention), abs=1e-6
                )
                assert shown["standardised"] == pytest.approx(standardised, abs=1e-4)
    assert not steps, "a reply was made"


def test_errors_have_openais_format(served: Any) -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"messages": messages_of(TURNS), "model": "other"}, 404, "model_not_found"),
        ({"messages": messages_of(TURNS[:2])}, 400, "invalid_value"),
        ({"messages": []}, 400, "invalid_value"),
        ({}, 400, "invalid_value"),
        ({"messages": messages_of(["  "])}, 400, "invalid_value"),
        ({"messages": messages_of(["dog " * 5_000])}, 422, "too_long"),
    ]
    with served.http() as http:
        for sent, status, code in cases:
            answer = http.post("/v1/explain", json=sent)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (status, code)
            assert set(error) == {"message", "type", "param", "code"}


def test_a_model_that_cannot_be_explained(model_directory: Path, tmp_path: Path) -> None:
    data, yaml = model_directory.parent / "data", tmp_path / "transformer.yaml"
    yaml.write_text("model: transformer\n", encoding="utf-8")
    sizes = ["--options.size", "16", "--options.depth", "8", "--options.filter_size", "8"]
    config, prepared = read_config(yaml, sizes), PreparedData(data)
    facts = {"iteration": 0, "train_seconds": 0.0}
    save_bundle(tmp_path / "model", build_model(config, prepared), config, data, DataFacts.of(prepared.manifest), facts)
    client = TestClient(create_app(Service(ctsm.load(tmp_path / "model"), Limits())))
    answer = client.post("/v1/explain", json={"messages": messages_of(TURNS)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cannot_explain")
    assert "transformer" in answer.json()["error"]["message"]
