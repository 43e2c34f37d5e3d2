"""`ctsm chat`: talk to a model."""

from __future__ import annotations

import sys

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
    """Chat until /quit or the end of the input."""
    from ctsm import load
    from ctsm.serving.chat import chat

    options = decoding_options(arguments)
    chat(load(arguments.run, arguments.device), sys.stdin, sys.stdout, options)
