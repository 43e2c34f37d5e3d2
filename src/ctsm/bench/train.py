"""`ctsm bench train`: training speed against the plain path and against the machine's matrix rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from ctsm.bench.machine import describe_machine, multiply_add_rate, peak_memory
from ctsm.bench.reference.ctsm import PlainCTSM
from ctsm.bench.reference.training import PlainTrainer, random_batches
from ctsm.bench.reference.transformer import PlainTransformer
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.stages import StageTimer, timed_parts, timed_steps, uncompiled
from ctsm.bench.timing import alternate
from ctsm.config import RunConfig, read_config
from ctsm.corpus.batches import Examples, IntArray
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.device import require_device
from ctsm.memory import keep_freed_memory, return_freed_memory
from ctsm.models.base import xavier_initialise
from ctsm.training.device import training_examples
from ctsm.training.loop import build_model

TRANSFORMER_BATCH = 16
TRANSFORMER_EXAMPLES_PER_SECOND = 50.0
"""What the plain Transformer must reach on two idle cores: the published code trains it at 51 to 59 examples/s."""

SQUARE = 2_048
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
PLAIN, TRANSFORMER = "plain CTSM", "plain Transformer"


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
        source = training_examples(examples, config.training, settings.device)
        return _Bench(settings, config, data, examples, source, machine).run(say)


@dataclass
class _Bench:
    settings: TrainSettings
    config: RunConfig
    data: PreparedData
    examples: Examples
    source: Examples | ResidentExamples  # of the fast path's batches
    machine: dict[str, Any]

    def run(self, say: Say) -> Report:
        """Fast path alone first, so that its memory can be read; then all contenders in alternation."""
        settings, config, device = self.settings, self.config, self.settings.device
        batches = bucketed_batches(self.examples, config.training, settings.steps)
        model = build_model(config, self.data).to(device).train()
        fast = FastTrainer(model, config)
        say("training the fast path alone for its memory")
        for rows in self._widest_batches():
            fast.step(self.source.batch(rows).to(device), "fp32")
        memory = peak_memory()
        say("measuring the matrix rate")
        rates = {precision: self._rates(batches, precision) for precision in settings.precisions or DTYPES}
        best = {precision: max(series, key=lambda one: one.median) for precision, series in rates.items()}
        if not settings.precisions and best["bf16"].median <= best["fp32"].median:
            del rates["bf16"], best["bf16"]
        plain = PlainCTSM(config.options, len(self.data.vocabulary)).to(device).train()
        plain.load_from(model)
        transformer = PlainTransformer(config.options, len(self.data.vocabulary)).to(device).train()
        xavier_initialise(transformer)
        size = config.options.size
        plain_trainer, transformer_trainer = (PlainTrainer(one, size, config.training) for one in (plain, transformer))
        random = self._random_batches(config.training.batch_size)
        sixteens = self._random_batches(TRANSFORMER_BATCH)
        contenders = {
            **{f"fast CTSM, {one}": self._fast_run(fast, batches, one) for one in rates},
            PLAIN: self._plain_run(plain_trainer, random),
            TRANSFORMER: self._plain_run(transformer_trainer, sixteens),
        }
        counts = {**{name: _examples(batches) for name in contenders}, PLAIN: _examples(random)}
        counts[TRANSFORMER] = _examples(sixteens)
        seconds = alternate(contenders, settings.rounds, say, device)
        speeds = {
            name: Series(name, "examples/s", tuple(counts[name] / value for value in values))
            for name, values in seconds.items()
        }
        fastest = max(rates, key=lambda one: speeds[f"fast CTSM, {one}"].median)
        return Report(
            verb="train",
            machine=self.machine,
            settings=self._described(),
            data=describe_data(self.data, "train", settings.data is not None),
            series=[*speeds.values(), *(one for series in rates.values() for one in series)],
            figures=self._figures(speeds, best, batches, memory),
            profile=self._profile(fast, batches, fastest, say) if settings.profile else {},
            notes=[] if settings.data is not None else [sample_note(self.data)],
        )

    def _figures(
        self, speeds: dict[str, Series], best: dict[Precision, Series], batches: list[IntArray], memory: float
    ) -> list[Figure]:
        """Ratios, shares of the limit, memory, calibration."""
        work = 2e-9 * self._multiply_adds(batches) / _examples(batches)
        figures = []
        for precision, rate in best.items():
            speed = speeds[f"fast CTSM, {precision}"].median
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

    def _random_batches(self, batch_size: int) -> list[IntArray]:
        seed = self.config.training.seed
        return chosen_batches(
            self.examples, random_batches(len(self.examples), batch_size, seed), self.settings.steps, seed
        )

    def _widest_batches(self) -> list[IntArray]:
        """The batches that need most memory: of the longest contexts, and of the longest replies."""
        size = self.config.training.batch_size
        lengths = (self.examples.context.lengths, self.examples.target.lengths)
        return [np.argsort(-one, kind="stable")[:size] for one in lengths]

    def _fast_run(self, trainer: FastTrainer, batches: list[IntArray], precision: Precision) -> Any:
        def run(_number: int) -> None:
            keep_freed_memory()
            for rows in batches:
                trainer.step(self.source.batch(rows).to(self.settings.device), precision)

        return run

    def _plain_run(self, trainer: PlainTrainer, batches: list[IntArray]) -> Any:
        def run(_number: int) -> None:
            return_freed_memory()  # published code does not ask for anything else
            for rows in batches:
                trainer.step(self.examples.batch(rows).to(self.settings.device))

        return run

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

    def _profile(self, fast: FastTrainer, batches: list[IntArray], precision: Precision, say: Say) -> dict[str, float]:
        """Return the seconds of each stage of a step, the mean over the batches."""
        say(f"timing the stages in {precision}")
        device = self.settings.device
        trainer, timer = uncompiled(fast, self.config), StageTimer(device)
        with timed_parts(trainer, timer):
            return timed_steps(trainer, timer, self.source, batches, precision, device)

    def _described(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "steps": settings.steps,
            "rounds": settings.rounds,
            "batch_size": self.config.training.batch_size,
            "device": settings.device,
            "config": self.config.to_json(),
        }


def _examples(batches: Sequence[IntArray]) -> int:
    return sum(len(rows) for rows in batches)
