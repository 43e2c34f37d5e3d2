"""One JSON record per evaluation, and beside it the per-example file that significance tests need."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import Scalar, from_json, to_json
from ctsm.evaluation.lines import read_jsonl, write_jsonl
from ctsm.files import read_json, write_json

RECORD_SCHEMA = 2
REMEDY = "make the record again with `ctsm evaluate`"


@dataclass(frozen=True, kw_only=True)
class VocabularyInfo:
    """The vocabulary a perplexity stands on: `size` words with the special tokens; `kind` is "all" or "train"."""

    size: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ResultRecord:
    """Everything one evaluation measured, and what is needed to judge or repeat it.

    Accuracies, Dist and BLEU are in percent; `acc`, `top3`, `top5` are None for a model without an emotion head and
    `bleu4` with its signature where BLEU was not computed. `acc_interval` and `ppl_interval` (of `ppl_example`) say how
    far the scores would move on other conversations (see `evaluation.significance`); None where there is no score, and
    in records of schema 1. `target_tokens` counts EOS. `iterations` is the number
    of training steps the run was configured for, `checkpoint_step` the step of the weights that were scored, and
    `selected_on` what chose them ("dev ppl_example"). `variant` is "" for the full model, else the row's name in
    the paper's Table 3 ("w/o TEE"); `options` holds the model options that differ from their defaults. Times are
    in seconds; `created` is UTC. `commit` names the code (see `current_commit`).
    """

    schema: int
    model: str
    variant: str
    options: dict[str, Scalar]
    seed: int
    split: Literal["train", "dev", "test"]
    n: int
    acc: float | None
    acc_interval: Interval | None
    top3: float | None
    top5: float | None
    ppl_example: float
    ppl_interval: Interval | None
    ppl_token: float
    target_tokens: int
    dist1: float
    dist2: float
    unigrams: int
    bigrams: int
    mean_length: float
    distinct_replies: int
    bleu4: float | None
    bleu_signature: str | None
    decoder: str
    max_tokens: int
    vocabulary: VocabularyInfo
    vectors: str
    inferences: str
    precision: str
    iterations: int
    checkpoint_step: int
    selected_on: str
    data_fingerprint: str
    parameters: int
    commit: str
    device: str
    train_seconds: float
    evaluate_seconds: float
    status: Literal["current", "superseded"]
    superseded_reason: str
    created: str
    ctsm_version: str


@dataclass(frozen=True, kw_only=True)
class PerExample:
    """One example's share of a record.

    `nll` is the negative log-likelihood (natural log) summed over the `tokens` target tokens, EOS included;
    `correct` is None for a model without an emotion head.
    """

    id: str
    conversation_id: str
    nll: float
    tokens: int
    correct: bool | None
    reply_tokens: tuple[str, ...]


def write_record(path: Path, record: ResultRecord) -> None:
    """Write a record as JSON, atomically, after the checks that `read_record` makes.

    Raises:
        CtsmError: a value has the wrong type or is out of range, for example a perplexity that is not finite.
    """
    value = to_json(record)
    _checked(value, str(path))
    write_json(path, value)


def read_record(path: Path) -> ResultRecord:
    """Read one record.

    Raises:
        CtsmError: the file is missing or not JSON, or a key is missing, unknown, of the wrong type or out of range.
    """
    return _checked(read_json(path, "a result record"), str(path))


def read_records(places: Iterable[Path]) -> dict[Path, ResultRecord]:
    """Read records by path, in the order of their names: each place is a record or a folder of them (*.json).

    Raises:
        CtsmError: a folder holds no record, or as `read_record`.
    """
    paths: list[Path] = []
    for place in places:
        found = sorted(place.glob("*.json")) if place.is_dir() else [place]
        if not found:
            raise CtsmError(f"{place}: holds no result record (*.json); write one there with `ctsm evaluate`.")
        paths.extend(found)
    return {path: read_record(path) for path in paths}


def write_per_example(path: Path, examples: Iterable[PerExample]) -> None:
    """Write the per-example file (JSONL), atomically."""
    write_jsonl(path, (to_json(example) for example in examples))


def per_example_file(record: Path) -> Path:
    """Return where `evaluate` puts the per-example file of a record: test.json has test.per-example.jsonl."""
    return record.with_suffix(".per-example.jsonl")


def read_per_example(path: Path) -> list[PerExample]:
    """Read a per-example file.

    Raises:
        CtsmError: the file is missing or a line is wrong (field missing, unknown or of the wrong type, no target
            token, an id seen before); the message names the line.
    """
    examples: dict[str, PerExample] = {}
    for place, value in read_jsonl(path, "a per-example file"):
        example = from_json(PerExample, value, place, REMEDY)
        if example.tokens < 1:
            raise CtsmError(f"{place}: the field 'tokens' must be at least 1, not {example.tokens}; {REMEDY}.")
        if example.id in examples:
            raise CtsmError(f"{place}: the id {example.id!r} is used twice; {REMEDY}.")
        examples[example.id] = example
    return list(examples.values())


def utc_now() -> str:
    """Return the time for `ResultRecord.created`, such as "2024-05-01T12:00:00+00:00"."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def current_commit() -> str:
    """Return the git commit of the running code; see `commit_of`."""
    return commit_of(Path(__file__).resolve().parents[1])


def commit_of(folder: Path) -> str:
    """Return the commit of the git checkout that tracks `folder`, with "-dirty" when files in it differ from it.

    Only changes inside `folder` count, so writing results elsewhere in the checkout does not mark the code. The
    answer is "unknown" without git, outside a checkout, or when git does not track the folder (an installed copy).
    """
    if not _git(folder, "ls-files", "--", "."):
        return "unknown"
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return "unknown"
    return commit if _git(folder, "status", "--porcelain", "--", ".") == "" else f"{commit}-dirty"


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None when it fails."""
    # Inside a git hook these variables point at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _checked(value: object, place: str) -> ResultRecord:
    """Build a record from a JSON value and check the ranges of its fields."""
    if isinstance(value, dict) and value.get("schema") == 1:
        value = {**value, "schema": RECORD_SCHEMA, "acc_interval": None, "ppl_interval": None}
    if isinstance(value, dict) and value.get("schema", RECORD_SCHEMA) != RECORD_SCHEMA:
        raise CtsmError(
            f"{place}: record schema {value['schema']!r}, but this version of ctsm reads {RECORD_SCHEMA}; {REMEDY}."
        )
    record = from_json(ResultRecord, value, place, REMEDY)
    _check_numbers(record, place)
    _check_interval("acc", record.acc, record.acc_interval, place)
    _check_interval("ppl_example", record.ppl_example, record.ppl_interval, place)
    if (record.bleu4 is None) != (record.bleu_signature is None):
        raise CtsmError(f"{place}: 'bleu4' and 'bleu_signature' must both be given or both be null; {REMEDY}.")
    if (record.status == "superseded") != bool(record.superseded_reason.strip()):
        raise CtsmError(
            f"{place}: 'superseded_reason' must be given exactly when 'status' is 'superseded'; correct those two."
        )
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError:
        created = datetime.min
    if created.tzinfo is None or created.utcoffset():
        raise CtsmError(f"{place}: 'created' must be a UTC time like '{utc_now()}', not {record.created!r}; {REMEDY}.")
    return record


def _check_numbers(record: ResultRecord, place: str) -> None:
    """Refuse counts below zero, percentages outside 0..100, and a score of nothing."""
    low = {"n": 1, "target_tokens": 1, "max_tokens": 1, "ppl_example": 1.0, "ppl_token": 1.0}
    percent = ("acc", "top3", "top5", "dist1", "dist2", "bleu4")
    for name, value in to_json(record).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least, most = low.get(name, 0), 100.0 if name in percent else float("inf")
        # A tolerance, because sums of floats reach 100.00000000000004 (sacrebleu) or 0.9999999999999999.
        if not least - 1e-9 <= value <= most + 1e-9:
            limits = f"in 0..100, not {value}" if name in percent else f"at least {least}, not {value}"
            raise CtsmError(f"{place}: the field '{name}' must be {limits}; {REMEDY}.")


def _check_interval(name: str, score: float | None, interval: Interval | None, place: str) -> None:
    """Refuse an interval without a score, or whose ends are the wrong way round."""
    if interval is not None and (score is None or interval.low > interval.high):
        raise CtsmError(f"{place}: the interval of '{name}' does not fit its score; {REMEDY}.")
