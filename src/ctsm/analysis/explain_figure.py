"""An explanation as one figure: every panel shares the words of the context as its horizontal axis."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctsm.analysis.explain import RELATION_WORDS, Explanation
from ctsm.analysis.order import DISPLAYED, DISPLAYED_INDEX, PLEASANT
from ctsm.figures import house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

MAX_WORDS = 40
"""Words of the context that a figure shows; of a longer one the last."""
MAX_PHRASES = 3
LEAST_SCALE = 0.2
"""Upper end of the colours of the copy weights at least, so that next to nothing does not look like much."""
STANDARDISED = (
    "Standard deviations (s.d.) from the mean of all words of the vocabulary, emotion by emotion. Beside the word only "
    "its position and its speaker count here: it is nearly the same in every context."
)
RAW = "The cosine itself (eq. 7), between -1 and 1."
PALETTE = "YlGnBu"  # from light to dark in every kind of colour vision and in grey print
INK, GREY, BAND = "0.1", "0.55", "0.93"
LEFT, BAR, COLUMN_GAP, RIGHT, MARGIN = 1.15, 0.1, 0.75, 2.35, 0.2  # inches: labels, colour bar, right column, edges
ROW, TRAIT, GAP, LABELS = 0.148, 0.42, 0.42, 0.62  # inches: row of a map, bars of one dimension, title, word labels


def draw_explanation(explanation: Explanation) -> Figure:
    """Return the figure of an explanation.

    From top to bottom: what was said, perceived and replied; the trait of each word; its weight in the decision; the
    state map beside the distribution of emotions; the inclination, standardised; where the reply's words were copied
    from.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with house_style():
        from matplotlib.figure import Figure

        page = _Page.of(explanation)
        figure = Figure(figsize=(page.width, page.height))
        _head(figure, page)
        _trait(figure, page)
        _weights(figure, page)
        _inferences(figure, page)
        _map(figure, page, "state", page.state, "State: emotion of the word alone, in this context", "prob.")
        _distribution(figure, page)
        _map(figure, page, "standardised", page.standardised, "Inclination to each emotion word, standardised", "s.d.")
        _note(figure, page, "standardised", STANDARDISED)
        if page.copied.size:
            _copies(figure, page)
        return figure


def draw_inclination(explanation: Explanation) -> Figure:
    """Return the raw inclination (eq. 7) of each word as a figure of its own.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with house_style():
        from matplotlib.figure import Figure

        page = _Page.of(explanation)
        page.tops, page.height = {"raw": 0.45}, 0.45 + len(DISPLAYED) * ROW + LABELS + 0.1
        figure = Figure(figsize=(page.width, page.height))
        _map(figure, page, "raw", page.inclination, "Inclination to each emotion word, raw", "cosine")
        _note(figure, page, "raw", RAW)
        return figure


@dataclass
class _Page:
    """Numbers of the shown words and places of the panels, in inches from the top left corner."""

    explanation: Explanation
    first: int
    head: list[str]
    tops: dict[str, float]
    width: float
    height: float

    @classmethod
    def of(cls, explanation: Explanation) -> _Page:
        shown = min(len(explanation.words), MAX_WORDS)
        width = MARGIN + LEFT + _words_width(shown) + COLUMN_GAP + RIGHT + MARGIN
        head = _head_lines(explanation, int(width * 12.5))
        if shown < len(explanation.words):
            head.append(f"The last {shown} of {len(explanation.words)} words are shown.")
        heights = {
            "trait": 3 * TRAIT,
            "weights": 2 * TRAIT,
            "state": len(DISPLAYED) * ROW,
            "standardised": len(DISPLAYED) * ROW,
            "copies": len(explanation.reply) * ROW * 1.35,
        }
        tops, top = {}, MARGIN + 0.21 * len(head) + 0.1
        for name, height in heights.items():
            top += GAP
            tops[name] = top
            top += height + (LABELS if name != "trait" else 0.0)
        if not explanation.reply:
            top = tops["copies"] - GAP
        return cls(explanation, len(explanation.words) - shown, head, tops, width, top + MARGIN)

    @property
    def words(self) -> list[Any]:
        return list(self.explanation.words[self.first :])

    @property
    def state(self) -> Array:
        return self._rows([word.state for word in self.explanation.words])

    @property
    def inclination(self) -> Array:
        return self._rows([word.inclination for word in self.explanation.words])

    @property
    def standardised(self) -> Array:
        return self._rows(self.explanation.standardised)

    @property
    def copied(self) -> Array:
        return np.array([word.weights[self.first :] for word in self.explanation.reply])

    def _rows(self, values: Sequence[Sequence[float]]) -> Array:
        """Return [E, words shown], the emotions in the order displayed."""
        return np.array(values)[self.first :, list(DISPLAYED_INDEX)].T

    def axes(self, figure: Figure, top: float, height: float, left: float = 0.0, width: float | None = None) -> Axes:
        """Add axes at a place in inches; `left` counts from where the words begin."""
        width = _words_width(len(self.words)) if width is None else width
        x = MARGIN + LEFT + left
        place = (x / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return figure.add_axes(place)

    @property
    def right(self) -> float:
        """Where the right column begins, in inches from the words."""
        return _words_width(len(self.words)) + COLUMN_GAP


def _words_width(count: int) -> float:
    return max(4.2, count * min(0.42, max(0.24, 5.6 / count)))


def _head_lines(explanation: Explanation, columns: int) -> list[str]:
    """What was said, perceived and replied, as lines of text; a leading '*' marks a bold one."""
    lines = []
    for number, turn in enumerate(explanation.turns):
        who = "listener" if number % 2 else "speaker"
        lines += textwrap.wrap(f"{who}: {turn}", columns)
    tops = ", ".join(f"{name} {share:.0%}" for name, share in explanation.response.top_emotions())
    lines += textwrap.wrap(f"*perceived: {tops}", columns)
    lines += textwrap.wrap(f"*reply: {explanation.response.text}", columns)
    return lines


def _head(figure: Figure, page: _Page) -> None:
    for number, line in enumerate(page.head):
        bold = line.startswith("*")
        y = 1 - (MARGIN + 0.21 * number) / page.height
        weight = "bold" if bold else "normal"
        text = line.removeprefix("*").replace("$", r"\$")
        figure.text(MARGIN / page.width, y, text, va="top", fontsize=10.5, fontweight=weight, color=INK)


def _trait(figure: Figure, page: _Page) -> None:
    """Three rows of bars; a word outside the lexicon has a grey band instead."""
    places = np.arange(len(page.words))
    for row, name in enumerate(("valence", "arousal", "dominance")):
        axes = page.axes(figure, page.tops["trait"] + row * TRAIT, TRAIT * 0.86)
        values = [word.trait[row] if word.in_lexicon else 0.0 for word in page.words]
        axes.bar(places, values, width=0.62, color=("0.25", "0.5", "0.7")[row])
        for place, word in enumerate(page.words):
            if not word.in_lexicon:
                axes.axvspan(place - 0.5, place + 0.5, color=BAND, lw=0)
        axes.axhline(0.5, color=GREY, lw=0.6, ls=":")
        axes.set_ylim(0, 1)
        axes.set_yticks([0.5])
        _bar_row(axes, name, len(page.words))
        if row == 0:
            _title(axes, "Trait: 0 to 1, in the lexicon (grey: not in it)")


def _weights(figure: Figure, page: _Page) -> None:
    places = np.arange(len(page.words))
    intensity = [word.intensity for word in page.words]
    attention = [word.attention or 0.0 for word in page.words]
    rows: tuple[tuple[str, list[float]], ...] = (("intensity", intensity), ("attention", attention))
    for row, (name, values) in enumerate(rows):
        axes = page.axes(figure, page.tops["weights"] + row * TRAIT, TRAIT * 0.86)
        high = max(*values, 1e-9)
        if name == "attention" and page.explanation.rest is None:
            axes.text(0.0, 0.5, "this model's head has no attention", fontsize=8, va="center", color=GREY)
        else:
            axes.bar(places, values, width=0.62, color="#1f5f8b")
        axes.set_ylim(0, high * 1.05)
        axes.set_yticks([high], [f"{high:.2f}"])  # a second label would touch the next row's
        _bar_row(axes, name, len(page.words))
        if row == 0:
            _title(axes, "Weight: by intensity (mean 1), by attention (sum 1)")
    _word_labels(axes, page)


def _bar_row(axes: Axes, name: str, count: int) -> None:
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=7, length=2)
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, labelpad=10)
    axes.spines[["top", "right"]].set_visible(False)


def _map(figure: Figure, page: _Page, name: str, values: Array, title: str, unit: str) -> None:
    """Draw a map of the emotions (rows) at each word (columns), its colour bar beside it."""
    height = len(DISPLAYED) * ROW
    axes = page.axes(figure, page.tops[name], height)
    low, high = (0.0, float(values.max())) if name == "state" else (float(values.min()), float(values.max()))
    mesh = axes.pcolormesh(values, cmap=PALETTE, vmin=low, vmax=high, edgecolors="white", linewidth=0.3)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(DISPLAYED)) + 0.5, DISPLAYED, fontsize=8)
    axes.axhline(len(PLEASANT), color=INK, lw=0.7, ls=":")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _title(axes, title)
    _word_labels(axes, page, shift=0.5)
    bar = page.axes(figure, page.tops[name], height, _words_width(len(page.words)) + 0.08, BAR)
    colours = figure.colorbar(mesh, cax=bar)
    colours.outline.set_visible(False)
    bar.tick_params(labelsize=7, length=2)
    bar.set_title(unit, fontsize=7.5, loc="left", pad=4)


def _distribution(figure: Figure, page: _Page) -> None:
    height = len(DISPLAYED) * ROW
    axes = page.axes(figure, page.tops["state"], height, page.right, RIGHT)
    shares = np.array([page.explanation.response.probabilities[emotion] for emotion in DISPLAYED])
    axes.barh(np.arange(len(shares)), shares, color="#1f5f8b", height=0.72)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    axes.set_xlim(0, max(shares) * 1.9)  # room for the labels
    for place in np.argsort(-shares)[:3]:
        label = f" {DISPLAYED[place]} {shares[place]:.0%}"
        axes.text(shares[place], place, label, va="center", fontsize=8, color=INK)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    _title(axes, "All words together")


def _inferences(figure: Figure, page: _Page) -> None:
    """Write the inferences that the model read, in the right column; a notice stands without them."""
    if not page.explanation.response.inferences:
        return
    axes = page.axes(figure, page.tops["trait"], 5 * TRAIT + GAP, page.right, RIGHT)
    axes.set_axis_off()
    _title(axes, f"Inferred (first {MAX_PHRASES} of each)")
    lines = []
    for relation, phrases in page.explanation.response.inferences.items():
        shown = "; ".join(phrases[:MAX_PHRASES]) or "nothing"
        lines += textwrap.wrap(f"{RELATION_WORDS[relation]}: {shown}", 36, subsequent_indent="   ", max_lines=3)
    axes.text(0, 1, "\n".join(lines), va="top", fontsize=8, linespacing=1.35, color=INK, parse_math=False)


def _note(figure: Figure, page: _Page, name: str, text: str) -> None:
    """Write how to read a map, in the right column."""
    axes = page.axes(figure, page.tops[name], 1.0, page.right, RIGHT)
    axes.set_axis_off()
    axes.text(0, 1, "\n".join(textwrap.wrap(text, 34)), va="top", fontsize=8, linespacing=1.35, color=INK)


def _copies(figure: Figure, page: _Page) -> None:
    """Draw the copy weights of the reply's words (rows), and the share of each word that was copied."""
    height = len(page.copied) * ROW * 1.35
    axes = page.axes(figure, page.tops["copies"], height)
    high = max(float(page.copied.max()), LEAST_SCALE)
    mesh = axes.pcolormesh(page.copied, cmap=PALETTE, vmin=0, vmax=high, edgecolors="white", linewidth=0.3)
    axes.invert_yaxis()
    tokens = [_plain(word.token) for word in page.explanation.reply]
    axes.set_yticks(np.arange(len(tokens)) + 0.5, tokens, fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _title(axes, "Copying: where a word of the reply (rows) comes from")
    _word_labels(axes, page, shift=0.5)
    bar = page.axes(figure, page.tops["copies"], height, _words_width(len(page.words)) + 0.08, BAR)
    figure.colorbar(mesh, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=7, length=2)
    bar.set_title("prob.", fontsize=7.5, loc="left", pad=4)
    share = page.axes(figure, page.tops["copies"], height, page.right, RIGHT - 0.75)
    copied = [word.copied for word in page.explanation.reply]
    share.barh(np.arange(len(copied)) + 0.5, copied, color="#1f5f8b", height=0.66)
    for place, value in enumerate(copied):
        share.text(value + 0.04, place + 0.5, f"{value:.0%}", va="center", fontsize=7.5, color=INK)
    share.set_ylim(len(copied), 0)
    share.set_xlim(0, 1)
    share.set_xticks([0, 1], ["all written", "all copied"], fontsize=7.5)
    share.set_yticks([])
    share.spines[["top", "right"]].set_visible(False)
    _title(share, "Share that was copied")


def _title(axes: Axes, text: str) -> None:
    axes.annotate(
        text, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=9.5, fontweight="bold",
        color=INK, annotation_clip=False,
    )  # fmt: skip


def _word_labels(axes: Axes, page: _Page, shift: float = 0.0) -> None:
    places = np.arange(len(page.words)) + shift
    labels = [_plain(word.token) for word in page.words]
    axes.set_xticks(places, labels, rotation=55, ha="right", rotation_mode="anchor", fontsize=8.5)
    for label, word in zip(axes.get_xticklabels(), page.words, strict=True):
        label.set_color(INK if word.in_lexicon else GREY)
        label.set_parse_math(False)


def _plain(token: str) -> str:
    """Show a token as text, shortened if it is very long."""
    return f"{token[:13]}..." if len(token) > 16 else token
