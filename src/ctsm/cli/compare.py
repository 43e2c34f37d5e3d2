"""`ctsm compare`: the significance of differences between evaluated systems."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

HELP = "test whether systems differ: paired, over conversations, corrected for the number of tests"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("reference", type=Path, metavar="A", help="a run directory, or a record that evaluate wrote")
    parser.add_argument("others", type=Path, nargs="+", metavar="B", help="what is compared with A, likewise")
    parser.add_argument("--split", choices=["train", "dev", "test"], default="test", help="which record of a run")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the comparisons there")


def run(arguments: jsonargparse.Namespace) -> None:
    """Compare and print the table."""
    from rich.console import Console

    from ctsm.evaluation.compare import compare, comparison_table, record_file, write_comparisons

    places = [arguments.reference, *arguments.others]
    comparisons = compare([(str(place), record_file(place, arguments.split)) for place in places])
    if arguments.out:
        write_comparisons(arguments.out, comparisons)
    Console().print(comparison_table(comparisons))
