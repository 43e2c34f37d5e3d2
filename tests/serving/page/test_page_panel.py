"""The panel of the page against the numbers of the API, on a desk and on a phone, and with hostile texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from ctsm.analysis.explain_files import LEAST_COPIED
from ctsm.analysis.order import DISPLAYED
from ctsm.serving.heatmap import FAMILIES

Open = Callable[..., Any]
TEXT = "A big dog chased me into a surprise birthday party, the zzyzx dog."


def explanation_of(one: Any, text: str = TEXT) -> dict[str, Any]:
    answer: dict[str, Any] = one.ask("/v1/explain", messages=[{"role": "user", "content": text}])
    return answer


def shown_emotions(one: Any) -> dict[str, float]:
    rows = one.page.locator("#distribution tr").all()
    return {row.locator("th").inner_text(): float(row.locator(".number").inner_text()[:-2]) for row in rows}


def test_the_distribution_is_that_of_the_api(opened: Open) -> None:
    with opened() as one:
        one.say(TEXT)
        one.explained()
        expected = {name: 100 * share for name, share in explanation_of(one)["probabilities"].items()}
        by_share = sorted(expected, key=lambda name: -expected[name])
        assert one.page.locator("#headline b").inner_text() == by_share[0]
        first = shown_emotions(one)
        assert first == pytest.approx({name: expected[name] for name in by_share[:8]}, abs=0.0501)
        assert list(first.values()) == sorted(first.values(), reverse=True)
        one.page.get_by_role("button", name="Show all 32").click()
        assert shown_emotions(one) == pytest.approx(expected, abs=0.0501)
        one.page.get_by_text("by kind").click()
        assert shown_emotions(one) == pytest.approx(expected, abs=0.0501)
        assert list(shown_emotions(one)) == list(DISPLAYED)
        widths = one.page.locator(".fill").evaluate_all("bars => bars.map((bar) => bar.getBoundingClientRect().width)")
        track = one.page.locator(".track").first.evaluate("track => track.getBoundingClientRect().width")
        highest = max(expected.values())
        wanted = [track * expected[name] / highest for name in DISPLAYED]
        assert widths == pytest.approx(wanted, abs=1.5)


def test_words_by_trait_and_by_state(opened: Open) -> None:
    with opened() as one:
        one.say(TEXT)
        one.explained()
        explanation = explanation_of(one)
        words = one.page.locator("#word-list button")
        assert words.count() == len(explanation["tokens"])
        outside = [token["trait"] is None for token in explanation["tokens"]]
        assert set(outside) == {True, False}
        for colouring in ("trait", "state"):
            one.page.locator("#colouring").get_by_text(colouring).click()
            for place, token in enumerate(explanation["tokens"]):
                word = words.nth(place)
                state = explanation["emotions"][max(range(32), key=token["state"].__getitem__)]
                classes = word.get_attribute("class").split()
                assert word.locator(".token").inner_text() == token["token"]
                assert ("outside" in classes) == outside[place]
                assert ("not in the lexicon" in word.text_content()) == outside[place]
                if colouring == "state":
                    assert word.locator(".label").inner_text() == state
                elif outside[place]:
                    assert word.locator(".label").inner_text() == "\u2013"
                else:
                    valence = token["trait"]["valence"]
                    assert float(word.locator(".label").inner_text()) == pytest.approx(valence, abs=0.0051)
                    assert f"valence-{min(5, int(valence * 5) + 1)}" in classes
        last = explanation["tokens"][-2]
        words.nth(len(explanation["tokens"]) - 2).hover()
        detail = one.page.locator("#detail").inner_text()
        assert f"attention {100 * last['attention']:.1f} %, intensity {last['intensity']:.2f}" in detail
        one.page.get_by_text("All numbers as a table").click()
        table = one.page.locator("#word-table tr")
        assert table.count() == len(explanation["tokens"])
        assert f"{100 * last['attention']:.1f} %" in table.nth(table.count() - 2).inner_text()


def test_copied_words_are_marked_with_their_share_and_place(opened: Open) -> None:
    with opened() as one:
        turn = one.say(TEXT)
        one.explained()
        explanation = explanation_of(one)
        tokens = [token["token"] for token in explanation["tokens"]]
        copied = [word for word in explanation["reply"]["words"] if word["copied"] >= LEAST_COPIED]
        assert copied, "the untrained model must copy something, or nothing is tested"
        marks = turn.locator("mark").all()
        assert [mark.text_content().lower() for mark in marks] == [word["token"] for word in copied]
        assert turn.locator(".answer .text").text_content() == explanation["reply"]["content"]
        rows = one.page.locator("#copies-rows tr").all()
        for row, mark, word in zip(rows, marks, copied, strict=True):
            share = row.locator("td").first.inner_text()
            assert float(share[:-2]) == pytest.approx(100 * word["copied"], abs=0.0501)
            assert mark.get_attribute("title") == f"{share} copied"
            places = [place for place, token in enumerate(tokens) if token == word["token"]]
            best = max(places, key=word["weights"].__getitem__)
            around = " ".join(tokens[max(0, best - 2) : best + 3])
            assert row.locator("td").nth(1).inner_text() == f"“{around}” in your message 1"
        assert any(explanation["inferences"].values()), "the sample infers something of a party"
        for relation, phrases in explanation["inferences"].items():
            shown = one.page.locator(f"#inference-list dt[title={relation}] + dd li").all_text_contents()
            assert shown == phrases


def test_the_panel_follows_the_pointer_and_asks_once_a_turn(opened: Open) -> None:
    with opened() as one:
        first, second = one.say("A big dog chased me."), one.say("Nobody called me.")
        one.explained()
        assert one.page.locator("#panel-turn").inner_text() == "in message 2: “Nobody called me.”"
        for turn, number in ((first, 1), (second, 2), (first, 1)):
            turn.hover()
            one.page.locator("#panel-turn", has_text=f"in message {number}: ").wait_for()
            one.explained()
        second.hover()
        one.page.locator("#earlier").check()
        assert one.page.locator("#word-list .speaker").all_text_contents() == ["you", "reply", "you"]
        assert one.asked("/v1/explain") == 2


def test_a_drawn_reply_is_not_marked_as_the_most_probable_one(opened: Open) -> None:
    with opened() as one:
        one.page.locator("#settings-open").click()
        one.page.locator("#draw").check()
        one.page.locator("#temperature").fill("2")
        one.page.locator("#top-p").fill("1")
        one.page.get_by_role("button", name="Close").click()
        sent = list[Any]()

        def with_seed(route: Any) -> None:
            sent.append(route.request.post_data_json)
            route.continue_(post_data=json.dumps({**sent[0], "seed": 1}))  # so that the test is the same each time

        one.page.route("**/v1/chat/completions", with_seed)
        turn = one.say(TEXT)
        assert (sent[0]["temperature"], sent[0]["top_p"]) == (2, 1)
        one.explained()
        probable = explanation_of(one)["reply"]["content"]
        assert turn.locator(".answer .text").text_content() != probable
        assert turn.locator("mark").count() == 0
        assert probable in one.page.locator("#drawn").inner_text()


def test_a_model_that_cannot_be_explained(opened: Open) -> None:
    error = {"message": "It cannot be explained.", "type": "invalid_request_error", "code": "cannot_explain"}
    with opened() as one:
        one.expected.append("status of 400")
        one.page.route("**/v1/explain", lambda route: route.fulfill(status=400, json={"error": error}))
        for text in ("A big dog chased me.", "Nobody called me."):
            one.say(text)
            one.page.locator("#remark", has_text="does not perceive emotions word by word").wait_for()
            assert one.page.locator("#distribution tr").count() == 8
            assert one.page.locator("#words").is_hidden()
        assert one.asked("/v1/explain") == 1


def test_an_explanation_that_failed_is_asked_for_again(opened: Open) -> None:
    with opened() as one:
        one.expected.append("status of 429")
        one.page.route("**/v1/explain", lambda route: route.fulfill(status=429, body="busy"), times=1)
        one.say(TEXT)
        one.page.get_by_role("button", name="Ask again").click()
        one.explained()
        assert one.page.locator("#explain-error").is_hidden()


def test_lists_are_those_of_the_package(opened: Open) -> None:
    with opened() as one:
        displayed, families = one.page.evaluate("import('/emotions.js').then((it) => [it.DISPLAYED, it.FAMILIES])")
        least = one.page.evaluate("import('/log.js').then((it) => it.LEAST_COPIED)")
    assert tuple(displayed) == DISPLAYED
    assert sorted(map(sorted, families.values())) == sorted(sorted(names.split()) for names in FAMILIES.values())
    assert least == LEAST_COPIED


def test_a_reply_without_words_is_no_message(opened: Open) -> None:
    """The service leaves it out, so the places of words are counted without it too."""
    talk = """import("/conversation.js").then(({ Conversation, Turn }) => {
        const talk = new Conversation();
        for (const reply of ["", " ", "Good.", ""]) talk.turns.push(Object.assign(new Turn("A dog.", {}), { reply }));
        const last = talk.turns.at(-1);
        return [talk.messagesFor(last).map(({ role }) => role), talk.stretchesFor(last)];
    })"""
    with opened() as one:
        roles, stretches = one.page.evaluate(talk)
    assert roles == ["user", "user", "user", "assistant", "user"]
    assert stretches == [
        {"role": "user", "number": 3},
        {"role": "assistant", "number": 3},
        {"role": "user", "number": 4},
    ]


@pytest.mark.parametrize("width", [320, 360])
def test_nothing_scrolls_sideways_on_a_small_phone(opened: Open, phone: dict[str, Any], width: int) -> None:
    scrolled = "document.documentElement.scrollWidth"
    with opened(**{**phone, "viewport": {"width": width, "height": 640}}) as one:
        assert one.page.evaluate(scrolled) <= width
        one.page.locator("#settings-open").tap()
        inner, outer = one.page.locator("#settings").evaluate("it => [it.scrollWidth, it.clientWidth]")
        assert inner <= outer
        one.page.locator("#settings-close").tap()
        one.say("A big dog chased me.")
        one.explained()
        assert one.page.evaluate(scrolled) <= width
        one.turns.first.locator(".felt").tap()
        one.page.locator("#panel-title").wait_for()
        assert one.page.evaluate(scrolled) <= width


def test_on_a_phone_the_panel_is_a_sheet(opened: Open, phone: dict[str, Any]) -> None:
    width = "document.documentElement.scrollWidth"
    with opened(**phone) as one:
        page = one.page
        assert page.evaluate(width) <= 390
        turn = one.say("Donaudampfschifffahrtsgesellschaft" * 6 + " chased me, my dog, " * 8)
        one.explained()
        assert page.evaluate(width) <= 390
        assert page.locator("#panel-title").is_hidden()
        for close in (lambda: page.locator("#panel-close").tap(), lambda: page.keyboard.press("Escape")):
            turn.locator(".felt").tap()
            page.locator("#panel-title").wait_for()
            assert page.evaluate(f"[{width}, document.querySelector('#panel').scrollWidth]") <= [390, 390]
            assert page.locator("#chat").evaluate("chat => chat.inert")
            close()
            page.locator("#panel-title").wait_for(state="hidden")
            assert turn.evaluate("turn => turn === document.activeElement")


CONTRAST = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = channels(getComputedStyle(one).backgroundColor);
            if (colour.length === 3) return colour;
        }
        throw new Error("no ground");
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        const text = texts.currentNode.data.trim();
        if (!text || !element.checkVisibility() || element.closest(".unseen, script")) continue;
        const colours = [channels(getComputedStyle(element).color), ground(element)];
        const [a, b] = colours.map(luminance).sort((x, y) => y - x);
        found.push([(a + 0.05) / (b + 0.05), text]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_theme(scheme: str, opened: Open) -> None:
    with opened(color_scheme=scheme) as one:
        page = one.page
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.locator("#theme").get_attribute("aria-pressed") == str(scheme == "dark").lower()
        found = page.evaluate(CONTRAST)
        one.say(TEXT)
        one.explained()
        one.page.get_by_text("All numbers as a table").click()
        for colouring in ("trait", "state"):
            page.locator("#colouring").get_by_text(colouring).click()
            found += page.evaluate(CONTRAST)
        one.say("I want to kill myself.")
        found += page.evaluate(CONTRAST)
        assert len(found) > 200
        assert [text for ratio, text in found if ratio < 4.5] == []
        page.locator("#theme").click()
        other = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert other != ground
        page.reload()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == other


RUN = "window.executed=1"
TAGS = [
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<a href='javascript:{RUN}' autofocus onfocus={RUN}>x</a>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<object data='data:text/html,<script>{RUN}</script>'></object>",
    "<link rel=stylesheet href=//other.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//other.example/'>",
    "<base href=//other.example/>",
]
FRAMES = [
    "{}", '">{}', "'>{}", "</p>{}", "</script>{}", "<!-- --!>{}", "]]>{}", "</title></textarea>{}", "\u202e{}",
    "`${{{}}}`", "&lt;b&gt;{}", "<b>{}</b>", "\\u003c{}", "data: {}\n\ndata: [DONE]\n\n{}", "{}{}",
    "<template>{}</template>", "<math><mtext>{}", "a\ufeff{}", "<noscript>{}</noscript>", "a\tb {} c",
]  # fmt: skip
HOSTILE = [frame.replace("{}", tag).replace("{{", "{").replace("}}", "}") for frame, tag in product(FRAMES, TAGS)]


def hostile_stream(text: str) -> str:
    emotions = {"proud": 0.6, text: 0.4}
    perceived = {"emotion": "proud", "probabilities": emotions, "truncated": False, "notice": None}
    deltas = [({"content": text}, None), ({}, "stop")]
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": ""}}], "ctsm": perceived}]
    chunks += [{"choices": [{"delta": delta, "finish_reason": reason}]} for delta, reason in deltas]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def hostile_explanation(text: str) -> dict[str, Any]:
    numbers = [0.6, 0.4]
    token = {"token": text, "role": "user", "trait": None, "attention": 0.5, "intensity": 1.0}
    return {
        "emotions": ["proud", text],
        "tokens": [{**token, "inclination": numbers, "standardised": numbers, "state": numbers}],
        "reply": {"content": text, "words": [{"token": text, "copied": 0.9, "weights": [0.9]}]},
        "inferences": {"xWant": [text], text: [text]},
    }


def test_two_hundred_hostile_texts_are_shown_as_text(opened: Open) -> None:
    """As what the user writes and as everything that the service says."""
    assert len(set(HOSTILE)) == 200

    walk = """async ([texts, streams, explanations]) => {
        let place = 0;
        window.fetch = async (url) => {
            if (url.pathname === "/v1/models") return Response.json({ data: [{ id: texts[0] }] });
            if (url.pathname === "/v1/explain") return Response.json(explanations[place]);
            return new Response(streams[place]);
        };
        const wait = async (done) => {
            for (let tries = 0; !done(); tries += 1) {
                if (tries > 2000) throw new Error(`no reply to ${texts[place]}`);
                await new Promise((resolve) => setTimeout(resolve, 1));
            }
        };
        for (; place < texts.length; place += 1) {
            document.querySelector("#message").value = texts[place];
            document.querySelector("#composer").requestSubmit();
            await wait(() => document.querySelector(`#turns > :nth-child(${place + 1}) .answer.done mark`));
        }
        document.querySelector("[name=colouring][value=state]").click();
        return [...document.querySelectorAll("#turns > li")].map((turn) =>
            [".said .text", ".answer .text"].map((part) => turn.querySelector(part).textContent));
    }"""
    allowed = "main :is(script, img, svg, iframe, style, link, meta, base, object, template, math)"
    with opened() as one:
        page = one.page
        answers = [list(map(hostile_stream, HOSTILE)), list(map(hostile_explanation, HOSTILE))]
        seen = page.evaluate(walk, [HOSTILE, *answers])
        assert page.locator(allowed).count() == 0
        assert page.locator("#detail b").text_content() == HOSTILE[-1]
        for number in range(len(HOSTILE) - 1, len(HOSTILE) - 20, -1):  # the panel of each turn
            page.locator(f"#turns > :nth-child({number + 1})").focus()
            assert page.locator("#word-list .token").text_content() == HOSTILE[number]
        assert page.evaluate("window.executed") is None
        assert page.url == f"{one.url}/"
    assert seen == [[text] * 2 for text in HOSTILE]
