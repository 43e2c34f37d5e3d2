"""The engine: replies that are those of each request alone, in cohorts, under cancellation and failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ctsm
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.serving import engine as engine_module
from ctsm.serving.engine import Engine, QueueFullError, StoppingError
from ctsm.serving.responder import Responder
from ctsm.serving.tasks import CallTask, Ended, Event, Failed, Finished, Perceived, Piece, ReadTask, ReplyTask, Task

SHORT, LONG = ("I am fine.",), ("A dog " * 80 + "chased me.", "Oh no!", "I am afraid of it.")
OTHER = ("Nobody called me this week.",)


@pytest.fixture
def batches() -> list[int]:
    """Rows of each batch, as the engine tells them."""
    return []


@pytest.fixture
def engine(responder: Responder, batches: list[int]) -> Iterator[Engine]:
    one = Engine(responder, 100, batches.append)
    one.start()
    yield one
    one.stop()


def reply(turns: tuple[str, ...], stream: bool = False, choices: int = 1, **options: Any) -> ReplyTask:
    made = DecodingOptions(**{"max_tokens": 9, **options})
    return ReplyTask(turns=turns, length=len(" ".join(turns).split()), options=made, choices=choices, stream=stream)


async def events_of(task: Task) -> list[Event]:
    events = list[Event]()
    while not events or not isinstance(events[-1], Finished | Failed):
        events.append(await asyncio.wait_for(task.events.get(), 60))
    return events


def blocking(gate: threading.Event) -> CallTask:
    return CallTask(function=lambda _responder: gate.wait(60))


async def together(engine: Engine, tasks: list[Any]) -> list[list[Event]]:
    """Let all tasks wait until the engine can take them at once."""
    gate = threading.Event()
    engine.submit(blocking(gate))
    for task in tasks:
        engine.submit(task)
    gate.set()
    return list(await asyncio.gather(*map(events_of, tasks)))


def said(events: list[Event]) -> list[str]:
    return [event.text for event in sorted((e for e in events if isinstance(e, Ended)), key=lambda e: e.choice)]


def test_replies_are_those_of_each_request_alone(engine: Engine, responder: Responder, batches: list[int]) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"max_tokens": 3},
        {"method": "sample", "seed": 4, "temperature": 1.4},
        {"method": "sample", "seed": 9, "temperature": 1.4, "max_tokens": 12},
        {"method": "sample", "seed": 9, "top_p": 0.6},
        {"method": "beam", "n_best": 3},
    ]
    asked = [(turns, kind) for turns in (SHORT, LONG, OTHER) for kind in kinds]
    expected = [responder.respond(turns, DecodingOptions(**{"max_tokens": 9, **kind})) for turns, kind in asked]

    async def ask() -> list[list[Event]]:
        return await together(engine, [reply(turns, stream=True, **kind) for turns, kind in asked])

    answers = asyncio.run(ask())
    for events, response in zip(answers, expected, strict=True):
        assert said(events) == [response.text, *response.alternatives]
        assert isinstance(events[0], Perceived)
        assert events[0].response.probabilities == pytest.approx(response.probabilities, abs=1e-6)
        pieces = "".join(event.text for event in events if isinstance(event, Piece) and event.choice == 0)
        assert pieces == response.text
    # The blocking call; then greedy, two kinds of sampling and the beam, short ones apart from the long one.
    assert sorted(batches) == sorted([1, 4, 4, 2, 10, 2, 2, 1, 5])
    assert (engine.waiting, engine.running) == (0, 0)


def test_a_new_request_does_not_wait_for_a_long_reply(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        long = reply(SHORT, stream=True, max_tokens=51)
        engine.submit(long)
        started = [await long.events.get(), await long.events.get()]
        assert isinstance(started[1], Piece)
        short = reply(OTHER, max_tokens=1)
        engine.submit(short)
        await events_of(short)
        assert engine.running == 1, "the long reply is over already"
        await events_of(long)

    monkeypatch.setattr(engine_module, "WINDOW_SECONDS", 0.0)
    slow_down(engine, monkeypatch)
    asyncio.run(ask())


def test_while_many_replies_are_made_only_another_method_begins(engine: Engine, batches: list[int]) -> None:
    ended = list[str]()

    async def note(name: str, task: Task) -> None:
        await events_of(task)
        ended.append(name)

    async def ask() -> None:
        gate = threading.Event()
        engine.submit(blocking(gate))
        many = [reply(SHORT, max_tokens=12) for _ in range(engine_module.FEW_ROWS + 1)]
        late, other = reply(LONG, max_tokens=1), reply(LONG, max_tokens=1, method="sample", seed=1)
        notes = []
        for name, task in [*(("many", task) for task in many), ("late", late), ("other", other)]:
            engine.submit(task)
            notes.append(note(name, task))
        gate.set()
        await asyncio.gather(*notes)

    asyncio.run(ask())
    assert ended.index("other") < ended.index("many") < ended.index("late")
    assert batches == [1, engine_module.FEW_ROWS + 1, 1, 1]


def slow_down(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step take a while."""
    model = engine._responder.bundle.model
    decode = model.decode

    def slowly(*arguments: Any) -> Any:
        threading.Event().wait(0.01)
        return decode(*arguments)

    monkeypatch.setattr(model, "decode", slowly)


def test_reading_tells_emotions_without_a_reply(engine: Engine, responder: Responder, batches: list[int]) -> None:
    asked = [(SHORT,), (OTHER, SHORT), (LONG,)]

    async def ask() -> list[list[Event]]:
        return await together(engine, [ReadTask(conversations=turns, length=9) for turns in asked])

    for events, conversations in zip(asyncio.run(ask()), asked, strict=True):
        (finished,) = events
        assert isinstance(finished, Finished)
        for found, turns in zip(finished.value, conversations, strict=True):
            response = responder.respond(turns)
            assert found.probabilities == pytest.approx(response.probabilities, abs=1e-6)
            assert [token.token for token in found.context_tokens] == [t.token for t in response.context_tokens]
            assert found.context_tokens[-1].state == pytest.approx(response.context_tokens[-1].state, abs=1e-6)
            assert (found.text, found.tokens) == ("", ())
    assert batches == [1, 4]


def test_a_task_that_fails_does_not_spoil_the_others(
    engine: Engine, responder: Responder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    collate = responder.collate

    def picky(conversations: Any) -> Any:
        if any("Nobody" in turn for turns in conversations for turn in turns):
            raise RuntimeError(str(conversations))
        return collate(conversations)

    monkeypatch.setattr(responder, "collate", picky)

    async def ask() -> list[list[Event]]:
        return await together(engine, [reply(SHORT), reply(OTHER), reply(SHORT)])

    first, second, third = asyncio.run(ask())
    assert isinstance(second[-1], Failed)
    monkeypatch.undo()
    assert said(first) == said(third) == [responder.respond(SHORT, DecodingOptions(max_tokens=9)).text]
    assert "RuntimeError" in caplog.text
    assert "called me" not in caplog.text, "the log holds what was said"
    assert engine.running == 0


def test_a_step_that_fails_ends_its_tasks_and_not_the_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> list[Event]:
        task = reply(SHORT)
        engine.submit(task)
        return await events_of(task)

    model = engine._responder.bundle.model
    monkeypatch.setattr(model, "decode", lambda *_: 1 / 0)
    assert isinstance(asyncio.run(ask())[-1], Failed)
    monkeypatch.undo()
    assert isinstance(asyncio.run(ask())[-1], Finished)
    assert engine.ready


def test_a_call_runs_on_the_engines_thread(engine: Engine, responder: Responder) -> None:
    async def call(function: Any) -> Event:
        task = CallTask(function=function)
        engine.submit(task)
        return (await events_of(task))[-1]

    def fails(_responder: Responder) -> None:
        raise CtsmError("No.")

    done = asyncio.run(call(lambda one: (threading.current_thread().name, one)))
    assert done == Finished(("ctsm-engine", responder))
    failed = asyncio.run(call(fails))
    assert isinstance(failed, Failed) and isinstance(failed.error, CtsmError)


def test_the_queue_is_bounded(responder: Responder) -> None:
    one = Engine(responder, 3, lambda _rows: None)
    one.start()
    gate = threading.Event()

    async def ask() -> None:
        hold = blocking(gate)
        one.submit(hold)
        while one.waiting:
            await asyncio.sleep(0.001)
        tasks = [reply(SHORT) for _ in range(3)]
        for task in tasks:
            one.submit(task)
        with pytest.raises(QueueFullError):
            one.submit(reply(SHORT))
        assert (one.waiting, one.running) == (3, 1)
        assert one.cancel(tasks[0])
        one.submit(reply(SHORT))
        assert one.waiting == 3
        gate.set()

    asyncio.run(ask())
    one.stop()


def test_nobody_is_told_of_a_cancelled_task(engine: Engine, batches: list[int]) -> None:
    async def ask() -> None:
        gate = threading.Event()
        engine.submit(blocking(gate))
        waits = reply(SHORT)
        engine.submit(waits)
        assert engine.cancel(waits)
        assert not engine.cancel(waits)
        gate.set()
        other = reply(OTHER)
        engine.submit(other)
        await events_of(other)
        assert waits.events.empty()
        assert not engine.cancel(other), "it was finished"

    asyncio.run(ask())
    assert sum(batches) == 2


def test_a_cancelled_reply_leaves_its_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    model = engine._responder.bundle.model
    rows = list[int]()
    decode = model.decode

    def counting(words: Any, *others: Any) -> Any:
        rows.append(len(words))
        return decode(words, *others)

    monkeypatch.setattr(model, "decode", counting)

    async def ask() -> None:
        stays, goes = (reply(SHORT, method="sample", seed=seed, temperature=2.0, max_tokens=9) for seed in (1, 2))
        gate = threading.Event()
        engine.submit(blocking(gate))
        engine.submit(stays)
        engine.submit(goes)
        goes.cancelled = True  # as if its client went after it was taken
        gate.set()
        assert len(said(await events_of(stays))) == 1

    asyncio.run(ask())
    assert rows[0] == 2
    assert set(rows[1:]) == {1}


def test_stopping_finishes_what_was_accepted(responder: Responder) -> None:
    one = Engine(responder, 100, lambda _rows: None)
    one.start()

    async def ask() -> list[list[Event]]:
        gate = threading.Event()
        tasks = [reply(SHORT), reply(LONG), reply(OTHER, method="beam")]
        one.submit(blocking(gate))
        for task in tasks:
            one.submit(task)
        stopper = threading.Thread(target=one.stop)
        stopper.start()
        while one.ready:
            await asyncio.sleep(0.001)
        with pytest.raises(StoppingError):
            one.submit(reply(SHORT))
        gate.set()
        answers = await asyncio.gather(*map(events_of, tasks))
        stopper.join(60)
        return list(answers)

    assert [len(said(events)) for events in asyncio.run(ask())] == [1, 1, 1]
    assert not one._thread.is_alive()


def test_a_model_that_cannot_reply_is_told_at_the_start(model_directory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ctsm.load(model_directory)

    def missing(_turns: Any) -> None:
        raise CtsmError("events.npz: no such file; copy the model directory again.")

    monkeypatch.setattr(broken, "respond", missing)
    one = Engine(broken, 1, lambda _rows: None)
    with pytest.raises(CtsmError, match="no such file"):
        one.start()
    assert not one.ready
