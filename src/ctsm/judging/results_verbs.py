"""The sub-verbs `ctsm judge report` and `ctsm judge export`: their arguments and what they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from ctsm.judging.exports import FORMATS
from ctsm.judging.places import require_other_place
from ctsm.judging.study import Judgement, Study

REPORT_HELP = "Win, Tie and Lose with agreement, tests and catch trials, as the paper's Table 2"
EXPORT_HELP = "write the judgements as CSV, or for Label Studio or Potato"
OPEN_HELP = "do not insist that the study is closed: interim results"


def add_report_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of `report`, beside the study."""
    text = "also write report.md, table.tex and report.json there; none of them is replaced"
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help=text)
    parser.add_argument("--while-open", action="store_true", help=OPEN_HELP)


def add_export_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of `export`, beside the study."""
    parser.add_argument("--format", choices=list(FORMATS), required=True, help="of what is written")
    text = "the new file to write; for potato the new folder of the project"
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--while-open", action="store_true", help=OPEN_HELP)


def run_report(arguments: jsonargparse.Namespace) -> None:
    """Print the report, and write it where asked."""
    from rich.console import Console

    from ctsm.judging.report import make_report, write_report
    from ctsm.judging.report_tables import notes, terminal_tables

    if arguments.out:
        require_other_place(arguments.out, arguments.study)
    study, judgements, closed = _read(arguments.study, arguments.while_open)
    report = make_report(study, judgements, closed)
    if arguments.out:
        write_report(arguments.out, report)
    console = Console()
    for note in notes(report):
        console.print(note, markup=False, highlight=False)
    for table in terminal_tables(report):
        console.print(table)


def run_export(arguments: jsonargparse.Namespace) -> None:
    """Write the judgements and say where they are."""
    from ctsm.judging.exports import export

    require_other_place(arguments.out, arguments.study)
    study, judgements, _ = _read(arguments.study, arguments.while_open)
    for path in export(study, judgements, arguments.format, arguments.out):
        print(f"{path}: {len(judgements):,} judgements" if path == arguments.out else f"{path}: its configuration")


def _read(place: str, while_open: bool) -> tuple[Study, Sequence[Judgement], bool]:
    """Return a study, its judgements, and whether it is closed."""
    from ctsm.judging.report import require_closed
    from ctsm.judging.store import Store

    with Store.opened(place) as store:
        require_closed(store.closed, while_open)
        return store.study(), store.judgements(), store.closed
