"""Trait and state polarity of the 32 emotion words in the space of valence, arousal and dominance (Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctsm.analysis.polarity import EmotionWord
from ctsm.figures import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

STYLES: dict[tuple[str, str], dict[str, Any]] = {
    ("positive", "positive"): {"marker": "^", "color": "0.25", "label": "trait and state positive"},
    ("negative", "negative"): {"marker": "v", "color": "0.6", "label": "trait and state negative"},
    ("positive", "negative"): {"marker": "D", "color": "#0b5cad", "label": "trait positive, state negative"},
    ("negative", "positive"): {"marker": "s", "color": "#0b5cad", "label": "trait negative, state positive"},
}
"""Of trait and state; words whose polarities differ are blue, and all four differ in shape for a grey print."""
DIFFERENT = "#0b5cad"
MISLEADING = 20
"""Pixels that a label may move away from its point rather than seem to belong to another."""

Points = NDArray[np.float64]


def draw_polarity(emotions: Sequence[EmotionWord]) -> Figure:
    """Return the figure of the emotion words.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with house_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.5, 8.2))
        axes: Any = figure.add_axes((0.0, 0.03, 0.96, 0.94), projection="3d")
        axes.view_init(elev=22, azim=-62)
        axes.set_box_aspect((1.25, 1, 0.85), zoom=1.12)
        values = np.array([emotion.vad for emotion in emotions])
        for kind, style in STYLES.items():
            rows = [row for row, emotion in enumerate(emotions) if (emotion.trait, emotion.state) == kind]
            if rows:
                label = f"{style['label']} ({len(rows)})"
                axes.scatter(*values[rows].T, s=46, depthshade=False, **{**style, "label": label})
                for valence, arousal, dominance in values[rows]:
                    axes.plot([valence] * 2, [arousal] * 2, [0, dominance], color="0.8", lw=0.7, zorder=0)
        _frame(axes)
        axes.legend(loc="upper left", frameon=False, fontsize=10, bbox_to_anchor=(-0.02, 1.03))
        _label(figure, axes, emotions, values)
        return figure


def _frame(axes: Any) -> None:
    for name in ("x", "y", "z"):
        getattr(axes, f"set_{name}lim")(0, 1)
        getattr(axes, f"set_{name}ticks")([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("valence", labelpad=8)
    axes.set_ylabel("arousal", labelpad=8)
    axes.set_zlabel("dominance", labelpad=6)
    axes.tick_params(labelsize=9)
    # Trait is negative up to valence 0.5: the border on the floor.
    axes.plot([0.5, 0.5], [0, 1], [0, 0], color="0.2", lw=1, ls="--")
    axes.text(0.57, 0.06, 0, "trait turns positive", fontsize=8.5, color="0.2")


def _label(figure: Figure, axes: Any, emotions: Sequence[EmotionWord], values: NDArray[np.float64]) -> None:
    """Name the points on a flat layer over the figure, each label at the nearest free place around its point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox
    from mpl_toolkits.mplot3d import proj3d

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # settles where the points of space lie on the page
    flat = np.array([proj3d.proj_transform(*value, axes.M)[:2] for value in values])
    points = axes.transData.transform(flat)
    to_figure = figure.transFigure.inverted()
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    for emotion, point in zip(emotions, points, strict=True):
        name = emotion.word if emotion.stand_in is None else f"{emotion.word} (as {emotion.stand_in})"
        colour, weight = (DIFFERENT, "bold") if emotion.trait != emotion.state else ("0.1", "normal")
        text = figure.text(0, 0, name, fontsize=9.5, color=colour, fontweight=weight, va="center", ha="center")
        size = text.get_window_extent()
        place = _free_place(point, size.width, size.height, taken, points)
        taken.append(place)
        x, y = to_figure.transform(((place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2))
        text.set_position((x, y))
        if _distances(place, point[None])[0] > 12 or _misleads(place, point, points):
            near = np.clip(point, (place.x0, place.y0), (place.x1, place.y1))
            ends = to_figure.transform(np.stack([point, near]))
            figure.add_artist(Line2D(ends[:, 0], ends[:, 1], color="0.55", lw=0.6))


def _free_place(point: Points, width: float, height: float, taken: Sequence[Bbox], points: Points) -> Bbox:
    """Return a box around a point that touches none of those taken.

    Close boxes come first, the one on the right before others; one that is closer to another point costs more.
    """
    from matplotlib.transforms import Bbox

    x, y = point
    found: list[tuple[int, Bbox]] = []
    for gap in range(8, 80, 6):
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            left = x + across * gap - (0.5 - 0.5 * across) * width
            low = y + up * gap - (0.5 - 0.5 * up) * height
            box = Bbox.from_bounds(left, low, width, height)
            if not any(box.overlaps(other) for other in taken):
                found.append((gap + MISLEADING * _misleads(box, point, points), box))
    return min(found, key=lambda pair: pair[0])[1] if found else Bbox.from_bounds(x + 8, y, width, height)


def _misleads(box: Bbox, point: Points, points: Points) -> bool:
    """Tell whether a label at this place would seem to belong to another point."""
    return bool(_distances(box, points).min() < _distances(box, point[None])[0])


def _distances(box: Bbox, points: Points) -> NDArray[np.float64]:
    """Return how far points [N, 2] are from a box [N], in pixels."""
    near = np.clip(points, (box.x0, box.y0), (box.x1, box.y1))
    return np.hypot(*(points - near).T)
