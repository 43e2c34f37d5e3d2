"""`ctsm bench startup`: wall time of new processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ctsm.bench.inputs import Say, model_or_untrained, require_at_least_one
from ctsm.bench.machine import describe_machine
from ctsm.bench.report import Figure, Report, Series
from ctsm.bench.timing import alternate
from ctsm.config import read_config
from ctsm.errors import CtsmError
from ctsm.models.bundle import resolve_directory

PYTHON = "python -c pass"


@dataclass(frozen=True)
class StartupSettings:
    """What to measure.

    Attributes:
        run: a run or model directory to load; None takes an untrained model on the built-in sample.
        config: a YAML configuration of the untrained model; None takes the defaults.
        rounds: how often each command is run.
    """

    run: Path | None = None
    config: Path | None = None
    rounds: int = 7


def bench_startup(settings: StartupSettings, say: Say) -> Report:
    """Measure and return the report; a first run of each command fills the disk cache and is not counted.

    Raises:
        CtsmError: there is no such model, or a command fails.
    """
    require_at_least_one(rounds=settings.rounds)
    if settings.run is not None and settings.config is not None:
        raise CtsmError(f"{settings.run}: has its own configuration; leave out --config.")
    machine = describe_machine()
    with model_or_untrained(settings.run, read_config(settings.config, []), say) as directory:
        model = resolve_directory(directory)
        commands = {
            PYTHON: ["-c", "pass"],
            "ctsm --help": ["-m", "ctsm.cli.main", "--help"],
            "import ctsm": ["-c", "import ctsm"],
            "import torch": ["-c", "import torch"],
            "ctsm.load": ["-c", "import sys, ctsm; ctsm.load(sys.argv[1])", str(model)],
        }
        runs = {name: _command(arguments) for name, arguments in commands.items()}
        seconds = alternate(runs, settings.rounds, say)
        weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    series = [Series(name, "s", values) for name, values in seconds.items()]
    return Report(
        verb="startup",
        machine=machine,
        settings={"rounds": settings.rounds},
        data={"source": "sample" if settings.run is None else "run", "weights_mib": round(weights / (1 << 20), 1)},
        series=series,
        figures=[Figure(f"{one.name}, median", "s", one.median) for one in series if one.name != PYTHON],
    )


def _command(arguments: list[str]) -> Callable[[int], None]:
    """Return a function that runs Python with these arguments in a new process."""

    def run(_number: int) -> None:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CtsmError(f"python {' '.join(arguments[:2])}: failed ({last}); mend that first.")

    return run
