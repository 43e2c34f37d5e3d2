"""`ctsm generate`: reply to a file of conversations."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from ctsm.care import NO_CARE_HELP
from ctsm.decoding.arguments import add_decoding_arguments, decoding_options

HELP = "reply to conversations in a JSONL file"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run or model directory")
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN.jsonl",
        help='one object a line: {"context": ["...", ...]} with optional id, conversation_id, reference, emotion',
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.jsonl", help="the replies file to write")
    # A replies file holds one reply to each context.
    add_decoding_arguments(parser, without=("n_best",))
    parser.add_argument("--no-care", action="store_true", help=NO_CARE_HELP)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(arguments: jsonargparse.Namespace) -> None:
    """Generate and say how many replies were written."""
    from ctsm import load
    from ctsm.serving.generate import generate_file

    options = decoding_options(arguments)
    count = generate_file(
        load(arguments.run, arguments.device, care=not arguments.no_care), arguments.input, arguments.out, options
    )
    print(f"{arguments.out}: {count} replies")
