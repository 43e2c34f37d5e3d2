"""`ctsm polarity`: how often the trait and the state polarity of a word disagree."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

HELP = "count the words whose trait and state polarity disagree (section 5.4), under every reading of it"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="what `ctsm prepare` wrote")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="folder of polarity.md, polarity.json and polarity.svg (Figure 3)"
    )


def run(arguments: jsonargparse.Namespace) -> None:
    """Study the words, print the page, and write the files that were asked for."""
    from rich.console import Console
    from rich.markdown import Markdown

    from ctsm.analysis.polarity import study_polarity
    from ctsm.analysis.polarity_report import polarity_markdown, write_polarity
    from ctsm.errors import CtsmError
    from ctsm.figures import require_matplotlib

    if arguments.out is not None:
        require_matplotlib()
        if arguments.out.is_file():
            raise CtsmError(f"{arguments.out}: is a file; choose a folder.")
    study = study_polarity(arguments.data)
    paths = [] if arguments.out is None else write_polarity(study, arguments.out)
    Console().print(Markdown(polarity_markdown(study)))
    for path in paths:
        print(path)
