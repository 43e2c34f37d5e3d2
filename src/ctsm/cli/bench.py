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
}


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the four verbs and their options."""
    verbs = parser.add_subcommands(dest="what", metavar="{" + ",".join(VERBS) + "}")
    for name, text in VERBS.items():
        verb = jsonargparse.ArgumentParser(description=text)
        _add_inputs(verb, name)
        _add_amounts(verb, name)
        verb.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
        verbs.add_subcommand(name, verb, help=text)


def _add_inputs(verb: jsonargparse.ArgumentParser, name: str) -> None:
    """Declare what to measure on; without any of it the built-in sample and an untrained model are taken."""
    if name != "train":
        text = "a run or model directory (default: an untrained model)"
        verb.add_argument("run", type=Path, nargs="?", metavar="RUN", help=text)
    if name != "startup":
        text = "what `ctsm prepare` wrote (default: the built-in sample)"
        verb.add_argument("--data", type=Path, metavar="DIR", help=text)
        verb.add_argument("--device", default="cpu", help="cpu or cuda")
    if name in ("decode", "reply"):
        verb.add_argument("--split", choices=["train", "dev", "test"], default="test", help="whose contexts to answer")
    text = "configuration of the untrained model (default: as configs/ctsm.yaml)"
    verb.add_argument("--config", type=Path, metavar="FILE", help=text)


def _add_amounts(verb: jsonargparse.ArgumentParser, name: str) -> None:
    """Declare how much to measure."""
    if name == "train":
        verb.add_argument("--steps", type=int, default=8, help="steps of each contender in a round")
        verb.add_argument(
            "--precision",
            nargs="+",
            choices=["fp32", "bf16"],
            default=[],
            help="of the fast path (default: fp32, and bf16 where its matrix products are faster)",
        )
        verb.add_argument("--profile", action="store_true", help="also time the stages of a step")
    if name == "decode":
        verb.add_argument("--contexts", type=int, default=1_000, help="how many the fast path answers in a round")
        verb.add_argument("--replies", type=int, default=200, help="how many of them the plain path answers in all")
    if name == "reply":
        verb.add_argument("--replies", type=int, default=500, help="how many to time")
    if name != "reply":
        verb.add_argument("--rounds", type=int, default=7 if name == "startup" else 5, help="rounds in alternation")


def run(arguments: jsonargparse.Namespace) -> None:
    """Measure, and print tables or JSON."""
    from rich.console import Console

    from ctsm.bench.run import run_bench

    values = vars(arguments[arguments.what])
    as_json = values.pop("json")
    report = run_bench(arguments.what, values, lambda message: print(f"{message} ...", file=sys.stderr))
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for table in report.tables():
            Console().print(table)
