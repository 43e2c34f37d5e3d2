"""Records of one setting put together, so that a table can show their mean over seeds."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import Scalar
from ctsm.evaluation.records import Interval, ResultRecord

SPLITS = ("test", "dev", "train")
# Seeds are averaged only when all of this, and the options, are equal.
SETTING = (
    *("model", "variant", "split", "n", "decoder", "max_tokens", "vocabulary", "vectors", "inferences"),
    *("precision", "iterations", "selected_on", "data_fingerprint", "bleu_signature"),
)


@dataclass(frozen=True)
class Group:
    """The records of one setting, one for each seed, in the order of the seeds; `number` is its name in tables."""

    number: int
    paths: tuple[Path, ...]
    records: tuple[ResultRecord, ...]

    @property
    def first(self) -> ResultRecord:
        """Any of the records, for what they have in common."""
        return self.records[0]

    @property
    def seeds(self) -> str:
        """The number of seeds and the seeds, such as "2 (1, 7)"."""
        return f"{len(self.records)} ({', '.join(str(record.seed) for record in self.records)})"

    @property
    def options(self) -> str:
        """The model options that differ from their defaults, or ""; an ablation's own is its variant."""
        return changed_options(self.first.options)

    def mean(self, field: str) -> float | None:
        """Return the mean of a metric over the seeds, None when a record does not have it."""
        values = [getattr(record, field) for record in self.records]
        return None if None in values else statistics.fmean(values)

    def cell(self, field: str, digits: int = 2) -> str:
        """Return the mean of a metric and, from two seeds on, its sample standard deviation."""
        mean = self.mean(field)
        if mean is None:
            return "-"
        spread = self.spread(field)
        return f"{mean:,.{digits}f}" + ("" if spread is None else f" ± {spread:,.{digits}f}")

    def interval(self, field: str) -> Interval | None:
        """Return a metric's sampling interval, its ends averaged over the seeds; None when a record has none."""
        found = [getattr(record, field) for record in self.records]
        if None in found:
            return None
        return Interval(
            low=statistics.fmean(one.low for one in found), high=statistics.fmean(one.high for one in found)
        )

    def spread(self, field: str) -> float | None:
        """Return the sample standard deviation of a metric over the seeds, None below two seeds or without it."""
        values = [getattr(record, field) for record in self.records]
        return statistics.stdev(values) if len(values) > 1 and None not in values else None

    def by_seed(self, describe: Callable[[ResultRecord], str]) -> str:
        """Return what `describe` says of each seed, or just that when it says the same of all."""
        found = [describe(record) for record in self.records]
        if len(set(found)) == 1:
            return found[0]
        return ", ".join(f"{text} (seed {record.seed})" for text, record in zip(found, self.records, strict=True))


def changed_options(options: Mapping[str, Scalar]) -> str:
    """Return options as a table shows them; `without` is left out, because the variant names the ablation."""
    return ", ".join(f"{name}={value}" for name, value in sorted(options.items()) if name != "without")


def group_records(records: Mapping[Path, ResultRecord]) -> list[Group]:
    """Group the current records by setting: test before dev, then by model, variant, options and file name.

    Raises:
        CtsmError: two current records have the same setting and seed.
    """
    settings: defaultdict[tuple[object, ...], dict[int, tuple[Path, ResultRecord]]] = defaultdict(dict)
    for path, record in records.items():
        if record.status != "current":
            continue
        runs = settings[(*(getattr(record, name) for name in SETTING), json.dumps(record.options, sort_keys=True))]
        if record.seed in runs:
            raise CtsmError(
                f"{path}: has the same setting and seed as {runs[record.seed][0]}; set 'status' to 'superseded' in "
                "one of the two and give its 'superseded_reason'."
            )
        runs[record.seed] = (path, record)
    ordered = sorted(([pair for _, pair in sorted(runs.items())] for runs in settings.values()), key=_order)
    return [
        Group(number, tuple(path for path, _ in pairs), tuple(record for _, record in pairs))
        for number, pairs in enumerate(ordered, start=1)
    ]


def _order(pairs: list[tuple[Path, ResultRecord]]) -> tuple[object, ...]:
    """Return the sort key of a group; the path decides between settings that read alike."""
    path, record = pairs[0]
    options = json.dumps(record.options, sort_keys=True)
    return SPLITS.index(record.split), record.model, record.variant, len(record.options), options, str(path)
