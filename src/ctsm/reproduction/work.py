"""Working through the rows of a table: train or resume, evaluate, publish, make the tables anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctsm.corpus.prepared import PreparedData
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.evaluation.compare import compare, write_comparisons
from ctsm.evaluation.evaluate import evaluate
from ctsm.evaluation.paper import TABLE_1
from ctsm.evaluation.records import read_records
from ctsm.evaluation.tables import COMPARISONS, write_tables
from ctsm.reproduction.ambiguities import write_ambiguities
from ctsm.reproduction.claims import claim
from ctsm.reproduction.deadline import Deadline
from ctsm.reproduction.estimate import Estimate, Estimator
from ctsm.reproduction.plan import AMBIGUITIES, DEFAULT_LABEL, Job, Places, choose, plan, title_of
from ctsm.reproduction.standing import Standing, evaluation_file, publish, standing
from ctsm.training.loop import check_run, train
from ctsm.training.step import denormals_flushed

LOCKS = ".claims"


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    Attributes:
        target: one of `plan.TARGETS`.
        data: a prepared dataset.
        places: configurations, runs, results.
        seeds: of each row.
        rows: labels of the rows to work on; empty for all.
        overrides: settings for every row, such as ["--training.precision", "bf16"].
        hours: the budget; None for no end.
        device: where to compute.
    """

    target: str
    data: Path
    places: Places
    seeds: int = 1
    rows: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    hours: float | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """What the list of rows says of one run.

    Attributes:
        job: the run.
        standing: where it stands.
        problem: the sentence that says why it cannot go on as it is; empty if it can.
        estimate: the time it still needs, None if there is a problem.
    """

    job: Job
    standing: Standing
    problem: str
    estimate: Estimate | None


@dataclass(frozen=True)
class Summary:
    """How a call of `reproduce` ended.

    Attributes:
        tables: the file with the tables, None when there is no record yet.
        open: runs that are not done, with what keeps them.
        signal: the signal that interrupted the work, or None; a used-up budget is none.
    """

    tables: Path | None
    open: dict[str, str]
    signal: int | None


def outlook(request: Request) -> list[Row]:
    """Return every row with where it stands and the time it still needs, or what is in its way; nothing is written.

    Raises:
        CtsmError: a configuration is missing or wrong, the data cannot be read, or the device cannot be used.
    """
    worker = _Worker(request, lambda _message: None)
    runs, results = request.places.runs, sorted({job.results for job in worker.jobs} | {request.places.results})
    records = [record for folder in results if any(folder.glob("*.json")) for record in read_records([folder]).values()]
    estimator = Estimator(worker.data, runs, records, request.device)
    rows = []
    for job in worker.jobs:
        at, problem = worker.standing(job), worker.problem(job)
        rows.append(Row(job, at, problem, None if problem else estimator.estimate(job, at)))
    return rows


@denormals_flushed()  # here already: what comes before the first training starts the threads that compute
def reproduce(request: Request, say: Callable[[str], None]) -> Summary:
    """Work on every row that is missing and that no other process holds, until all are done or the budget is used up.

    A row whose training fails is reported, and the others are done first.

    Raises:
        CtsmError: the device cannot be used, a configuration, the data or a run does not fit (before any training), or
            a row failed.
    """
    require_device(request.device)
    return _Worker(request, say).run()


class _Worker:
    """One process's share of the work."""

    def __init__(self, request: Request, say: Callable[[str], None]) -> None:
        self._request, self._say = request, say
        self._deadline = Deadline(request.hours)
        places = request.places
        self._table = plan(request.target, places, request.seeds, list(request.overrides))
        self.jobs = choose(self._table, request.rows)
        self.data = PreparedData(request.data)
        self._folder = self.jobs[0].results
        self._locks = places.runs / LOCKS
        self._failures: dict[str, str] = {}
        self._signal: int | None = None

    def standing(self, job: Job) -> Standing:
        return standing(job, self.data.fingerprint)

    def problem(self, job: Job) -> str:
        """Return the sentence that says why a row cannot be worked on, empty if it can or is done."""
        try:
            if self.standing(job).missing:
                check_run(job.run, job.config, self.data, resume=True)
        except CtsmError as error:
            return str(error)
        return ""

    def run(self) -> Summary:
        """Go through the rows until a whole pass finds nothing more to do."""
        for job in self.jobs:
            if problem := self.problem(job):
                raise CtsmError(f"{job.label}: {problem}")
        while self._pass():
            pass
        tables = self._make_tables()
        if self._failures:
            raise CtsmError("; ".join(f"{name} failed: {why}" for name, why in self._failures.items()))
        left = {job.title: self._why_open(job) for job in self.jobs if self.standing(job).missing}
        return Summary(tables, left, self._signal)

    def _pass(self) -> bool:
        """Work once on each row that is open; returns whether another pass may find something to do."""
        worked = False
        for job in self.jobs:
            if job.title in self._failures or not self.standing(job).missing:
                continue
            if self._deadline.passed():
                return False
            with claim(self._locks / f"{job.run.parent.name}-{job.title}.lock") as mine:
                if not mine or not self.standing(job).missing:
                    continue
                worked = True
                self._work_on(job)
            if self._signal is not None:
                return False
            self._make_tables()
        return worked

    def _work_on(self, job: Job) -> None:
        """Train or resume one run and evaluate what is missing; a failure is kept for the end."""
        try:
            if self._train(job):
                for split in self.standing(job).missing:
                    self._evaluate(job, split)
        except CtsmError as error:
            self._failures[job.title] = str(error).rstrip(".")
            self._say(f"{job.title}: {error}")

    def _train(self, job: Job) -> bool:
        """Train one run as far as it goes; returns whether it is finished."""
        at, limit = self.standing(job), job.config.training.iterations
        if at.trained:
            return True
        self._say(f"{job.title}: training from iteration {at.iteration:,} to at most {limit:,}")
        device, stop = self._request.device, self._deadline.passed
        outcome = train(job.config, self.data.directory, job.run, resume=job.run.exists(), device=device, stop=stop)
        self._signal = outcome.signal
        return outcome.progress.finished and self._signal is None

    def _evaluate(self, job: Job, split: str) -> None:
        self._say(f"{job.title}: evaluating on {split}")
        out = job.run / "evaluation"
        found = evaluate(job.run, self.data.directory, split, out, self._request.device)
        self._say(f"{publish(job, found.record, self.data.fingerprint)}")

    def _why_open(self, job: Job) -> str:
        at = self.standing(job).describe(job.config.training.iterations)
        return at if self._signal is not None or self._deadline.passed() else f"{at}; another process is working on it"

    def _make_tables(self) -> Path | None:
        """Make significance tests and tables anew, one process at a time so that the last one has seen all records."""
        if not any(self._folder.glob("*.json")):
            return None
        with claim(self._locks / "tables.lock", wait=True):
            self._compare()
            if self._request.target == AMBIGUITIES:
                return write_ambiguities(self._folder)
            out = self._folder / "README.md"
            write_tables(self._folder, out)
            return out

    def _compare(self) -> None:
        """Test every row of the first seed against the reference, as far as this file system has their scores."""
        ambiguities = self._request.target == AMBIGUITIES
        reference, split = (DEFAULT_LABEL, "dev") if ambiguities else (TABLE_1[-1].label, "test")
        first = [job for job in self._table if job.seed == self._table[0].seed]
        found = [self._scores(job, split) for job in sorted(first, key=lambda job: job.label != reference)]
        known = [pair for pair in found if pair is not None]
        if found[0] is not None and len(known) > 1:
            comparisons = compare(known, title_of(self._request.target))
            write_comparisons(self._folder / COMPARISONS / f"{self._request.target}.json", comparisons)

    def _scores(self, job: Job, split: str) -> tuple[str, Path] | None:
        """Return the name of a published record and the run's own copy, which has the per-example file beside it."""
        published = self.standing(job).records.get(split)
        own = None if published is None else evaluation_file(job, split, published)
        return None if published is None or own is None else (published.name, own)
