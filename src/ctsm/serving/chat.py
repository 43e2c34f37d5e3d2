"""`ctsm chat`: a conversation in the terminal, or over a pipe."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctsm.corpus.emotions import EMOTIONS
from ctsm.decoding.options import DecodingOptions
from ctsm.errors import CtsmError
from ctsm.serving.responder import GREEDY, Responder, Response, TokenEmotions

COMMANDS = "/explain shows what the model felt, /reset starts anew, /quit ends"


def chat(responder: Responder, source: IO[str], out: IO[str], options: DecodingOptions = GREEDY) -> None:
    """Read turns from `source` until /quit or its end, write replies and top emotions to `out`."""
    console = Console(file=out, highlight=False)
    console.print(f"Write what happened to you. {COMMANDS}.", style="dim")
    turns: list[str] = []
    last: Response | None = None
    while True:
        console.print("you> ", end="", style="bold")
        out.flush()
        line = source.readline()
        if not line or line.strip() == "/quit":
            console.print()
            return
        text = line.strip()
        if not text:
            continue
        if text == "/reset":
            turns, last = [], None
            console.print("A new conversation.", style="dim")
        elif text == "/explain":
            _explain(console, last)
        elif text.startswith("/"):
            console.print(f"Unknown command {text.split()[0]}: {COMMANDS}.", style="dim", markup=False)
        else:
            last = _answer(console, responder, turns, text, options) or last


def _answer(
    console: Console, responder: Responder, turns: list[str], text: str, options: DecodingOptions
) -> Response | None:
    """Reply to one turn and remember both; a turn that cannot be answered is said and forgotten."""
    try:
        # Each turn of a conversation has its own random numbers, also where the user fixed the seed.
        (response,) = responder.respond_batch([[*turns, text]], options, seeds=[len(turns)])
    except CtsmError as error:
        console.print(str(error), style="dim", markup=False)
        return None
    turns.extend([text, response.text])
    console.print(Text.assemble(("model> ", "bold"), response.text))
    for alternative in response.alternatives:
        console.print(f"   or> {alternative}", style="dim", markup=False)
    notes = [", ".join(f"{name} {probability:.0%}" for name, probability in response.top_emotions())]
    if response.truncated:
        notes.append("(only the end of this long conversation was read)")
    if any(notes):
        console.print("       " + " ".join(filter(None, notes)), style="dim", markup=False)
    return response


def _explain(console: Console, response: Response | None) -> None:
    """Show the emotions behind the last reply, word by word."""
    if response is None:
        console.print("Nothing to explain yet: write something first.", style="dim")
        return
    if response.context_tokens:
        _explain_words(console, response)
    else:
        console.print("This model does not tell what it perceives at each word.", style="dim")
    for relation, phrases in response.inferences.items():
        console.print(f"{relation}: {'; '.join(phrases) or '(nothing inferred)'}", style="dim", markup=False)


def _explain_words(console: Console, response: Response) -> None:
    """Show trait, inclination and state of each word, and how to read them."""
    table = Table(title="What the model perceives at each word")
    for heading in ("word", "trait: V, A, D", "inclines to", "state here"):
        table.add_column(heading)
    for token in response.context_tokens:
        inclination, state = _strongest(token.inclination, "{:.2f}"), _strongest(token.state, "{:.0%}")
        table.add_row(Text(token.token), _trait(token), inclination, state)
    console.print(table)
    console.print(
        "Trait is the lexicon's valence, arousal and dominance. "
        "The inclination hardly depends on the context, the state does.",
        style="dim",
    )


def _trait(token: TokenEmotions) -> str:
    if token.trait is None:
        return "not in the lexicon"
    return ", ".join(f"{value:.2f}" for value in token.trait)


def _strongest(values: tuple[float, ...], form: str) -> str:
    best = max(range(len(values)), key=values.__getitem__)
    return f"{EMOTIONS[best]} {form.format(values[best])}"
