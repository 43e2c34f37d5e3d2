"""The numbers of the emotion report against written-out loops."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.analysis.emotion_scores import (
    LAST_TURN,
    LENGTHS,
    by_length,
    by_turn,
    calibration,
    confusion_counts,
    emotion_results,
    frequent_confusions,
    interval_over_conversations,
    macro_f1,
    row_shares,
    similar_together,
)
from ctsm.corpus.emotions import EMOTIONS
from ctsm.evaluation.scoring import EmotionScores


def make_scores(n: int = 300, seed: int = 0, never: tuple[int, ...] = (), only: int = 32) -> EmotionScores:
    """Draw logits that lean to the label; `never` are emotions that are not predicted, labels are below `only`."""
    random = np.random.default_rng(seed)
    gold = random.integers(0, only, n)
    logits = random.normal(0, 1, (n, 32)) + 2.5 * np.eye(32)[gold] * random.integers(0, 2, (n, 1))
    logits[:, list(never)] = -20.0
    conversation = np.sort(random.integers(0, max(1, n // 2), n))
    seen: Counter[int] = Counter()
    turn = []
    for one in conversation.tolist():
        seen[one] += 1
        turn.append(seen[one])
    return EmotionScores(logits.astype(np.float32), gold, conversation, np.array(turn), random.integers(1, 160, n))


def answers(scores: EmotionScores) -> list[tuple[int, int, float]]:
    """Return label, prediction and confidence of each example, one by one."""
    found = []
    for label, row in zip(scores.gold.tolist(), scores.logits.tolist(), strict=True):
        powers = [math.exp(value) for value in row]
        best = max(range(32), key=row.__getitem__)
        found.append((label, best, powers[best] / sum(powers)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_and_f1_by_counting(seed: int) -> None:
    scores = make_scores(seed=seed, never=(3, 31), only=31)
    pairs = [(EMOTIONS[label], EMOTIONS[said]) for label, said, _ in answers(scores)]
    results = emotion_results(confusion_counts(scores))
    assert [one.emotion for one in results] == list(EMOTIONS)
    f1s = []
    for one in results:
        true = sum(label == said == one.emotion for label, said in pairs)
        false = sum(said == one.emotion != label for label, said in pairs)
        missed = sum(label == one.emotion != said for label, said in pairs)
        assert (one.n, one.predicted, one.correct) == (true + missed, true + false, true)
        assert one.precision == (pytest.approx(100 * true / (true + false)) if true + false else None)
        assert one.recall == (pytest.approx(100 * true / (true + missed)) if true + missed else None)
        if true:
            precision, recall = true / (true + false), true / (true + missed)
            assert one.f1 == pytest.approx(100 * 2 * precision * recall / (precision + recall))
        if true + missed:
            assert one.f1 is not None
            f1s.append(one.f1)
    never, absent = results[3], results[31]
    assert (never.precision, never.recall, never.f1) == (None, 0, 0)
    assert (absent.n, absent.predicted, absent.precision, absent.recall, absent.f1) == (0, 0, None, None, None)
    assert macro_f1(results) == pytest.approx(sum(f1s) / 31)


def test_the_confusion_matrix_and_its_most_frequent_cells() -> None:
    scores = make_scores(seed=4, only=30)
    counted = Counter((label, said) for label, said, _ in answers(scores))
    confusion = confusion_counts(scores)
    for cell in itertools.product(range(32), repeat=2):
        assert confusion[cell] == counted[cell]
    labels = Counter(label for label, _, _ in answers(scores))
    shares = row_shares(confusion)
    assert np.isnan(shares[30:]).all()
    assert np.allclose(shares[:30].sum(axis=1), 100)
    found = frequent_confusions(confusion, 10)
    wrong = sorted((number for (label, said), number in counted.items() if label != said), reverse=True)
    assert [one.n for one in found] == wrong[:10]
    for one in found:
        label, said = EMOTIONS.index(one.gold), EMOTIONS.index(one.predicted)
        assert one.n == counted[label, said]
        assert one.share == pytest.approx(100 * one.n / labels[label])
    assert frequent_confusions(np.diag(np.full(32, 2))) == ()


def test_emotions_that_are_confused_become_neighbours() -> None:
    groups = [(0, 9, 20, 31), (1, 5), (2, 14, 7), (3, 30)]
    confusion = 50 * np.eye(32, dtype=np.int64)
    for group in groups:
        for label, said in itertools.permutations(group, 2):
            confusion[label, said] = 10
    order = similar_together(confusion)
    assert sorted(order) == list(range(32))
    for group in groups:
        places = sorted(order.index(member) for member in group)
        assert places[-1] - places[0] == len(group) - 1
    assert similar_together(confusion) == order
    assert sorted(similar_together(np.zeros((32, 32), dtype=np.int64))) == list(range(32))


def test_calibration_by_a_loop_over_examples_and_bins() -> None:
    scores = make_scores(700, seed=2)
    known, found = answers(scores), calibration(scores)
    brier = 0.0
    for row, (label, _, _) in zip(scores.logits.tolist(), known, strict=True):
        powers = [math.exp(value) for value in row]
        brier += sum((power / sum(powers) - (place == label)) ** 2 for place, power in enumerate(powers)) / len(known)
    assert found.brier == pytest.approx(brier)

    error = 0.0
    bins = iter(found.width)
    for low in range(0, 100, 10):
        inside = [one for one in known if low <= 100 * one[2] < low + 10 or (low == 90 and one[2] == 1)]
        if not inside:
            continue
        acc = 100 * sum(label == said for label, said, _ in inside) / len(inside)
        confidence = 100 * sum(share for _, _, share in inside) / len(inside)
        error += abs(acc - confidence) * len(inside) / len(known)
        one = next(bins)
        assert (one.low, one.high, one.n) == (low, low + 10, len(inside))
        assert (one.acc, one.confidence) == (pytest.approx(acc), pytest.approx(confidence))
    assert next(bins, None) is None
    assert found.ece_width == pytest.approx(error)

    ranked = sorted(known, key=lambda one: one[2])
    error, start = 0.0, 0
    assert len(found.mass) == 15
    for one in found.mass:
        inside, start = ranked[start : start + one.n], start + one.n
        assert one.n in (46, 47)
        assert (one.low, one.high) == (pytest.approx(100 * inside[0][2]), pytest.approx(100 * inside[-1][2]))
        error += abs(sum(100 * (label == said) - 100 * share for label, said, share in inside)) / len(known)
    assert start == len(known)
    assert found.ece_mass == pytest.approx(error)


@pytest.mark.parametrize(("n", "bins"), [(1, 1), (19, 1), (45, 2), (63, 3)])
def test_few_examples_make_few_bins(n: int, bins: int) -> None:
    assert len(calibration(make_scores(n)).mass) == bins


def test_a_certain_model_is_in_the_last_bin() -> None:
    logits = np.full((4, 32), -1000.0, dtype=np.float32)
    logits[:, 0] = 1000.0
    found = calibration(EmotionScores(logits, np.array([0, 0, 0, 5]), np.arange(4), np.ones(4, int), np.ones(4, int)))
    assert [(one.low, one.n, one.acc) for one in found.width] == [(90, 4, 75)]
    assert (found.ece_width, found.ece_mass, found.brier) == (25, 25, 0.5)


def test_acc_by_turn_and_length() -> None:
    scores = make_scores(800, seed=5)
    correct = [label == said for label, said, _ in answers(scores)]
    assert scores.turn.max() > LAST_TURN
    grouped: dict[str, list[int]] = {}
    for row, turn in enumerate(scores.turn.tolist()):
        grouped.setdefault(str(turn) if turn < LAST_TURN else f"{LAST_TURN}+", []).append(row)
    found = by_turn(scores)
    assert [one.name for one in found] == ["1", "2", "3", "4", "5+"]
    for one in found:
        rows = grouped[one.name]
        assert (one.n, one.conversations) == (len(rows), len({int(scores.conversation[row]) for row in rows}))
        assert one.acc == pytest.approx(100 * sum(correct[row] for row in rows) / len(rows))
        assert one.interval.low <= one.acc <= one.interval.high
    found = by_length(scores)
    limits = [*LENGTHS, 10**9]
    assert [one.n for one in found] == [
        sum(low <= length < high for length in scores.words.tolist()) for low, high in itertools.pairwise(limits)
    ]
    assert [one.name for one in found] == ["1-10", "11-20", "21-40", "41-60", "61-100", "101+"]
    assert [one.name for one in by_length(EmotionScores(*(part[:1] for part in vars(scores).values())))]


def test_one_turn_a_conversation_gives_wilsons_interval() -> None:
    """The published closed form (Wilson 1927), solved here as the quadratic it comes from."""
    correct = np.array([True] * 30 + [False] * 70)
    found = interval_over_conversations(correct, np.arange(100))
    z, p, n = 1.959964, 0.3, 100
    roots = np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p])
    assert (found.low, found.high) == (
        pytest.approx(100 * min(roots), abs=0.1),
        pytest.approx(100 * max(roots), abs=0.1),
    )


def test_alike_turns_widen_the_interval_as_a_bootstrap_of_conversations_does() -> None:
    random = np.random.default_rng(8)
    conversation = np.repeat(np.arange(400), random.integers(1, 6, 400))
    chance = random.beta(0.6, 0.9, 400)[conversation]
    correct = random.random(len(conversation)) < chance
    found = interval_over_conversations(correct, conversation)
    members = [np.flatnonzero(conversation == one) for one in range(400)]
    means = []
    for _ in range(2_000):
        rows = np.concatenate([members[one] for one in random.integers(0, 400, 400)])
        means.append(100 * correct[rows].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.12 * (high - low))
    assert found.high == pytest.approx(high, abs=0.12 * (high - low))
    independent = interval_over_conversations(correct, np.arange(len(correct)))
    assert found.high - found.low > 1.2 * (independent.high - independent.low)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=60))
def test_an_interval_holds_the_share_and_is_never_without_doubt(turns: list[tuple[bool, int]]) -> None:
    correct, conversation = np.array([right for right, _ in turns]), np.array([one for _, one in turns])
    found = interval_over_conversations(correct, conversation)
    assert 0 <= found.low <= 100 * correct.mean() + 1e-9
    assert 100 * correct.mean() - 1e-9 <= found.high <= 100
    assert found.high > found.low
