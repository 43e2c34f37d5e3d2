"""`ctsm train`: train a model."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import jsonargparse

HELP = "train a model; --resume continues an interrupted run exactly"
OVERRIDES = ("--model", "--variant", "--options.", "--training.")
EPILOG = (
    "Every setting of the configuration can be given here too and then wins: --training.iterations 4000 "
    "--options.fusion_sharing all. configs/ctsm.yaml lists and explains them."
)


def add_arguments(parser: jsonargparse.ArgumentParser) -> None:
    """Declare the options of the verb."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file such as configs/ctsm.yaml")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="what `ctsm prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run directory")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(arguments: jsonargparse.Namespace) -> int:
    """Train; an interrupt saves a checkpoint and says how to go on."""
    from ctsm.config import read_config
    from ctsm.training.loop import train

    config = read_config(arguments.config, arguments.overrides)
    outcome = train(config, arguments.data, arguments.out, arguments.resume, arguments.device)
    progress = outcome.progress
    if outcome.signal is not None and not progress.finished:
        again = " ".join(["ctsm", "train", str(arguments.config), "--data", str(arguments.data)])
        again = " ".join([again, "--out", str(arguments.out), *arguments.overrides, "--resume"])
        print(f"interrupted at iteration {progress.iteration}, saved; go on with: {again}", file=sys.stderr)
        return 128 + signal.Signals(outcome.signal).value
    print(
        f"{arguments.out / 'best'}: iteration {progress.best_iteration} of {progress.iteration}, "
        f"dev perplexity by example {progress.best_score:.2f}, {progress.train_seconds / 60:.1f} minutes"
    )
    return 0
