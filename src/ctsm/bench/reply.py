"""`ctsm bench reply`: how long one reply takes in a warm process, and how much memory that process needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctsm.bench.inputs import UNTRAINED, Say, model_or_untrained, require_at_least_one
from ctsm.bench.machine import describe_machine
from ctsm.bench.report import Figure, Report, Series
from ctsm.config import read_config
from ctsm.corpus.prepared import PreparedData
from ctsm.corpus.reader import listener_turns, read_dialogues
from ctsm.corpus.sample import sample_path
from ctsm.decoding.options import Precision
from ctsm.device import require_device
from ctsm.errors import CtsmError
from ctsm.models.bundle import resolve_directory

WARM_UP = 10


@dataclass(frozen=True)
class ReplySettings:
    """What to measure.

    Attributes:
        run: a run or model directory; None takes an untrained model on the built-in sample.
        data: a prepared directory with the conversations to answer; None takes the sample's.
        config: a YAML configuration of the untrained model; None takes the defaults.
        split: whose conversations to answer.
        replies: how many to time.
        device: cpu or cuda.
    """

    run: Path | None = None
    data: Path | None = None
    config: Path | None = None
    split: str = "test"
    replies: int = 500
    device: str = "cpu"


def bench_reply(settings: ReplySettings, say: Say) -> Report:
    """Measure in processes of their own, which hold a model and nothing else, in fp32 and in bf16; return the report.

    Raises:
        CtsmError: model or conversations cannot be used.
    """
    require_at_least_one(replies=settings.replies)
    require_device(settings.device)
    if settings.run is not None and settings.config is not None:
        raise CtsmError(f"{settings.run}: has its own configuration; leave out --config.")
    machine = describe_machine(settings.device)
    conversations = _conversations(settings.data, settings.split)[: settings.replies]
    with model_or_untrained(settings.run, read_config(settings.config, []), say) as directory:
        resolve_directory(directory)
        say(f"answering {len(conversations):,} conversations one by one")
        found = _in_own_process(directory, conversations, settings.device, "fp32")
        say("the same with --precision bf16")
        found16 = _in_own_process(directory, conversations, settings.device, "bf16")
    latency, latency16 = (
        Series(f"one reply, Responder.respond{in_words}", "ms", tuple(1e3 * seconds for seconds in one["seconds"]))
        for in_words, one in (("", found), (", bf16", found16))
    )
    return Report(
        verb="reply",
        machine=machine,
        settings={"split": settings.split, "replies": settings.replies, "device": settings.device},
        data={
            "source": "sample" if settings.data is None else "prepared",
            "conversations": len(conversations),
            "vocabulary": found["vocabulary"],
            "inferences": found["inferences"],
        },
        series=[latency, latency16],
        figures=[
            Figure("one reply, median", "ms", latency.median),
            Figure("one reply, 99th percentile", "ms", latency.percentile(99)),
            Figure("one reply in bf16, median", "ms", latency16.median),
            Figure("one reply in bf16, 99th percentile", "ms", latency16.percentile(99)),
            Figure("words of a reply, mean", "words", found["mean_words"]),
            Figure("import and ctsm.load", "s", found["load_seconds"]),
            Figure("peak memory of the process", "MiB", found["peak_mib"]),
        ],
        notes=[] if settings.run is not None else [UNTRAINED],
    )


def _conversations(data: Path | None, split: str) -> list[Sequence[str]]:
    """Return what was said before each reply of a split."""
    if data is None:
        return [turn.context for turn in listener_turns(read_dialogues(sample_path("dialogues"))[split])]
    conversations: list[Sequence[str]] = [text.context for text in PreparedData(data).texts(split)]
    if not conversations:
        raise CtsmError(f"{data}: its {split} split is empty; choose another split.")
    return conversations


def _in_own_process(directory: Path, conversations: list[Sequence[str]], device: str, precision: Precision) -> Any:
    """Run `ctsm.bench.reply_process` and return what it printed."""
    task = {
        "directory": str(directory),
        "device": device,
        "precision": precision,
        "warm_up": WARM_UP,
        "conversations": conversations,
    }
    command = [sys.executable, "-m", "ctsm.bench.reply_process"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CtsmError(last if done.returncode == 2 else f"{directory}: the replying process failed ({last}).")
    return json.loads(done.stdout)
