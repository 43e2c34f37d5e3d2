"""A conversation in a real browser: typed and read with keys, streamed, stopped, failed and tried again, exported."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctsm.care import NOTICE
from ctsm.serving.api.errors import ApiError
from ctsm.serving.tasks import Event, Piece, Task

Open = Callable[..., Any]
FIRST, SECOND = "A big dog chased me.", "I am fine, but afraid of it."
REMAINS = "The notice stays for this conversation; begin a new one to go on."


def focused(page: Any, selector: str) -> bool:
    found: bool = page.evaluate("selector => document.activeElement.matches(selector)", selector)
    return found


def test_with_the_keyboard_only(opened: Open) -> None:
    with opened() as one:
        page = one.page
        page.locator("#model", has_text="ctsm").wait_for(state="attached")
        assert focused(page, "#message")
        page.keyboard.type("A big dog")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("chased me.")
        page.keyboard.press("Enter")
        one.turns.first.locator(".answer.done").wait_for()
        assert one.turns.first.locator(".said .text").text_content() == "A big dog\nchased me."
        assert page.locator("#message").input_value() == ""
        page.keyboard.type(SECOND)
        page.keyboard.press("Enter")
        one.turns.nth(1).locator(".answer.done").wait_for()
        one.explained()
        said = one.turns.nth(1).locator(".answer .text").text_content()
        assert page.locator("#announcer").text_content().startswith(f"Reply: {said} Perceived: ")

        page.keyboard.press("ArrowUp")  # from the empty field to the newest, then to the one before
        assert focused(page, ".turn:nth-child(2)[aria-current=true]")
        page.keyboard.press("ArrowUp")
        assert focused(page, ".turn:nth-child(1)[aria-current=true]")
        assert page.locator("#panel-turn").text_content().startswith("in message 1: ")
        page.keyboard.press("Enter")
        assert focused(page, "#panel-title")
        page.keyboard.press("Tab")
        assert focused(page, "[name=order][value=probable]")
        page.keyboard.press("ArrowRight")
        assert page.locator("#distribution tr").count() == 32
        page.keyboard.press("Tab")
        assert focused(page, "[name=colouring][value=trait]")
        page.keyboard.press("Tab")
        page.keyboard.press("Home")
        assert page.locator("#detail b").text_content() == "a"
        page.keyboard.press("ArrowRight")
        assert page.locator("#detail b").text_content() == "big"
        assert "attention" in page.locator("#detail").text_content()


def test_everything_can_be_reached_with_tab_and_shows_it(opened: Open) -> None:
    """What is left out are turns, words and switches beside the one that arrow keys start from."""
    visible = """() => [...document.querySelectorAll("a, button, input, textarea, summary")].filter((one) =>
        one.checkVisibility() && !one.disabled && !one.closest(".turn, #word-list") && one.type !== "radio"
    ).map((one) => one.id || one.textContent)"""
    here = """() => {
        const one = document.activeElement;
        const shown = one.type === "radio" ? one.nextElementSibling : one.id === "message" ? one.parentElement : one;
        return [one.id || one.textContent, getComputedStyle(shown).outlineStyle, one.name || one.className];
    }"""
    with opened() as one:
        one.say(FIRST)
        one.explained()
        page, reached = one.page, list[Any]()
        wanted = set(page.evaluate(visible))
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(here))
        body = page.locator("body").text_content()
        assert {name for name, _, _ in reached} >= wanted
        assert {kind for _, _, kind in reached} >= {"order", "colouring"}
        assert any("turn" in kind for _, _, kind in reached)
        assert any(kind.startswith("word") for _, _, kind in reached)
        assert [name for name, outline, _ in reached if outline == "none" and name != body] == []


@contextmanager
def held(service: Any, then: Exception | None = None) -> Iterator[threading.Event]:
    """Hold each reply back after its first piece, until the event is set; then go on, or fail."""
    go_on, events = threading.Event(), service.events

    async def holding(task: Task) -> AsyncIterator[Event]:
        pieces = 0
        async for event in events(task):
            yield event
            pieces += isinstance(event, Piece)
            if pieces == 1:
                await asyncio.to_thread(go_on.wait, 30)
                if then is not None:
                    raise then

    service.events = holding
    try:
        yield go_on
    finally:
        go_on.set()
        del service.events


def test_a_reply_comes_piece_by_piece(opened: Open, running: Any) -> None:
    messages = [{"role": "user", "content": FIRST}]
    with opened() as one, held(running[0]) as go_on:
        page = one.page
        page.locator("#message").fill(FIRST)
        page.keyboard.press("Enter")
        growing = one.turns.first.locator(".answer.streaming .text")
        growing.filter(has_text=re.compile(r"\S")).wait_for()
        assert page.locator("#distribution tr").count() == 8  # before the reply is there
        assert page.locator("#announcer").text_content() == ""
        assert page.locator("#send").is_hidden()
        part = growing.text_content()
        go_on.set()
        one.turns.first.locator(".answer.done").wait_for()
        said = one.turns.first.locator(".answer .text").text_content()
    whole = one.ask("/v1/chat/completions", model="ctsm", messages=messages)["choices"][0]["message"]["content"]
    assert said == whole
    assert whole.startswith(part)
    assert len(part) < len(whole)


@pytest.mark.parametrize("how", ["Escape", "button"])
def test_a_reply_is_stopped(how: str, opened: Open, running: Any) -> None:
    with opened() as one, held(running[0]):
        page = one.page
        page.locator("#message").fill(FIRST)
        page.keyboard.press("Enter")
        growing = one.turns.first.locator(".answer.streaming .text")
        growing.filter(has_text=re.compile(r"\S")).wait_for()
        part = growing.text_content()
        if how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        one.turns.first.get_by_text("Stopped.").wait_for()
        assert one.turns.first.locator(".answer .text").text_content() == part
        assert focused(page, "#message")
        one.explained()


@pytest.mark.parametrize("how", ["Escape", "button"])
def test_the_first_request_is_stopped_too(how: str, opened: Open) -> None:
    """It asks for the model's name, which may not come."""
    with opened() as one:
        page, asked = one.page, list[Any]()
        page.locator("#model", has_text="ctsm").wait_for(state="attached")
        page.context.route("**/v1/models", lambda route: asked.append(route))  # and does not go on
        page.reload()
        page.locator("#message").fill(FIRST)
        page.keyboard.press("Enter")
        if how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        one.turns.first.locator(".answer.failed").wait_for()
        assert len(asked) == 2  # when the page opened, and for the message
        assert one.turns.first.locator(".failure p").all_text_contents() == ["Stopped before a word was said."]
        page.context.unroute("**/v1/models")
        one.turns.first.get_by_role("button", name="Try again").click()
        one.turns.first.locator(".answer.done").wait_for()


class Refuses:
    """Stands in for `submit`: refuses a request for a reply once."""

    def __init__(self, service: Any, error: ApiError) -> None:
        self.error, self.submit = [error], service.submit

    def __call__(self, task: Task) -> None:
        if self.error:
            raise self.error.pop()
        self.submit(task)


@pytest.mark.parametrize(
    ("status", "title", "message"),
    [
        (429, "Busy.", "Too many requests wait; try again."),
        (503, "No reply.", "The service is stopping; try again."),
    ],
)
def test_a_refused_message_is_sent_again(
    status: int, title: str, message: str, opened: Open, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running[0], "submit", Refuses(running[0], ApiError(status, message, "x")))
    with opened() as one:
        one.expected.append(f"status of {status}")
        turn = one.say(FIRST)
        assert turn.locator(".failure p").all_text_contents() == [f"{title} {message}"]
        assert one.page.locator("#announcer").text_content() == message
        turn.get_by_role("button", name="Try again").click()
        turn.locator(".answer.done .text").wait_for()
        assert turn.locator(".failure").count() == 0
        assert one.turns.count() == 1
        assert focused(one.page, "#message")


def test_a_reply_that_breaks_off_is_asked_for_again(opened: Open, running: Any) -> None:
    error = ApiError(503, "The reply took longer than 30 seconds; try again.", "timeout")
    with opened() as one:
        with held(running[0], then=error) as go_on:
            go_on.set()
            turn = one.say(FIRST)
            assert error.message in turn.locator(".failure").text_content()
            assert turn.locator(".answer .text").text_content()  # what had come stays until the next try
        turn.get_by_role("button", name="Try again").click()
        turn.locator(".answer.done").wait_for()
        one.explained()


def test_without_a_connection_nothing_is_lost(opened: Open) -> None:
    with opened() as one:
        one.expected.append("ERR_INTERNET_DISCONNECTED")
        one.say(FIRST)
        one.explained()
        one.page.context.set_offline(True)
        turn = one.say(SECOND)
        (told,) = turn.locator(".failure p").all_text_contents()
        assert told.startswith("No answer. The service cannot be reached.")
        turn.get_by_role("button", name="Edit the message").click()
        assert one.turns.count() == 1
        assert one.page.locator("#message").input_value() == SECOND
        one.page.context.set_offline(False)
        one.page.keyboard.press("Enter")
        one.turns.nth(1).locator(".answer.done").wait_for()


def test_a_message_that_is_too_long_can_be_shortened(opened: Open) -> None:
    with opened() as one:
        one.expected.append("status of 422")
        turn = one.say("dog " * 2_600)
        assert "Shorten the message, or begin a new conversation." in turn.locator(".failure").text_content()
        turn.get_by_role("button", name="Edit the message").click()
        assert one.page.locator("#message").input_value() == ("dog " * 2_600).strip()
        assert one.page.get_by_role("heading", name="Tell me what happened.").is_visible()
        one.say(FIRST).locator(".answer.done").wait_for()


def test_a_notice_is_no_reply(opened: Open) -> None:
    with opened() as one:
        turn = one.say("I want to kill myself.")
        notice = turn.locator(".answer.notice")
        assert notice.locator(".text").text_content() == NOTICE
        assert notice.get_by_text("Please read this").is_visible()
        assert turn.locator(".felt").is_hidden()
        assert "answered with a notice" in one.page.locator("#remark").text_content()
        for section in ("emotions", "words", "copies", "inferences"):
            assert one.page.locator(f"#{section}").is_hidden()
        assert NOTICE in one.page.locator("#announcer").text_content()
        assert one.asked("/v1/explain") == 0


def test_a_notice_stands_once_while_it_is_streamed(opened: Open) -> None:
    """The first chunk tells the notice, the second says it as the reply."""
    watch = """() => {
        window.shown = [];
        const note = () => document.querySelectorAll(".notice .text").forEach((one) => shown.push(one.textContent));
        new MutationObserver(note).observe(document.getElementById("turns"), { childList: true, subtree: true });
    }"""
    with opened() as one:
        one.page.evaluate(watch)
        one.say("I want to kill myself.")
        assert set(one.page.evaluate("window.shown")) == {NOTICE}


def test_a_conversation_with_a_notice_says_how_to_go_on(opened: Open) -> None:
    with opened() as one:
        page = one.page
        one.say("I want to kill myself.")
        turn = one.say(FIRST)  # earlier messages count: it gets the notice again
        assert page.locator("#turns .remark").all_text_contents() == [REMAINS] * 2
        assert page.locator("#announcer").text_content().endswith(REMAINS)
        assert page.get_by_role("button", name="Begin a new conversation").count() == 1
        turn.get_by_role("button", name="Begin a new conversation").click()
        page.get_by_role("button", name="Begin anew").click()
        assert one.turns.count() == 0
        one.say(FIRST).locator(".answer.done:not(.notice)").wait_for()


def test_what_becomes_the_newest_message_again_has_its_buttons(opened: Open) -> None:
    with opened() as one:
        one.expected.append("ERR_INTERNET_DISCONNECTED")
        first = one.say("I want to kill myself.")
        one.page.context.set_offline(True)
        one.say(FIRST).get_by_role("button", name="Edit the message").click()
        assert first.get_by_role("button", name="Begin a new conversation").is_visible()


def test_a_key_is_asked_for(opened: Open, with_keys: Any) -> None:
    with with_keys("the-right-key") as (_, url), opened(url) as one:
        one.expected.append("status of 401")
        page = one.page
        page.locator("#key-form").wait_for()
        turn = one.say(FIRST)
        assert "An API key is needed." in turn.locator(".failure").text_content()
        assert focused(page, "#key")
        page.keyboard.type("a-wrong-key")
        page.keyboard.press("Enter")
        page.get_by_text("That key is not valid here.").wait_for()
        page.keyboard.type("the-right-key")
        page.keyboard.press("Enter")
        turn.locator(".answer.done").wait_for()  # what waited for the key is done without being asked for again
        assert page.locator("#key-form").is_hidden()
        assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"
        page.reload()
        page.locator("#key").fill("the-right-key")
        page.locator("#key-keep").check()
        page.keyboard.press("Enter")
        page.locator("#key").press("Enter")
        page.locator("#key-form").wait_for(state="hidden")
        page.reload()
        one.say(FIRST).locator(".answer.done").wait_for()


def test_export_and_a_new_conversation(opened: Open, tmp_path: Path) -> None:
    with opened() as one:
        page = one.page
        page.locator("#settings-open").click()
        page.locator("#max-words").fill("3")
        page.keyboard.press("Escape")
        for text in (FIRST, SECOND):
            one.say(text)
            one.explained()
        page.locator(".answer .remark", has_text="Cut at the limit of words.").nth(1).wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        download.value.save_as(tmp_path / "talk.json")
        page.get_by_role("button", name="New").click()
        page.get_by_role("button", name="Begin anew").click()
        assert one.turns.count() == 0
        assert page.get_by_role("heading", name="Tell me what happened.").is_visible()
        assert page.get_by_role("button", name="Export").is_disabled()
    talk = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert talk["model"] == "ctsm"
    assert talk["started"] <= talk["turns"][0]["time"] <= talk["turns"][1]["time"] <= talk["exported"]
    assert [message["role"] for message in talk["messages"]] == ["user", "assistant"] * 2
    for number, turn in enumerate(talk["turns"]):
        messages = talk["messages"][: 2 * number + 1]
        answer = one.ask("/v1/chat/completions", model="ctsm", messages=messages, max_tokens=3)
        (choice,) = answer["choices"]
        assert (turn["user"], turn["reply"]) == ((FIRST, SECOND)[number], choice["message"]["content"])
        assert (turn["finish_reason"], turn["settings"]) == ("length", {"max_tokens": 3})
        assert turn["emotion"] == answer["ctsm"]["emotion"]
        assert turn["probabilities"] == pytest.approx(answer["ctsm"]["probabilities"], abs=1e-5)
        explanation = one.ask("/v1/explain", messages=messages)
        assert [word["token"] for word in turn["explanation"]["tokens"]] == [
            word["token"] for word in explanation["tokens"]
        ]
        assert turn["explanation"]["reply"] == explanation["reply"]
