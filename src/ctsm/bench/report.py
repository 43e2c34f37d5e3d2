"""What a benchmark found: a JSON object with one schema for all verbs, and tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
SEPARATOR = ": "
"""Between the part, the technique and what it replaces in the names of `ctsm bench techniques`."""
PER = "ms for "
"""Before what the milliseconds of `ctsm bench techniques` are of, in their unit."""


@dataclass(frozen=True)
class Series:
    """Repeated measurements of one thing.

    Attributes:
        name: what was measured.
        unit: of the values.
        values: one for each repetition; more is better or worse as the unit says.
        at: the sizes it was measured at, by name, where a benchmark varies them.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    at: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name with the sizes."""
        return ", ".join([self.name, *(f"{name} {size:,}" for name, size in self.at.items())])

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def percentile(self, percent: float) -> float:
        """Return the smallest value that at least `percent` of the values do not exceed."""
        place = -(-len(self.values) * percent // 100)
        return sorted(self.values)[max(0, int(place) - 1)]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of one entry of "series"."""
        return {
            "name": self.name,
            "unit": self.unit,
            "n": len(self.values),
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "at": dict(self.at),
        }


@dataclass(frozen=True)
class Figure:
    """One number derived from the measurements.

    Attributes:
        name: what it is.
        unit: "x", "%", "MiB", "ms", "examples/s" or the like.
        value: the number.
        at_least: what it must reach to be trusted (calibrations only).
        at_most: what it must not exceed to be trusted (calibrations only).
    """

    name: str
    unit: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bound holds; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of one entry of "figures"."""
        bounds = {"at_least": self.at_least, "at_most": self.at_most, "met": self.met}
        return {"name": self.name, "unit": self.unit, "value": self.value, **bounds}

    def bound(self) -> str:
        """Return the bound as people read it."""
        if self.met is None:
            return ""
        sign, limit = ("at least", self.at_least) if self.at_least is not None else ("at most", self.at_most)
        return f"{sign} {limit:g}: {'met' if self.met else 'NOT met'}"


@dataclass(frozen=True)
class Report:
    """All that one run of a benchmark found.

    Attributes:
        verb: the benchmark's name, such as "train".
        machine: from `ctsm.bench.machine.describe_machine`.
        settings: what was asked for.
        data: what was measured on.
        series: the measurements.
        figures: ratios, shares, memory and calibrations.
        profile: seconds of one step by stage; empty where it was not asked for.
        notes: what a reader must know to judge the figures.
    """

    verb: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    series: list[Series]
    figures: list[Figure]
    profile: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints; docs/performance.md lists its keys."""
        return {
            "schema": SCHEMA,
            "verb": self.verb,
            "machine": self.machine,
            "settings": self.settings,
            "data": self.data,
            "series": [series.to_json() for series in self.series],
            "figures": [figure.to_json() for figure in self.figures],
            "profile": self.profile,
            "notes": self.notes,
        }

    def tables(self) -> Iterator[Table]:
        """Yield the tables that people see."""
        from rich.table import Table

        facts = {name: value for name, value in {**self.data, **self.machine}.items() if name != "fingerprint"}
        measured = Table("measured", "median", "min", "max", "unit", "n", title=f"ctsm bench {self.verb}")
        for series in self.series:
            low, high = number(min(series.values)), number(max(series.values))
            measured.add_row(series.label, number(series.median), low, high, series.unit, str(len(series.values)))
        derived = Table("figure", "value", "unit", "calibration")
        for figure in self.figures:
            derived.add_row(figure.name, number(figure.value), figure.unit, figure.bound())
        derived.caption = "\n".join([", ".join(f"{name} {value}" for name, value in facts.items()), *self.notes])
        derived.caption_justify = "left"
        for table in (measured, derived):
            for column in table.columns[1:4] if table is measured else table.columns[1:2]:
                column.justify = "right"
        yield measured
        if self.profile:
            yield self._profile_table()
        yield derived

    def _profile_table(self) -> Table:
        from rich.table import Table

        total = sum(self.profile.values())
        table = Table("stage of a step", "ms", "share")
        for stage, seconds in self.profile.items():
            table.add_row(stage, number(1e3 * seconds), f"{seconds / total:.1%}")
        table.add_row("all", number(1e3 * total), "")
        for column in table.columns[1:]:
            column.justify = "right"
        return table


def number(value: float) -> str:
    """Show three digits that matter, and thousands with commas."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
