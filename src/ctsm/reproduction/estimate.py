"""How long what is missing will take: from this run, from others like it, from records, else from a few steps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctsm.config import RunConfig
from ctsm.corpus.prepared import PreparedData
from ctsm.device import require_device
from ctsm.evaluation.records import ResultRecord
from ctsm.reproduction.plan import Job
from ctsm.reproduction.standing import Standing

MEASURED_STEPS = 10
"""As many as EmpDG needs to show both kinds of its steps in their proportion (one in five trains discriminators)."""
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Estimate:
    """The time a job still needs at most (patience may end it before), and where that comes from."""

    seconds: float
    source: str


class Estimator:
    """Estimates jobs of one table on one device.

    Args:
        data: what they train on, for the short measurement.
        runs: the folder of run directories; logs of other seeds and earlier sessions are there.
        records: those published so far.
        device: where the jobs would run; records of other devices do not count.
    """

    def __init__(self, data: PreparedData, runs: Path, records: Iterable[ResultRecord], device: str) -> None:
        self._data = data
        self._runs = runs
        self._records = list(records)
        self._device = device
        self._measured: dict[str, float] = {}

    def estimate(self, job: Job, standing: Standing) -> Estimate:
        """Return the time for the iterations and evaluations that are missing.

        Raises:
            CtsmError: steps must be measured for it, and the device cannot be used.
        """
        left = 0 if standing.trained else max(0, job.config.training.iterations - standing.iteration)
        seconds, source = self._seconds_per_step(job) if left else (0.0, "")
        evaluation = self._evaluation_seconds(job.config)
        return Estimate(left * seconds + len(standing.missing) * evaluation, source)

    def _seconds_per_step(self, job: Job) -> tuple[float, str]:
        """Return the time of a training step, dev evaluations included where it comes from a log or a record."""
        others = (path.parent for path in sorted(self._runs.glob("**/run.json")))
        for run in [job.run, *(other for other in others if _alike(other, job.config))]:
            found = _logged_seconds_per_step(run)
            if found is not None:
                return found, "its log" if run == job.run else f"log of {run.name}"
        for record in self._records:
            if self._is_alike(record, job.config) and record.checkpoint_step:
                return record.train_seconds / record.checkpoint_step, "an earlier record"
        return self._measure(job.config), f"{MEASURED_STEPS} steps, no evaluation"

    def _evaluation_seconds(self, config: RunConfig) -> float:
        found = [one.evaluate_seconds for one in self._records if self._is_alike(one, config)]
        return max(found, default=0.0)

    def _is_alike(self, record: ResultRecord, config: RunConfig) -> bool:
        same = (record.model, record.variant, record.device) == (config.model, config.variant, self._device)
        return same and record.precision.split()[0] == config.training.precision

    def _measure(self, config: RunConfig) -> float:
        """Time a few steps on batches of all lengths, once for each configuration."""
        key = json.dumps({**config.to_json(), "training": [config.training.batch_size, config.training.precision]})
        if key not in self._measured:
            require_device(self._device)
            self._measured[key] = measured_seconds_per_step(config, self._data, self._device)
        return self._measured[key]


def measured_seconds_per_step(config: RunConfig, data: PreparedData, device: str) -> float:
    """Train a new model for a few steps and return the mean time of one; the first steps do not count."""
    from ctsm.bench.fast import FastTrainer
    from ctsm.bench.inputs import evenly_spaced
    from ctsm.bench.machine import synchronise
    from ctsm.corpus.batches import shuffled_batches
    from ctsm.training.device import training_examples
    from ctsm.training.loop import build_model

    training = config.training
    model = build_model(config, data).to(device).train()
    examples = training_examples(data.examples("train", model.needs), training, device)
    trainer = FastTrainer(model, config, done=training.iterations)  # models with phases take most time in the last one
    batches = shuffled_batches(examples.context.lengths, training.batch_size, training.seed, 0, training.pool)
    widths = [int(examples.context.lengths[rows].max()) for rows in batches]
    # On a GPU every shape is met before: its first step records it, which a run does once.
    warm_up = WARM_UP_STEPS if device == "cpu" else MEASURED_STEPS
    measured = np.random.default_rng(0).permutation(evenly_spaced(widths, MEASURED_STEPS))
    order = np.resize(measured, warm_up + MEASURED_STEPS)
    started = 0.0
    for number, place in enumerate(order):
        if number == warm_up:
            synchronise(device)
            started = time.perf_counter()
        trainer.step(examples.batch(batches[place]).to(device), training.precision)
    synchronise(device)
    return (time.perf_counter() - started) / MEASURED_STEPS


def in_words(seconds: float) -> str:
    """Return a time as people say it: "3 h 20 min", "4 min", "20 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _alike(run: Path, config: RunConfig) -> bool:
    """Say whether a run took steps like those of a configuration."""
    theirs, ours = next(_objects(run / "run.json"), {}).get("config", {}), config.to_json()
    steps = ("batch_size", "precision")
    same_steps = all(theirs.get("training", {}).get(name) == ours["training"][name] for name in steps)
    return same_steps and all(theirs.get(name) == ours[name] for name in ("model", "variant", "options"))


def _logged_seconds_per_step(run: Path) -> float | None:
    """Return the mean time of a step over a whole log, evaluations and saving included."""
    entries = [e for e in _objects(run / "log.jsonl") if e.get("iteration") and e.get("seconds")]
    return float(entries[-1]["seconds"]) / int(entries[-1]["iteration"]) if entries else None


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one in all or one a line; nothing from a file that is damaged or missing."""
    try:
        text = path.read_text(encoding="utf-8")
        values = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return
    yield from (value for value in values if isinstance(value, dict))
