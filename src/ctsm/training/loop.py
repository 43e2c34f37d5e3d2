"""`ctsm train`: an explicit loop over length-bucketed batches, with dev selection, checkpoints and exact resumption."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ctsm.config import RunConfig, TrainingOptions
from ctsm.corpus.batches import Batch, Examples, shuffled_batches
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.resident import ResidentExamples
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.evaluation.metrics import accuracy, perplexity_by_example, perplexity_by_token
from ctsm.evaluation.scoring import SCORING_BATCH, score_examples
from ctsm.files import exclusive, read_json, remove_leftovers, write_json
from ctsm.models import model_class
from ctsm.models.base import EmpatheticModel, WordTables
from ctsm.models.bundle import DataFacts, distinct_tensors, is_finite, save_bundle
from ctsm.training.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from ctsm.training.device import training_examples
from ctsm.training.reporter import Reporter, tensorboard_writer
from ctsm.training.step import Stepper, adam, denormals_flushed

RUN = "run.json"
LEAST_SCORED = 8
"""Examples of dev that are scored at once even where a step has fewer, which would take long."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        progress: where the run stands.
        signal: the signal that interrupted it, or None.
    """

    progress: Progress
    signal: int | None


def build_model(config: RunConfig, data: PreparedData) -> EmpatheticModel:
    """Create a model with seeded initial values and the dataset's word tables.

    Raises:
        CtsmError: the word vectors' width is not the model's.
    """
    tables = {name: torch.from_numpy(array) for name, array in data.words.items()}
    width = tables["vectors"].shape[1]
    if width != config.options.size:
        raise CtsmError(
            f"{data.directory}: word vectors are {width} wide but options.size is {config.options.size}; "
            f"prepare with --vector-size {config.options.size} or set --options.size {width}."
        )
    torch.manual_seed(config.training.seed)
    model = model_class(config.model)(config.options, len(data.vocabulary))
    model.install(WordTables(**tables))
    return model


@denormals_flushed()
def train(
    config: RunConfig,
    data_directory: Path,
    run: Path,
    resume: bool,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until patience or the iteration limit; the best model by dev example-averaged perplexity is in RUN/best.

    SIGINT, SIGTERM and `stop()`, which is asked before every step, end the run after the current step with a
    checkpoint.

    Raises:
        CtsmError: the run exists and `resume` is False, configuration or data differ from the run's, every checkpoint
            is damaged, another process works on the run, the data cannot be trained on, the device cannot be used, or
            the training diverged.
    """
    require_device(device)
    training = config.training
    data = PreparedData(data_directory)
    check_run(run, config, data, resume)
    if training.tensorboard:
        tensorboard_writer()  # a missing extra shows before anything is written
    model = build_model(config, data).to(device)
    run.mkdir(parents=True, exist_ok=True)
    with exclusive(run):
        _remove_leftovers(run)
        optimizer = adam(model)
        progress, damages = load_checkpoint(run, model, optimizer) if checkpoints(run) else (Progress(), [])
        _apply_limits(run, config, progress)
        write_json(run / RUN, _facts(config, data))
        with (
            Reporter(run, training.iterations, progress.iteration, progress.log_bytes, training.tensorboard) as report,
            _signals() as caught,
        ):
            for damage in damages:
                report.say(f"an earlier checkpoint is used: {damage}")
            trainer = _Trainer(config, data, run, model, optimizer, progress, device)
            trainer.run_until_done(report, lambda: bool(caught) or stop())
    return Outcome(progress, caught[0] if caught else None)


@dataclass
class _Trainer:
    """The state of a running training; `progress` is what a checkpoint keeps of it."""

    config: RunConfig
    data: PreparedData
    run: Path
    model: EmpatheticModel
    optimizer: torch.optim.Optimizer
    progress: Progress
    device: str
    clock: float = 0.0

    def run_until_done(self, reporter: Reporter, interrupted: Callable[[], bool]) -> None:
        """Step, log, evaluate and save until finished or interrupted."""
        training, progress = self.config.training, self.progress
        train = training_examples(self.data.examples("train", self.model.needs), training, self.device)
        batches = _batches(train, self.config, progress.iteration)
        take_step = Stepper(self.model, self.optimizer, self.config)
        dev = self.data.examples("dev", self.model.needs)
        window = _Window(progress, self.device)
        saved = progress.iteration
        self.model.train()
        self.clock = time.perf_counter()
        while not progress.finished and not interrupted():
            batch = next(batches).to(self.device)
            progress.iteration += 1
            terms = take_step(batch, progress.iteration)
            window.add(terms)
            reporter.advance(progress.iteration)
            self._tick()
            if progress.iteration % training.log_every == 0:
                values = window.means() | {"learning_rate": float(self.optimizer.param_groups[0]["lr"])}
                reporter.record("train", progress.iteration, values, progress.train_seconds)
            progress.finished = progress.iteration >= training.iterations
            evaluate = progress.finished or progress.iteration % training.evaluate_every == 0
            if evaluate:
                self._evaluate(dev, reporter)
            if evaluate or progress.iteration % training.checkpoint_every == 0:
                self._save(window, reporter)
                saved = progress.iteration
        if saved != progress.iteration:
            self._save(window, reporter)

    def _tick(self) -> None:
        """Add the time since the last call to the run's."""
        now = time.perf_counter()
        self.progress.train_seconds += now - self.clock
        self.clock = now

    def _evaluate(self, dev: Examples, reporter: Reporter) -> None:
        """Score dev, keep the model if it is the best so far, count patience."""
        self._require_finite()
        progress = self.progress
        # In batches no larger than a step's, so that an evaluation needs no more memory than a step.
        batch_size = min(SCORING_BATCH, max(LEAST_SCORED, self.config.training.batch_size))
        scores = score_examples(self.model, dev, batch_size=batch_size, device=self.device)
        self.model.train()
        values = {
            "ppl_example": perplexity_by_example(scores.nll, scores.tokens),
            "ppl_token": perplexity_by_token(scores.nll, scores.tokens),
        }
        if scores.predicted is not None:
            values = {"acc": accuracy(scores.predicted, dev.emotion), **values}
        self._tick()
        reporter.record("dev", progress.iteration, values, progress.train_seconds)
        if progress.iteration < self.config.training.evaluate_from and not progress.finished:
            return
        if progress.best_score is None or values["ppl_example"] < progress.best_score:
            progress.best_score, progress.best_iteration = values["ppl_example"], progress.iteration
            progress.stale_evaluations = 0
            facts = {"iteration": progress.iteration, "train_seconds": progress.train_seconds, "dev": values}
            data = DataFacts.of(self.data.manifest)
            save_bundle(self.run / "best", self.model, self.config, self.data.directory, data, facts)
        else:
            progress.stale_evaluations += 1
            if _out_of_patience(self.config, progress):
                progress.finished = True
                reporter.say(f"no improvement in {progress.stale_evaluations} evaluations: stopping")

    def _save(self, window: _Window, reporter: Reporter) -> None:
        self._require_finite()
        self.progress.log_bytes = reporter.sync()
        window.store()
        save_checkpoint(self.run, self.model, self.optimizer, self.progress)

    def _require_finite(self) -> None:
        """Refuse to keep a model that has diverged: the last good checkpoint and best model stay."""
        for name, tensor in distinct_tensors(self.model).items():
            if not is_finite(tensor):
                raise CtsmError(
                    f"{self.run}: the training diverged before iteration {self.progress.iteration} ({name} is not "
                    "finite); start another run with a lower training.rate_factor."
                )


class _Window:
    """Sums of the loss terms since the last log line, kept on the device until they are logged."""

    def __init__(self, progress: Progress, device: str) -> None:
        self._progress = progress
        self._device = device
        self._names: list[str] = []
        self._sums: Tensor | None = None
        if progress.window:
            self._sums = torch.tensor(progress.window, dtype=torch.float64, device=device)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one step's terms."""
        self._names = list(terms)
        values = torch.stack(list(terms.values())).double()
        self._sums = values if self._sums is None else self._sums + values
        self._progress.window_steps += 1

    def means(self) -> dict[str, float]:
        """Return the means over the window and start a new one."""
        assert self._sums is not None
        means = (self._sums / self._progress.window_steps).tolist()
        self._sums, self._progress.window_steps, self._progress.window = None, 0, []
        return dict(zip(self._names, means, strict=True))

    def store(self) -> None:
        """Copy the sums into the progress that a checkpoint keeps."""
        self._progress.window = [] if self._sums is None else self._sums.tolist()


def _batches(examples: Examples | ResidentExamples, config: RunConfig, iteration: int) -> Iterator[Batch]:
    """Yield training batches for ever, starting with the one that step `iteration` takes."""
    training = config.training
    lengths = examples.context.lengths
    epoch = 0
    while True:
        batches = shuffled_batches(lengths, training.batch_size, training.seed, epoch, training.pool)
        skip, iteration = min(iteration, len(batches)), max(0, iteration - len(batches))
        for rows in batches[skip:]:
            yield examples.batch(rows)
        epoch += 1


def _out_of_patience(config: RunConfig, progress: Progress) -> bool:
    return progress.stale_evaluations >= config.training.patience


def _facts(config: RunConfig, data: PreparedData) -> dict[str, Any]:
    """Describe a run: what a resumed one must agree with."""
    extras = data.extras_hashes(model_class(config.model).needs)
    return {"config": config.to_json(), "data_fingerprint": data.fingerprint, "data_extras": extras}


def check_run(run: Path, config: RunConfig, data: PreparedData, resume: bool) -> None:
    """Check that a run can start, or that a resumed run has the same configuration and data; writes nothing."""
    data.require(model_class(config.model).needs)
    for split in ("train", "dev"):
        if not len(data.examples(split)):
            raise CtsmError(f"{data.directory}: has no {split} example; prepare dialogues with a {split} split.")
    path = run / RUN
    if not path.is_file():
        # a process killed at the very start may have left the beginning of run.json
        if run.is_file() or (run.exists() and any(not item.name.startswith(f".{RUN}.") for item in run.iterdir())):
            raise CtsmError(f"{run}: exists and is not a training run; choose another --out.")
        return
    if not resume:
        raise CtsmError(f"{run}: holds a training run already; add --resume to go on or choose another --out.")
    stored, facts = read_json(path, "the description of a run"), _facts(config, data)
    try:
        same_data = stored["data_fingerprint"] == facts["data_fingerprint"]
        same_data = same_data and stored.get("data_extras", {}) == facts["data_extras"]
        difference = _difference(_without_limits(stored["config"]), _without_limits(facts["config"]))
    except (KeyError, TypeError, AttributeError):
        raise CtsmError(f"{path}: not the description of a run; choose another --out.") from None
    if not same_data:
        raise CtsmError(f"{run}: was started on other data than {data.directory}; give the same --data to resume.")
    if difference:
        raise CtsmError(
            f"{run}: was started with another configuration ({difference}); use the same one to resume, or choose "
            "another --out."
        )


def _apply_limits(run: Path, config: RunConfig, progress: Progress) -> None:
    """Let a finished run go on whose limits were raised; refuse to stop before where a run stands."""
    limit = config.training.iterations
    if progress.iteration < limit and not _out_of_patience(config, progress):
        progress.finished = False
    elif not progress.finished:
        raise CtsmError(
            f"{run}: stands at iteration {progress.iteration} after {progress.stale_evaluations} evaluations without "
            "improvement; raise --training.iterations or --training.patience to go on."
        )


def _remove_leftovers(run: Path) -> None:
    """Clear away what a killed process was writing."""
    for folder, names in ((run, RUN), (run, "best"), (run / "checkpoints", "step-????????")):
        remove_leftovers(folder, names)


def _without_limits(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what may change between sessions of one run: it does not alter any step.

    A setting that the version which began the run did not have is at its default.
    """
    changeable = ("iterations", "patience", "checkpoint_every", "tensorboard")
    known = asdict(TrainingOptions()) | config["training"]
    training = {key: value for key, value in known.items() if key not in changeable}
    return {**config, "training": training}


def _difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Name the first setting in which two configurations differ, with both values; empty if they are the same."""
    sides = [
        {
            f"{group}.{key}" if key else group: json.dumps(value)
            for group, values in side.items()
            for key, value in (values.items() if isinstance(values, dict) else [("", values)])
        }
        for side in (there, here)
    ]
    for name in sides[1] | sides[0]:
        first, second = (side.get(name, "unset") for side in sides)
        if first != second:
            return f"{name} is {first} there and {second} here"
    return ""


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying; a second one of the same kind has its usual effect."""
    caught: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if caught:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        caught.append(number)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
