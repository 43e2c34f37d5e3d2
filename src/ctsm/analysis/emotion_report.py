"""`ctsm evaluate --report`: one page, its figures and all numbers on how well a model perceives emotions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctsm.analysis.emotion_figures import accuracy_figure, calibration_figure, confusion_figure, per_emotion_figure
from ctsm.analysis.emotion_scores import (
    Calibration,
    Confusion,
    EmotionResult,
    Group,
    best_first,
    by_length,
    by_turn,
    calibration,
    confusion_counts,
    emotion_results,
    frequent_confusions,
    macro_f1,
    similar_together,
)
from ctsm.analysis.page import html_page
from ctsm.corpus.emotions import EMOTIONS
from ctsm.errors import CtsmError
from ctsm.evaluation.fields import Scalar, to_json
from ctsm.evaluation.records import Interval, ResultRecord
from ctsm.evaluation.scoring import EmotionScores
from ctsm.figures import inline_svg, require_matplotlib, save_figure
from ctsm.files import atomic_file, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
PAGE, NUMBERS = "index.html", "emotions.json"
SOURCE = (
    *("model", "variant", "options", "seed", "split", "n", "acc", "acc_interval", "top3", "top5", "iterations"),
    *("checkpoint_step", "data_fingerprint", "commit", "created", "ctsm_version"),
)
"""Fields taken from the record of the evaluation."""


@dataclass(frozen=True, kw_only=True)
class EmotionReport:
    """Everything on the page, as emotions.json has it; docs/analysis.md says what each number means.

    Attributes:
        schema: of the file.
        model, variant, options, seed, split, n, acc, acc_interval, top3, top5, iterations, checkpoint_step,
            data_fingerprint, commit, created, ctsm_version: as in the record of the evaluation.
        conversations: that the examples come from.
        macro_f1: mean F1 of the emotions that have examples.
        emotions: names of the rows and columns of `confusion`.
        order: the same names as the figure has them, similar ones together.
        confusion: number of examples by label (rows) and predicted emotion (columns).
        per_emotion: precision, recall and F1.
        calibration: confidence against Acc.
        by_turn: Acc of the first, second, ... listener turn.
        by_length: Acc by the number of words in the context, punctuation marks included.
        confusions: the most frequent ones.
    """

    schema: int
    model: str
    variant: str
    options: dict[str, Scalar]
    seed: int
    split: str
    n: int
    acc: float
    acc_interval: Interval | None
    top3: float
    top5: float
    iterations: int
    checkpoint_step: int
    data_fingerprint: str
    commit: str
    created: str
    ctsm_version: str
    conversations: int
    macro_f1: float
    emotions: tuple[str, ...]
    order: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_emotion: tuple[EmotionResult, ...]
    calibration: Calibration
    by_turn: tuple[Group, ...]
    by_length: tuple[Group, ...]
    confusions: tuple[Confusion, ...]


def require_report(folder: Path) -> None:
    """Check, before a long evaluation, that a report can be written into a folder.

    Raises:
        MissingExtraError: matplotlib is not installed.
        CtsmError: a file stands there.
    """
    require_matplotlib()
    if folder.exists() and not folder.is_dir():
        raise CtsmError(f"{folder}: is a file, but a report needs a folder; choose another name.")


def emotion_report(scores: EmotionScores, record: ResultRecord) -> EmotionReport:
    """Work out all numbers of a report.

    Args:
        scores: of the whole split.
        record: of the same evaluation.
    """
    confusion = confusion_counts(scores)
    results = emotion_results(confusion)
    source: dict[str, Any] = {name: getattr(record, name) for name in SOURCE}
    return EmotionReport(
        schema=SCHEMA,
        **source,
        conversations=len(np.unique(scores.conversation)),
        macro_f1=macro_f1(results),
        emotions=EMOTIONS,
        order=tuple(EMOTIONS[index] for index in similar_together(confusion)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        per_emotion=results,
        calibration=calibration(scores),
        by_turn=by_turn(scores),
        by_length=by_length(scores),
        confusions=frequent_confusions(confusion),
    )


def write_report(folder: Path, report: EmotionReport) -> list[Path]:
    """Write index.html, emotions.json and the figures (SVG) into a folder; other files there stay.

    Returns:
        The files, the page first.
    """
    figures = report_figures(report)
    write_json(folder / NUMBERS, to_json(report))
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.svg")
    with atomic_file(folder / PAGE) as stream:
        stream.write(report_page(report, figures))
    return [folder / PAGE, folder / NUMBERS, *(folder / f"{name}.svg" for name in figures)]


def report_figures(report: EmotionReport) -> dict[str, Figure]:
    """Draw the figures, by the name of their file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    order = [EMOTIONS.index(name) for name in report.order]
    return {
        "confusion": confusion_figure(np.array(report.confusion), order),
        "per-emotion": per_emotion_figure(report.per_emotion),
        "calibration": calibration_figure(report.calibration),
        "accuracy": accuracy_figure(report.by_turn, report.by_length, report.acc),
    }


def report_page(report: EmotionReport, figures: dict[str, Figure]) -> str:
    """Return the page with its figures."""
    labels = {
        "confusion": "Confusion matrix of the 32 emotions; its largest cells are in the table of confusions.",
        "per-emotion": "Precision, recall and F1 of each emotion, as in the table of emotions.",
        "calibration": "Acc against confidence, and how many examples have it, as in the table of confidence.",
        "accuracy": "Acc by listener turn and by words in the context, as in the table of groups.",
    }
    return html_page(
        f"Emotions perceived by {report.model} {report.variant}".rstrip(),
        "emotion_report.html",
        report=report,
        ranked=best_first(report.per_emotion),
        figures={name: inline_svg(figure, labels[name], name) for name, figure in figures.items()},
    )
