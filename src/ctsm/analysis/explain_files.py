"""Explanations as files (figure, page, JSON) and for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctsm.analysis.comparison import WordChange
from ctsm.analysis.comparison_figure import draw_comparison
from ctsm.analysis.explain import RELATION_WORDS, Explanation
from ctsm.analysis.explain_figure import draw_explanation, draw_inclination
from ctsm.corpus.emotions import EMOTIONS
from ctsm.errors import CtsmError
from ctsm.figures import inline_svg, require_matplotlib, save_figure
from ctsm.files import atomic_file, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType

FIGURES = (".png", ".svg", ".pdf")
FORMATS = (*FIGURES, ".html", ".json")
LEAST_COPIED = 0.05
"""Share of a word's probability from which it is called copied."""
CAPTION = (
    "Trait, weight, state and inclination of each word. Stronger colour is more; grey words are not in the lexicon."
)

RAW_CAPTION = "Cosine of each word with each of the 32 emotion words, as eq. 7 has it; hardly depends on the context."


def check_output(path: Path, comparison: bool) -> None:
    """Refuse a file that could not be written, before a model is loaded.

    Raises:
        CtsmError: the suffix names no format that fits.
        MissingExtraError: the format needs matplotlib, which is not installed.
    """
    formats = FIGURES if comparison else FORMATS
    if path.suffix not in formats:
        raise CtsmError(f"{path}: ends in none of {', '.join(formats)}; choose a name with one of these endings.")
    if path.is_dir():
        raise CtsmError(f"{path}: is a folder; choose the name of a file.")
    if path.suffix != ".json":
        require_matplotlib()


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write an explanation in the format of the file's suffix (`FORMATS`)."""
    if path.suffix == ".json":
        write_json(path, explanation.to_json())
    elif path.suffix == ".html":
        with atomic_file(path, "w") as stream:
            stream.write(explanation_page(explanation))
    else:
        save_figure(draw_explanation(explanation), path)


def write_comparison(first: Explanation, second: Explanation, change: WordChange, path: Path) -> None:
    """Write the comparison of a word in two contexts as a figure (`FIGURES`)."""
    save_figure(draw_comparison(first, second, change), path)


def explanation_page(explanation: Explanation) -> str:
    """Return the explanation as one HTML page that opens offline."""
    from ctsm.analysis.page import html_page

    tokens = [word.token for word in explanation.words]
    origins = [max(range(len(tokens)), key=word.weights.__getitem__, default=0) for word in explanation.reply]
    return html_page(
        "What the model felt",
        "explain.html",
        explanation=explanation,
        figure=inline_svg(draw_explanation(explanation), CAPTION, "explanation"),
        caption=CAPTION,
        raw=inline_svg(draw_inclination(explanation), RAW_CAPTION, "inclination"),
        raw_caption=RAW_CAPTION,
        relations=RELATION_WORDS,
        words=[(word, top_states(word.state)) for word in explanation.words],
        reply=[
            (word, tokens[origin] if word.copied >= LEAST_COPIED else "-")
            for word, origin in zip(explanation.reply, origins, strict=True)
        ],
    )


def top_states(state: tuple[float, ...], count: int = 3) -> list[tuple[str, float]]:
    """Return the emotions with the highest values."""
    return sorted(zip(EMOTIONS, state, strict=True), key=lambda pair: -pair[1])[:count]


def explanation_table(explanation: Explanation) -> RenderableType:
    """Return the words with trait, weights and state as a table for the terminal."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, pad_edge=False, caption_justify="left")
    table.caption = "V, A, D: trait in the lexicon, 0 to 1; a dash: not in the lexicon"
    for name in ("word", "V", "A", "D", "intensity", "attention", "state"):
        table.add_column(name, justify="left" if name in ("word", "state") else "right")
    for word in explanation.words:
        trait = ["-"] * 3 if word.trait is None else [f"{value:.2f}" for value in word.trait]
        attention = "-" if word.attention is None else f"{word.attention:.3f}"
        state = ", ".join(f"{name} {share:.0%}" for name, share in top_states(word.state, 2))
        style = "" if word.in_lexicon else "dim"
        table.add_row(Text(word.token), *trait, f"{word.intensity:.2f}", attention, state, style=style)
    return table


def explanation_text(explanation: Explanation) -> str:
    """Return reply, perceived emotions, copied words and inferences as lines of text."""
    response = explanation.response
    tops = ", ".join(f"{name} {share:.1%}" for name, share in response.top_emotions(5))
    copied = [f"{word.token} {word.copied:.0%}" for word in explanation.reply if word.copied >= LEAST_COPIED]
    lines = [
        f"{'reply':<22} {response.text}",
        f"{'perceived':<22} {tops}",
        f"{'copied':<22} {', '.join(copied) or f'no word (each less than {LEAST_COPIED:.0%})'}",
    ]
    for relation, phrases in response.inferences.items():
        lines.append(f"{RELATION_WORDS[relation]:<22} {'; '.join(phrases) or 'nothing'}")
    if response.truncated:
        lines.append("The beginning of the conversation is too long for the model and was left out.")
    return "\n".join(lines)


def change_text(change: WordChange) -> str:
    """Say in words what changes of a word between two contexts, and what does not."""
    trait = "has the same trait in both contexts (by definition)" if change.in_lexicon else "is not in the lexicon"
    first, second = (
        ", ".join(f"{name} {share:.0%}" for name, share in top_states(word.state))
        for word in (change.first, change.second)
    )
    return (
        f'"{change.token}" {trait}.\n'
        f"Its state differs by {change.state_distance:.3f} (total variation distance, 0 to 1): {first} in the first "
        f"context; {second} in the second.\n"
        f"Its inclination sees only position and speaker beside the word: the 32 cosines differ by "
        f"{change.inclination_mean:.4f} on average and by {change.inclination_max:.4f} at most."
    )
