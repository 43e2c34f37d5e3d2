"""What a study found: wins, ties and losses, agreement, tests, and who failed the catch trials.

Legend: I items, V verdicts in the order of `VERDICTS`, R resamples. Counts are [I, V] as in `agreement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ctsm.evaluation.records import Interval
from ctsm.evaluation.significance import LEVEL, RESAMPLES, SEED, holm, resampled_sums
from ctsm.judging.agreement import Agreement, Counts, agreement
from ctsm.judging.study import VERDICTS, Judgement, Study, Verdict

CATCH_ASPECTS = ("relevance", "empathy")
"""Aspects in which a reply to another context must lose, the plainer first. A foreign reply may be as fluent."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One pair in one aspect, from real trials only.

    Attributes:
        pair: name of the pair.
        aspect: what was asked.
        n: judgements.
        wins: of A, among the judgements; `ties` and `losses` likewise.
        win: the same in percent of the judgements, None without any; `tie` and `lose` likewise.
        difference: win minus lose, in percentage points.
        interval: its 95 % bootstrap interval over items.
        agreement: of the annotators.
        majority_wins: items that A wins by the majority of their verdicts; `majority_ties`, `majority_losses` likewise.
        p: of the two-sided exact sign test of the majority's wins against its losses; 1 where every item is tied.
        p_holm: corrected for all tests of the table.
    """

    pair: str
    aspect: str
    n: int
    wins: int
    ties: int
    losses: int
    win: float | None
    tie: float | None
    lose: float | None
    difference: float | None
    interval: Interval | None
    agreement: Agreement
    majority_wins: int
    majority_ties: int
    majority_losses: int
    p: float
    p_holm: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """The table of some annotators: a row for each aspect of each pair."""

    annotators: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """One annotator's work.

    Attributes:
        name: "1", "2", ...
        asked: judgements that the study wants, those of catch trials included.
        judged: of these.
        catch_trials: judged in the aspect that the check stands on.
        caught: of these, won by the reference.
        status: "unchecked" without a judged catch trial or an aspect that a catch trial can show.
    """

    name: str
    asked: int
    judged: int
    catch_trials: int
    caught: int
    status: Literal["passed", "failed", "unchecked"]


def catch_aspect(study: Study) -> str | None:
    """Return the aspect in which catch trials are read, None when the study asks no such aspect."""
    return next((aspect for aspect in CATCH_ASPECTS if aspect in study.aspects), None)


def check_annotators(study: Study, judgements: Sequence[Judgement]) -> tuple[Annotator, ...]:
    """Count each annotator's judgements and read the catch trials.

    An annotator fails when the reference wins in fewer than two thirds of the catch trials they judged.
    """
    aspect = catch_aspect(study)
    found = []
    for name in study.annotators:
        mine = [one for one in judgements if one.annotator == name]
        caught = [one.verdict == "win" for one in mine if one.catch and one.aspect == aspect]
        status: Literal["passed", "failed", "unchecked"] = "unchecked"
        if caught:
            status = "passed" if 3 * sum(caught) >= 2 * len(caught) else "failed"
        found.append(
            Annotator(
                name=name,
                asked=len(study.aspects) * sum(trial.annotator == name for trial in study.trials),
                judged=len(mine),
                catch_trials=len(caught),
                caught=sum(caught),
                status=status,
            )
        )
    return tuple(found)


def results(
    study: Study,
    judgements: Sequence[Judgement],
    annotators: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Results:
    """Compute the table of these annotators; catch trials are never counted.

    Args:
        study: what was asked.
        judgements: at most one of each trial in each aspect.
        annotators: whose judgements count, at least one.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        MissingExtraError: the extra "judge" is not installed.
    """
    rows = [
        _row(
            pair.name,
            aspect,
            _counts(study, judgements, annotators, pair.name, aspect),
            len(annotators),
            resamples,
            seed,
        )
        for pair in study.pairs
        for aspect in study.aspects
    ]
    corrected = holm([row.p for row in rows])
    return Results(
        annotators=tuple(annotators),
        rows=tuple(replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)),
    )


def majority(counts_V: Sequence[int]) -> Verdict:
    """Return the verdict that more than half of an item's annotators gave; "tie" where there is none."""
    most = max(range(len(VERDICTS)), key=lambda number: counts_V[number])
    return VERDICTS[most] if 2 * counts_V[most] > sum(counts_V) else "tie"


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided exact p-value of wins against losses if both were as likely; 1 without any."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def bootstrap_interval(counts_IV: Counts, resamples: int, seed: int) -> Interval:
    """Return the 95 % percentile interval of win % minus lose %, over sets of items drawn with replacement.

    Args:
        counts_IV: at least one item, at least one judgement on each.
        resamples: R.
        seed: of the draws.
    """
    win, lose = VERDICTS.index("win"), VERDICTS.index("lose")
    columns = np.stack([counts_IV[:, win] - counts_IV[:, lose], counts_IV.sum(axis=1)], axis=1)
    sums_R2 = resampled_sums(columns.astype(np.float64), np.arange(len(columns)), resamples, seed)
    low, high = np.quantile(100 * sums_R2[:, 0] / sums_R2[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def _counts(study: Study, judgements: Sequence[Judgement], annotators: Sequence[str], pair: str, aspect: str) -> Counts:
    """Count the verdicts on each item of the study [I, V]; an item that nobody has judged has zeros."""
    places = {item: place for place, item in enumerate(study.items)}
    counts_IV = np.zeros((len(places), len(VERDICTS)), dtype=np.int64)
    for one in judgements:
        if not one.catch and (one.pair, one.aspect) == (pair, aspect) and one.annotator in annotators:
            counts_IV[places[one.item], VERDICTS.index(one.verdict)] += 1
    return counts_IV


def _row(pair: str, aspect: str, counts_IV: Counts, annotators: int, resamples: int, seed: int) -> Row:
    """Compute a row; `p_holm` is still the p-value alone."""
    judged_IV = counts_IV[counts_IV.sum(axis=1) > 0]
    wins, ties, losses = (int(count) for count in judged_IV.sum(axis=0))
    n = wins + ties + losses
    majorities = [majority([int(count) for count in counts]) for counts in judged_IV]
    p = sign_test(majorities.count("win"), majorities.count("lose"))
    return Row(
        pair=pair,
        aspect=aspect,
        n=n,
        wins=wins,
        ties=ties,
        losses=losses,
        win=100 * wins / n if n else None,
        tie=100 * ties / n if n else None,
        lose=100 * losses / n if n else None,
        difference=100 * (wins - losses) / n if n else None,
        interval=bootstrap_interval(judged_IV, resamples, seed) if n else None,
        agreement=agreement(counts_IV, annotators),
        majority_wins=majorities.count("win"),
        majority_ties=majorities.count("tie"),
        majority_losses=majorities.count("lose"),
        p=p,
        p_holm=p,
    )
