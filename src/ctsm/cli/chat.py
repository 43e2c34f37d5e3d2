"""`ctsm chat`: talk to a model."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import jsonargparse

from ctsm.care import NO_CARE_HELP
from ctsm.decoding.arguments import add_decoding_arguments, decoding_options

HELP = "talk to a model in the terminal"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("run", metavar="RUN", help='a run or model directory, or "user/name" on the Hugging Face Hub')
    add_decoding_arguments(parser)
    parser.add_argument("--no-care", action="store_true", help=NO_CARE_HELP)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(arguments: jsonargparse.Namespace) -> None:
    """Chat with a person at the terminal until /quit, else line by line until the end of the input."""
    options = decoding_options(arguments)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from ctsm import load
    from ctsm.serving.chat import chat_in_terminal, chat_over_pipe

    responder = load(arguments.run, arguments.device, care=not arguments.no_care)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(newline="\n")  # a carriage return within a line ends no turn
        chat_over_pipe(responder, sys.stdin, sys.stdout, sys.stderr, options)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (gives `input` a history and arrow keys)
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    chat_in_terminal(responder, lambda: input("you> "), console, options)
