"""What the model perceives, for a terminal: coloured words, and a heat map that needs no colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ctsm.corpus.emotions import EMOTIONS
from ctsm.serving.responder import Response, TokenEmotions
from ctsm.serving.transcript import words_of_last_turn

COLOURINGS = ("valence", "state", "off")
"""By trait valence, by the dominant state emotion, or not at all."""

FAMILIES = {
    "green": "joyful excited proud content impressed grateful surprised",
    "cyan": "trusting faithful confident hopeful prepared caring anticipating",
    "bright_blue": "sad lonely devastated disappointed sentimental nostalgic",
    "magenta": "afraid terrified anxious apprehensive",
    "red": "angry annoyed furious jealous disgusted",
    "yellow": "guilty ashamed embarrassed",
}
"""A colour for each group of emotions, as 32 cannot be told apart; the terminal's own, which fit its background
(but for the dark blue)."""

COLOUR_OF = {emotion: colour for colour, emotions in FAMILIES.items() for emotion in emotions.split()}

VALENCES = ((0.2, "bold red"), (0.4, "red"), (0.6, ""), (0.8, "cyan"), (1.0, "bold cyan"))
"""Style of a word by the upper limit of its valence; red and cyan can be told apart by the colour-blind."""

SHADES = " \u2591\u2592\u2593\u2588"
ASCII_SHADES = " .:*#"
BAR = 3
"""Characters of a shaded cell."""

CELL = BAR + len(" 100%")

LONGEST = 18
"""Letters of a word in the heat map before it is broken."""

GAP = 2
"""Spaces between the columns of the heat map."""


def shows_colours(console: Console) -> bool:
    """Return whether the console is a terminal with colours that are wanted (NO_COLOR is not set)."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def coloured_words(response: Response, colouring: str) -> Text:
    """Return the words of the speaker's last turn in the colours of `COLOURINGS`; those outside the lexicon dim."""
    words = [
        Text(token.token, style=_style(token, colouring) if token.in_lexicon else "dim")
        for token in words_of_last_turn(response)
    ]
    return Text(" ").join(words)


def explanation(response: Response, console: Console, every_turn: bool = False) -> Iterator[RenderableType]:
    """Yield what to print to explain a reply: the heat map with its legend, and the inferences.

    Args:
        response: the reply.
        console: what it will be printed on: its width and characters decide on the map.
        every_turn: whether the map has the words of all turns, or of the speaker's last alone.
    """
    words = response.context_tokens if every_turn else words_of_last_turn(response)
    if words:
        emotions = _fitting(strongest_emotions(words), words, console.width)
        shades = SHADES if console.encoding.lower().startswith("utf") else ASCII_SHADES
        peak = max(token.state[place] for token in words for place in emotions)
        yield _map(words, emotions, peak, shades, every_turn)
        limits = ", ".join(f"{shades[level]} from {peak * level / 5:.0%}" for level in range(1, 5))
        yield Text(
            f"Shading: state, the probability of an emotion by this word alone, here: {limits}. V, A, D: trait, the "
            "lexicon's valence, arousal and dominance; - is outside it. The inclination hardly depends on the context.",
            style="dim",
        )
    else:
        yield Text("This model does not tell what it perceives at each word.", style="dim")
    for relation, phrases in response.inferences.items():
        yield Text(f"{relation}: {'; '.join(phrases) or '(nothing inferred)'}", style="dim")


def strongest_emotions(words: Sequence[TokenEmotions]) -> list[int]:
    """Return the places of the emotions that are strongest at any of the words, the strongest first."""
    peaks = [max(token.state[place] for token in words) for place in range(len(EMOTIONS))]
    return sorted(range(len(EMOTIONS)), key=lambda place: -peaks[place])


def _fitting(emotions: Sequence[int], words: Sequence[TokenEmotions], width: int) -> list[int]:
    """Return the first of the emotions, as many as have room beside the other columns; one at least."""
    longest = max(len(token.token) for token in words)
    inclination = max(len("inclines to"), *(len(_inclination(token)) for token in words))
    room = width - max(len("word"), min(LONGEST, longest)) - 3 * (len("0.00") + GAP) - inclination - 2 * GAP
    fitting = []
    for place in emotions:
        room -= max(CELL, len(EMOTIONS[place])) + GAP
        if room < 0:
            break
        fitting.append(place)
    return fitting or list(emotions[:1])


def _map(words: Sequence[TokenEmotions], emotions: Sequence[int], peak: float, shades: str, with_roles: bool) -> Table:
    """Return the table: words down, emotions across."""
    table = Table(title="What the model perceives at each word", box=None, padding=(0, GAP // 2), title_justify="left")
    table.add_column("word", max_width=LONGEST, overflow="fold")
    for name in "VAD":
        table.add_column(name, justify="right")
    table.add_column("inclines to", no_wrap=True)
    for place in emotions:
        table.add_column(EMOTIONS[place], no_wrap=True, min_width=CELL)
    role = "speaker"
    for token in words:
        if with_roles and token.role != role:
            table.add_section()
            role = token.role
        trait = ["-"] * 3 if token.trait is None else [f"{value:.2f}" for value in token.trait]
        table.add_row(
            Text(token.token, style="" if token.in_lexicon else "dim"),
            *trait,
            _inclination(token),
            *(_cell(place, token.state[place], peak, shades) for place in emotions),
        )
    return table


def _inclination(token: TokenEmotions) -> str:
    """Return the emotion word that a word inclines to most, with its cosine."""
    best = max(range(len(EMOTIONS)), key=token.inclination.__getitem__)
    return f"{EMOTIONS[best]} {token.inclination[best]:.2f}"


def _cell(place: int, value: float, peak: float, shades: str) -> Text:
    """Return one shaded field with its number."""
    level = min(4, int(5 * value / peak)) if peak > 0 else 0
    return Text.assemble((shades[level] * BAR, COLOUR_OF[EMOTIONS[place]]), f" {value:>4.0%}")


def _style(token: TokenEmotions, colouring: str) -> str:
    if colouring == "valence" and token.trait is not None:
        return next(style for limit, style in VALENCES if token.trait[0] <= limit)
    return COLOUR_OF[EMOTIONS[max(range(len(EMOTIONS)), key=token.state.__getitem__)]]
