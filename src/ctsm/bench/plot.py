"""Growth as figures: time against one size, on doubling scales, one SVG for each size that was varied."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctsm.bench.saved import SavedReport, SavedSeries, along
from ctsm.figures import house_style, require_matplotlib, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS_LABELS = {
    "vocabulary": "vocabulary (words)",
    "context": "length of each context (words)",
    "batch": "batch (examples)",
}
STYLES = (
    {"color": "0.0", "marker": "o", "linestyle": "-"},
    {"color": "0.45", "marker": "s", "linestyle": "--"},
)
"""Of the kinds, in their order; shades of grey, so that a print shows them too."""


def plot_growth(report: SavedReport, folder: Path) -> dict[str, Path]:
    """Write growth-AXIS.svg (growth-AXIS-gpu.svg of an accelerator) for each size that was varied.

    Returns:
        The file of each axis.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    base: Mapping[str, int] = report.settings["base"]
    files = {}
    for axis in base:
        lines = {name: along(report.series, name, axis, base) for name in dict.fromkeys(s.name for s in report.series)}
        if max(map(len, lines.values())) < 2:
            continue
        files[axis] = folder / f"growth-{axis}{'' if report.on_cpu else '-gpu'}.svg"
        with house_style():
            figure = Figure(figsize=(6.4, 4.2), layout="constrained")
            _draw(figure.add_subplot(), axis, lines, base)
            save_figure(figure, files[axis])
    return files


def _draw(axes: Axes, axis: str, lines: Mapping[str, list[SavedSeries]], base: Mapping[str, int]) -> None:
    """Draw one line for each kind, its range over the rounds, and what proportional growth would look like."""
    for (name, points), style in zip(lines.items(), cycle(STYLES), strict=False):
        sizes, times = [point.at[axis] for point in points], [point.median for point in points]
        axes.fill_between(
            sizes,
            [point.min for point in points],
            [point.max for point in points],
            color=style["color"],
            alpha=0.15,
            lw=0,
        )
        axes.plot(sizes, times, label=name, linewidth=1.8, markersize=5, **style)  # type: ignore[arg-type]
        proportional = [times[-1] * size / sizes[-1] for size in sizes]
        axes.plot(sizes, proportional, color=style["color"], linestyle=":", linewidth=1, zorder=1)
    axes.plot([], [], color="0.3", linestyle=":", linewidth=1, label="if it grew in proportion")
    sizes = sorted({point.at[axis] for points in lines.values() for point in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    _label_time(axes, lines)
    axes.set_xlabel(AXIS_LABELS[axis])
    axes.set_ylabel("time (ms)")
    fixed = ", ".join(f"{name} {size:,}" for name, size in base.items() if name != axis)
    axes.set_title(f"Cost by {axis}; {fixed}", fontsize=11)
    axes.grid(True, color="0.88", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")


def _label_time(axes: Axes, lines: Mapping[str, list[SavedSeries]]) -> None:
    """Put round numbers (1, 2, 5, 10, ...) on the axis of time, with room for what was measured."""
    measured = [time for points in lines.values() for point in points for time in (point.min, point.max)]
    low, high = 0.8 * min(measured), 1.6 * max(measured)
    ticks = [digit * 10.0**power for power in range(-6, 9) for digit in (1, 2, 5)]
    shown: list[Any] = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:,g}" for tick in shown])
    axes.set_ylim(low, high)
