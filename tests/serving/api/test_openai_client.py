"""The `openai` package, unmodified, talks to the service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from ctsm.care import NOTICE as NOTICE_OF_CARE
from ctsm.decoding.options import DecodingOptions
from ctsm.serving.responder import Responder
from ctsm.text.tokenise import tokenise

TURNS = ["A big dog chased me.", "Oh no, are you hurt?", "I am fine, but afraid of it."]
MESSAGES = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), TURNS, strict=True)]


def ask(served: Any, messages: Any = MESSAGES, **options: Any) -> Any:
    with served.openai() as client:
        answer = client.chat.completions.create(model="ctsm", messages=messages, **options)
        return list(answer) if options.get("stream") else answer


def texts(chunks: list[Any]) -> dict[int, str]:
    """Join the pieces of each choice."""
    joined: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            joined[choice.index] = joined.get(choice.index, "") + (choice.delta.content or "")
    return joined


def test_a_plain_reply_is_the_responders(served: Any, responder: Responder) -> None:
    expected = responder.respond(TURNS)
    answer = ask(served)
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", expected.text)
    assert choice.finish_reason == ("length" if len(expected.tokens) == 51 else "stop")
    read, said = 1 + sum(len(tokenise(turn)) for turn in TURNS), len(expected.tokens)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, said)
    assert answer.usage.total_tokens == read + said
    assert (answer.object, answer.model) == ("chat.completion", "ctsm")
    assert answer.ctsm["emotion"] == expected.emotion
    assert answer.ctsm["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert (answer.ctsm["truncated"], answer.ctsm["notice"]) == (False, None)


@pytest.mark.parametrize("options", [{}, {"n": 3}, {"n": 2, "temperature": 0.9, "seed": 5}, {"stop": [" a a", "x"]}])
def test_a_stream_says_the_same_piece_by_piece(served: Any, options: dict[str, Any]) -> None:
    whole = ask(served, **options, max_tokens=9)
    chunks = ask(served, **options, max_tokens=9, stream=True, stream_options={"include_usage": True})
    assert texts(chunks) == {choice.index: choice.message.content for choice in whole.choices}
    assert len(chunks) > 2 * len(whole.choices) + 1
    assert chunks[0].ctsm["emotion"] == whole.ctsm["emotion"]
    assert all(not hasattr(chunk, "ctsm") for chunk in chunks[1:])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    reasons = {choice.index: choice.finish_reason for chunk in chunks for choice in chunk.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_several_replies_are_the_best_of_a_beam(served: Any, responder: Responder) -> None:
    for count, beam_size in ((2, 5), (7, 7)):
        options = DecodingOptions(method="beam", beam_size=beam_size, n_best=count, max_tokens=6)
        expected = responder.respond(TURNS, options)
        found = [choice.message.content for choice in ask(served, n=count, max_tokens=6).choices]
        assert found == [expected.text, *expected.alternatives]


def test_a_seed_gives_the_same_reply_alone_and_among_others(served: Any, responder: Responder, wait_until: Any) -> None:
    settings = {"temperature": 1.3, "top_p": 0.9, "max_tokens": 12}
    expected = [
        responder.respond(TURNS, DecodingOptions(method="sample", seed=seed, **settings)).text for seed in range(6)
    ]
    assert [ask(served, seed=seed, **settings).choices[0].message.content for seed in range(6)] == expected
    crowd = [{"seed": seed, **settings} for seed in range(6)] * 2
    crowd += [{"seed": 3, "n": 4, **settings}, {"max_tokens": 4}, {"n": 2}, {"temperature": 0.5}]
    with ThreadPoolExecutor(len(crowd)) as threads, served.busy():
        answers = [threads.submit(ask, served, **options) for options in crowd]
        wait_until(lambda: served.service.engine.waiting == len(crowd))
    found = [answer.result().choices[0].message.content for answer in answers]
    assert found[:12] == expected * 2
    assert found[12] == expected[3]


def test_a_replys_own_choices_differ(served: Any) -> None:
    answer = ask(served, n=4, temperature=1.5, seed=1, max_tokens=10)
    assert len({choice.message.content for choice in answer.choices}) > 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0}, {}),
        ({"temperature": 0, "top_p": 0.3}, {}),
        ({"temperature": None, "top_p": None, "n": None, "stop": None, "seed": None}, {}),
        ({"top_p": 0, "seed": 4}, {}),
        ({"temperature": 1e-300, "seed": 4}, {}),
        ({"top_p": 0.8, "seed": 4}, {"method": "sample", "top_p": 0.8, "seed": 4}),
        ({"top_p": 1, "seed": -1}, {"method": "sample", "seed": (1 << 63) - 1}),
        ({"temperature": 2, "seed": 4}, {"method": "sample", "temperature": 2.0, "seed": 4}),
    ],
)
def test_when_words_are_drawn(
    served: Any, responder: Responder, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = responder.respond(TURNS, DecodingOptions(max_tokens=8, **expected))
    assert ask(served, max_tokens=8, **options).choices[0].message.content == made.text


def test_limits_and_stop_strings(served: Any, responder: Responder) -> None:
    whole = responder.respond(TURNS, DecodingOptions(max_tokens=12)).text
    for options, words in (({"max_tokens": 3}, 3), ({"max_completion_tokens": 2, "max_tokens": 9}, 2)):
        answer = ask(served, **options)
        assert answer.usage.completion_tokens == words
        assert whole.startswith(answer.choices[0].message.content)
        assert answer.choices[0].finish_reason == "length"
    assert ask(served, max_tokens=100_000).choices[0].message.content == responder.respond(TURNS).text
    stop = whole[3:6]
    cut = ask(served, max_tokens=12, stop=stop).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_messages_become_turns(served: Any, responder: Responder) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Hello, how are you?"},
        {"role": "user", "content": "A big dog"},
        {"role": "developer", "content": "Speak French."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "chased "}, {"type": "text", "text": "me."}],
            "name": "x",
        },
        {"role": "assistant", "content": "Oh no!"},
        {"role": "user", "content": "I am fine."},
        {"role": "system", "content": ""},
    ]
    expected = responder.respond(["A big dog\nchased me.", "Oh no!", "I am fine."])
    answer = ask(served, messages, user="someone", store=False, extra_body={"anything": {"else": 1}})
    assert answer.choices[0].message.content == expected.text
    assert answer.ctsm["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


BAD, LONG = (openai.BadRequestError, "invalid_value"), (openai.UnprocessableEntityError, "too_long")
UNSUPPORTED = (openai.BadRequestError, "unsupported_parameter")
REFUSED: list[tuple[dict[str, Any], tuple[type[openai.APIStatusError], str], str]] = [
    ({"model": "gpt-4o"}, (openai.NotFoundError, "model_not_found"), "model"),
    ({"messages": []}, BAD, "messages"),
    ({"messages": MESSAGES[:2]}, BAD, "messages"),
    (user(" \u200b"), BAD, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, BAD, "messages.0.role"),
    ({"messages": MESSAGES * 34}, LONG, "messages"),
    (user("a " * 3_000), LONG, "messages"),
    (user("a" * 20_000), LONG, "messages"),
    ({"temperature": 2.5}, BAD, "temperature"),
    ({"temperature": "hot"}, BAD, "temperature"),
    ({"top_p": -1}, BAD, "top_p"),
    ({"n": 0}, BAD, "n"),
    ({"n": 17}, BAD, "n"),
    ({"max_tokens": 0}, BAD, "max_tokens"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, UNSUPPORTED, "tools"),
    ({"logprobs": True}, UNSUPPORTED, "logprobs"),
    ({"response_format": {"type": "json_object"}}, UNSUPPORTED, "response_format"),
    ({"presence_penalty": 0.5}, UNSUPPORTED, "presence_penalty"),
]


@pytest.mark.parametrize(("options", "refused", "param"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_clients_own_errors(
    served: Any, options: dict[str, Any], refused: tuple[type[openai.APIStatusError], str], param: str, stream: bool
) -> None:
    kind, code = refused
    with served.openai() as client, pytest.raises(kind) as refusal:
        client.chat.completions.create(**{"model": "ctsm", "messages": MESSAGES, **options}, stream=stream)
    assert (refusal.value.code, refusal.value.param, refusal.value.type) == (code, param, "invalid_request_error")
    assert refusal.value.request_id is not None
    assert refusal.value.body["message"].endswith(".")  # type: ignore[index]


def test_what_asks_for_nothing_is_accepted(served: Any) -> None:
    answer = ask(
        served,
        tools=[],
        logprobs=False,
        response_format={"type": "text"},
        presence_penalty=0,
        frequency_penalty=0.0,
        logit_bias={},
        max_tokens=2,
    )
    assert answer.usage.completion_tokens == 2


def test_models(served: Any) -> None:
    with served.openai() as client:
        (model,) = client.models.list()
        assert model == client.models.retrieve("ctsm")
        assert (model.id, model.owned_by) == ("ctsm", "ctsm")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")


NOTICE = "Please call for help."


@pytest.fixture
def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn with the word "danger" gets a notice."""
    monkeypatch.setattr("ctsm.care.notice_for", lambda text: NOTICE if "danger" in text.lower() else None)


@pytest.mark.usefixtures("careful")
@pytest.mark.parametrize("place", [0, 2])
def test_a_message_of_danger_gets_a_notice_instead_of_the_models_words(served: Any, place: int) -> None:
    messages = [{**message} for message in MESSAGES]
    messages[place]["content"] = "I am in danger."
    before = served.service.metrics.rows._sum.get()
    answer = ask(served, messages, n=2)
    assert [choice.message.content for choice in answer.choices] == [NOTICE, NOTICE]
    assert {choice.finish_reason for choice in answer.choices} == {"content_filter"}
    assert answer.ctsm["notice"] == NOTICE
    chunks = ask(served, messages, stream=True)
    assert texts(chunks) == {0: NOTICE}
    assert chunks[0].ctsm["notice"] == NOTICE
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert served.service.metrics.rows._sum.get() == before, "the model has been asked"


@pytest.mark.usefixtures("careful")
def test_what_the_assistant_said_is_not_checked_and_the_operator_can_switch_it_off(
    served: Any, serve_with: Any
) -> None:
    messages = [MESSAGES[0], {"role": "assistant", "content": "Are you in danger?"}, MESSAGES[2]]
    assert ask(served, messages).choices[0].finish_reason != "content_filter"
    with serve_with(care=False) as careless:
        answer = ask(careless, [{"role": "user", "content": "I am in danger."}], max_tokens=2)
        assert answer.choices[0].finish_reason == "length"


def test_the_notice_is_that_of_ctsm_care(served: Any) -> None:
    messages = [{"role": "user", "content": "I am going to kill myself tonight."}]
    answer = ask(served, messages)
    assert answer.choices[0].message.content == answer.ctsm["notice"] == NOTICE_OF_CARE
    assert answer.choices[0].finish_reason == "content_filter"
