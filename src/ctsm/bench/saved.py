"""Reports that were saved with `ctsm bench VERB --json > FILE.json`, read back and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctsm.bench.report import SCHEMA, Figure
from ctsm.errors import CtsmError
from ctsm.files import read_json

PURPOSE = "a report of `ctsm bench`"


@dataclass(frozen=True)
class SavedSeries:
    """What is kept of repeated measurements; see `report.Series`."""

    name: str
    unit: str
    n: int
    median: float
    min: float
    max: float
    at: Mapping[str, int]


@dataclass(frozen=True)
class SavedReport:
    """What `--json` printed; see `report.Report`.

    Attributes:
        path: the file it was read from.
    """

    path: Path
    verb: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    series: list[SavedSeries]
    figures: list[Figure]
    profile: Mapping[str, float]
    notes: list[str]

    @property
    def on_cpu(self) -> bool:
        """Whether it was measured without an accelerator."""
        return bool(self.machine["device"] == "cpu")


def read_reports(folder: Path) -> list[SavedReport]:
    """Read every JSON file of a folder, in the order of their names.

    Raises:
        CtsmError: there is no such folder, a file is no report of this version, or two are of the same benchmark on the
            same device.
    """
    if not folder.is_dir():
        raise CtsmError(f"{folder}: no such folder; give the folder with what `ctsm bench VERB --json` printed.")
    reports = [read_report(path) for path in sorted(folder.glob("*.json"))]
    seen: dict[tuple[str, str], Path] = {}
    for report in reports:
        first = seen.setdefault((report.verb, report.machine["device"]), report.path)
        if first != report.path:
            raise CtsmError(
                f"{report.path}: is a second report of `ctsm bench {report.verb}` on the same device, beside "
                f"{first.name}; keep one of them in that folder."
            )
    return reports


def read_report(path: Path) -> SavedReport:
    """Read one file.

    Raises:
        CtsmError: it is missing, not JSON, or no report of this version.
    """
    value = read_json(path, PURPOSE)
    try:
        if value["schema"] != SCHEMA or not isinstance(value["machine"]["device"], str):
            raise KeyError("schema")
        series = [SavedSeries(**entry) for entry in value["series"]]
        figures = [Figure(**{name: entry[name] for name in Figure.__dataclass_fields__}) for entry in value["figures"]]
        rest = {name: value[name] for name in ("verb", "machine", "settings", "data", "profile", "notes")}
    except (KeyError, TypeError, AttributeError):
        raise CtsmError(f"{path}: is not {PURPOSE} of version {SCHEMA}; measure again with --json.") from None
    return SavedReport(path, series=series, figures=figures, **rest)


def along(series: Iterable[SavedSeries], name: str, axis: str, base: Mapping[str, int]) -> list[SavedSeries]:
    """Return the series of that name on the line through `base` on which only `axis` varies, smallest first."""
    fixed = {other: size for other, size in base.items() if other != axis}
    line = [one for one in series if one.name == name and fixed.items() <= dict(one.at).items()]
    return sorted(line, key=lambda one: one.at[axis])
