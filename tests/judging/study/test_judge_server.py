"""The web application by its requests: who may ask for what, what is told, and what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from ctsm.judging.server import HEADERS, LARGEST_BODY, REFUSAL, AnswerBody, WrongBodyError, create_app, read_body
from ctsm.judging.store import Store

LOCAL = ("127.0.0.1", 50_000)
ALL_LEFT = {"empathy": "left", "relevance": "left", "fluency": "left"}
Make = Callable[..., Any]


def client(store: Store, address: tuple[str, int] = LOCAL, **options: Any) -> TestClient:
    app = create_app(store, **options)
    return TestClient(
        app, "http://127.0.0.1:8765", client=address, raise_server_exceptions=False, follow_redirects=False
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def study(make: Make) -> Iterator[tuple[Any, TestClient, dict[str, str]]]:
    """A study, a client and the header of annotator 1."""
    made = make()
    with client(made.store) as web:
        yield made, web, bearer(made.tokens["1"])


def answer(web: TestClient, header: dict[str, str], trial: str, answers: Any, revision: Any = 0) -> httpx.Response:
    return web.post("/api/answer", headers=header, json={"trial": trial, "revision": revision, "answers": answers})


def protected(response: httpx.Response) -> bool:
    return all(response.headers.get(name) == value for name, value in HEADERS.items())


def test_a_whole_sequence_is_stored_as_what_stood_on_each_side(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, header = study
    state = web.get("/api/state", headers=header).json()
    total, number, expected = state["total"], 0, set()
    while state["trial"]:
        trial = state["trial"]
        chosen = {name: ["left", "tie", "right"][(number + place) % 3] for place, name in enumerate(ALL_LEFT)}
        for aspect, side in chosen.items():
            # Real trials: whose reply was chosen is in its text. Catch trials: the reference is system A.
            text = "" if side == "tie" else trial[side]
            a_wins = (
                text.startswith("north-word") if "Tell me" not in trial["left"] + trial["right"] else "Tell" in text
            )
            verdict = "tie" if side == "tie" else "win" if a_wins else "lose"
            expected.add((trial["id"], aspect, verdict))
        response = answer(web, header, trial["id"], chosen)
        assert response.status_code == 200
        state, number = response.json(), number + 1
        assert (state["done"], state["problem"]) == (number, None)
    assert number == total == len(made.store.sequence("1"))
    assert {(one.trial, one.aspect, one.verdict) for one in made.store.judgements()} == expected


def test_the_page_is_told_nothing_that_gives_a_system_away(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    _, web, header = study
    told = ""
    state = web.get("/api/state", headers=header).json()
    assert set(state) == {"guidelines", "aspects", "done", "total", "closed", "trial", "last"}
    for _ in range(state["total"]):
        assert set(state["trial"]) == {"id", "context", "left", "right", "revision", "earlier"}
        # Of the texts themselves, "north-word" and "south-word" are what the test's replies begin with.
        told += json.dumps(state).replace("north-word", "").replace("south-word", "")
        state = answer(web, header, state["trial"]["id"], ALL_LEFT).json()
    told += json.dumps(state)
    for secret in ("north", "south", "poles", "catch", "pair", "item", "verdict", "c0#", "reply_a", "jsonl"):
        assert secret not in told


def test_an_answer_sent_again_and_another_one(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, header = study
    trial = web.get("/api/state", headers=header).json()["trial"]["id"]
    first = answer(web, header, trial, ALL_LEFT)
    again = answer(web, header, trial, ALL_LEFT)
    other = answer(web, header, trial, {**ALL_LEFT, "fluency": "right"})
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 409)
    assert first.json() == again.json()
    assert other.json() == {**first.json(), "problem": "conflict"}
    assert len(made.store.judgements()) == 3


def test_undo_brings_the_earlier_answers_back(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, header = study
    mixed = {"empathy": "left", "relevance": "tie", "fluency": "right"}
    trial = web.get("/api/state", headers=header).json()["trial"]
    last = answer(web, header, trial["id"], mixed).json()["last"]
    assert last == {"id": trial["id"], "revision": 0}
    for _ in range(2):  # the second time as if the first receipt had been lost
        state = web.post("/api/withdraw", headers=header, json={"trial": last["id"], "revision": 0}).json()
        assert state["trial"] == {**trial, "revision": 1, "earlier": mixed}
        assert (state["done"], state["last"]) == (0, None)
    assert made.store.judgements() == []
    assert answer(web, header, trial["id"], mixed, revision=0).status_code == 409
    assert answer(web, header, trial["id"], ALL_LEFT, revision=1).status_code == 200
    assert len(made.store.judgements()) == 3


def test_a_closed_study_says_so(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, header = study
    trial = web.get("/api/state", headers=header).json()["trial"]["id"]
    closed = web.post("/api/admin/close", headers=bearer(made.tokens["admin"]))
    assert (closed.status_code, closed.json()["closed"]) == (200, True)
    response = answer(web, header, trial, ALL_LEFT)
    assert response.status_code == 409
    assert (response.json()["problem"], response.json()["closed"], response.json()["trial"]) == ("closed", True, None)
    assert made.store.judgements() == []


def test_whoever_has_no_valid_link_is_told_the_same_whatever_is_asked(
    study: tuple[Any, TestClient, dict[str, str]],
) -> None:
    made, web, _ = study
    trial = made.store.sequence("1")[0].id
    body = {"trial": trial, "revision": 0, "answers": ALL_LEFT}
    wrong = [{}, bearer(""), bearer("x" * 32), bearer(trial), bearer("1"), bearer(made.tokens["admin"]), bearer("é")]
    responses = [web.get(path) for path in ("/", "/judge/", "/judge/x", f"/judge/{made.tokens['admin']}", "/nowhere")]
    responses += [web.get(path) for path in ("/admin/x", f"/admin/{made.tokens['1']}", "/docs", "/openapi.json")]
    responses += [web.get(path) for path in ("/static/x", "/static/../server.py", "/static/..%2fserver.py", "/api")]
    responses += [web.request(method, "/api/answer") for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS")]
    responses += [web.get(path) for path in ("/judge/x/", f"/judge/{made.tokens['1']}/", "/static/judge.css/")]
    responses += [web.get(path) for path in ("/api/state/", f"/admin/{made.tokens['admin']}/", "//", "/static/")]
    responses += [web.get("/judge/" + "é" * 40), web.get("/judge/" + "x" * 5000)]
    for header in wrong:
        encoded = {name: value.encode("latin-1") for name, value in header.items()}
        responses += [
            web.get("/api/state", headers=encoded),
            web.post("/api/answer", headers=encoded, json=body),
            web.post("/api/answer", headers=encoded, json={**body, "trial": "unknown"}),
            web.post("/api/answer", headers=encoded, content=b"x" * 3 * LARGEST_BODY),
            web.post("/api/withdraw", headers=encoded, json={}),
        ]
    for header in (bearer(made.tokens["1"]), bearer("x"), {}):
        responses += [web.get("/api/admin", headers=header), web.post("/api/admin/close", headers=header)]
    assert {(response.status_code, response.request.method == "HEAD" or response.text) for response in responses} == {
        (403, REFUSAL),
        (403, True),
    }
    assert len({tuple(sorted(r.headers.items())) for r in responses if r.request.method != "HEAD"}) == 1
    assert all(map(protected, responses))
    assert made.store.judgements() == []
    assert not made.store.closed


def test_nobody_answers_for_another(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, _ = study
    own = {trial.id for trial in made.store.sequence("2")}
    header = bearer(made.tokens["2"])
    for trial in made.store.sequence("1"):
        assert answer(web, header, trial.id, ALL_LEFT).status_code == 409
        response = web.post("/api/withdraw", headers=header, json={"trial": trial.id, "revision": 0})
        assert response.status_code == 409
        assert response.json()["trial"]["id"] in own
    unknown = answer(web, header, "unknown", ALL_LEFT)
    assert unknown.json() == answer(web, header, made.store.sequence("1")[0].id, ALL_LEFT).json()
    assert made.store.judgements() == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"trial": "%s", "revision": 0}',
        b'{"trial": "%s", "revision": "0", "answers": {}}',
        b'{"trial": "%s", "revision": 0, "answers": {"empathy": "win"}}',
        b'{"trial": "%s", "revision": 0, "answers": {"empathy": 1}}',
        b'{"trial": "%s", "revision": 0, "answers": {}, "annotator": "2"}',
        b'{"trial": 1, "revision": 0, "answers": {}}',
        b" " * (LARGEST_BODY + 1),
    ],
)
def test_wrong_bodies(content: bytes, study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, header = study
    content = content.replace(b"%s", made.store.sequence("1")[0].id.encode())
    response = web.post("/api/answer", headers=header, content=content)
    assert (response.status_code, protected(response)) == (400, True)
    assert made.store.judgements() == []


def test_a_body_is_not_read_further_than_allowed() -> None:
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1_000
        return {"type": "http.request", "body": b" " * 1_000, "more_body": True}

    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(WrongBodyError):
        anyio.run(read_body, request, AnswerBody)
    assert read == 5_000


def test_every_answer_is_protected(study: tuple[Any, TestClient, dict[str, str]]) -> None:
    made, web, header = study
    admin = made.tokens["admin"]
    for path in (
        f"/judge/{made.tokens['1']}",
        f"/admin/{admin}",
        "/static/judge.js",
        "/static/judge.css",
        "/static/icon.svg",
    ):
        response = web.get(path)
        assert response.status_code == 200
        assert protected(response)
    assert protected(web.get("/api/state", headers=header))
    assert "no-store" in HEADERS["Cache-Control"]
    assert HEADERS["Referrer-Policy"] == "no-referrer"
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_database_that_fails_is_no_saved_answer(
    study: tuple[Any, TestClient, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, web, header = study
    trial = made.store.sequence("1")[0].id

    def fail(*_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(made.store, "answer", fail)
    response = answer(web, header, trial, ALL_LEFT)
    assert (response.status_code, response.json(), protected(response)) == (503, {"problem": "database"}, True)
    monkeypatch.setattr(made.store, "answer", lambda *_: 1 / 0)
    response = answer(web, header, trial, ALL_LEFT)
    assert (response.status_code, response.json(), protected(response)) == (500, {"problem": "server"}, True)
    monkeypatch.undo()
    assert answer(web, header, trial, ALL_LEFT).status_code == 200


def test_a_token_that_cannot_be_checked_is_told_what_a_wrong_one_is_told(
    study: tuple[Any, TestClient, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is another, so that the page of a valid link goes on trying."""
    made, web, header = study

    def fail(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    monkeypatch.setattr(made.store, "owner", fail)
    responses = [web.get(f"/judge/{token}") for token in ("x", made.tokens["1"])]
    responses += [web.get(f"/admin/{token}") for token in ("x", made.tokens["admin"])]
    responses += [web.get("/api/state", headers=one) for one in (header, bearer("x"), {})]
    responses += [web.get("/api/admin", headers=bearer(made.tokens["admin"])), web.post("/api/answer", headers=header)]
    assert {(response.status_code, response.text) for response in responses} == {(503, REFUSAL)}
    assert len({tuple(sorted(response.headers.items())) for response in responses}) == 1
    monkeypatch.undo()
    assert web.get("/judge/x").text == REFUSAL


@pytest.mark.parametrize(
    ("address", "headers", "local"),
    [
        ("127.0.0.1", {}, True),
        ("127.8.9.1", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("192.168.1.7", {}, False),
        ("::ffff:10.0.0.1", {}, False),
        ("testclient", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, False),
        ("127.0.0.1", {"X-Real-IP": "127.0.0.1"}, False),
        ("127.0.0.1", {"Via": "1.1 proxy"}, False),
        ("127.0.0.1", {"CF-Connecting-IP": "127.0.0.1"}, False),
        ("127.0.0.1", {"X-Forwarded-Proto": "https"}, False),
        ("127.0.0.1", {"X-Forwarded-Anything": ""}, False),
        ("127.0.0.1", {"Host": "localhost:8765"}, True),
        ("127.0.0.1", {"Host": "LOCALHOST"}, True),
        ("127.0.0.1", {"Host": "127.0.0.2"}, True),
        ("127.0.0.1", {"Host": "[::1]:8765"}, True),
        ("127.0.0.1", {"Host": "study.example"}, False),
        ("127.0.0.1", {"Host": "127.0.0.1.study.example"}, False),
        ("127.0.0.1", {"Host": "192.168.1.7:8765"}, False),
        ("127.0.0.1", {"Host": "[::1"}, False),
        ("127.0.0.1", {"Host": ""}, False),
    ],
)
def test_the_admins_page_is_for_this_machine(address: str, headers: dict[str, str], local: bool, make: Make) -> None:
    made = make()
    token = made.tokens["admin"]
    with client(made.store, (address, 1)) as web, client(made.store, (address, 1), admin_from_anywhere=True) as free:
        for one, allowed in ((web, local), (free, True)):
            status = 200 if allowed else 403
            assert one.get(f"/admin/{token}", headers=headers).status_code == status
            assert one.get("/api/admin", headers={**bearer(token), **headers}).status_code == status
            assert one.get(f"/judge/{made.tokens['1']}", headers=headers).status_code == 200
        assert web.post("/api/admin/close", headers={**bearer(token), **headers}).status_code == (200 if local else 403)
    assert made.store.closed == local


def test_the_admin_sees_progress_and_agreement_and_no_winner(make: Make) -> None:
    """Three annotators in three aspects; kappa by Fleiss' formula, written out."""
    made = make(items=4, annotators=3)
    places = {item: place for place, item in enumerate(made.store.study().items)}
    table = {  # aspect -> item -> verdicts of the three annotators
        "empathy": ["WWW", "LLL", "WWL", "TTT"],
        "relevance": ["WTL", "WTL", "WTL", "WTL"],
        "fluency": ["WWW", "WWW", "WWW", "WWW"],
    }
    words = {"W": "win", "T": "tie", "L": "lose"}
    for annotator in "123":
        for trial in made.store.sequence(annotator):
            place = places.get(trial.item, 0)
            own = {aspect: words[rows[place][int(annotator) - 1]] for aspect, rows in table.items()}
            made.store.answer(annotator, trial.id, 0, own)
    with client(made.store) as web:
        shown = web.get("/api/admin", headers=bearer(made.tokens["admin"])).json()
    # Empathy: pairs that agree are 3, 3, 1, 3 of 3; shares of the verdicts are 5/12, 3/12, 4/12.
    raw, chance = (1 + 1 + 1 / 3 + 1) / 4, (25 + 9 + 16) / 144
    # Relevance: nobody agrees, and every verdict has a third.
    expected = {"empathy": (raw, (raw - chance) / (1 - chance)), "relevance": (0.0, (0 - 1 / 3) / (1 - 1 / 3))}
    for row in shown["agreement"]:
        assert row["complete"] == 4
        if row["aspect"] in expected:
            assert (row["raw"], row["kappa"]) == pytest.approx(expected[row["aspect"]])
        else:
            assert (row["raw"], row["kappa"]) == (1.0, None)
            assert row["undefined"]
    assert [progress["done"] for progress in shown["annotators"]] == [6, 6, 6]
    told = json.dumps(shown)
    for secret in ('"win', '"lose', "north", "south", "left"):
        assert secret not in told
