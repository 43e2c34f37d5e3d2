"""`ctsm judge export`: the judgements of a study for spreadsheets and for other annotation tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctsm.files import atomic_file
from ctsm.judging.places import require_nothing_at
from ctsm.judging.study import Judgement, Pair, Study, Trial, Verdict

FORMATS = ("csv", "label-studio", "potato")
HEADER = (
    *("trial", "annotator", "place", "pair", "system_a", "system_b", "item", "catch"),
    *("aspect", "verdict", "left", "judged", "context", "reply_a", "reply_b"),
)
NO_SYSTEMS = Pair(name="", a="", b="")
"""Of a catch trial."""
RISKY = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")  # noqa: RUF001
"""Beginnings that a spreadsheet may take for a formula, and the mark that makes them harmless."""


@dataclass(frozen=True)
class Comparison:
    """Two replies that one or more annotators compared.

    Attributes:
        number: from 1 on, in the order of the study.
        trial: the first annotator's; its annotator, place and side are not the others'.
        pair: empty for a catch trial.
        verdicts: annotator -> aspect -> verdict on reply A; only who has judged.
    """

    number: int
    trial: Trial
    pair: Pair
    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)


def export(study: Study, judgements: Sequence[Judgement], form: str, out: Path) -> list[Path]:
    """Write a study in one of the `FORMATS` and return what was written.

    Args:
        study: what was asked.
        judgements: at most one of each trial in each aspect.
        form: the format.
        out: the file (csv, label-studio; the latter's configuration goes beside it as .xml), or the folder of the
            project (potato).

    Raises:
        CtsmError: something stands at a place that would be written.
    """
    require_nothing_at([out])
    if form == "potato":
        from ctsm.judging.potato import write_project

        return write_project(study, judgements, out)
    if form == "label-studio":
        from ctsm.judging.label_studio import write_tasks

        return write_tasks(study, judgements, out)
    write_csv(study, judgements, out)
    return [out]


def write_csv(study: Study, judgements: Sequence[Judgement], out: Path) -> None:
    """Write one judgement a row, atomically: UTF-8, a header, commas, quotes where needed.

    Texts and names that a spreadsheet might take for a formula get an apostrophe in front; ids stay as they are.
    """
    trials = {trial.id: trial for trial in study.trials}
    pairs = {pair.name: pair for pair in study.pairs}
    with atomic_file(out) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        for one in judgements:
            trial, pair = trials[one.trial], pairs.get(one.pair, NO_SYSTEMS)
            names = [harmless(name) for name in (pair.name, pair.a, pair.b)]
            texts = [harmless(text) for text in ("\n".join(trial.context), trial.reply_a, trial.reply_b)]
            answer = (one.aspect, one.verdict, trial.left, one.judged)
            writer.writerow((one.trial, one.annotator, trial.place, *names, one.item, int(one.catch), *answer, *texts))


def harmless(text: str) -> str:
    """Put an apostrophe before a text that begins like a formula, or with an apostrophe: one taken off restores it."""
    return f"'{text}" if text.startswith(RISKY) else text


def comparisons(study: Study, judgements: Sequence[Judgement]) -> list[Comparison]:
    """Return what was compared, in the order of the study, with every annotator's verdicts."""
    pairs = {pair.name: pair for pair in study.pairs}
    found: dict[tuple[object, ...], Comparison] = {}
    by_trial: dict[str, Comparison] = {}
    for trial in study.trials:
        key = (trial.catch, trial.pair, trial.item, trial.context, trial.reply_a, trial.reply_b)
        if key not in found:
            found[key] = Comparison(len(found) + 1, trial, pairs.get(trial.pair, NO_SYSTEMS))
        by_trial[trial.id] = found[key]
    for one in judgements:
        by_trial[one.trial].verdicts.setdefault(one.annotator, {})[one.aspect] = one.verdict
    return list(found.values())


def turns(context: Sequence[str]) -> list[tuple[str, str]]:
    """Return (who, what) of each turn; the speaker begins."""
    return [(("Speaker", "Listener")[place % 2], text) for place, text in enumerate(context)]
