"""`ctsm models`: the systems at a glance."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

HELP = "list the systems with their parameters, papers and whether they were measured"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "--results", type=Path, default=Path("docs/results"), metavar="DIR", help="folder of records, for the status"
    )


def run(arguments: jsonargparse.Namespace) -> None:
    """Print the table."""
    from rich.console import Console

    from ctsm.evaluation.systems import list_systems, systems_table

    Console().print(systems_table(list_systems(arguments.results)))
