"""`ctsm bench techniques`: what each technique gives, alone and in alternation with what it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctsm.bench.inputs import (
    UNTRAINED,
    Say,
    describe_data,
    model_and_data,
    require_at_least_one,
    require_examples,
    sample_note,
)
from ctsm.bench.machine import describe_machine
from ctsm.bench.report import PER, Figure, Report, Series
from ctsm.bench.techniques import decoding, training
from ctsm.bench.techniques.pair import Pair
from ctsm.bench.timing import alternate
from ctsm.device import require_device
from ctsm.models.ctsm import CTSM
from ctsm.training.loop import build_model

DECODING_BATCH = 64
DECODING_BATCHES = 2
SPLIT = "test"


@dataclass(frozen=True)
class TechniquesSettings:
    """What to measure.

    Attributes:
        run: a run or model directory whose model replies; None takes an untrained one. Training is always of a new one.
        data: a prepared directory; None prepares the built-in sample.
        config: a YAML configuration of the untrained model; None takes the defaults.
        steps: training batches that each side works through in a round.
        rounds: rounds that count.
        device: cpu or cuda.
    """

    run: Path | None = None
    data: Path | None = None
    config: Path | None = None
    steps: int = 8
    rounds: int = 5
    device: str = "cpu"


def bench_techniques(settings: TechniquesSettings, say: Say) -> Report:
    """Measure and return the report: two series and a ratio for each pair, named as `Pair` says.

    Raises:
        CtsmError: model or data cannot be used or do not fit together, or the plain path does not know the model.
    """
    require_at_least_one(steps=settings.steps, rounds=settings.rounds)
    require_device(settings.device)
    machine = describe_machine(settings.device)
    given = (settings.run, settings.data, settings.config)
    with model_and_data(*given, settings.device, say) as (model, config, data):
        new = build_model(config, data).to(settings.device)
        assert isinstance(new, CTSM) and isinstance(model, CTSM)
        say("preparing both sides of each technique")
        pairs = [
            *training.training_pairs(training.Sample.of(new, config, require_examples(data, "train"), settings.steps)),
            *decoding.decoding_pairs(
                decoding.Sample.of(model, require_examples(data, SPLIT), DECODING_BATCH, DECODING_BATCHES)
            ),
        ]
        series, figures = _measure(pairs, settings, say)
        return Report(
            verb="techniques",
            machine=machine,
            settings={
                "steps": settings.steps,
                "rounds": settings.rounds,
                "device": settings.device,
                "config": config.to_json(),
            },
            data=describe_data(data, "train", settings.data is not None),
            series=series,
            figures=figures,
            notes=[
                *([] if settings.run is not None else [UNTRAINED]),
                *([] if settings.data is not None else [sample_note(data)]),
            ],
        )


def _measure(pairs: list[Pair], settings: TechniquesSettings, say: Say) -> tuple[list[Series], list[Figure]]:
    contenders: dict[str, Callable[[int], None]] = {}
    for pair in pairs:
        contenders[pair.title] = _round(pair.fast, pair.units)
        contenders[pair.other_title] = _round(pair.slow, pair.units)
    seconds = alternate(contenders, settings.rounds, say, settings.device)
    series, figures = [], []
    for pair in pairs:
        fast, slow = (
            Series(title, f"{PER}{pair.each}", pair.milliseconds(seconds[title]))
            for title in (pair.title, pair.other_title)
        )
        series += [fast, slow]
        figures.append(Figure(pair.title, "x", slow.median / fast.median))
    return series, figures


def _round(side: Callable[[int], object], units: int) -> Callable[[int], None]:
    def run(_round: int) -> None:
        for unit in range(units):
            side(unit)

    return run
