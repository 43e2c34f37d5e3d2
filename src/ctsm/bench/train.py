"""`ctsm bench train`: training speed against the plain path and against the machine's matrix rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctsm.bench.count import Lengths, step_multiply_adds
from ctsm.bench.fast import FastTrainer, Precision
from ctsm.bench.inputs import (
    Say,
    bucketed_batches,
    chosen_batches,
    data_or_sample,
    describe_data,
    require_at_least_one,
    require_examples,
    require_plain_path,
    sample_note,
)
from ctsm.bench.machine import describe_machine, multiply_add_rate, peak_memory, synchronise
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.bench.reference.training import PlainTrainer, random_batches
from ctsm.bench.reference.transformer import PlainTransformer
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.sides import Side, Tasks
from ctsm.bench.stages import StageTimer, timed_parts, timed_steps, uncompiled
from ctsm.bench.timing import alternate
from ctsm.config import RunConfig, read_config
from ctsm.corpus.batches import Examples, IntArray
from ctsm.corpus.prepared import PreparedData
from ctsm.device import require_device
from ctsm.memory import prepare_for_computing
from ctsm.models.base import xavier_initialise
from ctsm.training.device import training_examples
from ctsm.training.loop import build_model

TRANSFORMER_BATCH = 16
TRANSFORMER_EXAMPLES_PER_SECOND = 50.0
"""What the plain Transformer must reach on two idle cores: the published code trains it at 51 to 59 examples/s."""

SQUARE = 2_048
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
PLAIN, TRANSFORMER, MEMORY = "plain CTSM", "plain Transformer", "memory"


@dataclass(frozen=True)
class TrainSettings:
    """What to measure.

    Attributes:
        data: a prepared directory; None prepares the built-in sample.
        config: a YAML configuration; None takes the defaults.
        steps: steps of each contender in each round.
        rounds: rounds that count.
        precisions: of the fast path; empty for fp32, and bf16 where its matrix products are faster here.
        profile: whether to time the stages of a step as well.
        device: cpu or cuda.
    """

    data: Path | None = None
    config: Path | None = None
    steps: int = 8
    rounds: int = 5
    precisions: tuple[Precision, ...] = ()
    profile: bool = False
    device: str = "cpu"


def bench_train(settings: TrainSettings, say: Say) -> Report:
    """Measure and return the report.

    Raises:
        CtsmError: data or configuration cannot be used, or the plain path does not know the configuration.
    """
    require_at_least_one(steps=settings.steps, rounds=settings.rounds)
    require_device(settings.device)
    machine = describe_machine(settings.device)
    config = read_config(settings.config, [])
    require_plain_path(config, str(settings.config))
    with data_or_sample(settings.data, config.options.size, say) as data:
        examples = require_examples(data, "train")
        job = {
            "device": settings.device,
            "steps": settings.steps,
            "config_file": None if settings.config is None else str(settings.config),
            "directory": str(data.directory),
        }
        with Side(_fast_side, **job) as fast, Side(_plain_side, **job) as plain:
            return _Bench(settings, config, data, examples, machine, fast, plain).run(say)


def _fast_side(device: str, steps: int, config_file: str | None, directory: str) -> Tasks:
    """What `ctsm train` does, in a process that gets its memory as that does."""
    prepare_for_computing()
    config, data = _read(config_file), PreparedData(Path(directory))
    examples = data.examples("train")
    source = training_examples(examples, config.training, device)
    batches = bucketed_batches(examples, config.training, steps)
    trainer = FastTrainer(build_model(config, data).to(device).train(), config)

    def take(precision: Precision, batches: list[IntArray] = batches) -> None:
        for rows in batches:
            trainer.step(source.batch(rows).to(device), precision)
        synchronise(device)

    def memory() -> float:
        take("fp32", _widest_batches(examples, config.training.batch_size))
        return peak_memory()

    def profile(precision: Precision) -> dict[str, float]:
        alone, timer = uncompiled(trainer, config), StageTimer(device)
        with timed_parts(alone, timer):
            return timed_steps(alone, timer, source, batches, precision, device)

    return {
        MEMORY: memory,
        **{_fast(precision): partial(take, precision) for precision in DTYPES},
        **{_profile(precision): partial(profile, precision) for precision in DTYPES},
    }


def _plain_side(device: str, steps: int, config_file: str | None, directory: str) -> Tasks:
    """What published code does, with the fast side's parameters."""
    config, data = _read(config_file), PreparedData(Path(directory))
    examples, model = data.examples("train"), build_model(config, data)
    plain = PlainCTSM(config.options, model.vocabulary_size).to(device).train()
    plain.load_from(model)
    transformer = PlainTransformer(config.options, model.vocabulary_size).to(device).train()
    xavier_initialise(transformer)

    def take(trainer: PlainTrainer, batches: list[IntArray]) -> None:
        for rows in batches:
            trainer.step(examples.batch(rows).to(device))
        synchronise(device)

    sizes = {PLAIN: config.training.batch_size, TRANSFORMER: TRANSFORMER_BATCH}
    return {
        name: partial(
            take,
            PlainTrainer(model, config.options.size, config.training),
            _random_batches(examples, sizes[name], config.training.seed, steps),
        )
        for name, model in ((PLAIN, plain), (TRANSFORMER, transformer))
    }


@dataclass
class _Bench:
    settings: TrainSettings
    config: RunConfig
    data: PreparedData
    examples: Examples
    machine: dict[str, Any]
    fast: Side
    plain: Side

    def run(self, say: Say) -> Report:
        """Fast path alone first, so that its memory can be read; then all contenders in alternation."""
        settings, training = self.settings, self.config.training
        batches = bucketed_batches(self.examples, training, settings.steps)
        say("training the fast path alone for its memory")
        memory = self.fast.run(MEMORY)
        say("measuring the matrix rate")
        rates = {precision: self._rates(batches, precision) for precision in settings.precisions or DTYPES}
        best = {precision: max(series, key=lambda one: one.median) for precision, series in rates.items()}
        if not settings.precisions and best["bf16"].median <= best["fp32"].median:
            del rates["bf16"], best["bf16"]
        counts = {_fast(precision): sum(map(len, batches)) for precision in rates}
        for name, size in ((PLAIN, training.batch_size), (TRANSFORMER, TRANSFORMER_BATCH)):
            counts[name] = sum(map(len, _random_batches(self.examples, size, training.seed, settings.steps)))
        runs = {name: partial(self._take, name) for name in counts}
        speeds = {
            name: Series(name, "examples/s", tuple(counts[name] / value for value in values))
            for name, values in alternate(runs, settings.rounds, say).items()
        }
        fastest = max(rates, key=lambda one: speeds[_fast(one)].median)
        if settings.profile:
            say(f"timing the stages in {fastest}")
        return Report(
            verb="train",
            machine=self.machine,
            settings=self._described(),
            data=describe_data(self.data, "train", settings.data is not None),
            series=[*speeds.values(), *(one for series in rates.values() for one in series)],
            figures=self._figures(speeds, best, batches, memory),
            profile=self.fast.run(_profile(fastest)) if settings.profile else {},
            notes=[] if settings.data is not None else [sample_note(self.data)],
        )

    def _take(self, name: str, _round: int) -> None:
        (self.plain if name in (PLAIN, TRANSFORMER) else self.fast).run(name)

    def _figures(
        self, speeds: dict[str, Series], best: dict[Precision, Series], batches: list[IntArray], memory: float
    ) -> list[Figure]:
        """Ratios, shares of the limit, memory, calibration."""
        work = 2e-9 * self._multiply_adds(batches) / sum(map(len, batches))
        figures = []
        for precision, rate in best.items():
            speed = speeds[_fast(precision)].median
            figures += [
                Figure(f"fast {precision} / plain", "x", speed / speeds[PLAIN].median),
                Figure(f"arithmetic limit at the rate of {rate.name}", "examples/s", rate.median / work),
                Figure(f"share of the limit, {precision}", "%", 100 * speed * work / rate.median),
            ]
        calibration = Figure(
            f"calibration: {TRANSFORMER}, batch {TRANSFORMER_BATCH}",
            "examples/s",
            speeds[TRANSFORMER].median,
            at_least=TRANSFORMER_EXAMPLES_PER_SECOND,
        )
        return [
            *figures,
            calibration,
            Figure("arithmetic of an example, forward and backward", "GFLOP", work),
            Figure("peak memory of the process, fast path alone", "MiB", memory),
        ]

    def _multiply_adds(self, batches: list[IntArray]) -> int:
        words = len(self.data.vocabulary)
        return sum(step_multiply_adds(self.config.options, words, Lengths.of(self.examples, rows)) for rows in batches)

    def _rates(self, batches: list[IntArray], precision: Precision) -> list[Series]:
        """Matrix rates of a large square and of the model's three largest products at the batches' mean size."""
        options, words = self.config.options, len(self.data.vocabulary)
        contexts, targets = (
            max(1, int(sum(int(lengths[rows].sum()) for rows in batches) / len(batches)))
            for lengths in (self.examples.context.lengths, self.examples.target.lengths)
        )
        shapes = {
            "square": (SQUARE, SQUARE, SQUARE),
            "vocabulary": (targets, options.size, words),
            "fusion MLP": (contexts, 5 * options.size, options.fusion_size),
            "projection": (contexts, options.size, options.size),
        }
        return [
            Series(
                f"{precision} product, {name} " + "x".join(map(str, shape)),
                "GFLOP/s",
                (2e-9 * multiply_add_rate(DTYPES[precision], *shape, device=self.settings.device),),
            )
            for name, shape in shapes.items()
        ]

    def _described(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "steps": settings.steps,
            "rounds": settings.rounds,
            "batch_size": self.config.training.batch_size,
            "device": settings.device,
            "config": self.config.to_json(),
        }


def _read(config_file: str | None) -> RunConfig:
    return read_config(None if config_file is None else Path(config_file), [])


def _fast(precision: Precision) -> str:
    return f"fast CTSM, {precision}"


def _profile(precision: Precision) -> str:
    return f"stages, {precision}"


def _random_batches(examples: Examples, batch_size: int, seed: int, steps: int) -> list[IntArray]:
    return chosen_batches(examples, random_batches(len(examples), batch_size, seed), steps, seed)


def _widest_batches(examples: Examples, batch_size: int) -> list[IntArray]:
    """Return the batches that need most memory: of the longest contexts, and of the longest replies."""
    lengths = (examples.context.lengths, examples.target.lengths)
    return [np.argsort(-one, kind="stable")[:batch_size] for one in lengths]
