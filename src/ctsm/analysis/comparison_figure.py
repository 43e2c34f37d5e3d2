"""One word in two contexts as a figure, after Figure 1 of the paper."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctsm.analysis.comparison import WordChange
from ctsm.analysis.explain import Explanation
from ctsm.analysis.order import DISPLAYED, DISPLAYED_INDEX
from ctsm.figures import house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE, INK = "YlGnBu", "0.1"
WIDTH, CELL = 9.6, 0.2


def draw_comparison(first: Explanation, second: Explanation, change: WordChange) -> Figure:
    """Return the figure: the word's trait, and its state and inclination over the 32 emotions, in both contexts.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with house_style():
        from matplotlib.figure import Figure

        contexts = [_context("A", first), _context("B", second)]
        head = 0.3 + 0.2 * sum(map(len, contexts)) + 0.15
        height = head + 4.15
        figure = Figure(figsize=(WIDTH, height))
        figure.text(0.02, 1 - 0.1 / height, f"“{change.token}” in two contexts", va="top", fontsize=12.5, weight="bold")
        top = 0.38
        for lines in contexts:
            for number, line in enumerate(lines):
                text = figure.text(0.02, 1 - top / height, line, va="top", fontsize=9.5, color=INK)
                text.set_parse_math(False)
                text.set_fontweight("bold" if number == len(lines) - 1 else "normal")
                top += 0.2
        _trait(_axes(figure, top + 0.35, 0.75, left=1.0, width=2.6), change)
        states = np.array([change.first.state, change.second.state])
        moved = f"State: differs by {change.state_distance:.2f} of 1 (total variation distance)"
        _map(figure, top + 1.75, states, moved, "prob.", floor=0.0)
        mean, largest = change.inclination_mean, change.inclination_max
        same = f"Inclination: the cosines differ by {mean:.3f} on average, by {largest:.3f} at most; standardised:"
        _map(figure, top + 2.65, np.array(change.standardised), same, "s.d.", labels=True)
        return figure


def _context(name: str, explanation: Explanation) -> list[str]:
    tops = ", ".join(f"{emotion} {share:.0%}" for emotion, share in explanation.response.top_emotions())
    return [*textwrap.wrap(f"{name}: {' / '.join(explanation.turns)}", 105), f"     perceived as a whole: {tops}"]


def _axes(figure: Figure, top: float, height: float, left: float = 0.75, width: float = 32 * 0.255) -> Axes:
    """Add axes at a place in inches from the top left corner."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def _trait(axes: Axes, change: WordChange) -> None:
    axes.set_title("Trait: the same in both contexts", loc="left", fontsize=9.5, fontweight="bold")
    if change.first.trait is None:
        axes.set_axis_off()
        axes.text(0, 0.5, "not in the lexicon", color="0.45", fontsize=9.5)
        return
    bars = axes.barh(["valence", "arousal", "dominance"], change.first.trait, color=["0.25", "0.5", "0.7"], height=0.7)
    axes.bar_label(bars, fmt=" %.2f", fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
    axes.tick_params(axis="y", labelsize=9, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _map(
    figure: Figure,
    top: float,
    values: NDArray[np.float64],
    title: str,
    unit: str,
    floor: float | None = None,
    labels: bool = False,
) -> None:
    """Draw 2 x 32 values: a row for each context, a column for each emotion."""
    shown = values[:, list(DISPLAYED_INDEX)]
    axes = _axes(figure, top, 0.5)
    low = float(shown.min()) if floor is None else floor
    mesh = axes.pcolormesh(shown, cmap=PALETTE, vmin=low, vmax=shown.max(), edgecolors="white", linewidth=0.5)
    axes.invert_yaxis()
    axes.set_yticks([0.5, 1.5], ["A", "B"], fontsize=9.5)
    axes.set_xticks([])
    if labels:
        axes.set_xticks(np.arange(len(DISPLAYED)) + 0.5, DISPLAYED, rotation=60, ha="right", rotation_mode="anchor")
        axes.tick_params(axis="x", labelsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    bar = _axes(figure, top, 0.5, left=0.75 + 32 * 0.255 + 0.08, width=0.09)
    figure.colorbar(mesh, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=7, length=2)
    bar.set_title(unit, fontsize=7.5, loc="left", pad=4)
