"""Intervals and p-values against exact enumeration, scipy, and loops written out."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ctsm.evaluation.metrics import distinct
from ctsm.evaluation.records import PerExample
from ctsm.evaluation.significance import differences, holm, randomised_dist, resampled_sums, sampling_intervals


def example(
    number: int,
    nll: float = 3.0,
    tokens: int = 2,
    correct: bool | None = True,
    reply: str = "a b",
    of: str | None = None,
) -> PerExample:
    return PerExample(
        id=f"e{number}",
        conversation_id=of or f"c{number}",
        nll=nll,
        tokens=tokens,
        correct=correct,
        reply_tokens=tuple(reply.split()),
    )


def test_resampled_sums_are_sums_over_drawn_conversations() -> None:
    values = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]])
    conversations = np.array([0, 1, 1, 2])
    whole = {0: (1, 10), 1: (6, 60), 2: (8, 80)}
    possible = {tuple(map(sum, zip(*draw, strict=True))) for draw in itertools.product(whole.values(), repeat=3)}
    sums = resampled_sums(values, conversations, 600, seed=3)
    assert sums.shape == (600, 2)
    assert {tuple(map(int, row)) for row in sums} == possible
    assert np.array_equal(sums, resampled_sums(values, conversations, 600, seed=3))
    assert not np.array_equal(sums, resampled_sums(values, conversations, 600, seed=4))


def test_every_conversation_is_drawn_as_often_as_any_other() -> None:
    """Each of C conversations is in a set C / C = 1 time on average, with the variance of a binomial."""
    count, resamples = 20, 20_000
    drawn = resampled_sums(np.eye(count), np.arange(count), resamples, seed=0)
    assert drawn.sum(axis=1) == pytest.approx(count)
    assert drawn.mean(axis=0) == pytest.approx(np.ones(count), abs=0.03)
    assert drawn.var(axis=0) == pytest.approx(np.full(count, 1 - 1 / count), abs=0.05)


def test_the_interval_of_accuracy_is_the_binomials_when_conversations_have_one_turn() -> None:
    examples = [example(number, correct=number % 5 < 2) for number in range(200)]
    interval, _ = sampling_intervals(examples)
    assert interval is not None
    low, high = (100 * stats.binom(200, 0.4).ppf(q) / 200 for q in (0.025, 0.975))
    assert interval.low == pytest.approx(low, abs=0.51)
    assert interval.high == pytest.approx(high, abs=0.51)


def test_the_interval_of_perplexity_agrees_with_scipys_bootstrap() -> None:
    rng = random.Random(1)
    examples = [example(n, nll=rng.gammavariate(9, 4), tokens=rng.randint(2, 20)) for n in range(150)]
    _, interval = sampling_intervals(examples)
    means = np.array([one.nll / one.tokens for one in examples])
    theirs = stats.bootstrap(
        (means,), lambda x, axis: np.exp(np.mean(x, axis=axis)), method="percentile", n_resamples=20_000, rng=5
    ).confidence_interval
    width = theirs.high - theirs.low
    assert interval.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert interval.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_turns_of_one_conversation_are_drawn_together() -> None:
    """Four equal turns a conversation carry no more than one: the interval is that of the 100 conversations."""
    single = [example(number, nll=float(number % 7 + 1), correct=number % 3 == 0) for number in range(100)]
    fourfold = [
        example(10 * number + turn, nll=float(number % 7 + 1), correct=number % 3 == 0, of=f"c{number}")
        for number in range(100)
        for turn in range(4)
    ]
    apart = [PerExample(**{**vars(one), "conversation_id": one.id}) for one in fourfold]
    for first, second, third in zip(*map(sampling_intervals, (single, fourfold, apart)), strict=True):
        assert first is not None
        assert second is not None
        assert third is not None
        assert (second.low, second.high) == pytest.approx((first.low, first.high), rel=0.02)
        assert third.high - third.low < 0.6 * (first.high - first.low)


def test_a_model_without_emotions_has_no_interval_of_accuracy() -> None:
    plain = [example(number, correct=None) for number in range(9)]
    assert sampling_intervals(plain)[0] is None
    assert [one.metric for one in differences(plain, plain)] == ["PPL", "Dist-1", "Dist-2"]
    other = [example(number) for number in range(9)]
    assert [one.metric for one in differences(plain, other)] == ["PPL", "Dist-1", "Dist-2"]


def test_a_difference_is_that_of_the_scores() -> None:
    first = [example(n, nll=4.0 + n % 3, tokens=2 + n % 2, correct=n % 2 == 0, reply="a b c") for n in range(30)]
    second = [
        example(n, nll=3.0 + n % 4, tokens=2 + n % 2, correct=n % 3 == 0, reply=f"a {n % 4} c d") for n in range(30)
    ]
    found = {one.metric: one for one in differences(first, second)}
    assert found["Acc"].difference == pytest.approx(100 * (10 / 30 - 15 / 30))
    means = [math.exp(sum(one.nll / one.tokens for one in side) / 30) for side in (first, second)]
    assert found["PPL"].difference == pytest.approx(means[1] - means[0])
    for n in (1, 2):
        ratios = [distinct([one.reply_tokens for one in side], n).ratio_percent for side in (first, second)]
        assert found[f"Dist-{n}"].difference == pytest.approx(ratios[1] - ratios[0])
        assert found[f"Dist-{n}"].interval is None
    for name in ("Acc", "PPL"):
        interval = found[name].interval
        assert interval is not None
        assert interval.low < found[name].difference < interval.high


def test_the_paired_bootstrap_agrees_with_the_exact_distribution() -> None:
    """With one turn a conversation, a resampled difference of accuracies is a difference of two multinomial counts."""
    n, better, worse = 60, 14, 6
    first = [example(k, correct=not k < better) for k in range(n)]
    second = [example(k, correct=not better <= k < better + worse) for k in range(n)]
    (acc, *_) = differences(first, second)
    # P(D <= 0), D = #better - #worse among n draws
    below = sum(
        stats.multinomial(n, [better / n, worse / n, 1 - (better + worse) / n]).pmf([up, down, n - up - down])
        for up in range(n + 1)
        for down in range(up, n - up + 1)
    )
    assert acc.p == pytest.approx(2 * below, abs=0.01)
    assert acc.difference == pytest.approx(100 * (better - worse) / n)


def test_equal_systems_do_not_differ() -> None:
    examples = [example(n, nll=float(1 + n % 9), correct=n % 2 == 0, reply=f"x{n % 5} y") for n in range(40)]
    for one in differences(examples, examples):
        assert one.difference == 0
        assert one.p == 1.0
        assert one.interval is None or (one.interval.low, one.interval.high) == (0, 0)


def test_swapping_the_systems_turns_the_signs() -> None:
    rng = random.Random(2)
    sides = [
        [example(n, nll=rng.uniform(2, 9), correct=rng.random() < q, reply=f"{rng.randint(0, m)} b") for n in range(60)]
        for q, m in ((0.3, 9), (0.5, 40))
    ]
    for there, back in zip(differences(*sides), differences(sides[1], sides[0]), strict=True):
        assert there.difference == pytest.approx(-back.difference)
        assert there.p == pytest.approx(back.p, abs=0.02)
        if there.interval is not None and back.interval is not None:
            assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))


def test_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="same examples"):
        differences([example(1), example(2)], [example(2), example(1)])
    with pytest.raises(ValueError, match="same examples"):
        differences([example(1)], [example(1, of="another")])


REPLIES = st.lists(
    st.tuples(st.lists(st.sampled_from("abcd"), max_size=4), st.lists(st.sampled_from("abcdef"), max_size=4)),
    min_size=1,
    max_size=7,
)


@given(REPLIES, st.sampled_from([1, 2]))
def test_swapped_dist_against_every_swap_there_is(pairs: list[tuple[list[str], list[str]]], n: int) -> None:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def difference(swaps: tuple[bool, ...]) -> float:
        sides = [[pair[swap ^ side] for pair, swap in zip(pairs, swaps, strict=True)] for side in (False, True)]
        return distinct(sides[1], n).ratio_percent - distinct(sides[0], n).ratio_percent

    observed = difference((False,) * len(pairs))
    every = [difference(swaps) for swaps in itertools.product((False, True), repeat=len(pairs))]
    exact = sum(abs(value) >= abs(observed) - 1e-9 for value in every) / len(every)
    resamples = 1_000
    found = randomised_dist(first, second, n, resamples=resamples)
    assert found.difference == pytest.approx(observed)
    # six standard deviations of a share of this many independent swaps, and the observed one that is counted too
    assert abs(found.p - exact) <= 6 * math.sqrt(exact * (1 - exact) / resamples) + 1 / resamples


def test_randomisation_agrees_with_scipys_permutation_test() -> None:
    rng = random.Random(4)
    first = [tuple(str(rng.randint(0, 30)) for _ in range(6)) for _ in range(80)]
    second = [tuple(str(rng.randint(0, 32)) for _ in range(6)) for _ in range(80)]

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        both = [[(first, second)[int(code) // 1000][int(code) % 1000] for code in side] for side in (x, y)]
        return distinct(both[1], 2).ratio_percent - distinct(both[0], 2).ratio_percent

    theirs = stats.permutation_test(
        (np.arange(80.0), np.arange(80.0) + 1000),
        statistic,
        permutation_type="samples",
        n_resamples=2_000,
        rng=6,
    )
    ours = randomised_dist(first, second, 2)
    assert ours.difference == pytest.approx(theirs.statistic)
    assert 0.01 < ours.p < 0.9, "a case that says something"
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_bonferroni_closed_over_all_subsets(p_values: list[float]) -> None:
    """A hypothesis is rejected when every set of hypotheses with it is, by Bonferroni (Marcus et al. 1976)."""
    closed: defaultdict[int, float] = defaultdict(float)
    for size in range(1, len(p_values) + 1):
        for subset in itertools.combinations(range(len(p_values)), size):
            bonferroni = min(1.0, size * min(p_values[member] for member in subset))
            for member in subset:
                closed[member] = max(closed[member], bonferroni)
    assert holm(p_values) == pytest.approx([closed[member] for member in range(len(p_values))])


def test_holm_of_a_textbook_case() -> None:
    """Computed by hand: 4 x 0.005, 3 x 0.01, then 2 x 0.03 = 0.06, and 0.04 may not fall below that."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_small_p_values_are_rare_where_nothing_differs() -> None:
    """Under no difference the paired p-value falls below 0.1 in about a tenth of the trials."""
    rng = np.random.default_rng(8)
    below = 0
    for _ in range(200):
        nll = rng.normal(20, 4, size=(2, 60))
        sides = [[example(n, nll=float(nll[side, n]), tokens=10) for n in range(60)] for side in (0, 1)]
        found = {one.metric: one.p for one in differences(*sides, resamples=300)}
        below += found["PPL"] < 0.1
    assert 6 <= below <= 42
