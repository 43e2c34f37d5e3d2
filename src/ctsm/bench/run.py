"""The way into this room: the name of a benchmark and its settings in, a report out."""

from __future__ import annotations

from typing import Any

from ctsm.bench.inputs import Say
from ctsm.bench.report import Report


def run_bench(verb: str, settings: dict[str, Any], say: Say) -> Report:
    """Run one of the benchmarks.

    Args:
        verb: "train", "decode", "reply", "startup", "growth", "techniques" or "systems".
        settings: fields of its settings, as the flags of the command line name them.
        say: called with progress messages.

    Raises:
        CtsmError: what was asked for cannot be measured.
    """
    precisions = tuple(settings.pop("precision", ()))
    if verb == "train":
        from ctsm.bench.train import TrainSettings, bench_train

        return bench_train(TrainSettings(**settings, precisions=precisions), say)
    if verb == "decode":
        from ctsm.bench.decode import DecodeSettings, bench_decode

        return bench_decode(DecodeSettings(**settings, precisions=precisions), say)
    if verb == "reply":
        from ctsm.bench.reply import ReplySettings, bench_reply

        return bench_reply(ReplySettings(**settings), say)
    if verb == "growth":
        from ctsm.bench.growth import GrowthSettings, bench_growth

        settings |= {axis: tuple(settings[axis]) for axis in ("vocabulary", "context", "batch")}
        return bench_growth(GrowthSettings(**settings), say)
    if verb == "techniques":
        from ctsm.bench.techniques.verb import TechniquesSettings, bench_techniques

        return bench_techniques(TechniquesSettings(**settings), say)
    if verb == "systems":
        from ctsm.bench.systems import SystemsSettings, bench_systems

        return bench_systems(SystemsSettings(**settings, precisions=precisions), say)
    from ctsm.bench.startup import StartupSettings, bench_startup

    return bench_startup(StartupSettings(**settings), say)
