"""The annotator's page in a real browser: by keys, by mouse, on a phone, offline, in two tabs, with hostile texts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ctsm.cli.main import main
from ctsm.judging.study import ASPECTS

WISHES = ("north", "tie", "south")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
KEYS = {"left": "1", "tie": "2", "right": "3"}
Make = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, serving: Any) -> Callable[..., Any]:
    """Opens a study's page for an annotator, and fails if a script breaks or a request leaves the origin."""

    @contextmanager
    def open_page(made: Any, annotator: str = "1", tabs: int = 1, **options: Any) -> Iterator[Any]:
        with serving(made.store) as url:
            context = chromium.new_context(**options)
            context.set_default_timeout(30_000)
            requests, errors = list[str](), list[str]()
            context.on("request", lambda request: requests.append(request.url))
            context.on("weberror", lambda error: errors.append(str(error.error)))
            context.on("dialog", lambda dialog: errors.append(dialog.message))
            pages = [context.new_page() for _ in range(tabs)]
            for page in pages:
                page.goto(f"{url}/judge/{made.tokens[annotator]}")
            yield pages[0] if tabs == 1 else pages
            context.close()
            assert errors == []
            assert [request for request in requests if not request.startswith(f"{url}/")] == []

    return open_page


def wish(annotator: str, text: str, aspect: str) -> str:
    """What the annotator thinks: decided here by the day the replies speak of."""
    day = int(re.search(r"day (\d+)", text).group(1))  # type: ignore[union-attr]
    return WISHES[(day * 7 + int(annotator) * 5 + [*ASPECTS].index(aspect) * (1 + day % 2)) % 3]


def sides(page: Any, annotator: str) -> dict[str, str]:
    """Where the reply stands that the annotator prefers, by aspect; in a catch trial that is the reference."""
    texts = page.evaluate(
        "({left: document.querySelector('#left').innerText, right: document.querySelector('#right').innerText})"
    )
    found = {}
    for aspect in ASPECTS:
        start = "Tell me more" if "Tell me more" in str(texts) else f"{wish(annotator, texts['left'], aspect)}-word"
        found[aspect] = next((side for side, text in texts.items() if text.startswith(start)), "tie")
    return found


def saved(page: Any, count: int) -> None:
    """Wait until the page says that so many comparisons are saved."""
    page.locator("#progress-text", has_text=re.compile(f"^{count} of ")).wait_for()


def by_keys(page: Any, annotator: str) -> None:
    for side in sides(page, annotator).values():
        page.keyboard.press(KEYS[side])
    page.keyboard.press("Enter")


def by_mouse(page: Any, annotator: str) -> None:
    for aspect, side in sides(page, annotator).items():
        group = page.get_by_role("radiogroup", name=re.compile(aspect, re.IGNORECASE))
        group.get_by_role("radio", name=re.compile(side, re.IGNORECASE)).click()
    page.get_by_role("button", name="Save and go on").click()


def by_touch(page: Any, annotator: str) -> None:
    for aspect, side in sides(page, annotator).items():
        page.locator(f"[data-aspect={aspect}] [value={side}]").tap()
    page.locator("#save").tap()


def test_a_whole_study_up_to_its_report(make: Make, opened: Callable[..., Any], tmp_path: Path) -> None:
    """Three annotators with 20 items: what is stored and reported is what each of them thought, on whatever side."""
    made = make(items=20, annotators=3)
    total = len(made.store.sequence("1"))
    for annotator, answer, options in (("1", by_keys, {}), ("2", by_mouse, {}), ("3", by_touch, PHONE)):
        with opened(made, annotator, **options) as page:
            assert page.locator("#trial").is_hidden()  # the guidelines come first
            page.get_by_role("button", name="Begin").click()
            for number in range(total):
                answer(page, annotator)
                saved(page, number + 1)
            page.get_by_role("heading", name="Thank you").wait_for()
            if options:
                assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expected = set()
    for annotator in "123":
        for trial in made.store.sequence(annotator):
            for aspect in ASPECTS:
                wanted = "north" if trial.catch else wish(annotator, trial.reply_a, aspect)
                verdict = {"north": "win", "tie": "tie", "south": "lose"}[wanted]
                expected.add((annotator, trial.pair, trial.item, trial.catch, aspect, verdict))
    found = [(j.annotator, j.pair, j.item, j.catch, j.aspect, j.verdict) for j in made.store.judgements()]
    assert len(found) == len(expected) == 3 * 22 * 3
    assert set(found) == expected
    made.store.close_study()
    assert main(["judge", "report", made.place, "-o", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert [annotator["status"] for annotator in report["annotators"]] == ["passed"] * 3
    real = [one for one in expected if not one[3]]
    for row, aspect in zip(report["everyone"]["rows"], ASPECTS, strict=True):
        check_row(row, [(item, verdict) for _, _, item, _, of, verdict in real if of == aspect])


def check_row(row: dict[str, Any], judged: list[tuple[str, str]]) -> None:
    """Compare a row of the report with a computation by hand, of (item, verdict) for 20 items and 3 annotators."""
    verdicts = [verdict for _, verdict in judged]
    counts = {kind: verdicts.count(kind) for kind in ("win", "tie", "lose")}
    assert (row["n"], row["wins"], row["ties"], row["losses"]) == (60, counts["win"], counts["tie"], counts["lose"])
    assert row["win"] == pytest.approx(100 * counts["win"] / 60)
    items: dict[str, list[str]] = {}
    for item, verdict in judged:
        items.setdefault(item, []).append(verdict)
    assert {len(of_item) for of_item in items.values()} == {3}
    agreeing = sum(sum(a == b for a, b in combinations(of_item, 2)) for of_item in items.values()) / (3 * 20)
    chance = sum((count / 60) ** 2 for count in counts.values())
    assert row["agreement"]["kappa"] == pytest.approx((agreeing - chance) / (1 - chance))
    majority = [next((k for k in counts if of_item.count(k) >= 2), "tie") for of_item in items.values()]
    won, lost = majority.count("win"), majority.count("lose")
    assert (row["majority_wins"], row["majority_losses"]) == (won, lost)
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    assert row["p"] == pytest.approx(min(1.0, 2 * tail))


def verdicts(made: Any) -> list[tuple[str, str]]:
    return [(one.trial, one.verdict) for one in made.store.judgements()]


def begin(page: Any) -> None:
    page.get_by_role("button", name="Begin").click()


def test_undo_and_reload(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=6, annotators=1, aspects=("fluency",))
    first, second, third = made.store.sequence("1")[:3]
    verdict = {one.id: "win" if one.left == "a" else "lose" for one in (first, second, third)}  # of the left reply
    with opened(made) as page:
        begin(page)
        for number in (1, 2):
            page.keyboard.press("1")
            page.keyboard.press("Enter")
            saved(page, number)
        page.reload()
        page.get_by_role("heading", name="Comparison 3 of 8").wait_for()  # no guidelines on the way
        page.keyboard.press("u")
        saved(page, 1)
        assert verdicts(made) == [(first.id, verdict[first.id])]
        assert page.get_by_role("radio", name="Left").is_checked()
        page.get_by_role("button", name="Undo last").click()
        saved(page, 0)
        assert verdicts(made) == []
        page.reload()
        page.get_by_role("heading", name="Comparison 1 of 8").wait_for()
        assert page.get_by_role("radio", name="Left").is_checked()
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        saved(page, 1)
        page.keyboard.press("Enter")
        saved(page, 2)
        assert verdicts(made) == [(first.id, "tie"), (second.id, verdict[second.id])]


def test_an_open_question_is_asked_for(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=4, annotators=1)
    with opened(made) as page:
        begin(page)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("Please answer for relevance too.").wait_for()
        group = page.get_by_role("radiogroup", name=re.compile("relevance", re.IGNORECASE))
        assert group.evaluate("group => group.contains(document.activeElement)")
        assert made.store.judgements() == []


def test_keys_change_earlier_answers_one_after_the_other(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=4, annotators=1)
    trial = made.store.sequence("1")[0]
    with opened(made) as page:
        begin(page)
        for key in ("2", "2", "2", "Enter"):
            page.keyboard.press(key)
        saved(page, 1)
        page.keyboard.press("u")
        saved(page, 0)
        for key in ("1", "2", "3", "1", "Enter"):  # the fourth is one too many and changes nothing
            page.keyboard.press(key)
        saved(page, 1)
    left, right = ("win", "lose") if trial.left == "a" else ("lose", "win")
    assert verdicts(made) == [(trial.id, left), (trial.id, "tie"), (trial.id, right)]


def test_keys_can_be_turned_off(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=4, annotators=1, aspects=("fluency",))
    with opened(made) as page:
        page.get_by_role("checkbox").uncheck()
        begin(page)
        page.keyboard.press("1")
        assert page.locator("input:checked:visible").count() == 0


def test_two_tabs(make: Make, opened: Callable[..., Any]) -> None:
    """The second tab's other answer to the same comparison is refused, and it shows what is stored."""
    made = make(items=4, annotators=1, aspects=("fluency",))
    first, second = made.store.sequence("1")[:2]
    with opened(made, tabs=2) as (one, two):
        begin(one)
        begin(two)
        one.keyboard.press("2")
        one.keyboard.press("Enter")
        saved(one, 1)
        two.evaluate(  # the click of someone who did not look: another answer, before the tab notices the first
            "() => { document.querySelector('[value=left]').click(); document.querySelector('#save').click(); }"
        )
        two.get_by_role("alert").get_by_text("perhaps in another tab").wait_for()
        saved(two, 1)
        assert verdicts(made) == [(first.id, "tie")]
        two.keyboard.press("2")
        two.keyboard.press("Enter")
        saved(two, 2)
        assert verdicts(made) == [(first.id, "tie"), (second.id, "tie")]


def test_a_lost_connection(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=4, annotators=1, aspects=("fluency",))
    trial = made.store.sequence("1")[0]
    with opened(made) as page:
        begin(page)
        page.context.set_offline(True)
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("Not saved yet").wait_for()
        assert page.get_by_role("radio", name="Tie").is_checked()
        assert page.locator("#status").inner_text() == ""
        assert made.store.judgements() == []
        page.context.set_offline(False)
        page.get_by_role("status").get_by_text("Saved.").wait_for()
        assert page.get_by_role("alert").is_hidden()
        assert verdicts(made) == [(trial.id, "tie")]


UNEXPECTED = [
    {"status": 404, "body": "no such page"},
    {"status": 413, "body": "too large"},
    {"status": 429, "json": {"problem": "slow down"}},
    {"status": 502, "body": "<h1>Bad gateway</h1>"},
    {"status": 200, "body": "<h1>Log in to this network</h1>"},
    {"status": 200, "json": None},
    {"status": 200, "json": {}},
    {"status": 409, "json": None},
]


def interfere(page: Any, path: str) -> None:
    """Let each unexpected answer come once instead of the server's."""
    left = iter(UNEXPECTED)

    def handle(route: Any) -> None:
        answer = next(left, None)
        route.fulfill(**answer) if answer else route.continue_()

    page.route(f"**/api/{path}", handle)


def try_now(page: Any) -> None:
    """Ask at once. The message is emptied first, so that the next one seen belongs to the next answer."""
    page.evaluate("document.querySelector('#trouble-text').textContent = ''; document.querySelector('#retry').click()")


def test_an_unexpected_answer_is_trouble_and_keeps_the_choices(make: Make, opened: Callable[..., Any]) -> None:
    """What something between page and server says instead of it: the page goes on asking."""
    made = make(items=4, annotators=1, aspects=("fluency",))
    trial = made.store.sequence("1")[0]
    with opened(made) as page:
        interfere(page, "state")
        page.reload()
        for answer in UNEXPECTED:
            trouble = f"The study cannot be read: the server gives an unexpected answer ({answer['status']})"
            page.get_by_role("alert").get_by_text(trouble).wait_for()
            try_now(page)
        begin(page)
        interfere(page, "answer")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        for answer in UNEXPECTED:
            trouble = f"Not saved yet: the server gives an unexpected answer ({answer['status']})"
            page.get_by_role("alert").get_by_text(trouble).wait_for()
            assert page.get_by_role("radio", name="Tie").is_checked()
            try_now(page)
        page.get_by_role("status").get_by_text("Saved.").wait_for()
        assert page.get_by_role("alert").is_hidden()
        assert verdicts(made) == [(trial.id, "tie")]


def test_a_request_that_is_refused_as_wrong_ends_the_trying(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=4, annotators=1, aspects=("fluency",))
    with opened(made) as page:
        begin(page)
        page.route("**/api/**", lambda route: route.fulfill(status=400, json={"problem": "wrong request"}))
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("Load the page again.").wait_for()
        assert page.get_by_role("radio", name="Tie").is_checked()
        page.reload()
        page.get_by_role("alert").get_by_text("Load the page again.").wait_for()
    assert made.store.judgements() == []


def test_a_link_that_was_renewed_and_a_study_that_was_closed(make: Make, opened: Callable[..., Any]) -> None:
    made = make(items=4, annotators=2, aspects=("fluency",))
    with opened(made) as page:
        begin(page)
        made.store.new_tokens(["1"])
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("This link is no longer valid.").wait_for()
    with opened(made, "2") as page:
        begin(page)
        made.store.close_study()
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("Not saved: the study has been closed.").wait_for()
        page.get_by_role("heading", name="The study is closed").wait_for()
    assert made.store.judgements() == []


def test_the_admins_page(make: Make, chromium: Any, serving: Any) -> None:
    made = make(items=4, annotators=2, aspects=("fluency",))
    for annotator in "12":
        for trial in made.store.sequence(annotator)[: 3 + int(annotator)]:
            made.store.answer(annotator, trial.id, 0, {"fluency": "win"})
    with serving(made.store) as url:
        page = chromium.new_page()
        page.goto(f"{url}/admin/{made.tokens['admin']}")
        rows = page.locator("#annotators tr")
        rows.nth(1).wait_for()
        assert [row.locator("td").first.inner_text() for row in rows.all()] == ["4 of 6", "5 of 6"]
        assert page.locator("#agreement td").last.inner_text() == "100.0 %"
        page.get_by_role("button", name="Close the study …").click()
        page.get_by_role("button", name="Keep it open").click()
        assert not made.store.closed
        page.get_by_role("button", name="Close the study …").click()
        page.get_by_role("button", name="Close the study", exact=True).click()
        page.get_by_role("status").get_by_text("The study is closed.").wait_for()
        page.close()
    assert made.store.closed


SET = "window.__executed=1"
CORES = [
    f"<script>{SET}</script>",
    f"<img src=x onerror={SET}>",
    f"<svg onload={SET}>",
    f"<svg><script href=data:,{SET} /></svg>",
    f"<iframe srcdoc='<script>parent.{SET}</script>'></iframe>",
    f'<iframe src="javascript:parent.{SET}"></iframe>',
    f"<details open ontoggle={SET}>x</details>",
    f"<input autofocus onfocus={SET}>",
    f'<a href="javascript:{SET}">x</a>',
    f"<video><source onerror={SET}></video>",
    f'<object data="data:text/html,<script>{SET}</script>"></object>',
    f"<body onload={SET}>",
    "<style>@import 'http://example.invalid/x.css';</style>",
    "<link rel=stylesheet href=http://example.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=http://example.invalid/'>",
    "<base href=http://example.invalid/>",
    f"<template><script>{SET}</script></template>",
    f"${{{SET}}}",
    f"{{{{constructor.constructor('{SET}')()}}}}",
    f"<math><mtext><img src=x onerror={SET}></mtext></math>",
    f"<x onclick={SET} style=position:fixed;inset:0>",
]
BREAKS = ["", '">', "'>", "</p>", "</script>", "-->", "]]>", "</title></textarea>", "\u202e", "`;"]
FORMS: list[Callable[[str], str]] = [
    str,
    str.upper,
    lambda text: text.replace("<", "&lt;"),
    lambda text: text.replace(" ", "/"),
    lambda text: text.replace(" ", "\n\t"),
    lambda text: text.replace("<", "\\u003c"),
]


@pytest.mark.parametrize(("items", "turns"), [(100, 8), pytest.param(500, 0, marks=pytest.mark.long)])
def test_a_thousand_hostile_texts_are_shown_as_text(
    items: int, turns: int, make: Make, opened: Callable[..., Any]
) -> None:
    """As the replies and the turns of conversations, or (which takes longer) all as replies."""
    pool = sorted({form(mark + core) for form, mark, core in product(FORMS, BREAKS, CORES)})
    payloads = Random(1).sample(pool, 1_000)
    each = turns + 2

    def hostile(system: str, lines: list[Any]) -> None:
        for number, line in enumerate(lines):
            texts = payloads[each * number : each * (number + 1)]
            line["context"] = texts[2:] or line["context"]
            line["reply"] = texts[system == "south"]

    made = make(items=items, contexts=items, annotators=1, aspects=("fluency",), change=hostile)
    walk = """async () => {
        const texts = () => [...document.querySelectorAll("#context .text, #left, #right")];
        const count = () => document.querySelector("#progress-text").textContent;
        const seen = [];
        while (!document.querySelector("#trial").hidden) {
            if (texts().some((text) => text.childElementCount)) return "an element inside a text";
            seen.push(texts().map((text) => text.textContent));
            const before = count();
            document.querySelector("[value=tie]").click();
            document.querySelector("#save").click();
            while (count() === before) await new Promise((resolve) => setTimeout(resolve, 1));
        }
        return seen;
    }"""
    with opened(made) as page:
        begin(page)
        seen = page.evaluate(walk)
        assert page.evaluate("window.__executed === undefined && window.__EXECUTED === undefined")
        assert page.locator("main :is(script, img, svg, iframe, style, link, meta, base, object, a)").count() == 0
    shown = [[*trial.context, *sorted((trial.reply_a, trial.reply_b))] for trial in made.store.sequence("1")]
    assert [[*texts[:-2], *sorted(texts[-2:])] for texts in seen] == shown
    assert {text for texts in seen for text in texts} >= set(payloads)
