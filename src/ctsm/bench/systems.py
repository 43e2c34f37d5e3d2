"""`ctsm bench systems`: training speed of each of the paper's eight systems, as `ctsm reproduce table1` trains them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ctsm.bench.fast import FastTrainer, Precision
from ctsm.bench.inputs import (
    Say,
    bucketed_batches,
    data_or_sample,
    describe_data,
    require_at_least_one,
    sample_note,
)
from ctsm.bench.machine import describe_machine
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.stages import profiled
from ctsm.bench.timing import alternate
from ctsm.config import RunConfig
from ctsm.corpus.batches import Examples, IntArray
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.models import model_class
from ctsm.reproduction.plan import Job, Places, plan
from ctsm.training.device import training_examples
from ctsm.training.loop import build_model

SLOW = 30.0
"""Examples a second below which a profile is worth its place."""

PHASES = "A system that trains in phases is measured in its last one; of EmpDG's steps there, one in five trains its "
PHASES += "discriminators, so the number of steps should be a multiple of five."


@dataclass(frozen=True)
class SystemsSettings:
    """What to measure.

    Attributes:
        data: a prepared directory; None prepares the built-in sample with all that any system needs.
        configs: folder of the systems' YAML files.
        steps: steps of each system in each round.
        rounds: rounds that count.
        precisions: of the steps; empty for both.
        profile: whether to time the stages of a step of systems that are slow.
        device: cpu or cuda.
    """

    data: Path | None = None
    configs: Path = Path("configs")
    steps: int = 10
    rounds: int = 3
    precisions: tuple[Precision, ...] = ()
    profile: bool = False
    device: str = "cpu"


def bench_systems(settings: SystemsSettings, say: Say) -> Report:
    """Measure and return the report; systems whose needs the data lacks are left out, with a note.

    Raises:
        CtsmError: data or a configuration cannot be used.
    """
    require_at_least_one(steps=settings.steps, rounds=settings.rounds)
    require_device(settings.device)
    machine = describe_machine(settings.device)
    jobs = plan("table1", Places(settings.configs, Path(), Path()), seeds=1, overrides=[])
    with data_or_sample(settings.data, jobs[0].config.options.size, say, extras=True) as data:
        systems, notes = _build(jobs, data, settings, say)
        precisions: tuple[Precision, ...] = settings.precisions or ("fp32", "bf16")
        contenders = {f"{one.label}, {precision}": one.steps(precision) for one in systems for precision in precisions}
        seconds = alternate(contenders, settings.rounds, say, settings.device)
        speeds = {
            f"{one.label}, {precision}": one.speed(precision, seconds[f"{one.label}, {precision}"])
            for one in systems
            for precision in precisions
        }
        wanted = precisions if settings.profile else ()
        profiles = [series for precision in wanted for series in _profiles(systems, speeds, precision, say)]
        return Report(
            verb="systems",
            machine=machine,
            settings={
                "steps": settings.steps,
                "rounds": settings.rounds,
                "device": settings.device,
                "configs": {one.label: one.config.to_json() for one in systems},
            },
            data=describe_data(data, "train", settings.data is not None),
            series=[*speeds.values(), *profiles],
            figures=_gains(systems, speeds),
            notes=[PHASES, *notes, *([] if settings.data is not None else [sample_note(data)])],
        )


@dataclass(frozen=True)
class _System:
    """A new model of one system, and batches that stand for an epoch of its training."""

    label: str
    config: RunConfig
    trainer: FastTrainer
    examples: Examples | ResidentExamples
    batches: list[IntArray]
    device: str

    def steps(self, precision: Precision) -> Callable[[int], None]:
        """Return what a round runs."""

        def run(_round: int) -> None:
            for rows in self.batches:
                self.trainer.step(self.examples.batch(rows).to(self.device), precision)

        return run

    def speed(self, precision: Precision, seconds: tuple[float, ...]) -> Series:
        """Return the examples a second of each round."""
        count = sum(len(rows) for rows in self.batches)
        return Series(f"{self.label}, {precision}", "examples/s", tuple(count / value for value in seconds))

    def profile(self, precision: Precision) -> list[Series]:
        """Return the mean time of each stage of an uncompiled step."""
        seconds = profiled(self.trainer, self.config, self.examples, self.batches, precision, self.device)
        title = f"{self.label}, a step in {precision}"
        return [Series(f"{title}: {stage}", "ms", (1e3 * value,)) for stage, value in seconds.items()]


def _build(jobs: list[Job], data: PreparedData, settings: SystemsSettings, say: Say) -> tuple[list[_System], list[str]]:
    """Build all systems that the data allows; the others are notes."""
    systems, notes = [], []
    for job in jobs:
        needs = model_class(job.config.model).needs
        try:
            data.require(needs)
        except CtsmError as error:
            notes.append(f"{job.label} is left out: the data {str(error).removeprefix(f'{data.directory}: ')}")
            continue
        examples = data.examples("train", needs)
        if not len(examples):
            raise CtsmError(f"{data.directory}: has no train example; prepare dialogues with a train split.")
        say(f"building {job.label}")
        model = build_model(job.config, data).to(settings.device).train()
        trainer = FastTrainer(model, job.config, done=job.config.training.iterations)
        batches = bucketed_batches(examples, job.config.training, settings.steps)
        source = training_examples(examples, job.config.training, settings.device)
        systems.append(_System(job.label, job.config, trainer, source, batches, settings.device))
    return systems, notes


def _gains(systems: list[_System], speeds: dict[str, Series]) -> list[Figure]:
    """What bf16 gives each system."""
    return [
        Figure(f"{one.label}, bf16 / fp32", "x", fast.median / speeds[f"{one.label}, fp32"].median)
        for one in systems
        if (fast := speeds.get(f"{one.label}, bf16")) and f"{one.label}, fp32" in speeds
    ]


def _profiles(systems: list[_System], speeds: dict[str, Series], precision: Precision, say: Say) -> Iterator[Series]:
    """Time the stages of a step of each system that is slow in a precision."""
    for one in systems:
        if speeds[f"{one.label}, {precision}"].median < SLOW:
            say(f"timing the stages of {one.label} in {precision}")
            yield from one.profile(precision)
