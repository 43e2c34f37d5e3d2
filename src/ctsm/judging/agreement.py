"""How far annotators agree: Fleiss' kappa, Krippendorff's alpha and plain agreement, from counts of verdicts.

Legend: I items, V verdicts. Counts are [I, V]: how many annotators gave each verdict on an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctsm.errors import MissingExtraError

Counts = NDArray[np.int64]

READINGS = ((0.20, "slight"), (0.40, "fair"), (0.60, "moderate"), (0.80, "substantial"), (1.00, "almost perfect"))
"""Upper ends of Landis and Koch (1977); below zero is "poor"."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement on the items of one pair in one aspect.

    Attributes:
        items: judged by every annotator; kappa stands on these.
        left_out: items that somebody has not judged.
        kappa: Fleiss' kappa; None where it is undefined.
        reading: of kappa, such as "moderate"; "" without kappa.
        alpha: Krippendorff's alpha (nominal) of all items with at least two verdicts; None where it is undefined.
        raw: share of agreeing pairs of annotators, mean over the items with at least two verdicts; None without any.
        undefined: why kappa is None; "" where it is not.
    """

    items: int
    left_out: int
    kappa: float | None
    reading: str
    alpha: float | None
    raw: float | None
    undefined: str


def agreement(counts_IV: Counts, annotators: int) -> Agreement:
    """Measure how far annotators agree (kappa as in the paper's Table 2).

    Args:
        counts_IV: every item of the study, also those that nobody has judged.
        annotators: how many were to judge each item.

    Raises:
        MissingExtraError: statsmodels or krippendorff is not installed.
    """
    judges_I = counts_IV.sum(axis=1)
    complete = counts_IV[judges_I == annotators]
    compared = counts_IV[judges_I >= 2]
    undefined = _why_undefined(complete, annotators)
    kappa = None if undefined else fleiss_kappa(complete)
    return Agreement(
        items=len(complete),
        left_out=len(counts_IV) - len(complete),
        kappa=kappa,
        reading="" if kappa is None else reading(kappa),
        alpha=krippendorff_alpha(compared) if _different_verdicts(compared) > 1 else None,
        raw=float(agreeing_pairs(compared).mean()) if len(compared) else None,
        undefined=undefined,
    )


def fleiss_kappa(counts_IV: Counts) -> float:
    """Return Fleiss' kappa (1971).

    Args:
        counts_IV: at least one item, the same number of annotators (two or more) on each, at least two categories used.

    Raises:
        MissingExtraError: statsmodels is not installed.
    """
    try:
        from statsmodels.stats.inter_rater import fleiss_kappa as kappa
    except ImportError:
        raise MissingExtraError("judge", "Fleiss' kappa") from None
    return float(kappa(counts_IV, method="fleiss"))


def krippendorff_alpha(counts_IV: Counts) -> float:
    """Return Krippendorff's alpha for nominal data; items may have different numbers of annotators.

    Args:
        counts_IV: at least two annotators on each item, at least two categories used.

    Raises:
        MissingExtraError: krippendorff is not installed.
    """
    try:
        from krippendorff import alpha
    except ImportError:
        raise MissingExtraError("judge", "Krippendorff's alpha") from None
    return float(alpha(value_counts=counts_IV, level_of_measurement="nominal"))


def agreeing_pairs(counts_IV: Counts) -> NDArray[np.float64]:
    """Return the share of agreeing pairs of annotators of each item [I]; each needs at least two annotators."""
    judges_I = counts_IV.sum(axis=1)
    pairs: NDArray[np.float64] = (counts_IV * (counts_IV - 1)).sum(axis=1) / (judges_I * (judges_I - 1))
    return pairs


def reading(kappa: float) -> str:
    """Return the words of Landis and Koch (1977) for a kappa, rounded to two digits as tables print it."""
    rounded = round(kappa, 2)
    return "poor" if rounded < 0 else next(word for most, word in READINGS if rounded <= most)


def _different_verdicts(counts_IV: Counts) -> int:
    return int(np.count_nonzero(counts_IV.sum(axis=0)))


def _why_undefined(complete_IV: Counts, annotators: int) -> str:
    """Say why the items that everybody judged have no kappa; "" where they have."""
    if annotators < 2:
        return "fewer than two annotators"
    if not len(complete_IV):
        return "no item was judged by every annotator"
    if _different_verdicts(complete_IV) == 1:
        return "every verdict is the same, so that chance alone would agree as well"
    return ""
