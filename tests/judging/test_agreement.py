"""Kappa, alpha and plain agreement against written-out computations and published examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.judging.agreement import agreeing_pairs, agreement, fleiss_kappa, krippendorff_alpha, reading

# Fleiss (1971), Table 1: 30 patients, each given one of five diagnoses by six psychiatrists.
FLEISS_1971 = """
0 0 0 6 0  0 3 0 0 3  0 1 4 0 1  0 0 0 0 6  0 3 0 3 0  2 0 4 0 0  0 0 4 0 2  2 0 3 1 0  2 0 0 4 0  0 0 0 0 6
1 0 0 5 0  1 1 0 4 0  0 3 3 0 0  1 0 0 5 0  0 2 0 3 1  0 0 5 0 1  3 0 0 1 2  5 1 0 0 0  0 2 0 4 0  1 0 2 0 3
0 0 0 0 6  0 1 0 5 0  0 2 0 1 3  2 0 0 4 0  1 0 0 4 1  0 5 0 1 0  4 0 0 0 2  0 2 0 4 0  1 0 5 0 0  0 0 0 0 6
"""
# The example of the article "Fleiss' kappa" in Wikipedia: ten subjects, fourteen raters, five categories.
FOURTEEN_RATERS = """
0 0 0 0 14  0 2 6 4 2  0 0 3 5 6  0 3 9 2 0  2 2 8 1 1  7 7 0 0 0  3 2 6 3 0  2 5 3 2 2  6 5 2 1 0  0 2 2 3 7
"""
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
KRIPPENDORFF_2011 = (
    "123321412...",
    "1233224125.3",
    ".3332342251.",
    "12332441251.",
)

VERDICT_COUNTS = st.integers(2, 6).flatmap(
    lambda raters: st.lists(
        st.lists(st.integers(0, 2), min_size=raters, max_size=raters).map(
            lambda given: [given.count(verdict) for verdict in range(3)]
        ),
        min_size=1,
        max_size=12,
    )
)


def table(text: str, categories: int) -> np.ndarray:
    return np.array(text.split(), dtype=np.int64).reshape(-1, categories)


def exact_kappa(counts: Sequence[Sequence[int]]) -> Fraction | None:
    """Fleiss' kappa by its definition, in fractions; None where chance agrees always."""
    raters, subjects = sum(counts[0]), len(counts)
    agreed = Fraction(0)
    for row in counts:
        pairs = sum(count * (count - 1) for count in row)
        agreed += Fraction(pairs, raters * (raters - 1)) / subjects
    shares = [Fraction(sum(column), raters * subjects) for column in zip(*counts, strict=True)]
    by_chance = sum((share * share for share in shares), Fraction(0))
    return None if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def exact_alpha(units: Sequence[Sequence[int]]) -> Fraction | None:
    """Nominal alpha by its definition from the pairs of values within units, in fractions; None without difference."""
    units = [values for values in units if len(values) > 1]
    pairable = [value for values in units for value in values]
    n = len(pairable)
    observed = Fraction(0)
    for values in units:
        differing = sum(first != second for first, second in combinations(values, 2))
        observed += Fraction(2 * differing, len(values) - 1) / n
    expected = Fraction(sum(first != second for first, second in combinations(pairable, 2)) * 2, n * (n - 1) or 1)
    return None if expected == 0 else 1 - observed / expected


def test_kappa_of_fleiss_own_example() -> None:
    counts = table(FLEISS_1971, 5)
    assert counts.shape == (30, 5)
    assert set(counts.sum(axis=1)) == {6}
    assert counts.sum(axis=0).tolist() == [26, 26, 30, 55, 43]  # the totals printed below the table
    assert round(fleiss_kappa(counts), 3) == 0.430


def test_kappa_of_the_textbook_example() -> None:
    counts = table(FOURTEEN_RATERS, 5)
    assert set(counts.sum(axis=1)) == {14}
    assert round(fleiss_kappa(counts), 3) == 0.210


def test_alpha_of_krippendorffs_own_example() -> None:
    counts = np.zeros((12, 5), dtype=np.int64)
    for observer in KRIPPENDORFF_2011:
        for unit, value in enumerate(observer):
            if value != ".":
                counts[unit, int(value) - 1] += 1
    assert counts.sum() == 41  # of which 40 can be paired: one unit was seen by one observer only
    assert round(krippendorff_alpha(counts[counts.sum(axis=1) > 1]), 3) == 0.743
    assert agreement(counts, 4).alpha == pytest.approx(krippendorff_alpha(counts[counts.sum(axis=1) > 1]))


@given(VERDICT_COUNTS)
def test_agreement_of_complete_tables_is_the_written_out_one(counts: list[list[int]]) -> None:
    raters = sum(counts[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agreement(np.array(counts), raters)
    exact = exact_kappa(counts)
    assert (found.items, found.left_out) == (len(counts), 0)
    assert (found.kappa is None) == (exact is None) == bool(found.undefined)
    if exact is not None:
        assert found.kappa == pytest.approx(float(exact), abs=1e-12)
    pairs = [
        Fraction(sum(first == second for first, second in combinations(values, 2)), raters * (raters - 1) // 2)
        for values in ([verdict for verdict in range(3) for _ in range(row[verdict])] for row in counts)
    ]
    assert found.raw == pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-12)


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=12), st.integers(2, 5))
def test_missing_judgements_leave_items_out_of_kappa_and_not_out_of_alpha(units: list[list[int]], raters: int) -> None:
    units = [values[:raters] for values in units]
    counts = np.array([[values.count(verdict) for verdict in range(3)] for values in units])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agreement(counts, raters)
    complete = [row for row in counts.tolist() if sum(row) == raters]
    assert (found.items, found.left_out) == (len(complete), len(units) - len(complete))
    kappa = exact_kappa(complete) if complete else None
    assert found.kappa == (None if kappa is None else pytest.approx(float(kappa), abs=1e-12))
    alpha = exact_alpha(units)
    assert found.alpha == (None if alpha is None else pytest.approx(float(alpha), abs=1e-12))


@pytest.mark.parametrize(
    ("counts", "annotators", "reason", "raw"),
    [
        ([[3, 0, 0]] * 4, 3, "every verdict is the same", 1.0),
        ([[0, 3, 0]], 3, "every verdict is the same", 1.0),
        ([[1, 0, 0], [0, 0, 1]], 1, "fewer than two annotators", None),
        ([[1, 1, 0], [2, 0, 0], [0, 0, 0]], 3, "no item was judged by every annotator", 0.5),
        ([[0, 0, 0]], 3, "no item was judged by every annotator", None),
        ([[1, 0, 0], [0, 0, 1]], 2, "no item was judged by every annotator", None),
    ],
)
def test_degenerate_tables_have_a_reason_and_raw_agreement(
    counts: list[list[int]], annotators: int, reason: str, raw: float | None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = agreement(np.array(counts), annotators)
    assert found.kappa is None
    assert found.undefined.startswith(reason)
    assert found.reading == ""
    assert found.raw == raw


def test_agreeing_pairs_of_an_item() -> None:
    # Of three annotators two agree: one of three pairs. Of four, two and two: two of six pairs.
    assert agreeing_pairs(np.array([[2, 1, 0], [2, 0, 2]])).tolist() == pytest.approx([1 / 3, 1 / 3])
    assert agreeing_pairs(np.array([[1, 1, 1], [0, 3, 0]])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("kappa", "words"),
    [
        (-1.0, "poor"),
        (-0.01, "poor"),
        (-0.001, "slight"),  # printed as 0.00
        (0.0, "slight"),
        (0.204, "slight"),
        (0.206, "fair"),
        (0.40, "fair"),
        (0.41, "moderate"),
        (0.60, "moderate"),
        (0.604, "moderate"),
        (0.606, "substantial"),
        (0.80, "substantial"),
        (0.81, "almost perfect"),
        (1.0, "almost perfect"),
        (1.0 + 1e-12, "almost perfect"),
    ],
)
def test_readings_of_landis_and_koch(kappa: float, words: str) -> None:
    assert reading(kappa) == words
