"""A server that is killed again and again: what it acknowledged is there, exactly once, and the database is whole."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

from ctsm.judging.places import is_url
from ctsm.judging.store import Store

ANNOTATORS = 4
READY = 120.0
"""Seconds that a server may take to start on a busy machine."""


class Annotator(threading.Thread):
    """Answers one trial after the other, now and then takes one back, and sends again what was not acknowledged.

    `acknowledged` holds what the server said is stored, or what was sent as long as nobody knows.
    """

    def __init__(self, url: str, token: str, seed: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: dict[str, str] = {}
        self.in_doubt: set[str] = set()
        self.lock = threading.Lock()
        self.failed = 0
        self.wrong: list[str] = []
        self._random = random.Random(seed)
        self._stop_event = stop
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20)

    def run(self) -> None:
        with self._client:
            state = self._ask("GET", "/api/state", None)
            while state and state["trial"] and not self._stop_event.is_set():
                if state["last"] and self._random.random() < 0.1:
                    state = self._withdraw(state["last"])
                else:
                    state = self._answer(state["trial"])

    def _answer(self, trial: dict[str, Any]) -> Any:
        choice = self._random.choice(["left", "tie", "right"])
        with self.lock:
            self.in_doubt.add(trial["id"])
        state = self._ask(
            "POST", "/api/answer", {"trial": trial["id"], "revision": trial["revision"], "answers": {"fluency": choice}}
        )
        if state:
            with self.lock:
                self.acknowledged[trial["id"]] = choice
                self.in_doubt.discard(trial["id"])
        return state

    def _withdraw(self, last: dict[str, Any]) -> Any:
        with self.lock:
            self.in_doubt.add(last["id"])
        state = self._ask("POST", "/api/withdraw", {"trial": last["id"], "revision": last["revision"]})
        if state:
            with self.lock:
                self.acknowledged.pop(last["id"], None)
                self.in_doubt.discard(last["id"])
        return state

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """Ask until the server answers, as the page does."""
        while not self._stop_event.is_set():
            try:
                response = self._client.request(method, path, json=body)
            except httpx.HTTPError:
                self.failed += 1
                time.sleep(0.02)
                continue
            if response.status_code == 200:
                return response.json()
            self.wrong.append(f"{method} {path}: {response.status_code}")
            return None
        return None


@contextmanager
def server(place: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """A server in a process of its own that takes connections; killed at the end."""
    words = [sys.executable, "-u", "-m", "ctsm.cli.main", "judge", "serve", place, "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        timer = threading.Timer(READY, process.kill)
        timer.start()
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        timer.cancel()
        assert "Serving on" in line, process.stderr.read()
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


def check(place: str, annotators: list[Annotator]) -> int:
    """Compare what is stored with what was acknowledged while nobody can write; return how much that was."""
    store = Store.open(place)
    left = {trial.id: trial.left for trial in store.study().trials}
    found = Counter((one.trial, one.verdict) for one in store.judgements())
    store.close()
    assert set(found.values()) <= {1}
    stored = dict(found.keys())
    assert len(stored) == len(found)
    if not is_url(place):
        with closing(sqlite3.connect(place)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            doubled = "SELECT trial, aspect FROM judgements GROUP BY trial, aspect HAVING count(*) > 1"
            assert connection.execute(doubled).fetchall() == []
    known = 0
    for annotator in annotators:
        assert annotator.wrong == []
        with annotator.lock:
            for trial, choice in annotator.acknowledged.items():
                if trial not in annotator.in_doubt:
                    side = {"left": "a", "right": "b"}.get(choice)
                    assert stored.pop(trial) == ("tie" if side is None else "win" if side == left[trial] else "lose")
                    known += 1
            for trial in annotator.in_doubt:
                stored.pop(trial, None)
    assert stored == {}  # nothing that nobody sent or that was withdrawn
    return known


def killing(made: Any, kills: int, seed: int) -> None:
    """Kill the server at random moments while annotators work, and check after each time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop, chance = threading.Event(), random.Random(seed)
    annotators = [
        Annotator(f"http://127.0.0.1:{port}", made.tokens[str(number)], f"{seed} {number}", stop)
        for number in range(1, ANNOTATORS + 1)
    ]
    for annotator in annotators:
        annotator.start()
    amounts = [0]
    try:
        for _ in range(kills):
            before = sum(annotator.failed for annotator in annotators)
            with server(made.place, port) as process:
                while sum(len(one.acknowledged) for one in annotators) <= amounts[-1] and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.3))
            amounts.append(check(made.place, annotators))
            assert sum(annotator.failed for annotator in annotators) > before
            assert all(annotator.is_alive() for annotator in annotators)
    finally:
        stop.set()
        for annotator in annotators:
            annotator.join(timeout=60)
    assert amounts[-1] > kills


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.long)])
def test_a_killed_server_loses_and_doubles_nothing(kills: int, make: Callable[..., Any]) -> None:
    killing(make(items=60 * kills, contexts=60 * kills, annotators=ANNOTATORS, aspects=("fluency",)), kills, kills)


@pytest.mark.long
def test_the_same_in_postgresql_when_killed(make: Callable[..., Any], database: str) -> None:
    killing(make(items=300, contexts=300, annotators=ANNOTATORS, aspects=("fluency",), place=database), 5, 1)


def test_an_interrupt_ends_the_server_without_an_error(make: Callable[..., Any]) -> None:
    made = make()
    with server(made.place, 0) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "Stopped.\n"
        assert process.wait(timeout=60) == 0


def test_the_server_writes_no_token(make: Callable[..., Any]) -> None:
    made = make()
    words = [sys.executable, "-u", "-m", "ctsm.cli.main", "judge", "serve", made.place, "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://[\d.:]+", line)
    assert address is not None
    try:
        for path in (f"/judge/{made.tokens['1']}", f"/admin/{made.tokens['admin']}", "/judge/wrong", "/api/state"):
            httpx.get(f"{address[0]}{path}", headers={"Authorization": f"Bearer {made.tokens['2']}"}, timeout=60)
    finally:
        process.send_signal(signal.SIGINT)
        written = line + process.communicate(timeout=60)[0]
    assert not any(token in written for token in made.tokens.values())
    assert written.count("\n") == 2
