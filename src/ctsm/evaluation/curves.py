"""The dev curves of training runs, from copies of their logs (NAME.log.jsonl) beside the records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ctsm.errors import CtsmError
from ctsm.evaluation.lines import read_jsonl

SUFFIX = ".log.jsonl"
FIELDS = ("iteration", "ppl_example", "ppl_token")


def read_curves(folder: Path) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Yield (name, dev evaluations in the order of the log) for every log in a folder.

    An evaluation of a model without an emotion head has no "acc".

    Raises:
        CtsmError: a line is not JSON, or a dev evaluation lacks a field.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        points = []
        for place, entry in read_jsonl(path, "a training log"):
            if entry.get("kind") != "dev":
                continue
            missing = [field for field in FIELDS if not isinstance(entry.get(field), int | float)]
            if missing:
                raise CtsmError(f"{place}: a dev evaluation without {missing[0]!r}; copy the run's log.jsonl again.")
            points.append({field: entry[field] for field in (*FIELDS, "acc") if entry.get(field) is not None})
        yield path.name.removesuffix(SUFFIX), points
