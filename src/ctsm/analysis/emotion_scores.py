"""How well emotions are perceived, and where not: the numbers behind `ctsm evaluate --report` (numpy and scipy only).

Shares are in percent, the Brier score is from 0 to 2. Turns of one conversation are alike, so every interval is over
conversations. Legend: N examples, E emotions, B bins.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsm.corpus.emotions import EMOTIONS
from ctsm.evaluation.records import Interval
from ctsm.evaluation.scoring import EmotionScores

Z = 1.959964
"""A standard normal variable is within +-Z with a probability of 95 %."""
LAST_TURN = 5
"""Turns from this one on are one group."""
LENGTHS = (1, 11, 21, 41, 61, 101)
"""First length, in words, of each group of contexts."""
WIDTH_BINS = 10
MASS_BINS, LEAST_MASS = 15, 20
"""Bins of equal mass: at most so many, each with at least so many examples where there are that many."""
CONFUSIONS = 15

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class EmotionResult:
    """One emotion: its `n` examples, how often it was `predicted`, and how often rightly (`correct`).

    `precision` = correct / predicted, `recall` = correct / n, `f1` = 2 correct / (n + predicted), in percent; None
    where the denominator is 0.
    """

    emotion: str
    n: int
    predicted: int
    correct: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """An emotion taken for another: how often, and in what share of the `gold` emotion's examples."""

    gold: str
    predicted: str
    n: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Acc of the examples with something in common, with its 95 % interval."""

    name: str
    n: int
    conversations: int
    acc: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Examples with a confidence (the highest probability) from `low` to `high`: its mean, and their Acc."""

    low: float
    high: float
    n: int
    confidence: float
    acc: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether probabilities mean what they say.

    Attributes:
        ece_mass: expected calibration error: the mean of |Acc - confidence| over the bins of equal mass, weighted by
            their examples; in percentage points.
        ece_width: the same over the bins of equal width.
        brier: mean over the examples of the sum over the emotions of (probability - 1 if it is the label else 0)^2.
        mass: bins with equally many examples, by rising confidence.
        width: bins of 10 percentage points that hold an example; the last includes 100 %.
    """

    ece_mass: float
    ece_width: float
    brier: float
    mass: tuple[Bin, ...]
    width: tuple[Bin, ...]


def probabilities(logits: NDArray[np.floating]) -> Floats:
    """Return the softmax of logits [N, E]."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def confusion_counts(scores: EmotionScores) -> Counts:
    """Count the examples of each label (rows) by predicted emotion (columns) [E, E]."""
    emotions = len(EMOTIONS)
    pairs = np.asarray(scores.gold, dtype=np.int64) * emotions + scores.logits.argmax(axis=1)
    return np.bincount(pairs, minlength=emotions**2).reshape(emotions, emotions)


def row_shares(confusion: Counts) -> Floats:
    """Return each row of a confusion matrix in percent of its sum; a row without an example is NaN."""
    totals = confusion.sum(axis=1, keepdims=True)
    return np.divide(100.0 * confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)


def similar_together(confusion: Counts) -> list[int]:
    """Return the emotions in an order where those that are often taken for one another are neighbours.

    Average linkage of 1 - (mutual share of confusions), leaves in the order with the smallest sum of distances between
    neighbours (Bar-Joseph et al. 2001). What is at the ends says nothing; the end with the smaller index comes first.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    shares = np.nan_to_num(row_shares(confusion)) / 100
    distances = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average", optimal_ordering=True)
    order = [int(leaf) for leaf in leaves_list(tree)]
    return order if order[0] < order[-1] else order[::-1]


def emotion_results(confusion: Counts) -> tuple[EmotionResult, ...]:
    """Return precision, recall and F1 of each emotion, in the order of the labels."""
    return tuple(
        EmotionResult(
            emotion=name,
            n=(n := int(confusion[index].sum())),
            predicted=(predicted := int(confusion[:, index].sum())),
            correct=(correct := int(confusion[index, index])),
            precision=_percent(correct, predicted),
            recall=_percent(correct, n),
            f1=_percent(2 * correct, n + predicted),
        )
        for index, name in enumerate(EMOTIONS)
    )


def best_first(results: Iterable[EmotionResult]) -> list[EmotionResult]:
    """Return the emotions by falling F1, then by name; those without F1 last."""
    return sorted(results, key=lambda one: (one.f1 is None, -(one.f1 or 0), one.emotion))


def macro_f1(results: Iterable[EmotionResult]) -> float:
    """Return the mean F1 of the emotions that have examples."""
    return float(np.mean([one.f1 for one in results if one.n]))


def frequent_confusions(confusion: Counts, count: int = CONFUSIONS) -> tuple[Confusion, ...]:
    """Return the most frequent confusions; equally frequent ones by share, then in the order of the labels."""
    shares = row_shares(confusion)
    pairs = [(int(gold), int(said)) for gold, said in zip(*np.nonzero(confusion), strict=True) if gold != said]
    pairs.sort(key=lambda pair: (-confusion[pair], -shares[pair], pair))
    return tuple(
        Confusion(
            gold=EMOTIONS[gold],
            predicted=EMOTIONS[said],
            n=int(confusion[gold, said]),
            share=float(shares[gold, said]),
        )
        for gold, said in pairs[:count]
    )


def by_turn(scores: EmotionScores) -> tuple[Group, ...]:
    """Return Acc of the first, second, ... listener turn."""
    turns = np.minimum(scores.turn, LAST_TURN)
    names = [f"{LAST_TURN}+" if turn == LAST_TURN else str(turn) for turn in range(1, LAST_TURN + 1)]
    return _groups(scores, names, turns - 1)


def by_length(scores: EmotionScores) -> tuple[Group, ...]:
    """Return Acc by the number of words in the context."""
    names = [f"{first}-{after - 1}" for first, after in itertools.pairwise(LENGTHS)]
    groups = np.searchsorted(LENGTHS, scores.words, side="right") - 1
    return _groups(scores, [*names, f"{LENGTHS[-1]}+"], groups)


def calibration(scores: EmotionScores) -> Calibration:
    """Compare the confidence of the predictions with how often they are right."""
    shares = probabilities(scores.logits)
    confidence, correct = 100 * shares.max(axis=1), _correct(scores)
    order, count = np.argsort(confidence, kind="stable"), len(confidence)
    mass = np.empty(count, dtype=np.int64)
    for number, rows in enumerate(np.array_split(order, min(MASS_BINS, max(1, count // LEAST_MASS)))):
        mass[rows] = number
    width = np.minimum(confidence * WIDTH_BINS // 100, WIDTH_BINS - 1).astype(np.int64)
    edges = np.linspace(0, 100, WIDTH_BINS + 1)
    mass_bins, width_bins = [], []
    for rows in _members(mass):
        low, high = float(confidence[rows].min()), float(confidence[rows].max())
        mass_bins.append(_bin(rows, confidence, correct, scores.conversation, low, high))
    for rows in _members(width):
        number = width[rows][0]
        low, high = float(edges[number]), float(edges[number + 1])
        width_bins.append(_bin(rows, confidence, correct, scores.conversation, low, high))
    shares[np.arange(count), scores.gold] -= 1
    return Calibration(
        ece_mass=_calibration_error(mass_bins),
        ece_width=_calibration_error(width_bins),
        brier=float(np.mean(np.sum(shares**2, axis=1))),
        mass=tuple(mass_bins),
        width=tuple(width_bins),
    )


def interval_over_conversations(correct_N: Mask, conversation_N: NDArray[np.integer]) -> Interval:
    """Return the 95 % interval of a share in percent: Wilson's, with as many examples as the conversations are worth.

    Alike turns of one conversation tell less than turns of several. The variance of the mean over conversations says
    how many independent examples there seem to be (Kish's design effect); with all right or all wrong there is no
    variance, and each conversation counts once.
    """
    n, share = len(correct_N), float(np.mean(correct_N))
    _, number = np.unique(conversation_N, return_inverse=True)
    conversations = int(number.max()) + 1
    independent = float(conversations)
    if 0 < share < 1 and conversations > 1:
        deviations = np.bincount(number, weights=correct_N - share)
        variance = float(np.sum(deviations**2)) * conversations / (conversations - 1) / n**2
        independent = float(n) if not variance else min(float(n), share * (1 - share) / variance)
    spread = Z**2 / independent
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / independent + spread / (4 * independent))
    return Interval(low=max(0.0, 100 * (centre - half)), high=min(100.0, 100 * (centre + half)))


def _correct(scores: EmotionScores) -> Mask:
    correct: Mask = scores.logits.argmax(axis=1) == scores.gold
    return correct


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _members(group_N: Counts) -> list[Counts]:
    """Return the rows of each group that has any."""
    return [np.flatnonzero(group_N == number) for number in np.unique(group_N)]


def _groups(scores: EmotionScores, names: Sequence[str], group_N: Counts) -> tuple[Group, ...]:
    correct = _correct(scores)
    return tuple(
        Group(
            name=names[group_N[rows[0]]],
            n=len(rows),
            conversations=len(np.unique(scores.conversation[rows])),
            acc=float(100 * correct[rows].mean()),
            interval=interval_over_conversations(correct[rows], scores.conversation[rows]),
        )
        for rows in _members(group_N)
    )


def _bin(
    rows: Counts, confidence: Floats, correct: Mask, conversation: NDArray[np.integer], low: float, high: float
) -> Bin:
    return Bin(
        low=low,
        high=high,
        n=len(rows),
        confidence=float(confidence[rows].mean()),
        acc=float(100 * correct[rows].mean()),
        interval=interval_over_conversations(correct[rows], conversation[rows]),
    )


def _calibration_error(bins: Sequence[Bin]) -> float:
    return sum(one.n * abs(one.acc - one.confidence) for one in bins) / sum(one.n for one in bins)
