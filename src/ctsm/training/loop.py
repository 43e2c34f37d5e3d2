"""`ctsm train`: an explicit loop over length-bucketed batches, with dev selection, checkpoints and exact resumption."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ctsm.config import RunConfig
from ctsm.corpus.batches import Examples, shuffled_batches
from ctsm.corpus.prepared import PreparedData
from ctsm.errors import CtsmError
from ctsm.evaluation.metrics import accuracy, perplexity_by_example, perplexity_by_token
from ctsm.evaluation.scoring import score_examples
from ctsm.files import read_json, write_json
from ctsm.models import model_class
from ctsm.models.base import EmpatheticModel, WordTables
from ctsm.models.bundle import DataFacts, save_bundle
from ctsm.training.checkpoint import Progress, checkpoints, load_checkpoint, save_checkpoint
from ctsm.training.reporter import Reporter
from ctsm.training.schedule import noam_rate

ADAM = {"betas": (0.9, 0.98), "eps": 1e-9}


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


def train(config: RunConfig, data_directory: Path, run: Path, resume: bool, device: str = "cpu") -> Outcome:
    """Train until patience or the iteration limit; the best model by dev example-averaged perplexity is in RUN/best.

    SIGINT and SIGTERM end the run after the current step with a checkpoint.

    Raises:
        CtsmError: the run exists and `resume` is False, there is nothing to resume, or configuration and data differ.
    """
    data = PreparedData(data_directory)
    _open_run(run, config, data, resume)
    model = build_model(config, data).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True, **ADAM)  # type: ignore[arg-type]
    progress = load_checkpoint(run, model, optimizer) if resume and checkpoints(run) else Progress()
    if progress.finished and progress.iteration < config.training.iterations and not _out_of_patience(config, progress):
        progress.finished = False  # the iteration limit was raised
    trainer = _Trainer(config, data, run, model, optimizer, progress, device)
    with (
        Reporter(
            run, config.training.iterations, progress.iteration, progress.log_bytes, config.training.tensorboard
        ) as reporter,
        _signals() as caught,
    ):
        trainer.run_until_done(reporter, caught)
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

    def run_until_done(self, reporter: Reporter, caught: list[int]) -> None:
        """Step, log, evaluate and save until finished or interrupted."""
        training, progress = self.config.training, self.progress
        batches = _batches(self.data.examples("train"), self.config, progress.iteration)
        dev = self.data.examples("dev")
        window = _Window(progress, self.device)
        self.model.train()
        clock = time.perf_counter()
        while not progress.finished and not caught:
            terms = self._step(next(batches).to(self.device))
            progress.iteration += 1
            window.add(terms)
            reporter.advance(progress.iteration)
            now = time.perf_counter()
            progress.train_seconds += now - clock
            clock = now
            if progress.iteration % training.log_every == 0:
                values = window.means() | {"learning_rate": self.optimizer.param_groups[0]["lr"]}
                reporter.record("train", progress.iteration, values, progress.train_seconds)
            evaluated = progress.iteration % training.evaluate_every == 0
            progress.finished = progress.iteration >= training.iterations
            if evaluated or progress.finished:
                self._evaluate(dev, reporter)
            if evaluated or progress.finished or progress.iteration % training.checkpoint_every == 0:
                self._save(window, reporter)
        if caught:
            self._save(window, reporter)

    def _step(self, batch: Any) -> dict[str, Tensor]:
        """One optimiser step; returns the loss terms without waiting for the device."""
        training = self.config.training
        rate = noam_rate(self.progress.iteration + 1, self.config.options.size, training.warmup, training.rate_factor)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.model.loss(batch)
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()
        return {"loss": losses.total.detach(), **{name: term.detach() for name, term in losses.terms.items()}}

    def _evaluate(self, dev: Examples, reporter: Reporter) -> None:
        """Score dev, keep the model if it is the best so far, count patience."""
        progress = self.progress
        started = time.perf_counter()
        scores = score_examples(self.model, dev, device=self.device)
        self.model.train()
        values = {
            "acc": accuracy(scores.predicted, dev.emotion),
            "ppl_example": perplexity_by_example(scores.nll, scores.tokens),
            "ppl_token": perplexity_by_token(scores.nll, scores.tokens),
        }
        progress.train_seconds += time.perf_counter() - started
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
        self.progress.log_bytes = reporter.sync()
        window.store()
        save_checkpoint(self.run, self.model, self.optimizer, self.progress)


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


def _batches(examples: Examples, config: RunConfig, iteration: int) -> Iterator[Any]:
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


def _open_run(run: Path, config: RunConfig, data: PreparedData, resume: bool) -> None:
    """Create the run directory, or check that a resumed run has the same configuration and data."""
    path = run / "run.json"
    facts: dict[str, Any] = {"config": config.to_json(), "data_fingerprint": data.fingerprint}
    if path.is_file():
        if not resume:
            raise CtsmError(f"{run}: holds a training run already; add --resume to go on or choose another --out.")
        stored = read_json(path, "the description of a run")
        if stored["data_fingerprint"] != data.fingerprint:
            raise CtsmError(f"{run}: was started on other data than {data.directory}; give the same --data to resume.")
        if _without_limits(stored["config"]) != _without_limits(facts["config"]):
            raise CtsmError(f"{run}: was started with another configuration; use the same one to resume.")
    elif run.exists() and (run.is_file() or any(run.iterdir())):
        raise CtsmError(f"{run}: exists and is not a training run; choose another --out.")
    run.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)


def _without_limits(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what may change between sessions of one run: it does not alter any step."""
    changeable = ("iterations", "patience", "checkpoint_every", "tensorboard")
    training = {key: value for key, value in config["training"].items() if key not in changeable}
    return {**config, "training": training}


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
