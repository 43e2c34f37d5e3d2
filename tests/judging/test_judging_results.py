"""Rows of the table against counts, tests and intervals that are written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.evaluation.significance import CHUNK, LEVEL
from ctsm.judging.results import bootstrap_interval, catch_aspect, check_annotators, majority, results, sign_test
from ctsm.judging.study import Judgement, Study

Judged = Callable[..., tuple[Study, list[Judgement]]]
Built = tuple[Study, list[Judgement]]

TABLES = st.integers(1, 4).flatmap(
    lambda annotators: st.lists(st.text("WTL.", min_size=annotators, max_size=annotators), min_size=1, max_size=8)
)
SWAPPED = str.maketrans("WL", "LW")


def rows(built: Built, **options: Any) -> Any:
    study, judgements = built
    return results(study, judgements, study.annotators, **{"resamples": 50, **options}).rows


def test_the_table_of_a_small_study(judged: Judged) -> None:
    """Two pairs, two aspects, four items, three annotators; every number below is worked out by hand."""
    built = judged(
        {
            "CTSM vs. KEMP": {"empathy": ["WWW", "WWL", "WTL", "LLT"], "fluency": ["TTT", "TTT", "TTT", "TTT"]},
            "CTSM vs. CEM": {"empathy": ["WWW", "WWW", "WWW", "WW."], "fluency": ["LLL", "LTL", "WWT", "WTL"]},
        },
        {"empathy": ["LLL"], "fluency": ["LLL"]},  # never counted
    )
    first, second, third, fourth = rows(built)
    assert [(row.pair, row.aspect) for row in (first, second, third, fourth)] == [
        ("CTSM vs. KEMP", "empathy"),
        ("CTSM vs. KEMP", "fluency"),
        ("CTSM vs. CEM", "empathy"),
        ("CTSM vs. CEM", "fluency"),
    ]
    assert (first.n, first.wins, first.ties, first.losses) == (12, 6, 2, 4)
    assert (first.win, first.tie, first.lose) == (50.0, pytest.approx(100 / 6), pytest.approx(100 / 3))
    assert first.difference == pytest.approx(100 / 6)
    # The items go win, win, none (so tie), lose. Of 2 wins and 1 loss, 3 fair coins are as uneven always: p = 1.
    assert (first.majority_wins, first.majority_ties, first.majority_losses, first.p) == (2, 1, 1, 1.0)
    # Agreeing pairs 1, 1/3, 0, 1/3: mean 5/12. By chance (6² + 2² + 4²) / 12² = 7/18. (5/12 - 7/18) / (11/18) = 1/22.
    assert first.agreement.kappa == pytest.approx(1 / 22)
    assert first.agreement.reading == "slight"
    assert first.agreement.raw == pytest.approx(5 / 12)
    # Alpha: observed disagreement 7/12, expected 2 (6·2 + 6·4 + 2·4) / (12·11) = 2/3.
    assert first.agreement.alpha == pytest.approx(1 - (7 / 12) / (2 / 3))

    assert (second.n, second.win, second.tie, second.lose) == (12, 0.0, 100.0, 0.0)
    assert (second.agreement.kappa, second.agreement.raw, second.p, second.difference) == (None, 1.0, 1.0, 0.0)
    assert (second.interval.low, second.interval.high) == (0.0, 0.0)

    assert (third.n, third.wins, third.win, third.lose) == (11, 11, 100.0, 0.0)
    assert (third.majority_wins, third.p) == (4, 2 / 16)  # four of four: 2 · (1/2)⁴
    assert (third.agreement.items, third.agreement.left_out) == (3, 1)
    assert third.agreement.undefined.startswith("every verdict is the same")

    assert (fourth.n, fourth.wins, fourth.ties, fourth.losses) == (12, 3, 3, 6)
    assert (fourth.majority_wins, fourth.majority_ties, fourth.majority_losses) == (1, 1, 2)
    assert fourth.p == 1.0
    # Holm: the smallest of four times 4; the others are at 1.
    assert [row.p_holm for row in (first, second, third, fourth)] == [1.0, 1.0, 0.5, 1.0]


def test_holm_over_the_whole_table(judged: Judged) -> None:
    """Six, eight and ten items of ten won, the others tied: p = 2/2⁶, 2/2⁸, 2/2¹⁰, times 1, 2 and 3."""
    won = {number: ["W"] * number + ["T"] * (10 - number) for number in (6, 8, 10)}
    found = rows(judged({str(number): {"empathy": table} for number, table in won.items()}))
    assert [row.p for row in found] == pytest.approx([2**-5, 2**-7, 2**-9])
    assert [row.p_holm for row in found] == pytest.approx([2**-5, 2 * 2**-7, 3 * 2**-9])


@given(table=TABLES)
def test_counts_and_majorities_are_those_of_a_plain_loop(judged: Judged, table: list[str]) -> None:
    (row,) = rows(judged({"P": {"empathy": table}}))
    letters = "".join(table).replace(".", "")
    assert (row.n, row.wins, row.ties, row.losses) == (len(letters), *(letters.count(letter) for letter in "WTL"))
    if letters:
        assert row.win + row.tie + row.lose == pytest.approx(100)
        assert row.difference == pytest.approx(row.win - row.lose)
        assert row.interval.low <= row.interval.high
    else:
        assert (row.win, row.tie, row.lose, row.difference, row.interval) == (None,) * 5
    won = tied = lost = 0
    for given_letters in (item.replace(".", "") for item in table):
        if not given_letters:
            continue
        if 2 * given_letters.count("W") > len(given_letters):
            won += 1
        elif 2 * given_letters.count("L") > len(given_letters):
            lost += 1
        else:
            tied += 1
    assert (row.majority_wins, row.majority_ties, row.majority_losses) == (won, tied, lost)


@given(table=TABLES)
def test_swapping_the_systems_swaps_win_and_lose_and_keeps_the_rest(judged: Judged, table: list[str]) -> None:
    (row,) = rows(judged({"P": {"empathy": table}}))
    (swapped,) = rows(judged({"P": {"empathy": [item.translate(SWAPPED) for item in table]}}))
    assert (swapped.win, swapped.tie, swapped.lose) == (row.lose, row.tie, row.win)
    assert (swapped.majority_wins, swapped.majority_losses) == (row.majority_losses, row.majority_wins)
    assert swapped.p == pytest.approx(row.p, abs=1e-12)
    assert (swapped.agreement.kappa is None) == (row.agreement.kappa is None)
    for name in ("kappa", "alpha", "raw"):
        value = getattr(row.agreement, name)
        assert getattr(swapped.agreement, name) == (None if value is None else pytest.approx(value, abs=1e-12))
    if row.interval:
        assert swapped.interval.low == pytest.approx(-row.interval.high)
        assert swapped.interval.high == pytest.approx(-row.interval.low)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((2, 1, 0), "win"),
        ((0, 1, 2), "lose"),
        ((0, 2, 1), "tie"),
        ((1, 1, 1), "tie"),
        ((2, 0, 2), "tie"),
        ((2, 1, 1), "tie"),  # the most frequent, but not more than half
        ((1, 0, 0), "win"),
        ((1, 0, 1), "tie"),
    ],
)
def test_a_majority_is_more_than_half(counts: tuple[int, int, int], verdict: str) -> None:
    assert majority(counts) == verdict


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_the_binomial_written_out(wins: int, losses: int) -> None:
    n = wins + losses
    as_rare = [math.comb(n, k) for k in range(n + 1) if math.comb(n, k) <= math.comb(n, wins)]
    assert sign_test(wins, losses) == pytest.approx(float(Fraction(sum(as_rare), 2**n)), rel=1e-9)


def test_no_untied_item_gives_p_of_one() -> None:
    assert sign_test(0, 0) == 1.0


def test_the_bootstrap_is_a_plain_loop_over_the_same_items() -> None:
    counts = np.array([[3, 0, 0], [2, 1, 0], [0, 1, 2], [1, 0, 1], [0, 3, 0], [1, 1, 1], [2, 0, 0]])
    resamples, seed = 600, 5  # more than two chunks
    random, values = np.random.default_rng(seed), []
    for start in range(0, resamples, CHUNK):
        for drawn in random.integers(0, len(counts), size=(min(CHUNK, resamples - start), len(counts))):
            wins = losses = judgements = 0
            for item in drawn:
                wins += int(counts[item][0])
                losses += int(counts[item][2])
                judgements += int(sum(counts[item]))
            values.append(100 * (wins - losses) / judgements)
    values.sort()

    def quantile(share: float) -> float:
        place = share * (resamples - 1)
        low = math.floor(place)
        return values[low] + (place - low) * (values[low + 1] - values[low])

    found = bootstrap_interval(counts, resamples, seed)
    assert found.low == pytest.approx(quantile((1 - LEVEL) / 2))
    assert found.high == pytest.approx(quantile((1 + LEVEL) / 2))


def test_the_interval_covers_what_the_items_came_from() -> None:
    """Of 200 studies of 60 items whose true difference is 20 points, about 95 % must cover it."""
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        counts = random.multinomial(3, [0.5, 0.2, 0.3], size=60)
        found = bootstrap_interval(counts, 400, 1)
        covered += found.low <= 20 <= found.high
    assert 180 <= covered <= 198


CATCH = {"WWW": "passed", "WWL": "passed", "WLT": "failed", "TTT": "failed", "WW.": "passed", "L..": "failed"}


def test_annotators_fail_below_two_thirds(judged: Judged) -> None:
    by_trial = ["".join(letters) for letters in zip(*CATCH, strict=True)]
    table = ["W" * len(CATCH)] * 2
    study, judgements = judged(
        {"P": {"fluency": table, "empathy": table, "relevance": table}},
        {"fluency": ["LLLLLL"] * 3, "empathy": ["LLLLLL"] * 3, "relevance": by_trial},
    )
    assert catch_aspect(study) == "relevance"
    found = check_annotators(study, judgements)
    assert [one.status for one in found] == list(CATCH.values())
    assert [one.caught for one in found] == [word.count("W") for word in CATCH]
    assert [one.catch_trials for one in found] == [3 - word.count(".") for word in CATCH]
    assert {one.asked for one in found} == {3 * (2 + 3)}
    assert [one.judged for one in found] == [15 - word.count(".") for word in CATCH]


def test_without_relevance_catch_trials_are_read_in_empathy(judged: Judged) -> None:
    built = judged({"P": {"fluency": ["WW"], "empathy": ["WW"]}}, {"fluency": ["LW"], "empathy": ["WL"]})
    assert catch_aspect(built[0]) == "empathy"
    assert [one.status for one in check_annotators(*built)] == ["passed", "failed"]


@pytest.mark.parametrize(
    ("aspects", "catch"),
    [(("fluency",), {"fluency": ["L"]}), (("relevance",), {}), (("relevance",), {"relevance": ["."]})],
)
def test_nobody_fails_what_cannot_be_checked(judged: Judged, aspects: tuple[str, ...], catch: dict[str, Any]) -> None:
    built = judged({"P": {aspect: ["W"] for aspect in aspects}}, catch)
    assert [one.status for one in check_annotators(*built)] == ["unchecked"]


def test_only_the_named_annotators_count(judged: Judged) -> None:
    study, judgements = judged({"P": {"empathy": ["WWL", "TTL"]}})
    (row,) = results(study, judgements, ["1", "2"], resamples=20).rows
    assert (row.wins, row.ties, row.losses) == (2, 2, 0)
    assert (row.agreement.items, row.agreement.kappa) == (2, 1.0)
