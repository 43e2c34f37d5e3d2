"""`ctsm bench`: measure speed and memory on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonargparse

HELP = "measure training, decoding, replies and start-up against a plain path and the machine's limit"

VERBS = {
    "train": "examples/s of training, against the plain path and the machine's matrix rate",
    "decode": "replies/s of greedy decoding against the plain path, by batch size, and of beam search",
    "reply": "time of one reply in a warm process, and its memory",
    "startup": "time of `ctsm --help`, `import ctsm` and `ctsm.load` in new processes",
    "growth": "time of a training step and of greedy decoding as vocabulary, context and batch grow",
    "techniques": "time of each technique of training and decoding against what it replaces",
    "systems": "examples/s of training of each of the paper's eight systems",
}
REPORT = "report"
REPORT_HELP = "measure nothing: put saved JSON objects into a document as tables, and growth into figures"


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the verbs and their options."""
    verbs = parser.add_subcommands(dest="what", metavar="{" + ",".join([*VERBS, REPORT]) + "}")
    for name, text in VERBS.items():
        verb = type(parser)(description=text)
        _add_inputs(verb, name)
        _add_amounts(verb, name)
        verb.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
        verbs.add_subcommand(name, verb, help=text)
    report = type(parser)(description=REPORT_HELP)
    report.add_argument("results", type=Path, metavar="DIR", help="folder of what --json printed (*.json)")
    text = "Markdown file with markers for the tables"
    report.add_argument("--document", type=Path, required=True, metavar="FILE.md", help=text)
    text = "folder for growth-*.svg (needs the extra 'plot')"
    report.add_argument("--figures", type=Path, required=True, metavar="DIR", help=text)
    verbs.add_subcommand(REPORT, report, help=REPORT_HELP)


def _add_inputs(verb: jsonargparse.ArgumentParser, name: str) -> None:
    """Declare what to measure on; without any of it the built-in sample and an untrained model are taken."""
    if name in ("decode", "reply", "startup", "techniques"):
        text = "a run or model directory (default: an untrained model)"
        verb.add_argument("run", type=Path, nargs="?", metavar="RUN", help=text)
    if name in ("train", "decode", "reply", "techniques", "systems"):
        text = "what `ctsm prepare` wrote (default: the built-in sample)"
        verb.add_argument("--data", type=Path, metavar="DIR", help=text)
    if name != "startup":
        verb.add_argument("--device", default="cpu", help="cpu or cuda")
    if name in ("decode", "reply"):
        verb.add_argument("--split", choices=["train", "dev", "test"], default="test", help="whose contexts to answer")
    if name == "systems":
        verb.add_argument(
            "--configs", type=Path, default=Path("configs"), metavar="DIR", help="folder of the systems' YAML files"
        )
        return
    text = "configuration of the untrained model (default: as configs/ctsm.yaml)"
    verb.add_argument("--config", type=Path, metavar="FILE", help=text)


def _add_amounts(verb: jsonargparse.ArgumentParser, name: str) -> None:
    """Declare how much to measure."""
    if name in ("train", "techniques", "systems"):
        verb.add_argument(
            "--steps", type=int, default=10 if name == "systems" else 8, help="steps of each contender in a round"
        )
    if name in ("train", "systems"):
        verb.add_argument("--profile", action="store_true", help="also time the stages of a step")
    if name in ("train", "decode", "systems"):
        verb.add_argument(
            "--precision",
            nargs="+",
            choices=["fp32", "bf16"],
            default=[],
            help="of the fast path (default: fp32, and bf16 where its matrix products are faster)"
            if name != "systems"
            else "of the training steps (default: both)",
        )
    if name == "decode":
        verb.add_argument("--contexts", type=int, default=1_000, help="how many the fast path answers in a round")
        verb.add_argument("--replies", type=int, default=200, help="how many of them the plain path answers in all")
    if name == "reply":
        verb.add_argument("--replies", type=int, default=500, help="how many to time")
    if name == "growth":
        _add_sizes(verb)
    if name != "reply":
        rounds = {"startup": 7, "systems": 3}.get(name, 5)
        verb.add_argument("--rounds", type=int, default=rounds, help="rounds in alternation")


def _add_sizes(verb: jsonargparse.ArgumentParser) -> None:
    """Declare the ranges over which cost grows."""
    defaults = {
        "vocabulary": ([3_000, 6_000, 12_000, 24_000, 48_000], "words"),
        "context": ([16, 32, 64, 128, 256, 512], "words"),
        "batch": ([1, 2, 4, 8, 16, 32, 64, 128], "examples"),
    }
    for axis, (sizes, unit) in defaults.items():
        verb.add_argument(f"--{axis}", type=int, nargs="+", metavar="N", default=sizes, help=f"sizes to try, in {unit}")


def run(arguments: jsonargparse.Namespace) -> None:
    """Measure, and print tables or JSON."""
    values = vars(arguments[arguments.what])
    if arguments.what == REPORT:
        from ctsm.bench.document import write_document

        write_document(values["results"], values["document"], values["figures"])
        print(f"{values['document']}: tables of the reports in {values['results']}")
        return

    from rich.console import Console

    from ctsm.bench.run import run_bench

    as_json = values.pop("json")
    report = run_bench(arguments.what, values, lambda message: print(f"{message} ...", file=sys.stderr))
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for table in report.tables():
            Console().print(table)
