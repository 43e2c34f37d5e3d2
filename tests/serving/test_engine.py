"""The engine: replies that are those of each request alone, in cohorts, under cancellation and failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import ctsm
from ctsm.analysis.explain import Explainer, explain
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.serving import engine as engine_module
from ctsm.serving.engine import Engine, QueueFullError, StoppingError
from ctsm.serving.responder import Responder
from ctsm.serving.tasks import (
    Ended,
    Event,
    ExplainTask,
    Failed,
    Finished,
    Perceived,
    Piece,
    ReadTask,
    ReplyTask,
    Task,
)

Hold = Callable[[threading.Event], Task]

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


async def together(engine: Engine, hold: Hold, tasks: list[Any]) -> list[list[Event]]:
    """Let all tasks wait until the engine can take them at once."""
    gate = threading.Event()
    engine.submit(hold(gate))
    for task in tasks:
        engine.submit(task)
    gate.set()
    return list(await asyncio.gather(*map(events_of, tasks)))


def said(events: list[Event]) -> list[str]:
    return [event.text for event in sorted((e for e in events if isinstance(e, Ended)), key=lambda e: e.choice)]


def test_replies_are_those_of_each_request_alone(
    engine: Engine, responder: Responder, batches: list[int], hold: Hold
) -> None:
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
        return await together(engine, hold, [reply(turns, stream=True, **kind) for turns, kind in asked])

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


def test_while_many_replies_are_made_only_another_method_begins(engine: Engine, batches: list[int], hold: Hold) -> None:
    ended = list[str]()

    async def note(name: str, task: Task) -> None:
        await events_of(task)
        ended.append(name)

    async def ask() -> None:
        gate = threading.Event()
        engine.submit(hold(gate))
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


def test_reading_tells_emotions_without_a_reply(
    engine: Engine, responder: Responder, batches: list[int], hold: Hold
) -> None:
    asked = [(SHORT,), (OTHER, SHORT), (LONG,)]

    async def ask() -> list[list[Event]]:
        return await together(engine, hold, [ReadTask(conversations=turns, length=9) for turns in asked])

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
    engine: Engine, responder: Responder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hold: Hold
) -> None:
    collate = responder.collate

    def picky(conversations: Any) -> Any:
        if any("Nobody" in turn for turns in conversations for turn in turns):
            raise RuntimeError(str(conversations))
        return collate(conversations)

    monkeypatch.setattr(responder, "collate", picky)

    async def ask() -> list[list[Event]]:
        return await together(engine, hold, [reply(SHORT), reply(OTHER), reply(SHORT)])

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


def test_what_the_model_cannot_do_is_told(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> Event:
        task = reply(("Hello.", "Hi."))
        engine.submit(task)
        return (await events_of(task))[-1]

    failed = asyncio.run(ask())
    assert isinstance(failed, Failed) and isinstance(failed.error, CtsmError)
    assert not caplog.records, "the fault is the client's"


def said_of(turns: tuple[str, ...], responder: Responder) -> ExplainTask:
    return ExplainTask(turns=turns, length=len(" ".join(turns).split()), explainer=Explainer(responder))


def test_explanations_are_those_of_each_conversation_alone(
    engine: Engine, responder: Responder, batches: list[int], hold: Hold
) -> None:
    asked = [SHORT, ("A big dog chased me, and then I met the zzyzx of a dog.", "Oh!", "I am afraid of it."), OTHER]

    async def ask() -> list[list[Event]]:
        return await together(engine, hold, [said_of(turns, responder) for turns in asked])

    for events, turns in zip(asyncio.run(ask()), asked, strict=True):
        (finished,) = events
        assert isinstance(finished, Finished)
        found, expected = finished.value, explain(responder, turns)
        assert (found.turns, found.system) == (expected.turns, expected.system)
        assert found.response.text == expected.response.text
        assert found.response.inferences == expected.response.inferences
        assert found.response.probabilities == pytest.approx(expected.response.probabilities, abs=1e-6)
        assert [word.token for word in found.words] == [word.token for word in expected.words]
        np.testing.assert_allclose(
            [[*word.state, *word.inclination, word.intensity, word.attention] for word in found.words],
            [[*word.state, *word.inclination, word.intensity, word.attention] for word in expected.words],
            atol=1e-6,
        )
        np.testing.assert_allclose(found.standardised, expected.standardised, atol=1e-4)
        assert found.rest == pytest.approx(expected.rest, abs=1e-6)
        assert [word.token for word in found.reply] == [word.token for word in expected.reply] != []
        np.testing.assert_allclose(
            [[word.copied, *word.weights] for word in found.reply],
            [[word.copied, *word.weights] for word in expected.reply],
            atol=1e-5,
        )
    assert batches == [1, 3]


def test_a_reply_goes_on_between_the_words_of_explanations(engine: Engine, responder: Responder, hold: Hold) -> None:
    ended = list[Task]()

    async def note(task: Task) -> None:
        await events_of(task)
        ended.append(task)

    async def ask() -> None:
        gate = threading.Event()
        explained, short = [said_of(SHORT, responder) for _ in range(4)], reply(OTHER, max_tokens=1)
        engine.submit(hold(gate))
        notes = []
        for task in [*explained, short]:
            engine.submit(task)
            notes.append(note(task))
        gate.set()
        await asyncio.gather(*notes)
        assert ended[0] is short

    asyncio.run(ask())


def test_nothing_is_explained_to_a_client_that_has_gone(
    engine: Engine, responder: Responder, monkeypatch: pytest.MonkeyPatch, hold: Hold
) -> None:
    explained = list[int]()
    explanation = Explainer.explanation

    def counting(one: Explainer, reading: Any, row: int, *others: Any) -> Any:
        explained.append(row)
        return explanation(one, reading, row, *others)

    monkeypatch.setattr(Explainer, "explanation", counting)

    async def ask() -> None:
        gate = threading.Event()
        stays, goes = said_of(OTHER, responder), said_of(SHORT, responder)
        engine.submit(hold(gate))
        for task in (goes, stays):
            engine.submit(task)
        goes.cancelled = True  # as if its client went after it was taken
        gate.set()
        assert isinstance((await events_of(stays))[-1], Finished)
        assert goes.events.empty()

    asyncio.run(ask())
    assert explained == [1]


def test_the_queue_is_bounded(responder: Responder, hold: Hold) -> None:
    one = Engine(responder, 3, lambda _rows: None)
    one.start()
    gate = threading.Event()

    async def ask() -> None:
        one.submit(hold(gate))
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


def test_nobody_is_told_of_a_cancelled_task(engine: Engine, batches: list[int], hold: Hold) -> None:
    async def ask() -> None:
        gate = threading.Event()
        engine.submit(hold(gate))
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


def test_a_cancelled_reply_leaves_its_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch, hold: Hold) -> None:
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
        engine.submit(hold(gate))
        engine.submit(stays)
        engine.submit(goes)
        goes.cancelled = True  # as if its client went after it was taken
        gate.set()
        assert len(said(await events_of(stays))) == 1

    asyncio.run(ask())
    assert rows[0] == 2
    assert set(rows[1:]) == {1}


def test_stopping_finishes_what_was_accepted(responder: Responder, hold: Hold) -> None:
    one = Engine(responder, 100, lambda _rows: None)
    one.start()

    async def ask() -> list[list[Event]]:
        gate = threading.Event()
        tasks = [reply(SHORT), reply(LONG), reply(OTHER, method="beam")]
        one.submit(hold(gate))
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
