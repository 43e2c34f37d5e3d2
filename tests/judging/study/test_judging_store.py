"""The store: what is answered is there once, what is withdrawn does not count, whatever two tabs do."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from ctsm.errors import CtsmError
from ctsm.judging.store import ClosedError, ConflictError, Progress, Store

WIN = {"empathy": "win", "relevance": "win", "fluency": "win"}
MIXED = {"empathy": "win", "relevance": "tie", "fluency": "lose"}


def stored(store: Store) -> list[tuple[str, str, str]]:
    return [(one.trial, one.aspect, one.verdict) for one in store.judgements()]


def test_a_study_comes_back_as_it_was_made(make: Callable[..., Any]) -> None:
    made = make(items=5, annotators=3)
    opened = Store.open(made.place)
    assert opened.study() == made.store.study()
    opened.close()


def test_an_answer_is_there_once_and_in_another_process_too(make: Callable[..., Any]) -> None:
    made = make()
    first, second = made.store.sequence("1")[:2]
    for _ in range(3):
        made.store.answer("1", first.id, 0, MIXED)
    made.store.answer("1", second.id, 0, WIN)
    opened = Store.open(made.place)
    expected = [(first.id, *pair) for pair in MIXED.items()] + [(second.id, *pair) for pair in WIN.items()]
    assert stored(opened) == expected
    one = opened.judgements()[0]
    assert (one.annotator, one.pair, one.item, one.catch) == ("1", first.pair, first.item, first.catch)
    opened.close()


def test_what_does_not_fit_changes_nothing(make: Callable[..., Any]) -> None:
    made = make()
    store = made.store
    first, second = store.sequence("1")[:2]
    store.answer("1", first.id, 0, MIXED)
    before = stored(store)
    for annotator, trial, revision, verdicts in (
        ("1", first.id, 0, WIN),  # other verdicts
        ("1", first.id, 1, MIXED),  # a revision that is not there yet
        ("1", store.sequence("1")[2].id, 0, WIN),  # not the next one
        ("1", store.sequence("2")[0].id, 0, WIN),  # another annotator's
        ("1", "unknown", 0, WIN),
        ("1", second.id, 0, {"empathy": "win"}),  # an aspect is missing
        ("1", second.id, 0, {**WIN, "wit": "win"}),
    ):
        with pytest.raises(ConflictError):
            store.answer(annotator, trial, revision, verdicts)
    for annotator, trial, revision in (("1", second.id, 0), ("2", first.id, 0), ("1", first.id, 1), ("1", "x", 0)):
        with pytest.raises(ConflictError):
            store.withdraw(annotator, trial, revision)
    assert stored(store) == before


def test_withdrawn_answers_do_not_count_and_are_kept_in_the_log(make: Callable[..., Any]) -> None:
    made = make()
    store = made.store
    first, second = store.sequence("1")[:2]
    store.answer("1", first.id, 0, WIN)
    store.answer("1", second.id, 0, WIN)
    store.withdraw("1", second.id, 0)
    store.withdraw("1", second.id, 0)  # sent again
    store.withdraw("1", first.id, 0)
    assert stored(store) == []
    assert store.standing("1").withdrawn == WIN
    with pytest.raises(ConflictError):
        store.answer("1", first.id, 0, WIN)  # from a tab that missed the withdrawal
    store.answer("1", first.id, 1, MIXED)
    store.withdraw("1", first.id, 1)
    assert store.standing("1").withdrawn == MIXED
    store.answer("1", first.id, 2, WIN)
    assert stored(store) == [(first.id, *pair) for pair in WIN.items()]
    with closing(sqlite3.connect(made.place)) as connection:
        log = connection.execute("SELECT trial, revision, aspect, verdict FROM withdrawn ORDER BY 1, 2, 3").fetchall()
    expected = [(second.id, 0, WIN), (first.id, 0, WIN), (first.id, 1, MIXED)]
    assert log == sorted(
        (trial, rev, aspect, verdict) for trial, rev, one in expected for aspect, verdict in one.items()
    )


def test_a_closed_study_takes_nothing_but_what_it_has(make: Callable[..., Any]) -> None:
    made = make()
    store = made.store
    first, second = store.sequence("1")[:2]
    store.answer("1", first.id, 0, WIN)
    store.close_study()
    store.close_study()
    assert store.closed
    store.answer("1", first.id, 0, WIN)  # an answer whose receipt was lost
    with pytest.raises(ClosedError):
        store.answer("1", second.id, 0, WIN)
    with pytest.raises(ClosedError):
        store.withdraw("1", first.id, 0)
    assert stored(store) == [(first.id, *pair) for pair in WIN.items()]


def test_progress(make: Callable[..., Any]) -> None:
    made = make(items=4, annotators=3)
    for trial in made.store.sequence("2")[:2]:
        made.store.answer("2", trial.id, 0, WIN)
    total = len(made.store.sequence("1"))
    last = max(one.judged for one in made.store.judgements())
    assert made.store.progress() == [
        Progress("1", 0, total, None),
        Progress("2", 2, total, last),
        Progress("3", 0, total, None),
    ]


def races(store: Store, place: str) -> None:
    """Ten tabs answer the same trial, half of them differently: one answer wins, whole, and the others are told."""
    others = [Store.open(place) for _ in range(9)]
    trial = store.sequence("1")[0]
    outcome: list[tuple[str, bool]] = []
    barrier = threading.Barrier(10)

    def answer(one: Store, verdict: Any) -> None:
        barrier.wait(timeout=60)
        try:
            one.answer("1", trial.id, 0, dict.fromkeys(WIN, verdict))
        except ConflictError:
            outcome.append((verdict, False))
        else:
            outcome.append((verdict, True))

    tabs = [
        threading.Thread(target=answer, args=(one, "win" if number % 2 else "lose"))
        for number, one in enumerate([store, *others])
    ]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join(timeout=60)
    for one in others:
        one.close()
    (winner,) = {verdict for _, _, verdict in stored(store)}
    assert [aspect for _, aspect, _ in stored(store)] == [*WIN]
    assert sorted(outcome) == sorted([(winner, True)] * 5 + [("win" if winner == "lose" else "lose", False)] * 5)


def test_tabs_at_the_same_time(make: Callable[..., Any]) -> None:
    made = make()
    races(made.store, made.place)


@pytest.mark.long
def test_the_same_in_postgresql(make: Callable[..., Any], database: str) -> None:
    made = make(place=database)
    races(made.store, made.place)
    store = made.store
    first, second = store.sequence("1")[:2]
    assert Store.open(database).study() == store.study()
    assert store.owner(made.tokens["2"]) == "2"
    store.answer("1", second.id, 0, WIN)
    store.withdraw("1", second.id, 0)
    store.withdraw("1", second.id, 0)
    with pytest.raises(ConflictError):
        store.answer("1", second.id, 0, WIN)
    store.answer("1", second.id, 1, MIXED)
    with pytest.raises(CtsmError, match="a study with 6 judgements is there already"):
        Store.create(database, store.study())
    store.close_study()
    assert [one.trial for one in store.judgements()] == [first.id] * 3 + [second.id] * 3
    with pytest.raises(ClosedError):
        store.withdraw("1", second.id, 1)


def test_a_study_that_cannot_be_written_leaves_nothing(make: Callable[..., Any], tmp_path: Any) -> None:
    study = make().store.study()
    doubled = replace(study, trials=(*study.trials, study.trials[0]))
    with pytest.raises(CtsmError, match=r"s.db: cannot be used as a study \(UNIQUE constraint failed"):
        Store.create(tmp_path / "bad" / "s.db", doubled)
    assert list((tmp_path / "bad").iterdir()) == []
