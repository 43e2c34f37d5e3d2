"""`ctsm explain`: what a model felt while it read a text and replied."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

HELP = "show the trait and state emotions of each word of a text, and what the reply rests on, as a figure"
EPILOG = (
    "Write TEXT before --context. "
    'To see one word in two contexts: ctsm explain RUN "TEXT" --against "OTHER TEXT" --word excited -o figure.svg; '
    "without --word the word of the lexicon whose state changes most is taken. --context goes with TEXT alone."
)


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run or model directory of CTSM")
    parser.add_argument("text", type=str, metavar="TEXT", help="the speaker's last turn")
    parser.add_argument(
        "--context", type=str, nargs="+", default=[], metavar="TURN", help="earlier turns, oldest first"
    )
    parser.add_argument("--against", type=str, metavar="TEXT", help="another text, to compare a word that both hold")
    parser.add_argument("--word", type=str, metavar="WORD", help="the word to compare")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="a figure (.png, .svg, .pdf), a page (.html) or numbers (.json)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(arguments: jsonargparse.Namespace) -> None:
    """Explain, print, and write the file that was asked for."""
    from rich.console import Console

    from ctsm import load
    from ctsm.analysis.comparison import change_of, compare_words
    from ctsm.analysis.explain import explain
    from ctsm.analysis.explain_files import (
        change_text,
        check_output,
        explanation_table,
        explanation_text,
        write_comparison,
        write_explanation,
    )
    from ctsm.errors import CtsmError

    if arguments.word is not None and arguments.against is None:
        raise CtsmError("--word says which word to compare with another text; give --against too.")
    if arguments.out is not None:
        check_output(arguments.out, comparison=arguments.against is not None)
    responder = load(arguments.run, arguments.device)
    explanation = explain(responder, [*arguments.context, arguments.text])
    if arguments.against is not None:
        other = explain(responder, [arguments.against])
        change = change_of(compare_words(explanation, other), arguments.word)
        if arguments.out is not None:
            write_comparison(explanation, other, change, arguments.out)
        print(change_text(change))
    else:
        if arguments.out is not None:
            write_explanation(explanation, arguments.out)
        print(explanation_text(explanation))
        Console().print(explanation_table(explanation))
    if arguments.out is not None:
        print(arguments.out)
