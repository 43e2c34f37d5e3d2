"""`ctsm score`: Dist, length and BLEU of any system's replies."""

from __future__ import annotations

import json
from pathlib import Path

import jsonargparse

HELP = "score a file of replies: Dist-1/2, length, distinct replies, and BLEU-4 where references are given"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "replies",
        type=Path,
        metavar="REPLIES",
        help="one tokenised reply a line, split at white space, or a replies file (.jsonl)",
    )
    parser.add_argument(
        "--references",
        type=Path,
        metavar="F",
        help="one tokenised reference for each reply, in the same order and in either format; adds BLEU-4",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(arguments: jsonargparse.Namespace) -> None:
    """Score the file and print the result."""
    from rich.console import Console

    from ctsm.evaluation.score import score_files

    score = score_files(arguments.replies, arguments.references)
    if arguments.json:
        print(json.dumps(score.as_json()))
    else:
        Console().print(score.as_table())
