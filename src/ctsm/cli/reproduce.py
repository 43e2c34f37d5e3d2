"""`ctsm reproduce`: the paper's tables, row by row."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

if TYPE_CHECKING:
    from ctsm.reproduction.work import Request

HELP = "train, evaluate and tabulate every missing row of a table of the paper; run it again to go on"
OVERRIDES = ("--training.",)
EPILOG = (
    "Several processes may share the work: each takes rows that no other holds. Training settings given here count for "
    "every row: --training.iterations 6000 --training.precision bf16."
)
TARGETS = ("table1", "table3", "ambiguities")


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument(
        "target", choices=TARGETS, help="a table of the paper, or the alternatives of its five open points, on dev"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="what `ctsm prepare` wrote")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each row (default: 1)")
    parser.add_argument("--budget", type=float, metavar="HOURS", help="stop, with a checkpoint, after this time")
    parser.add_argument("--dry-run", action="store_true", help="only list what is missing and estimate its time")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these rows, as the table names them")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="RUNS", help="folder of the run directories")
    parser.add_argument("--configs", type=Path, default=Path("configs"), metavar="DIR", help="folder of the YAML files")
    parser.add_argument(
        "--results", type=Path, default=Path("docs/results"), metavar="DIR", help="folder of records and tables"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(arguments: jsonargparse.Namespace) -> int:
    """Work, or list what is to be done; an interrupt saves a checkpoint."""
    from ctsm.reproduction.plan import Places
    from ctsm.reproduction.work import Request, reproduce

    request = Request(
        target=arguments.target,
        data=arguments.data,
        places=Places(arguments.configs, arguments.out, arguments.results),
        seeds=arguments.seeds,
        rows=tuple(arguments.rows),
        overrides=tuple(arguments.overrides),
        hours=arguments.budget,
        device=arguments.device,
    )
    if arguments.dry_run:
        _print_outlook(request)
        return 0
    summary = reproduce(request, lambda message: print(message, file=sys.stderr))
    for name, why in summary.open.items():
        print(f"{name}: {why}", file=sys.stderr)
    if summary.tables is not None:
        print(summary.tables)
    return 0 if summary.signal is None else 128 + signal.Signals(summary.signal).value


def _print_outlook(request: Request) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ctsm.reproduction.estimate import in_words
    from ctsm.reproduction.work import outlook

    rows = outlook(request)
    table = Table(title=f"{request.target} on {request.data}")
    for name in ("row", "seed", "state", "at most", "estimated from"):
        table.add_column(name, justify="right" if name in ("seed", "at most") else "left", no_wrap=name == "row")
    for row in rows:
        job, state, time, source = row.job, row.standing.describe(row.job.config.training.iterations), "", ""
        if row.problem:  # of two places, the table's title has one and the row stands for the other
            problem = row.problem.removeprefix(f"{request.data}: ").removeprefix(f"{job.run}: ")
            state = f"cannot run: {problem}"
        elif row.estimate is not None and row.standing.missing:
            time, source = in_words(row.estimate.seconds), row.estimate.source
        table.add_row(job.label, str(job.seed), Text(state), time, source)
    Console().print(table)
    missing = [row for row in rows if row.standing.missing]
    estimates = [row.estimate for row in missing if row.estimate is not None]
    stuck = len(missing) - len(estimates)
    of_them, others = (f", {stuck} of them cannot run", " for the others") if stuck else ("", "")
    time = in_words(sum(estimate.seconds for estimate in estimates))
    print(f"{len(missing)} of {len(rows)} runs are missing{of_them}; one process needs at most {time}{others}.")
