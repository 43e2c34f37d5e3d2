"""Coloured words and the heat map of `ctsm chat`."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from ctsm.corpus.emotions import EMOTION_INDEX, EMOTIONS
from ctsm.decoding.options import DecodingOptions
from ctsm.serving.chat import Chat
from ctsm.serving.heatmap import COLOUR_OF, FAMILIES, coloured_words, explanation, shows_colours
from ctsm.serving.responder import Responder, Response, TokenEmotions


def console(width: int = 200, terminal: bool = True, encoding: str = "utf-8", **environment: str) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(
        file=file,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        _environ=environment,
    )


def written(made: Console) -> str:
    assert isinstance(made.file, io.TextIOWrapper)
    buffer = made.file.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(made.encoding)


def word(token: str, valence: float | None, role: str = "speaker", **state: float) -> TokenEmotions:
    rest = (1 - sum(state.values())) / (32 - len(state))
    return TokenEmotions(
        token=token,
        role=role,
        in_lexicon=valence is not None,
        trait=None if valence is None else (valence, 0.25, 0.75),
        inclination=tuple(0.5 if name == "angry" else 0.0 for name in EMOTIONS),
        state=tuple(state.get(name, rest) for name in EMOTIONS),
        intensity=1.0,
        attention=None,
    )


RESPONSE = Response(
    text="oh",
    tokens=("oh",),
    emotion="afraid",
    probabilities={},
    context_tokens=(
        word("early", 0.5, joyful=0.9),
        word("listener", 0.5, role="listener", angry=0.9),
        word("horrible", 0.1, afraid=0.8, sad=0.1),
        word("zorgle", None, afraid=0.5, sad=0.3),
        word("day", 0.55, afraid=0.3),
        word("sunshine", 0.9, joyful=0.2, sad=0.1),
    ),
    inferences={"xReact": ("scared", "upset"), "xWant": ()},
    truncated=False,
)


def styles(text: Text) -> dict[str, str]:
    return {text.plain[span.start : span.end]: str(span.style) for span in text.spans}


def test_words_of_the_last_turn_are_coloured_by_valence_or_state_and_unknown_ones_dim() -> None:
    by_valence = coloured_words(RESPONSE, "valence")
    assert by_valence.plain == "horrible zorgle day sunshine"
    expected = {"horrible": "bold red", "zorgle": "dim", "sunshine": "bold cyan"}
    assert {name: style for name, style in styles(by_valence).items() if style} == expected
    assert styles(coloured_words(RESPONSE, "state")) == {
        "horrible": COLOUR_OF["afraid"],
        "zorgle": "dim",
        "day": COLOUR_OF["afraid"],
        "sunshine": COLOUR_OF["joyful"],
    }


def test_every_emotion_has_one_colour() -> None:
    counts = Counter(" ".join(FAMILIES.values()).split())
    assert counts == Counter(EMOTIONS)


def explained(made: Console, every_turn: bool = False) -> str:
    for part in explanation(RESPONSE, made, every_turn):
        made.print(part)
    return written(made)


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}


def test_the_heat_map_reads_without_colour() -> None:
    """The largest probability, 80 %, is the full shade; each fifth of it one shade less."""
    text = explained(console(terminal=False))
    assert "\x1b" not in text
    table = rows(text)
    assert table["word"][:8] == ["V", "A", "D", "inclines", "to", "afraid", "sad", "joyful"]
    assert table["horrible"][:7] == ["0.10", "0.25", "0.75", "angry", "0.50", "\u2588\u2588\u2588", "80%"]
    assert table["horrible"][7] == "10%", "under a fifth: no shade"
    assert table["zorgle"][:3] == ["-", "-", "-"]
    assert table["zorgle"][5:9] == ["\u2593\u2593\u2593", "50%", "\u2591\u2591\u2591", "30%"]
    assert table["day"][5:7] == ["\u2591\u2591\u2591", "30%"]
    assert not {"early", "listener"} & set(table)
    assert "\u2588 from 64%" in text
    assert table["xReact:"] == ["scared;", "upset"]
    assert table["xWant:"] == ["(nothing", "inferred)"]


def test_the_heat_map_of_every_turn() -> None:
    table = rows(explained(console(terminal=False), every_turn=True))
    assert {"early", "listener", "horrible"} <= set(table)
    assert table["word"][5] in ("joyful", "angry")


def test_the_heat_map_has_as_many_emotions_as_fit() -> None:
    shown = {}
    for width in (60, 80, 120, 200):
        text = explained(console(width, terminal=False))
        table = rows(text)
        assert all(len(line) <= width for line in text.splitlines())
        shown[width] = [name for name in table["word"] if name in EMOTION_INDEX]
    assert 1 <= len(shown[60]) < len(shown[80]) < len(shown[120]) < len(shown[200])
    assert shown[200][: len(shown[80])] == shown[80]


def test_shades_are_plain_characters_where_the_terminal_has_no_others() -> None:
    text = explained(console(terminal=False, encoding="latin-1"))
    assert rows(text)["horrible"][5] == "###"
    assert text.isascii()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (console(), True),
        (console(NO_COLOR="1"), False),
        (console(terminal=False), False),
        (Console(file=io.StringIO(), force_terminal=True, color_system=None, _environ={}), False),
    ],
)
def test_colours_are_for_terminals_that_want_them(responder: Responder, made: Console, expected: bool) -> None:
    assert shows_colours(made) == expected
    chat = Chat(responder, made, DecodingOptions(max_tokens=4))
    chat.take("the zorgle is afraid")
    chat.take("/set colour off")
    chat.take("the zorgle is afraid")
    stream = made.file
    text = written(made) if isinstance(stream, io.TextIOWrapper) else stream.getvalue()  # type: ignore[attr-defined]
    assert text.count("\x1b[2mzorgle") == expected
    assert bool(re.search(r"\x1b\[(\d+;)*3\dm", text)) == expected


def test_the_page_lists_the_colours() -> None:
    page = (Path(__file__).parents[2] / "docs" / "chat.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\w+) \| ([a-z]+(?:, [a-z]+)*) \|$", page, re.MULTILINE))
    listed.pop("colour")
    assert listed == {
        colour.removeprefix("bright_"): ", ".join(emotions.split()) for colour, emotions in FAMILIES.items()
    }
