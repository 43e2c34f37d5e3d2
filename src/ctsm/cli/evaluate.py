"""`ctsm evaluate`: score a model."""

from __future__ import annotations

import sys
from pathlib import Path

import jsonargparse

HELP = "score a model on a split and decode its replies"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run or model directory")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="what `ctsm prepare` wrote")
    parser.add_argument("--split", choices=["train", "dev", "test"], default="test", help="which examples to score")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the files (default: RUN/evaluation)")
    text = "also write a page with figures on the emotions into this folder (needs the extra 'plot')"
    parser.add_argument("--report", type=Path, metavar="DIR", help=text)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="of the replies; likelihoods and emotions are always scored in fp32",
    )


def run(arguments: jsonargparse.Namespace) -> None:
    """Evaluate, print the table and name the files."""
    from rich.console import Console

    from ctsm.evaluation.evaluate import evaluate
    from ctsm.evaluation.tables import record_table

    if arguments.report:
        from ctsm.analysis.emotion_report import emotion_report, require_report, write_report

        require_report(arguments.report)
    out = arguments.out or arguments.run / "evaluation"
    result = evaluate(
        arguments.run,
        arguments.data,
        arguments.split,
        out,
        arguments.device,
        lambda message: print(f"{message} ...", file=sys.stderr),
        arguments.precision,
        require_emotions=arguments.report is not None,
    )
    Console().print(record_table(result.record))
    files = [result.record_file, result.per_example_file, result.replies_file]
    if arguments.report and result.emotions:
        files += write_report(arguments.report, emotion_report(result.emotions, result.record))
    for path in files:
        print(path)
