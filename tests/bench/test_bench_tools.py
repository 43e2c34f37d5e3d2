"""The parts of the benchmarks that measure, choose and report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ctsm.bench import machine, timing
from ctsm.bench import stages as stages_module
from ctsm.bench.fast import FastTrainer
from ctsm.bench.inputs import evenly_spaced, require_examples
from ctsm.bench.machine import describe_machine, multiply_add_rate, peak_memory
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.stages import PARTS, STAGES, StageTimer, profiled, timed_parts, timed_steps, uncompiled
from ctsm.bench.timing import alternate
from ctsm.config import RunConfig
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.training.loop import build_model


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    for module in (stages_module, timing):
        monkeypatch.setattr(module, "time", fake)
    return fake


def test_contenders_alternate_and_the_first_round_does_not_count(clock: Clock) -> None:
    order: list[tuple[str, int]] = []

    def contender(name: str, pace: float):
        def run(number: int) -> None:
            order.append((name, number))
            clock.now += 100 if number < 0 else pace * (number + 1)

        return run

    seconds = alternate({"a": contender("a", 1), "b": contender("b", 10)}, 2, lambda _message: None)
    assert order == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert seconds == {"a": (1, 2), "b": (10, 20)}


def test_a_stage_does_not_hold_what_it_calls(clock: Clock) -> None:
    timer = StageTimer("cpu")
    with timer.stage("backward"):
        clock.now += 1
        with timer.stage("decoder"):
            clock.now += 10
            with timer.stage("encoders"):
                clock.now += 100
        clock.now += 1000
    with timer.stage("decoder"):
        clock.now += 10_000
    found = {name: seconds for name, seconds in timer.seconds.items() if seconds}
    assert found == {"backward": 1001, "decoder": 10_010, "encoders": 100}


def test_every_stage_of_a_step_is_timed_and_the_model_is_left_as_it_was(prepared: Path, tiny_config: RunConfig) -> None:
    data = PreparedData(prepared)
    model = build_model(tiny_config, data).train()
    trainer, timer = FastTrainer(model, tiny_config), StageTimer("cpu")
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    step = trainer.optimizer.step
    batch = data.examples("train").batch(np.arange(4))
    with timed_parts(trainer, timer), timer.stage("backward"):
        trainer.step(batch, "fp32")
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert trainer.optimizer.step == step
    assert set(timer.seconds) == set(STAGES)
    assert [name for name, seconds in timer.seconds.items() if seconds <= 0] == ["collate"]
    assert set(PARTS) < set(STAGES)


def test_steps_are_numbered_on_from_those_that_count_as_done(prepared: Path, tiny_config: RunConfig) -> None:
    """A model's schedule sees each step's own number, so that what happens every so many steps happens."""
    data = PreparedData(prepared)
    model = build_model(tiny_config, data).train()
    seen: list[int] = []
    model.schedule = lambda: seen.append(model.step)  # type: ignore[method-assign]
    trainer = FastTrainer(model, tiny_config, done=20_000)
    batch = data.examples("train").batch(np.arange(4))
    for _ in range(3):
        trainer.step(batch, "fp32")
    assert seen == [20_001, 20_002, 20_003]


def test_a_configuration_that_compiles_has_its_stages_timed_uncompiled(
    prepared: Path, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_: object, **__: object) -> Callable[..., None]:
        return lambda *_: pytest.fail("a compiled step was taken")

    monkeypatch.setattr(torch, "compile", compiled)
    config = replace(tiny_config, training=replace(tiny_config.training, compile=True))
    data = PreparedData(prepared)
    model, examples, batches = build_model(config, data).train(), data.examples("train"), [np.arange(4)] * 2
    seen: list[int] = []
    model.schedule = lambda: seen.append(model.step)  # type: ignore[method-assign]
    compiling = FastTrainer(model, config, done=20_000)
    found = profiled(compiling, config, examples, batches, "fp32", "cpu")
    assert seen == [20_001, 20_002]  # in the phase that is measured
    assert {"collate", "decoder", "generator", "forward, other", "backward", "optimiser"} < set(found)
    trainer, timer = uncompiled(compiling, config), StageTimer("cpu")
    with timed_parts(trainer, timer):
        found = timed_steps(trainer, timer, examples, batches, "fp32", "cpu")
    assert list(found) == list(STAGES)
    assert all(seconds > 0 for seconds in found.values())
    assert sum(found.values()) == pytest.approx(sum(timer.seconds.values()) / 2)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 70))
def test_evenly_spaced_values_stand_for_all(values: list[int], count: int) -> None:
    chosen = evenly_spaced(values, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(values))
    taken = [values[place] for place in chosen]
    assert taken == sorted(taken)
    ranked = sorted(values)
    for place, value in enumerate(taken):  # the value in the middle of each of the equal parts
        assert value == ranked[int((place + 0.5) * len(values) / len(chosen))]


def test_a_series_reports_its_median_and_range() -> None:
    series = Series("one", "ms", (5.0, 1.0, 3.0, 9.0))
    assert series.to_json() == {"name": "one", "unit": "ms", "n": 4, "median": 4.0, "min": 1.0, "max": 9.0, "at": {}}


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_enough_values_do_not_exceed(values: list[float], percent: int) -> None:
    found = Series("one", "ms", tuple(values)).percentile(percent)
    enough = [value for value in values if sum(other <= value for other in values) * 100 >= percent * len(values)]
    assert found == min(enough)


@pytest.mark.parametrize(
    ("figure", "met", "shown"),
    [
        (Figure("a", "x", 4.0), None, ""),
        (Figure("a", "x", 50.0, at_least=50), True, "at least 50: met"),
        (Figure("a", "x", 49.9, at_least=50), False, "at least 50: NOT met"),
        (Figure("a", "ms", 180.0, at_most=180), True, "at most 180: met"),
        (Figure("a", "ms", 181.0, at_most=180), False, "at most 180: NOT met"),
    ],
)
def test_a_calibration_is_met_or_not(figure: Figure, met: bool | None, shown: str) -> None:
    assert figure.met is met
    assert figure.bound() == shown
    assert figure.to_json()["met"] is met


def test_a_report_shows_all_it_found() -> None:
    report = Report(
        verb="train",
        machine={"cores": 2},
        settings={},
        data={"vocabulary": 12},
        series=[Series("fast", "examples/s", (1234.5, 1300.0))],
        figures=[Figure("fast / plain", "x", 3.456)],
        profile={"decoder": 0.25, "backward": 0.75},
        notes=["Only an example."],
    )
    console = Console(width=120, record=True, file=io.StringIO())
    for table in report.tables():
        console.print(table)
    text = console.export_text()
    for shown in ("1,267", "1,234", "1,300", "3.46", "250", "75.0%", "vocabulary 12", "cores 2", "Only an example."):
        assert shown in text
    assert json.loads(json.dumps(report.to_json()))["profile"] == {"decoder": 0.25, "backward": 0.75}


def test_the_matrix_rate_is_that_of_the_fastest_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, *(0.0, 4.0), *(4.0, 6.0), *(6.0, 9.0), 99.0])
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert multiply_add_rate(torch.float32, 3, 4, 5) == 3 * 4 * 5 / 2


def test_the_machine_is_described() -> None:
    facts = describe_machine()
    assert facts["cores"] >= 1
    assert facts["threads"] == 1
    assert facts["device"] == "cpu"
    assert json.dumps(facts)


def test_peak_memory_grows_with_what_is_used() -> None:
    before = peak_memory()
    block = np.ones(200 << 17)  # 200 MiB, written
    assert before > 10
    assert peak_memory() >= max(before, block.nbytes / (1 << 20))


def test_sequences_that_are_too_long_are_refused(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctsm.bench.inputs.LONGEST", 5)
    with pytest.raises(CtsmError, match=r"has \d+ words.*reads 5 at most"):
        require_examples(PreparedData(prepared), "train")
