"""`ctsm tables`: the results as Markdown, generated from their records."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

HELP = "generate the result tables (Markdown) from a folder of JSON records, beside the paper's rows"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("records", type=Path, metavar="RECORDS_DIR", help="the folder of result records (*.json)")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE.md", help="the Markdown file to write or replace"
    )
    parser.add_argument(
        "--readme", type=Path, metavar="FILE.md", help="also put the paper's Table 1 between this file's markers"
    )


def run(arguments: jsonargparse.Namespace) -> None:
    """Write the tables and say where they are."""
    from ctsm.evaluation.tables import write_tables

    count = write_tables(arguments.records, arguments.out, arguments.readme)
    print(f"{arguments.out}: tables of {count} records")
