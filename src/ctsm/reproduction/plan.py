"""Which runs make a table: one for each row and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

from ctsm.config import RunConfig, read_config
from ctsm.errors import CtsmError
from ctsm.evaluation.paper import TABLE_1, TABLE_3, TABLES, PaperRow, file_name
from ctsm.models import options_class

AMBIGUITIES = "ambiguities"
TABLE_TARGETS = {"table1": TABLE_1, "table3": TABLE_3}
TARGETS = (*TABLE_TARGETS, AMBIGUITIES)
OPEN_POINTS = {
    "fusion_sharing": "A1",
    "vad_default": "A2",
    "emotion_pool": "A6",
    "decoder_memory": "A9",
    "contrastive_negatives": "A14",
}
"""The open points of the paper that are options, with their names in docs/models/ctsm.md."""

AMBIGUITY_ITERATIONS = 3_000
DEFAULT_LABEL = "default"


@dataclass(frozen=True)
class Job:
    """One run of one row.

    Attributes:
        label: the row's name in its table.
        name: of the row in file names.
        config: with the seed.
        splits: what is evaluated.
        run: the run directory.
        results: the folder of its records.
    """

    label: str
    name: str
    config: RunConfig
    splits: tuple[str, ...]
    run: Path
    results: Path

    @property
    def title(self) -> str:
        """What messages call the run, such as "ctsm-wo-tee-seed42"."""
        return self.run.name

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.training.seed


@dataclass(frozen=True)
class Places:
    """Where things are: configurations, run directories and the records that the tables are made from."""

    configs: Path
    runs: Path
    results: Path


def plan(target: str, places: Places, seeds: int, overrides: list[str]) -> list[Job]:
    """Return the runs of a table, in its order: all rows of the first seed, then all of the next.

    Args:
        target: one of TARGETS.
        places: see `Places`.
        seeds: how many, counted on from the configurations' own.
        overrides: settings that win over the configurations', as in `read_config`.

    Raises:
        CtsmError: a configuration is missing, wrong or of another row.
    """
    if seeds < 1:
        raise CtsmError(f"--seeds is {seeds}; it must be at least 1.")
    found = _ambiguities(places, overrides) if target == AMBIGUITIES else _table(target, places, overrides)
    part = AMBIGUITIES if target == AMBIGUITIES else ""
    splits = ("dev",) if part else ("dev", "test")
    jobs = []
    for offset in range(seeds):
        for label, name, config in found:
            seed = config.training.seed + offset
            seeded = replace(config, training=replace(config.training, seed=seed))
            run = places.runs / part / f"{name}-seed{seed}"
            jobs.append(Job(label, name, seeded, splits, run, places.results / part))
    return jobs


def choose(jobs: Sequence[Job], rows: Sequence[str]) -> list[Job]:
    """Return the jobs of some rows, named by their labels; all of them when none is named.

    Raises:
        CtsmError: there is no such row.
    """
    labels = list(dict.fromkeys(job.label for job in jobs))
    unknown = [row for row in rows if row not in labels]
    if unknown:
        raise CtsmError(f"--rows {unknown[0]}: there is no such row; choose from {', '.join(labels)}.")
    return [job for job in jobs if not rows or job.label in rows]


def title_of(target: str) -> str:
    """Return the title that the tables give a target: "Table 1" for table1."""
    return next((title for title, rows in TABLES.items() if rows == TABLE_TARGETS.get(target)), "the open points")


def _table(target: str, places: Places, overrides: list[str]) -> list[tuple[str, str, RunConfig]]:
    """Return label, name and configuration of each row of one of the paper's tables."""
    found = []
    for row in TABLE_TARGETS[target]:
        source = places.configs / f"{row.name}.yaml"
        config = read_config(source, overrides)
        _check_row(row, source, config)
        found.append((row.label, row.name, config))
    return found


def _check_row(row: PaperRow, source: Path, config: RunConfig) -> None:
    """Check that a configuration is of its row, and that the name of an ablation says what is left out."""
    if (config.model, config.variant) != (row.model, row.variant):
        raise CtsmError(
            f"{source}: is of {config.model!r} with variant {config.variant!r}; the row {row.label!r} needs "
            f"`model: {row.model}` and `variant: {row.variant!r}`."
        )
    ablated = str(getattr(config.options, "without", ""))
    if config.variant != (f"w/o {ablated}" if ablated else ""):
        raise CtsmError(f"{source}: options.without is {ablated!r}, which is not {config.variant!r}; make them agree.")


def _ambiguities(places: Places, overrides: list[str]) -> list[tuple[str, str, RunConfig]]:
    """Return the default and each alternative of the open points; the overrides win over the shorter training."""
    short = ["--training.iterations", str(AMBIGUITY_ITERATIONS), *overrides]
    base = read_config(places.configs / "ctsm.yaml", short)
    found = [(DEFAULT_LABEL, file_name("ctsm", DEFAULT_LABEL), base)]
    for option, value in alternatives():
        config = replace(base, options=replace(base.options, **{option: value}))
        found.append((f"{option}={value}", file_name("ctsm", option, value), config))
    return found


def alternatives() -> list[tuple[str, str]]:
    """Return each (option, value) of CTSM's open points that is not the default."""
    options = options_class("ctsm")
    hints, defaults = get_type_hints(options), {field.name: field.default for field in fields(options)}
    return [(name, value) for name in OPEN_POINTS for value in get_args(hints[name]) if value != defaults[name]]
