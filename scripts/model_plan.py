"""Print what `make model` is going to do: steps, downloads, disk and time. Fails where the disk is too small.

Usage: python scripts/model_plan.py --data DIR --prepared DIR --run DIR --config FILE [--mirror URL]
           RESOURCE ... -- [OVERRIDE ...]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from ctsm.config import RunConfig, read_config
from ctsm.corpus.prepared import is_prepared
from ctsm.errors import CtsmError
from ctsm.evaluation.records import read_records
from ctsm.files import read_json
from ctsm.reproduction.estimate import in_words
from ctsm.resources.catalogue import MEGABYTE, Resource, find, mirrored, size_in_words
from ctsm.resources.fetch import already_fetched
from ctsm.training.checkpoint import STATE, Progress, checkpoints

UNKNOWN_SIZE = 200 * MEGABYTE
"""Counted for a download whose size no one states, with what is unpacked from it."""
PREPARED_SIZE = 200 * MEGABYTE
"""EmpatheticDialogues with vectors 300 wide and an ATOMIC file of 1.3 million lines takes 111 MB, and 47 MB for the
inferences that are kept until it is complete."""
RUN_SIZE = 1000 * MEGABYTE
"""Three checkpoints (the newest, the one before, the one being written) and two model directories of the paper's model
with a vocabulary of 24,000 words: 20.7 million weights of 4 bytes in each, and as many twice more for Adam."""
PREPARE_TIME = "a few minutes"
"""Two to three minutes on one core with files of that size."""
SLOW_NETWORK = 10 * MEGABYTE / 8
"""Bytes a second at 10 Mbit/s."""

RESULTS = Path("docs/results")


def main() -> int:
    """Print the plan; return 2 where a disk is too small for it."""
    arguments = _arguments()
    try:
        config = read_config(arguments.config, arguments.overrides)
        resources = find(arguments.resources)
        there = already_fetched(arguments.resources, arguments.data)
        prepared = is_prepared(arguments.prepared)
        missing = [resource for resource in resources if resource.name not in there and not prepared]
        progress = _progress(arguments.run)
        trained = progress.finished and not _may_go_on(config, progress)
        print(f"make model: {arguments.config} on EmpatheticDialogues, from the publishers' files, in three steps.")
        print("What is done is skipped. Stop it whenever you like: the same command goes on.\n")
        print(f"1. fetch    to {arguments.data}: {_fetch_summary(missing)}")
        for resource in missing:
            print(_download(resource, arguments.mirror))
        if missing:
            print("   You see the terms of each before anything is downloaded.")
        print(f"2. prepare  to {arguments.prepared}: {'done' if prepared else PREPARE_TIME}")
        print(f"3. train    to {arguments.run}: {'done' if trained else _training_summary(config, progress)}\n")
        needs = {
            arguments.data: sum(_bytes_to_come(resource, arguments.data) for resource in missing),
            arguments.prepared: 0 if prepared else PREPARED_SIZE,
            arguments.run: 0 if trained else max(0, RUN_SIZE - _used(arguments.run)),
        }
        _check_disks(needs)
    except CtsmError as error:
        print(f"make model: error: {error}", file=sys.stderr)
        return 2
    sys.stdout.flush()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("data", "prepared", "run", "config"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--mirror")
    parser.add_argument("resources", nargs="+")
    words = sys.argv[1:]
    end = words.index("--")
    parsed = parser.parse_args(words[:end])
    parsed.overrides = words[end + 1 :]
    return parsed


def _fetch_summary(missing: list[Resource]) -> str:
    if not missing:
        return "done"
    known = sum(resource.about_bytes or 0 for resource in missing)
    unknown = sum(resource.about_bytes is None for resource in missing)
    parts = [f"about {size_in_words(known)}"] if known else []
    parts += [f"{unknown} files of unknown size"] if unknown else []
    time = f" ({in_words(known / SLOW_NETWORK)} at 10 Mbit/s)" if known else ""
    return " and ".join(parts) + time


def _download(resource: Resource, mirror: str | None) -> str:
    about = "" if resource.about_bytes is None else "about "
    check = "" if resource.checked else " (address as found in public code, not checked)"
    address = mirrored(resource.address, mirror)
    return f"     {resource.name:<20} {about + size_in_words(resource.about_bytes):<13} {address}{check}"


def _bytes_to_come(resource: Resource, data: Path) -> int:
    """Return what a resource will add to the folder, counting what an interrupted download has left there."""
    begun = (data / resource.file, data / f"{resource.file}.part")
    return max(0, (resource.about_bytes or UNKNOWN_SIZE) - sum(path.stat().st_size for path in begun if path.exists()))


def _progress(run: Path) -> Progress:
    """Return where a run stands by its newest checkpoint."""
    try:
        return Progress(**read_json(checkpoints(run)[-1] / STATE, "the state of a checkpoint"))
    except (CtsmError, TypeError, IndexError):
        return Progress()  # none yet, or one that `ctsm train` will complain of


def _may_go_on(config: RunConfig, progress: Progress) -> bool:
    """Say whether a run, even a finished one, goes on under these limits."""
    training = config.training
    return progress.iteration < training.iterations and progress.stale_evaluations < training.patience


def _training_summary(config: RunConfig, progress: Progress) -> str:
    """Say how far the training is and how long the rest may take, by its own pace or that of a recorded run."""
    limit = config.training.iterations
    left = max(0, limit - progress.iteration)
    start = f"at {progress.iteration:,} of at most" if progress.iteration else "at most"
    if progress.iteration:
        seconds, source = progress.train_seconds / progress.iteration, "at the pace so far"
    else:
        seconds, source = _recorded_pace(config)
    time = f"at most {in_words(left * seconds)} {source}" if seconds else source
    return f"{start} {limit:,} iterations, {time}; it ends sooner when dev no longer improves"


def _recorded_pace(config: RunConfig) -> tuple[float, str]:
    """Return the seconds of an iteration, dev evaluations included, of a recorded run on a CPU; 0 without one."""
    records = read_records([RESULTS]) if RESULTS.is_dir() else {}
    for path, record in records.items():
        of_this_kind = (record.model, record.variant, record.device) == (config.model, config.variant, "cpu")
        same_precision = record.precision.split()[0] == config.training.precision
        if of_this_kind and same_precision and record.checkpoint_step:
            return record.train_seconds / record.checkpoint_step, f"on two cores (by {path})"
    return 0.0, f"time not known: {RESULTS} has no record of such a run"


def _check_disks(needs: dict[Path, int]) -> None:
    """Print what each disk needs and has.

    Raises:
        CtsmError: one has too little.
    """
    disks: dict[int, list[Path]] = {}
    for folder in (folder for folder, size in needs.items() if size):
        disks.setdefault(_existing(folder).stat().st_dev, []).append(folder)
    for folders in disks.values():
        names = ", ".join(map(str, folders))
        needed = sum(needs[folder] for folder in folders)
        free = shutil.disk_usage(_existing(folders[0])).free
        print(f"Disk: about {size_in_words(needed)} more for {names}; {size_in_words(free)} are free.")
        if needed > free:
            raise CtsmError(
                f"{names}: about {size_in_words(needed)} are needed and {size_in_words(free)} are free; free some "
                "space, or choose other places with DATA=, PREPARED= and RUN=."
            )


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists."""
    return next(place for place in (path, *path.resolve().parents) if place.is_dir())


def _used(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum((Path(top) / name).lstat().st_size for top, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    sys.exit(main())
