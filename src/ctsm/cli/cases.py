"""`ctsm cases`: systems side by side on the same contexts."""

from __future__ import annotations

import sys
from pathlib import Path

import jsonargparse

HELP = "put the replies and perceived emotions of several runs to the same contexts side by side"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run or model directories")
    parser.add_argument("--data", type=Path, metavar="DIR", help="take contexts from what `ctsm prepare` wrote")
    parser.add_argument("--split", choices=["train", "dev", "test"], default="test", help="which examples of the data")
    text = "take contexts from a file, in the format that `ctsm generate` reads"
    parser.add_argument("--contexts", type=Path, metavar="FILE.jsonl", help=text)
    parser.add_argument("--emotion", default="", metavar="NAME", help="only contexts with this label")
    text = "the contexts in which the runs perceive the most different emotions"
    parser.add_argument("--disagreement", action="store_true", help=text)
    parser.add_argument("--id", nargs="+", default=[], metavar="ID", help="just these contexts")
    text = "how many contexts at most (default: 5 of the data, all of a file)"
    parser.add_argument("--count", type=int, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=1, help="decides which contexts are drawn where nothing else does")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    text = "file to write, by its suffix Markdown or a page that opens offline (default: Markdown to the terminal)"
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.md|.html", help=text)


def run(arguments: jsonargparse.Namespace) -> None:
    """Make the cases and print or write them."""
    from ctsm.analysis.cases import SHOWN, Contexts, make_cases
    from ctsm.analysis.cases_pick import Choice
    from ctsm.analysis.cases_text import check_suffix, write_cases
    from ctsm.errors import CtsmError

    if (arguments.data is None) == (arguments.contexts is None):
        raise CtsmError("contexts come from --data DIR or from --contexts FILE.jsonl; give one of the two.")
    check_suffix(arguments.out)
    count = SHOWN if arguments.data and arguments.count is None and not arguments.id else arguments.count
    choice = Choice(arguments.emotion, arguments.disagreement, tuple(arguments.id), count, arguments.seed)
    if arguments.data:
        contexts = Contexts.of_data(arguments.data, arguments.split)
    else:
        contexts = Contexts.of_file(arguments.contexts)
    cases = make_cases(
        arguments.runs, contexts, choice, arguments.device, lambda message: print(f"{message} ...", file=sys.stderr)
    )
    write_cases(cases, arguments.out)
