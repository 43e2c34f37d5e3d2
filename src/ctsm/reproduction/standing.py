"""How far a run is: its checkpoints, and the records that were published of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.records import ResultRecord, read_record, read_records, write_record
from ctsm.files import atomic_file, read_json
from ctsm.reproduction.plan import Job
from ctsm.training.checkpoint import STATE, Progress, checkpoints


@dataclass(frozen=True)
class Standing:
    """Where a job stands.

    Attributes:
        records: the file of the published record of each split that has one.
        iteration: of the newest checkpoint.
        trained: whether the run is finished.
        missing: the splits without a record.
    """

    records: dict[str, Path]
    iteration: int
    trained: bool
    missing: tuple[str, ...]

    def describe(self, limit: int) -> str:
        """Return one or two words for the list of rows."""
        if not self.missing:
            return "done"
        if self.trained:
            return f"trained, {' and '.join(self.missing)} not evaluated"
        return f"at {self.iteration:,} of {limit:,}" if self.iteration else "missing"


def standing(job: Job, fingerprint: str) -> Standing:
    """Look up where a job stands, on the prepared data with this fingerprint.

    Raises:
        CtsmError: a record in the folder of results cannot be read.
    """
    published = _published(job, fingerprint, _records(job.results))
    missing = tuple(split for split in job.splits if split not in published)
    progress, training = _progress(job.run), job.config.training
    # A finished run goes on when its limit was raised, unless its patience had ended it.
    ended = progress.iteration >= training.iterations or progress.stale_evaluations >= training.patience
    return Standing(published, progress.iteration, progress.finished and ended, missing)


def publish(job: Job, record: ResultRecord, fingerprint: str) -> Path:
    """Put a record, and a copy of the run's log, among the results under a name that no other record has.

    Returns:
        The record's file.
    """
    for number in range(1, 10_000):
        stem = f"{job.name}-{job.config.training.iterations}-seed{job.seed}" + (f"-{number}" if number > 1 else "")
        files = {split: job.results / f"{stem}-{split}.json" for split in job.splits}
        if all(
            not file.exists() or _is_of(read_record(file), job, split, fingerprint) for split, file in files.items()
        ):
            break
    write_record(files[record.split], record)
    with (job.run / "log.jsonl").open("rb") as log, atomic_file(job.results / f"{stem}.log.jsonl", "wb") as copy:
        shutil.copyfileobj(log, copy)
    return files[record.split]


def evaluation_file(job: Job, split: str, published: Path) -> Path | None:
    """Return the run's own record, with its per-example file beside it, if it is the published one; else None."""
    file = job.run / "evaluation" / f"{split}.json"
    try:
        return file if read_record(file) == read_record(published) else None
    except CtsmError:
        return None


def _progress(run: Path) -> Progress:
    """Return the state of the newest checkpoint whose state can be read."""
    for folder in reversed(checkpoints(run)):
        try:
            return Progress(**read_json(folder / STATE, "the state of a checkpoint"))
        except (CtsmError, TypeError):
            continue  # training falls back on the one before, too
    return Progress()


def _records(folder: Path) -> Mapping[Path, ResultRecord]:
    return read_records([folder]) if any(folder.glob("*.json")) else {}


def _published(job: Job, fingerprint: str, records: Mapping[Path, ResultRecord]) -> dict[str, Path]:
    return {
        split: path
        for split in job.splits
        for path, record in records.items()
        if _is_of(record, job, split, fingerprint)
    }


def _is_of(record: ResultRecord, job: Job, split: str, fingerprint: str) -> bool:
    """Say whether a record is what evaluating this job would make."""
    config = job.config
    return (
        record.status == "current"
        and record.split == split
        and (record.model, record.variant, record.seed) == (config.model, config.variant, job.seed)
        and record.options == config.changed_options()
        and record.iterations == config.training.iterations
        and record.precision.split()[0] == config.training.precision
        and record.data_fingerprint == fingerprint
        and record.decoder == "greedy"
    )
