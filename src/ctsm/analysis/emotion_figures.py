"""The figures of the emotion report. Shades and shapes carry the meaning, so that a grey print shows all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsm.analysis.emotion_scores import Bin, Calibration, EmotionResult, Group, best_first, row_shares
from ctsm.corpus.emotions import EMOTIONS
from ctsm.figures import house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MARK, FAINT, GRID = "#1d2127", "#0b5cad", "#6b7280", "#e3e5e9"
WRITTEN = 5
"""Least share, in percent, that is written into a cell of the confusion matrix."""


@house_style()
def confusion_figure(confusion: np.typing.NDArray[np.int64], order: Sequence[int]) -> Figure:
    """Draw the confusion matrix [E, E]: rows are labels in percent of their examples, columns are predictions."""
    figure = _figure(9.6, 8.4)
    axes = figure.add_subplot()
    shares = row_shares(confusion)[np.ix_(order, order)]
    top = max(10.0, float(np.ceil(np.nanmax(shares) / 10) * 10))
    image = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=top, edgecolor="white", linewidth=0.3)
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= WRITTEN - 0.5), strict=True):
        ink = "white" if shares[row, column] > 0.55 * top else INK
        text = f"{shares[row, column]:.0f}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=ink)
    for row in np.flatnonzero(np.isnan(shares[:, 0])):
        axes.plot([0, len(order)], [row + 0.5] * 2, color=FAINT, linewidth=0.8, linestyle=":")
    ticks = np.arange(len(order)) + 0.5
    totals = confusion.sum(axis=1)
    axes.set_xticks(ticks, [EMOTIONS[index] for index in order], rotation=90, fontsize=9)
    axes.set_yticks(ticks, [f"{EMOTIONS[index]} ({totals[index]:,})" for index in order], fontsize=9)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted emotion")
    axes.set_ylabel("label (number of examples)")
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=28, pad=0.02)
    bar.set_label("share of the label's examples (%)")
    bar.outline.set_visible(False)
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face")  # shapes, not a picture in the picture
    return figure


@house_style()
def per_emotion_figure(results: Sequence[EmotionResult]) -> Figure:
    """Draw precision, recall and F1 of each emotion, the best F1 first."""
    ranked = best_first(results)
    figure = _figure(5.4, 8.6)
    axes = figure.add_subplot()
    places = range(len(ranked))
    for place, one in zip(places, ranked, strict=True):
        ends = [value for value in (one.precision, one.recall) if value is not None]
        if len(ends) == 2:
            axes.plot(ends, [place, place], color=FAINT, linewidth=1, zorder=1)
        axes.text(103, place, f"{one.n:,}", va="center", ha="left", fontsize=9, color=FAINT)
        if one.precision is None:
            axes.text(3, place, "never predicted", va="center", ha="left", fontsize=9, color=FAINT)
    axes.text(103, -1.1, "n", va="center", ha="left", fontsize=9, color=FAINT)
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        ("precision", {"marker": ">", "facecolor": "white", "edgecolor": INK, "s": 26}),
        ("recall", {"marker": "s", "facecolor": "white", "edgecolor": INK, "s": 22}),
        ("f1", {"marker": "o", "facecolor": MARK, "edgecolor": MARK, "s": 34}),
    )
    for name, style in styles:
        known = [(getattr(one, name), place) for place, one in enumerate(ranked) if getattr(one, name) is not None]
        label = "F1" if name == "f1" else name
        axes.scatter(
            [x for x, _ in known], [y for _, y in known], label=label, zorder=3, linewidth=1, clip_on=False, **style
        )
    axes.set_yticks(places, [one.emotion for one in ranked], fontsize=9)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.set_ylim(len(ranked) - 0.4, -1.6)
    _percent_axis(axes, "x")
    axes.set_xlabel("%")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, handletextpad=0.2)
    axes.spines["left"].set_visible(False)
    return figure


@house_style()
def calibration_figure(found: Calibration) -> Figure:
    """Draw Acc against confidence, and below it how many examples have that confidence."""
    figure = _figure(5.4, 5.8)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curve.plot([0, 100], [0, 100], color=FAINT, linestyle="--", linewidth=1, label="perfectly calibrated")
    _points(curve, [one.confidence for one in found.mass], found.mass, "bins of equal size, 95 %")
    _percent_axis(curve, "y")
    curve.set_ylabel("Acc (%)")
    figure.suptitle(f"ECE {found.ece_mass:.1f} points, Brier score {found.brier:.3f}", fontsize=11)
    curve.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=10, ncols=2)
    for one in found.width:
        counts.bar((one.low + one.high) / 2, one.n, width=0.92 * (one.high - one.low), color=MARK, alpha=0.75)
        counts.annotate(
            f"{one.n:,}",
            ((one.low + one.high) / 2, one.n),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    counts.set_ylim(0, 1.25 * max(one.n for one in found.width))
    counts.set_ylabel("examples")
    counts.spines[["top", "right"]].set_visible(False)
    counts.yaxis.set_major_locator(_few_whole_numbers())
    counts.yaxis.set_major_formatter("{x:,.0f}")
    _percent_axis(counts, "x")
    counts.set_xlabel("confidence: probability of the predicted emotion (%)")
    figure.align_ylabels()
    return figure


@house_style()
def accuracy_figure(turns: Sequence[Group], lengths: Sequence[Group], acc: float) -> Figure:
    """Draw Acc by the turn of the conversation and by the length of the context."""
    figure = _figure(5.4, 6.4)
    panels = figure.subplots(2, 1, sharey=True)
    for axes, groups, label in (
        (panels[0], turns, "listener turn of the conversation"),
        (panels[1], lengths, "words in the context"),
    ):
        places = list(range(len(groups)))
        axes.axhline(acc, color=FAINT, linestyle="--", linewidth=1, zorder=1)
        axes.text(
            1.01, acc, f"all\n{acc:.1f}", transform=axes.get_yaxis_transform(), va="center", color=FAINT, fontsize=9
        )
        _points(axes, places, groups, "")
        axes.set_xticks(places, [f"{one.name}\nn = {one.n:,}" for one in groups], fontsize=9)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_xlabel(label)
        axes.set_ylabel("Acc (%)")
        axes.grid(True, axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    top = max(one.interval.high for one in (*turns, *lengths))
    panels[0].set_ylim(0, min(100.0, 10 * np.ceil(top / 10 + 0.2)))
    return figure


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _points(axes: Axes, x: Sequence[float], groups: Sequence[Group] | Sequence[Bin], label: str) -> None:
    """Draw the Acc of groups with their intervals."""
    acc = [one.acc for one in groups]
    low = [max(0.0, one.acc - one.interval.low) for one in groups]
    high = [max(0.0, one.interval.high - one.acc) for one in groups]
    axes.errorbar(
        x,
        acc,
        yerr=[low, high],
        label=label,
        fmt="o",
        color=MARK,
        markersize=5,
        elinewidth=1.2,
        capsize=3,
        zorder=3,
        clip_on=False,
    )


def _percent_axis(axes: Axes, which: str) -> None:
    """Let an axis go from 0 to 100 with a quiet grid."""
    axes.set(**{f"{which}lim": (0, 100), f"{which}ticks": range(0, 101, 20)})
    axes.grid(True, axis=which, color=GRID, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _few_whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, integer=True)
