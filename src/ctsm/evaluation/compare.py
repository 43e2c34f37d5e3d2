"""`ctsm compare`: is one system better than another, from the per-example files of their records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctsm.errors import CtsmError
from ctsm.evaluation.fields import Scalar, from_json, to_json
from ctsm.evaluation.groups import changed_options
from ctsm.evaluation.records import (
    Interval,
    PerExample,
    ResultRecord,
    per_example_file,
    read_per_example,
    read_record,
)
from ctsm.evaluation.significance import RESAMPLES, SEED, Difference, differences, holm
from ctsm.files import read_json, write_json

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
REMEDY = "make it again with `ctsm compare`"
METHOD = f"""Acc and PPL: paired bootstrap over conversations ({RESAMPLES:,} sets, seed {SEED}), percentile interval.
Dist: approximate randomisation ({RESAMPLES:,} times each pair of replies is swapped or not, seed {SEED}); a bootstrap
interval would be biased. p is two-sided, p (Holm) is corrected for all tests of the table. The tests say whether these
two trained models differ on such conversations; whether their recipes do takes several seeds as well."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One score of one system minus the reference's; `p_holm` is corrected for every test of the table."""

    record: str
    model: str
    variant: str
    options: dict[str, Scalar]
    seed: int
    metric: str
    difference: float
    interval: Interval | None
    p: float
    p_holm: float

    @property
    def system(self) -> str:
        """The row's name, such as "ctsm w/o TEE"."""
        return " ".join(part for part in (self.model, self.variant, changed_options(self.options)) if part)

    def cells(self) -> list[str]:
        """Return difference, interval, p and corrected p as a table prints them."""
        interval = "-" if self.interval is None else f"{self.interval.low:+.2f} to {self.interval.high:+.2f}"
        return [f"{self.difference:+.2f}", interval, _p(self.p), _p(self.p_holm)]


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """Systems beside one reference on the same examples.

    Attributes:
        schema: of the file.
        title: what is compared, such as "Table 1".
        split: of the examples.
        n: examples.
        conversations: that they come from.
        resamples: bootstrap sets, and swaps.
        random_seed: of the resampling.
        reference: the reference's record.
        rows: one for each score of each other system.
    """

    schema: int
    title: str
    split: str
    n: int
    conversations: int
    resamples: int
    random_seed: int
    reference: str
    rows: tuple[Compared, ...]


def compare(records: Sequence[tuple[str, Path]], title: str = "") -> Comparisons:
    """Compare systems with the first one, score by score, and correct the p-values for their number.

    Args:
        records: (name, record file with its per-example file beside it), at least two.
        title: kept in the result.

    Raises:
        CtsmError: fewer than two, a file is missing or wrong, or the records are not of the same examples and words.
    """
    if len(records) < 2:
        raise CtsmError("a comparison needs two records; give the reference and at least one other.")
    (reference_name, reference_path), *others = records
    reference, examples = _read(reference_path)
    found: list[tuple[str, ResultRecord, Difference]] = []
    for name, path in others:
        record, theirs = _read(path)
        _check_comparable(reference_path, reference, examples, path, record, theirs)
        found += [(name, record, difference) for difference in differences(examples, theirs)]
    corrected = holm([difference.p for _, _, difference in found])
    return Comparisons(
        schema=SCHEMA,
        title=title,
        split=reference.split,
        n=len(examples),
        conversations=len({example.conversation_id for example in examples}),
        resamples=RESAMPLES,
        random_seed=SEED,
        reference=reference_name,
        rows=tuple(
            Compared(
                record=name,
                model=record.model,
                variant=record.variant,
                options=record.options,
                seed=record.seed,
                p_holm=p,
                **vars(difference),
            )
            for (name, record, difference), p in zip(found, corrected, strict=True)
        ),
    )


def record_file(place: Path, split: str) -> Path:
    """Return the record that a place names: itself, or that of a run directory on one split.

    Raises:
        CtsmError: the run has not been evaluated on the split.
    """
    if not place.is_dir():
        return place
    record = Path("evaluation") / f"{split}.json"
    if not (place / record).exists():
        raise CtsmError(
            f"{place}: has not been evaluated on {split} (no {record}); run `ctsm evaluate {place} --data DIR --split "
            f"{split}` first."
        )
    return place / record


def write_comparisons(path: Path, comparisons: Comparisons) -> None:
    """Write comparisons as JSON, atomically."""
    write_json(path, to_json(comparisons))


def read_comparisons(path: Path) -> Comparisons:
    """Read what `write_comparisons` wrote.

    Raises:
        CtsmError: the file is missing, not JSON, of another schema, or a field is missing, unknown or of another type.
    """
    value = read_json(path, "a file of comparisons")
    if isinstance(value, dict) and value.get("schema", SCHEMA) != SCHEMA:
        raise CtsmError(f"{path}: schema {value['schema']!r}, but this version of ctsm reads {SCHEMA}; {REMEDY}.")
    return from_json(Comparisons, value, str(path), REMEDY)


def comparison_table(comparisons: Comparisons) -> Table:
    """Return comparisons as a table for the terminal."""
    from rich.table import Table

    caption = f"{' '.join(METHOD.split())} {comparisons.n:,} examples of {comparisons.conversations:,} conversations."
    table = Table(title=f"minus {comparisons.reference} on {comparisons.split}", caption=caption)
    for name in ("record", "score", "difference", "95 %", "p", "p (Holm)"):
        table.add_column(name, justify="left" if name in ("record", "score") else "right")
    for row in comparisons.rows:
        table.add_row(row.record, row.metric, *row.cells())
    return table


def _p(value: float) -> str:
    return f"{value:.4f}"


def _read(path: Path) -> tuple[ResultRecord, list[PerExample]]:
    """Read a record and its per-example file, and check that they belong together."""
    record, file = read_record(path), per_example_file(path)
    if not file.is_file():
        raise CtsmError(
            f"{file}: no such file (the scores of each example); give the records in the runs' evaluation folders, "
            "where `ctsm evaluate` leaves it."
        )
    examples = read_per_example(file)
    if len(examples) != record.n or sum(example.tokens for example in examples) != record.target_tokens:
        raise CtsmError(f"{file}: is not of the same evaluation as {path}; run `ctsm evaluate` again.")
    return record, examples


def _check_comparable(
    first: Path,
    reference: ResultRecord,
    examples: list[PerExample],
    second: Path,
    record: ResultRecord,
    others: list[PerExample],
) -> None:
    """Refuse systems that were not asked the same."""
    if record.split != reference.split:
        raise CtsmError(f"{second}: is of {record.split} and {first} of {reference.split}; compare within one split.")
    if record.vocabulary != reference.vocabulary:
        words = json.dumps([to_json(one.vocabulary) for one in (record, reference)])
        raise CtsmError(f"{second}: has another vocabulary than {first} ({words}); perplexities do not compare.")
    if [(one.id, one.conversation_id, one.tokens) for one in examples] != [
        (one.id, one.conversation_id, one.tokens) for one in others
    ]:
        raise CtsmError(f"{second}: is not of the same examples as {first}; evaluate both on the same data.")
